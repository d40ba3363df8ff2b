"""The books of a soak: what the broker acknowledged, and what arrived where. No I/O.

Messages come in streams, one for each publisher, numbered from 0. A reader has a stored session from before the first
message, so every message of its streams that the broker acknowledged is owed to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SETTLED: Final = 0x80
"""Set beside the count of arrivals once the reader's acknowledgement must be known to the broker for good."""
_MOST_COUNTED: Final = 0x7F


@dataclass(frozen=True, slots=True)
class Stream:
    """`qos`: at which its messages are published; at QoS 0 none of them is owed."""

    topic: str
    qos: int


@dataclass(frozen=True, slots=True)
class Reader:
    """`qos`: the highest at which it gets messages, 1 or 2."""

    name: str
    qos: int
    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class Account:
    """What the books say.

    owed: acknowledged messages, counted once for each reader. lost: those that have not arrived.
    duplicated: arrived twice where exactly once was promised. again: at QoS 1, arrived although their
    acknowledgement had long been with the broker and their publisher sent them once. redelivered: at QoS 1, arrived
    twice, as they may.
    out_of_order: arrived for the first time after a later one of their stream. uncalled: must not have been sent.
    """

    owed: int = 0
    lost: int = 0
    duplicated: int = 0
    again: int = 0
    redelivered: int = 0
    out_of_order: int = 0
    uncalled: int = 0

    @property
    def fine(self) -> bool:
        return not (self.lost or self.duplicated or self.again or self.out_of_order or self.uncalled)


class _Marks:
    """A byte for each number."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __getitem__(self, number: int) -> int:
        return self._bytes[number] if number < len(self._bytes) else 0

    def __setitem__(self, number: int, mark: int) -> None:
        if number >= len(self._bytes):
            self._bytes.extend(bytes(max(number + 1 - len(self._bytes), 256)))
        self._bytes[number] = mark

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((number, mark) for number, mark in enumerate(self._bytes) if mark)


class Ledger:
    """Told of everything as it happens; asked at the end."""

    def __init__(self, readers: list[Reader]) -> None:
        self._readers = readers
        self._acknowledged = {stream: _Marks() for reader in readers for stream in reader.streams}
        self._resent = {stream: _Marks() for stream in self._acknowledged}
        self._uncalled = {stream: _Marks() for stream in self._acknowledged}
        self._arrivals = {(reader, stream): _Marks() for reader in readers for stream in reader.streams}
        self._latest: dict[tuple[Reader, Stream], int] = {}
        self._out_of_order = 0
        self._again = 0
        self._retained: dict[str, tuple[int, int]] = {}  # by topic: the last number acknowledged, the last sent

    def acknowledged(self, stream: Stream, number: int) -> None:
        """The broker has taken the message: from now on it is owed."""
        self._acknowledged[stream][number] = 1

    def resent(self, stream: Stream, number: int) -> None:
        """Its publisher has sent it again, so at QoS 1 it may be two messages to the broker."""
        self._resent[stream][number] = 1

    def uncalled(self, stream: Stream, number: int) -> None:
        """The message must not be sent to anybody, like the will of a client that said goodbye."""
        self._uncalled[stream][number] = 1

    def arrived(self, reader: Reader, stream: Stream, number: int) -> None:
        marks = self._arrivals[reader, stream]
        if marks[number] & _SETTLED:
            self._again += not self._resent[stream][number]
        elif not marks[number]:
            latest = self._latest.get((reader, stream), -1)
            self._out_of_order += number < latest
            self._latest[reader, stream] = max(latest, number)
        marks[number] += (marks[number] & _MOST_COUNTED) < _MOST_COUNTED

    def settled(self, reader: Reader, stream: Stream, number: int) -> None:
        """The reader's acknowledgement has reached the broker, which has had the time to write it down."""
        marks = self._arrivals[reader, stream]
        marks[number] |= _SETTLED

    def retained_sent(self, topic: str, number: int) -> None:
        """A retained message with a higher number than any before it on that topic."""
        acknowledged, _ = self._retained.get(topic, (-1, -1))
        self._retained[topic] = acknowledged, number

    def retained_acknowledged(self, topic: str, number: int) -> None:
        _, sent = self._retained[topic]
        self._retained[topic] = number, sent

    def wrongly_retained(self, found: dict[str, int]) -> list[str]:
        """Topics whose retained message is neither the last that was acknowledged nor one sent after it."""
        return [
            topic
            for topic, (acknowledged, sent) in self._retained.items()
            if acknowledged >= 0 and not acknowledged <= found.get(topic, -1) <= sent
        ]

    def account(self) -> Account:
        owed = lost = duplicated = redelivered = uncalled = 0
        for (reader, stream), arrivals in self._arrivals.items():
            for number, _ in self._acknowledged[stream]:
                owed += 1
                lost += not arrivals[number]
            exactly_once = min(reader.qos, stream.qos) == 2
            more = sum((mark & _MOST_COUNTED) - 1 for _, mark in arrivals)
            duplicated += more * exactly_once
            redelivered += more * (not exactly_once)
            uncalled += sum(1 for number, _ in self._uncalled[stream] if arrivals[number])
        return Account(owed, lost, duplicated, self._again, redelivered, self._out_of_order, uncalled)
