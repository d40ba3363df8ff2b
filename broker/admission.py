"""How many may come in: decided when a socket is accepted, before a byte is read, at once. No I/O."""

from collections import Counter
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
        self.connections = 0
        self.unauthenticated = 0

    def enter(self, network: str, deadline_s: float) -> "Entry":
        """A place for a socket from that network. Raises NoRoom.

        deadline_s: when, by the loop's clock, it must have an accepted CONNECT.
        """
        if self._of_network[network] >= self._room.per_network:
            raise NoRoom("too-many-connections-of-address")
        if self.connections >= self._room.connections:
            raise NoRoom("too-many-connections")
        if self.unauthenticated >= self._room.unauthenticated:
            raise NoRoom("too-many-unauthenticated")
        self._of_network[network] += 1
        self.connections += 1
        self.unauthenticated += 1
        return Entry(self, network, deadline_s)

    def leave(self, network: str) -> None:
        self.connections -= 1
        self._of_network[network] -= 1
        if not self._of_network[network]:
            del self._of_network[network]


class Entry:
    """One socket's place among all."""

    __slots__ = ("_admission", "_network", "_unauthenticated", "deadline_s")

    def __init__(self, admission: Admission, network: str, deadline_s: float) -> None:
        self._admission = admission
        self._network = network
        self._unauthenticated = True
        self.deadline_s = deadline_s

    def accepted(self) -> None:
        """Its CONNECT was."""
        if self._unauthenticated:
            self._unauthenticated = False
            self._admission.unauthenticated -= 1

    def leave(self) -> None:
        """The socket is closed."""
        self.accepted()
        self._admission.leave(self._network)
