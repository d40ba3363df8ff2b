"""Which events a desktop may forget: those that are stored, if none of their feeder before them waits. No I/O here."""

from dataclasses import dataclass, field
from typing import Final

_MOST_SAID: Final = 100
"""Thanks of one session that were not answered; the later ones cover the earlier."""


@dataclass(slots=True)
class _Events:
    """A feeder's events, by their seq."""

    waiting: set[int] = field(default_factory=set)
    stored: set[int] = field(default_factory=set)

    def through(self) -> int | None:
        """The highest that is stored while nothing at or below it still waits; it stands for all below it."""
        first_waiting = min(self.waiting, default=None)
        sure = max((seq for seq in self.stored if first_waiting is None or seq < first_waiting), default=None)
        if sure is not None:
            self.forget(sure - 1)
        return sure

    def forget(self, through: int) -> None:
        self.stored = {seq for seq in self.stored if seq > through}


class Thanks:
    """What is owed to one session: for an event that was stored, until the desktop has heard so."""

    def __init__(self) -> None:
        self._events: dict[str, _Events] = {}
        self._said: dict[str, dict[str, int]] = {}

    def waits(self, feeder: str, seq: int) -> None:
        """An event has come, and is not stored yet. Until it is, or holds nobody up, none after it is thanked for."""
        self._events.setdefault(feeder, _Events()).waiting.add(seq)

    def is_stored(self, feeder: str, seq: int) -> None:
        events = self._events[feeder]
        events.waiting.discard(seq)
        events.stored.add(seq)

    def holds_nobody_up(self, feeder: str, seq: int) -> None:
        """It will never be stored."""
        self._events[feeder].waiting.discard(seq)

    @property
    def owed(self) -> bool:
        return any(events.stored for events in self._events.values())

    def through(self) -> dict[str, int]:
        """What may be thanked for now: by its feeder the seq through which everything is stored."""
        return {feeder: seq for feeder, events in self._events.items() if (seq := events.through()) is not None}

    def said(self, command_id: str, through: dict[str, int]) -> None:
        """Thanks were said under that id."""
        self._said[command_id] = through
        if len(self._said) > _MOST_SAID:
            del self._said[next(iter(self._said))]

    def were_heard(self, command_id: str) -> None:
        """The desktop has answered them: what they covered is not owed any more."""
        for feeder, seq in self._said.pop(command_id, {}).items():
            self._events[feeder].forget(seq)
