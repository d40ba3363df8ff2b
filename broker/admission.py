"""How many may come in: decided when a socket is accepted, before a byte is read, at once. No I/O.

A place that needs no login is a stranger's to hold: when those are all taken, the oldest of the network that holds most
of them makes room. So silent sockets, from however few addresses, keep nobody out who logs in when it comes.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """Sockets at one time.

    connections: in all. per_network: from one IPv4 address or IPv6 /64.
    unauthenticated: those that have no accepted CONNECT yet, TLS and WebSocket handshakes included.
    """

    connections: int
    per_network: int
    unauthenticated: int


class NoRoom(Exception):
    """This one is too many. `reason` is for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Admission:
    """Counts who is in."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._of_network: Counter[str] = Counter()
        self._unauthenticated: defaultdict[str, dict[Entry, None]] = defaultdict(dict)  # by network, the oldest first
        self.connections = 0
        self.unauthenticated = 0

    def enter(self, network: str, deadline_s: float, put_out: Callable[[str], None]) -> "Entry":
        """A place for a socket from that network. Raises NoRoom.

        deadline_s: when, by the loop's clock, it must have an accepted CONNECT.
        put_out: called with a reason, and closes the socket at once, if its place is needed before it has one.
        """
        if self._of_network[network] >= self._room.per_network:
            raise NoRoom("too-many-connections-of-address")
        if self.connections >= self._room.connections:
            raise NoRoom("too-many-connections")
        if self.unauthenticated >= self._room.unauthenticated:
            most = max(self._unauthenticated.values(), key=len)
            next(iter(most)).put_out("too-many-unauthenticated")
        self._of_network[network] += 1
        self.connections += 1
        self.unauthenticated += 1
        entry = Entry(self, network, deadline_s, put_out)
        self._unauthenticated[network][entry] = None
        return entry

    def accepted(self, entry: "Entry") -> None:
        """Its CONNECT was, or never will be. Again it changes nothing."""
        of_network = self._unauthenticated.get(entry.network)
        if of_network is not None and entry in of_network:
            del of_network[entry]
            self.unauthenticated -= 1
            if not of_network:
                del self._unauthenticated[entry.network]

    def leave(self, entry: "Entry") -> None:
        self.accepted(entry)
        self.connections -= 1
        self._of_network[entry.network] -= 1
        if not self._of_network[entry.network]:
            del self._of_network[entry.network]


class Entry:
    """One socket's place among all."""

    __slots__ = ("_admission", "_put_out", "deadline_s", "network")

    def __init__(self, admission: Admission, network: str, deadline_s: float, put_out: Callable[[str], None]) -> None:
        self._admission = admission
        self._put_out = put_out
        self.network = network
        self.deadline_s = deadline_s

    def accepted(self) -> None:
        """Its CONNECT was."""
        self._admission.accepted(self)

    def put_out(self, reason: str) -> None:
        """Free its place among those without a login, now; the socket is closed, and leaves a moment later."""
        self._admission.accepted(self)
        self._put_out(reason)

    def leave(self) -> None:
        """The socket is closed."""
        self._admission.leave(self)
