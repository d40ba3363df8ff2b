"""How fast each user is listened to, over all its connections together: rules, no I/O.

A user is one tenant: a site with its tools. It may send so many messages a second, and so many of its messages may be
with the hub: its share. Past either it is read more slowly: what it sends waits in the network, at its own cost, and
nothing is lost. So what the hub hears of the others waits behind one share at most, whatever a user sends.

`now_s` is a clock that only goes forward.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from hub.protocol.packets import Publish

LEAST_WAIT_S: Final = 0.02
"""Who is over its rate waits until it may send as much as in this time, not for each message."""
HUB_WAIT_S: Final = 1.0
"""The longest wait for the hub; then one more message may join those that it has. A hub whose database is away is
behind with everybody for as long as that lasts: its sites are slowed down then, not cut off."""


@dataclass(frozen=True, slots=True)
class Share:
    """What the hub may have of one user at a time, in messages and their payload bytes; the last may go past it."""

    messages: int = 100
    payload_bytes: int = 1024 * 1024


class Pace:
    """One user's. Before each message whoever reads it looks at `held_back`, and then says `take`."""

    __slots__ = (
        "_bytes_with_hub",
        "_left",
        "_most",
        "_rate_per_s",
        "_reckoned_at_s",
        "_share",
        "_waiting",
        "_with_hub",
    )

    def __init__(self, messages_per_s: int, share: Share) -> None:
        """messages_per_s: a second's worth of them may come at once; 0 for no limit."""
        self._rate_per_s = messages_per_s
        self._most = float(messages_per_s) or inf
        self._left = self._most
        self._reckoned_at_s = 0.0  # it has all that it may have, so it could not have earned more
        self._share = share
        self._with_hub = 0
        self._bytes_with_hub = 0
        self._waiting: set[Callable[[], None]] = set()

    def reckon(self, now_s: float) -> None:
        """Add what it has earned since the last time."""
        self._left = min(self._left + (now_s - self._reckoned_at_s) * self._rate_per_s, self._most)
        self._reckoned_at_s = now_s

    def take(self, messages: int = 1) -> None:
        """So many were read."""
        self._left -= messages

    @property
    def held_back(self) -> bool:
        return self._left < 1 or self.hub_is_behind

    @property
    def hub_is_behind(self) -> bool:
        """The hub has all of this user that it may have."""
        return self._with_hub >= self._share.messages or self._bytes_with_hub >= self._share.payload_bytes

    @property
    def wait_s(self) -> float:
        """Seconds that it must wait, by what was reckoned; for the hub, not longer than it is behind."""
        by_rate_s = 0.0 if self._left >= 1 else max((1 - self._left) / self._rate_per_s, LEAST_WAIT_S)
        return max(by_rate_s, HUB_WAIT_S) if self.hub_is_behind else by_rate_s

    # --- what the hub has -------------------------------------------------------------------------------------

    def add(self, payload_bytes: int) -> None:
        """A message is the hub's now, or waits for it."""
        self._with_hub += 1
        self._bytes_with_hub += payload_bytes

    def remove(self, payload_bytes: int) -> None:
        """The hub is done with it, or never gets it."""
        self._with_hub -= 1
        self._bytes_with_hub -= payload_bytes
        if 2 * self._with_hub <= self._share.messages and 2 * self._bytes_with_hub <= self._share.payload_bytes:
            self._wake()

    def clear(self) -> None:
        """The hub has nothing of it."""
        self._with_hub = self._bytes_with_hub = 0
        self._wake()

    def when_caught_up(self, call: Callable[[], None]) -> None:
        """Call it once, when half the share is free."""
        self._waiting.add(call)

    def forget(self, call: Callable[[], None]) -> None:
        """Who wanted to be called does not any more."""
        self._waiting.discard(call)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for call in waiting:
            call()


class Paces:
    """Every user's pace, and whose messages the hub has.

    owner_of: whose topic it is, who alone may publish there; None for nobody's.
    """

    def __init__(self, messages_per_s: int, owner_of: Callable[[str], str | None], share: Share | None = None) -> None:
        self._messages_per_s = messages_per_s
        self._owner_of = owner_of
        self._share = share or Share()
        self._paces: dict[str, Pace] = {}  # of users who proved who they are, so not more than there are users

    def of(self, user: str) -> Pace:
        """The same for all connections of a user, those to come as well: to come anew earns nothing."""
        pace = self._paces.get(user)
        if pace is None:
            pace = self._paces[user] = Pace(self._messages_per_s, self._share)
        return pace

    def count(self, messages: Iterable[Publish]) -> None:
        """The hub has these, or they wait for it."""
        for pace, message in self._with_paces(messages):
            pace.add(len(message.payload))

    def discount(self, messages: Iterable[Publish]) -> None:
        """The hub is done with these, or never gets them."""
        for pace, message in self._with_paces(messages):
            pace.remove(len(message.payload))

    def count_anew(self, messages: Iterable[Publish]) -> None:
        """The hub has these and no others."""
        for pace in self._paces.values():
            pace.clear()
        self.count(messages)

    def _with_paces(self, messages: Iterable[Publish]) -> Iterator[tuple[Pace, Publish]]:
        for message in messages:
            owner = self._owner_of(message.topic)
            if owner is not None:
                yield self.of(owner), message
