"""When a login is looked at: rules that make guessing slow and lock nobody out. No I/O.

`now_s` is a clock that only goes forward. A *network* is an IPv4 address, or the /64 that one IPv6 customer has.
What somebody may try, and what stands against it:

- To guess, or to flood, from one network. Each failure doubles its pause, from 0.25 s to a minute, and in a pause
  one try is looked at: each books its pause beforehand, or a hundred tries at once were a hundred looks, and gets
  it back if it was right. A try whose turn is too far away is refused unseen: no password is checked for it, and
  nothing is remembered of it. (Tries at once before the first failure are all looked at, or many farms behind one
  router could not come back together; how many these are, a limit of connections per network decides.)
- To guess at one name from many networks. Each failure doubles the name's pause too, but to 2 s only, and its tries
  wait side by side. Who could fill a queue, or make a pause long, would lock out the farm of that name.
- To fail on purpose, so that a farm is kept out. Where a name has logged in rightly it is at home: there neither
  pause concerns it, whatever happens elsewhere or under other names. What fails under that name at its home (a
  second desktop that has an old secret, a stranger behind the same router) has a pause of its own, of the short kind.
- To fill the memory: everything here has a bound, and only what was looked at is remembered.

A failed login of a user who exists and of one who does not are the same thing here. So nothing can be learnt.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

FIRST_PAUSE_S: Final = 0.25
LONGEST_USER_PAUSE_S: Final = 2.0
LONGEST_NETWORK_PAUSE_S: Final = 60.0
FORGOTTEN_AFTER_S: Final = 600.0
"""Seconds without a failure after which there was none."""
MAX_REMEMBERED: Final = 10_000
"""Networks, users, and users with their homes; the ones that came last are kept."""
HOMES_PER_USER: Final = 8
_NAME_CHARS: Final = 64
"""Of a user name; no site's is longer, and a stranger's may be of 65,535 bytes."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _keep(memory: dict[K, V], key: K, value: V) -> None:
    """Remember it as the newest; the oldest makes room."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > MAX_REMEMBERED:
        del memory[next(iter(memory))]


@dataclass(slots=True)
class _Pause:
    length_s: float
    over_at_s: float
    failed_at_s: float


class Pauses(Generic[K]):
    """How long each key that failed must pause: 0.25 s after the first failure, then twice as long after each one."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._pauses: dict[K, _Pause] = {}

    def __len__(self) -> int:
        return len(self._pauses)

    def left_s(self, now_s: float, key: K) -> float:
        """Seconds until the pause is over."""
        pause = self._known(now_s, key)
        return 0.0 if pause is None else max(0.0, pause.over_at_s - now_s)

    def fail(self, now_s: float, key: K) -> None:
        """Begin a pause, longer than the one before."""
        before = self._known(now_s, key)
        length_s = min(FIRST_PAUSE_S if before is None else 2 * before.length_s, self._longest_s)
        over_at_s = now_s + length_s if before is None else max(before.over_at_s, now_s + length_s)
        _keep(self._pauses, key, _Pause(length_s, over_at_s, now_s))

    def book(self, now_s: float, key: K) -> float:
        """Take the first moment after the pause, so that another pause follows it; returns that one's seconds."""
        pause = self._known(now_s, key)
        if pause is None:
            return 0.0
        pause.over_at_s = max(now_s, pause.over_at_s) + pause.length_s
        return pause.length_s

    def give_back(self, key: K, booked_s: float) -> None:
        """The pause that was booked is not needed."""
        pause = self._pauses.get(key)
        if pause is not None:
            pause.over_at_s -= booked_s

    def end(self, key: K) -> None:
        """As if it had never failed."""
        self._pauses.pop(key, None)

    def _known(self, now_s: float, key: K) -> _Pause | None:
        pause = self._pauses.get(key)
        return None if pause is None or now_s - pause.failed_at_s > FORGOTTEN_AFTER_S else pause


@dataclass(frozen=True, slots=True)
class Login:
    """One try that will be looked at, after `wait_s` seconds. `booked_s`: the pause that its network pays for it."""

    network: str
    user: str
    wait_s: float
    at_home: bool = False
    booked_s: float = 0.0


class LoginThrottle:
    """For each try `ask`; then, when it was looked at, `passed`, `failed`, or `unanswered` if nobody could look.

    patience_s: seconds that a try may wait.
    longest_network_pause_s: 0 where networks cannot be told apart, as behind a proxy.
    """

    def __init__(self, patience_s: float, longest_network_pause_s: float = LONGEST_NETWORK_PAUSE_S) -> None:
        short_s = min(LONGEST_USER_PAUSE_S, patience_s)  # or a name's pause would refuse, and so lock out
        self._patience_s = patience_s
        self._networks: Pauses[str] = Pauses(longest_network_pause_s)
        self._users: Pauses[str] = Pauses(short_s)
        self._at_home: Pauses[tuple[str, str]] = Pauses(short_s)
        self._homes: dict[str, tuple[str, ...]] = {}

    def ask(self, now_s: float, network: str, user: str) -> Login | None:
        """When the password may be looked at; None if this try is refused."""
        user = user[:_NAME_CHARS]
        if network in self._homes.get(user, ()):
            return Login(network, user, self._at_home.left_s(now_s, (network, user)), at_home=True)
        wait_s = max(self._networks.left_s(now_s, network), self._users.left_s(now_s, user))
        if wait_s > self._patience_s:
            return None
        return Login(network, user, wait_s, booked_s=self._networks.book(now_s, network))

    def passed(self, login: Login) -> None:
        """The password was right."""
        self.unanswered(login)
        self._users.end(login.user)
        self._at_home.end((login.network, login.user))
        others = (home for home in self._homes.get(login.user, ()) if home != login.network)
        _keep(self._homes, login.user, (login.network, *others)[:HOMES_PER_USER])

    def failed(self, now_s: float, login: Login) -> None:
        """The password was wrong, or there is no such user."""
        if login.at_home:
            self._at_home.fail(now_s, (login.network, login.user))
        else:
            self._networks.fail(now_s, login.network)
            self._users.fail(now_s, login.user)

    def unanswered(self, login: Login) -> None:
        """It did not fail."""
        self._networks.give_back(login.network, login.booked_s)
