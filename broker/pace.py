"""How fast each user is listened to, over all its connections together: rules, no I/O.

A user is one tenant: a site with its tools. Two things bound it, and past either it is read more slowly: what it sends
waits in the network, at its own cost, and nothing is lost.

- Its rate: so many messages a second. A filter in a SUBSCRIBE or UNSUBSCRIBE, a CONNECT and its will count as a message
  each, of what else it sends ten packets do: nothing comes for nothing.
- Its share of the hub: so many messages with the hub that it is not done with. So what the hub hears of the others
  waits behind one share, whatever a user sends. Where the hub is behind for long, as when its database is away, one
  more message joins them each second, up to five shares; and when it has as much as it can hold of everybody
  together, none joins. A site is slowed down then, not cut off, and what was acknowledged is kept.

`now_s` is a clock that only goes forward.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from hub.protocol.packets import Publish

OTHER_PACKET: Final = 0.1
"""What a packet counts that is no message, as a part of one."""
LEAST_WAIT_S: Final = 0.02
"""Who is over its rate waits until it may send as much as in this time, not for each message."""
MOST_DEBT_S: Final = 2.0
"""A user with one packet of ten thousand filters is read again after this time, or its desktop would have to pay."""
HUB_WAIT_S: Final = 1.0
"""Seconds between two messages that may join a full share."""
MOST_SHARES: Final = 5
"""So many shares of one user, and not one message more."""


@dataclass(frozen=True, slots=True)
class Share:
    """What the hub may have at a time, in messages and their payload bytes; the last message may go past it."""

    messages: int = 100
    payload_bytes: int = 1024 * 1024


EVERYBODY: Final = Share(messages=50_000, payload_bytes=48 * 1024 * 1024)
"""What the hub may have of everybody together: less than its session holds, which so never ends for being full."""


class _Load:
    """What the hub has, and who is to be called when it has less. `is_full`: all that it may have."""

    __slots__ = ("_payload_bytes", "_share", "_waiting", "is_full", "messages")

    def __init__(self, share: Share) -> None:
        self._share = share
        self._waiting: set[Callable[[], None]] = set()
        self._set(0, 0)

    def _set(self, messages: int, payload_bytes: int) -> None:
        self.messages, self._payload_bytes = messages, payload_bytes
        self.is_full = self.reaches(1)

    def reaches(self, shares: float) -> bool:
        return self.messages >= shares * self._share.messages or (
            self._payload_bytes >= shares * self._share.payload_bytes
        )

    def add(self, payload_bytes: int) -> None:
        self._set(self.messages + 1, self._payload_bytes + payload_bytes)

    def remove(self, payload_bytes: int) -> None:
        self._set(self.messages - 1, self._payload_bytes - payload_bytes)
        if self._waiting and not self.reaches(0.5):
            self._call()

    def clear(self) -> None:
        self._set(0, 0)
        self._call()

    def when_half(self, call: Callable[[], None]) -> None:
        """Call it once, when more than half of the share is free."""
        self._waiting.add(call)

    def forget(self, call: Callable[[], None]) -> None:
        self._waiting.discard(call)

    def _call(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for call in waiting:
            call()


class Pace:
    """One user's. Whoever reads it looks at `holds_back` before each packet, and says `take` after it."""

    __slots__ = ("_everybody", "_left", "_most", "_next_extra_at_s", "_rate_per_s", "_reckoned_at_s", "with_hub")

    def __init__(self, messages_per_s: int, share: Share, everybody: _Load) -> None:
        """messages_per_s: a second's worth of them may come at once; 0 for no limit."""
        self._rate_per_s = messages_per_s
        self._most = float(messages_per_s) or inf
        self._left = self._most
        self._reckoned_at_s = 0.0  # it has all that it may have, so it could not have earned more
        self._next_extra_at_s: float | None = None  # while the hub is behind
        self._everybody = everybody
        self.with_hub = _Load(share)

    def reckon(self, now_s: float) -> None:
        """Add what it has earned since the last time."""
        self._left = min(self._left + (now_s - self._reckoned_at_s) * self._rate_per_s, self._most)
        self._reckoned_at_s = now_s

    def take(self, messages: float) -> None:
        """So much was read. What one packet costs beyond the worth of some seconds is let go."""
        self._left = max(self._left - messages, -MOST_DEBT_S * self._rate_per_s) if self._rate_per_s else inf

    def holds_back(self, *, a_message: bool) -> bool:
        """Whether the next packet must wait. a_message: it may be for the hub."""
        return self._left <= 0 or (a_message and self.hub_is_behind)

    @property
    def hub_is_behind(self) -> bool:
        """The hub has all that it may have of this user, or of everybody."""
        return self.with_hub.is_full or self._everybody.is_full

    def wait_s(self, now_s: float, *, a_message: bool) -> float:
        """Seconds until it may ask again; 0: it may send the packet now, and for this one time."""
        self.reckon(now_s)
        by_rate_s = 0.0 if self._left > 0 else max(-self._left / self._rate_per_s, LEAST_WAIT_S)
        if not self.hub_is_behind:
            self._next_extra_at_s = None
            return by_rate_s
        if not a_message or by_rate_s:
            return by_rate_s
        if self._next_extra_at_s is None:
            self._next_extra_at_s = now_s + HUB_WAIT_S
        if now_s < self._next_extra_at_s:
            return self._next_extra_at_s - now_s
        self._next_extra_at_s = now_s + HUB_WAIT_S
        return HUB_WAIT_S if self.with_hub.reaches(MOST_SHARES) or self._everybody.is_full else 0.0

    def when_caught_up(self, call: Callable[[], None]) -> None:
        """Call it once, when the hub is not behind any more; `forget` it if it is to be called no more."""
        (self._everybody if self._everybody.is_full else self.with_hub).when_half(call)

    def forget(self, call: Callable[[], None]) -> None:
        self._everybody.forget(call)
        self.with_hub.forget(call)


class Paces:
    """Every user's pace, and whose messages the hub has.

    owner_of: whose topic it is, who alone may publish there; None for nobody's.
    """

    def __init__(self, messages_per_s: int, owner_of: Callable[[str], str | None], share: Share) -> None:
        self._messages_per_s = messages_per_s
        self._owner_of = owner_of
        self._share = share
        self._everybody = _Load(EVERYBODY)
        self._paces: dict[str, Pace] = {}

    def of(self, user: str) -> Pace:
        """The same for all connections of a user, those to come as well: to come anew earns nothing.

        `user` has proven who it is, so there are no more of them than users.
        """
        pace = self._paces.get(user)
        if pace is None:
            pace = self._paces[user] = Pace(self._messages_per_s, self._share, self._everybody)
        return pace

    def forget(self, user: str) -> None:
        """There is no such user any more."""
        pace = self._paces.get(user)
        if pace is not None and not pace.with_hub.messages:
            del self._paces[user]

    def count(self, messages: Iterable[Publish]) -> None:
        """The hub has these, or they wait for it."""
        for pace, payload_bytes in self._by_pace(messages):
            pace.with_hub.add(payload_bytes)
            self._everybody.add(payload_bytes)

    def discount(self, messages: Iterable[Publish]) -> None:
        """The hub is done with these, or never gets them."""
        for pace, payload_bytes in self._by_pace(messages):
            pace.with_hub.remove(payload_bytes)
            self._everybody.remove(payload_bytes)

    def count_anew(self, messages: Iterable[Publish]) -> None:
        """The hub has these and no others."""
        for pace in self._paces.values():
            pace.with_hub.clear()
        self._everybody.clear()
        self.count(messages)

    def _by_pace(self, messages: Iterable[Publish]) -> Iterator[tuple[Pace, int]]:
        for message in messages:
            owner = self._owner_of(message.topic)
            if owner is not None:
                yield self.of(owner), len(message.payload)
