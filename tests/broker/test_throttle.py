"""The rules of the login throttle, without a network: guessing becomes slow, and nobody is locked out."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import throttle
from broker.throttle import FORGOTTEN_AFTER_S, HOMES_PER_USER, Login, LoginThrottle

PATIENCE_S = 2.5
HOME, ELSEWHERE = "192.0.2.7", "198.51.100.1"


@pytest.fixture
def logins() -> LoginThrottle:
    return LoginThrottle(PATIENCE_S)


def ask(logins: LoginThrottle, now_s: float, network: str = ELSEWHERE, user: str = "pond7") -> Login:
    login = logins.ask(now_s, network, user)
    assert login is not None
    return login


def fail(logins: LoginThrottle, now_s: float, network: str = ELSEWHERE, user: str = "pond7", times: int = 1) -> float:
    """Fail as often, each time as soon as one is looked at again; returns when the last one failed."""
    for _ in range(times):
        while (login := logins.ask(now_s, network, user)) is None:
            now_s += 1.0
        now_s += login.wait_s
        logins.failed(now_s, login)
    return now_s


def come_home(logins: LoginThrottle, now_s: float = 0.0, network: str = HOME) -> None:
    logins.passed(ask(logins, now_s, network))


# --- from one network ---------------------------------------------------------------------------------------------


def test_each_failure_of_a_network_doubles_its_pause_until_a_try_need_not_wait_for_its_turn(logins):
    now_s, waits = 0.0, []
    for number in range(5):
        login = ask(logins, now_s, user=f"user{number}")
        waits.append(login.wait_s)
        now_s += login.wait_s
        logins.failed(now_s, login)
    assert waits == [0.0, 0.25, 0.5, 1.0, 2.0]
    assert logins.ask(now_s, ELSEWHERE, "user5") is None  # its turn is in 4 s
    assert ask(logins, now_s + 4.0, user="user5").wait_s == 0.0


def test_the_pause_of_a_network_never_exceeds_the_longest(logins):
    now_s = fail(logins, 0.0, times=30)
    assert logins.ask(now_s + 60.0 - PATIENCE_S - 0.01, ELSEWHERE, "another") is None
    assert ask(logins, now_s + 60.0 - PATIENCE_S, user="another").wait_s == PATIENCE_S


def test_a_hundred_tries_at_once_are_not_a_hundred_looks(logins):
    now_s = fail(logins, 0.0, times=3)
    looked_at = [login for n in range(100) if (login := logins.ask(now_s, ELSEWHERE, f"user{n}"))]
    assert [login.wait_s for login in looked_at] == [1.0, 2.0]


def test_a_right_try_gives_its_pause_back(logins):
    now_s = fail(logins, 0.0, user="stranger", times=8) + 60.0
    for number in range(30):  # farms behind one router, after the hub's restart
        login = ask(logins, now_s, user=f"farm{number}")
        assert login.wait_s == 0.0
        logins.passed(login)


def test_a_try_that_nobody_could_look_at_costs_nothing(logins):
    now_s = fail(logins, 0.0) + 0.25
    for _ in range(100):
        login = ask(logins, now_s)
        assert login.wait_s == 0.0
        logins.unanswered(login)


def test_ten_quiet_minutes_are_as_if_nothing_had_been(logins):
    now_s = fail(logins, 0.0, times=20)
    login = ask(logins, now_s + FORGOTTEN_AFTER_S + 1)
    logins.failed(now_s + FORGOTTEN_AFTER_S + 1, login)
    assert ask(logins, now_s + FORGOTTEN_AFTER_S + 1).wait_s == 0.25


def test_where_networks_cannot_be_told_apart_they_have_no_pause():
    logins = LoginThrottle(PATIENCE_S, longest_network_pause_s=0.0)
    assert fail(logins, 0.0, user="stranger", times=100) <= 200.0  # its own name's pause only
    assert ask(logins, 200.0).wait_s == 0.0


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 5)), max_size=300))
def test_however_the_tries_come_a_network_has_few_looks(tries):
    logins = LoginThrottle(PATIENCE_S)
    logins.failed(0.0, ask(logins, 0.0))
    looks: list[tuple[float, int, Login]] = []
    looked_at_s, now_s = [], 0.0
    for number, (gap_s, user) in enumerate(tries):
        now_s += gap_s
        while looks and looks[0][0] <= now_s:
            at_s, _, login = heapq.heappop(looks)
            looked_at_s.append(at_s)
            logins.failed(at_s, login)
        login = logins.ask(now_s, ELSEWHERE, f"user{user}")
        if login is not None:
            assert 0.0 <= login.wait_s <= PATIENCE_S
            heapq.heappush(looks, (now_s + login.wait_s, number, login))
    minutes = now_s / 60.0
    assert len(looked_at_s) <= 20 + 2 * minutes


# --- at one name --------------------------------------------------------------------------------------------------


@given(st.integers(0, 200), st.floats(0, 3))
def test_a_name_is_never_refused_to_a_new_network_and_waits_2_s_at_most(failures, after_s):
    logins = LoginThrottle(PATIENCE_S)
    for number in range(failures):
        logins.failed(0.0, ask(logins, 0.0, f"198.51.100.{number}"))
    assert ask(logins, after_s, HOME).wait_s <= max(0.0, 2.0 - after_s)


def test_failures_from_many_networks_delay_a_name_everywhere(logins):
    now_s = 0.0
    for number in range(4):
        now_s = fail(logins, now_s, f"198.51.100.{number}")
    assert ask(logins, now_s, HOME).wait_s == 2.0
    assert ask(logins, now_s, HOME, "pond8").wait_s == 0.0


def test_success_clears_the_names_pause(logins):
    now_s = fail(logins, 0.0, times=4)
    come_home(logins, now_s)
    assert ask(logins, now_s, "203.0.113.9").wait_s == 0.0


def test_a_short_patience_refuses_nobody_because_of_a_name():
    logins = LoginThrottle(patience_s=0.1)
    for number in range(50):
        logins.failed(0.0, ask(logins, 0.0, f"198.51.100.{number}"))
    assert ask(logins, 0.0, HOME).wait_s == 0.1


# --- at home ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from([HOME, ELSEWHERE]), st.sampled_from(["pond8", "pond9", "hub"])), max_size=50))
def test_at_home_nothing_counts_that_happens_under_other_names(failures):
    logins = LoginThrottle(PATIENCE_S)
    come_home(logins)
    for network, user in failures:
        login = logins.ask(0.0, network, user)
        if login is not None:
            logins.failed(0.0, login)
    assert ask(logins, 0.0, HOME).wait_s == 0.0


def test_at_home_nothing_counts_that_happens_elsewhere(logins):
    come_home(logins)
    now_s = 0.0
    for number in range(50):
        now_s = fail(logins, now_s, f"198.51.100.{number}")
    assert ask(logins, now_s, HOME).wait_s == 0.0


def test_who_fails_at_home_waits_but_is_never_refused(logins):
    come_home(logins)
    now_s, waits = 0.0, []
    for _ in range(10):
        login = ask(logins, now_s, HOME)
        waits.append(login.wait_s)
        now_s += login.wait_s
        logins.failed(now_s, login)
    assert waits == [0.0, 0.25, 0.5, 1.0] + [2.0] * 6
    assert ask(logins, now_s, HOME, "pond8").wait_s == 0.0  # nor do the neighbours pay for it
    logins.passed(ask(logins, now_s, HOME))
    assert ask(logins, now_s, HOME).wait_s == 0.0


def test_a_user_has_a_few_homes_and_the_last_ones_count(logins):
    for number in range(HOMES_PER_USER + 1):
        come_home(logins, network=f"192.0.2.{number}")
    assert not ask(logins, 0.0, "192.0.2.0").at_home
    assert ask(logins, 0.0, "192.0.2.1").at_home


# --- addresses and memory -----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.booleans(), st.floats(0, 5)), max_size=300))
def test_the_memory_is_bounded(tries):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throttle, "MAX_REMEMBERED", 5)
        logins, now_s = LoginThrottle(PATIENCE_S), 0.0
        for network, user, right, gap_s in tries:
            now_s += gap_s
            login = logins.ask(now_s, str(network), str(user))
            if login is not None and right:
                logins.passed(login)
            elif login is not None:
                logins.failed(now_s, login)
        for pauses in (logins._networks, logins._users, logins._at_home):
            assert len(pauses) <= 5
        assert len(logins._homes) <= 5
        assert all(len(homes) <= HOMES_PER_USER for homes in logins._homes.values())


def test_what_was_refused_unseen_is_not_remembered(logins):
    now_s = fail(logins, 0.0, times=10)
    remembered = len(logins._users)
    for number in range(1000):
        assert logins.ask(now_s, ELSEWHERE, f"user{number}") is None
    assert len(logins._users) == remembered


def test_long_names_take_no_room(logins):
    fail(logins, 0.0, user="x" * 65_535)
    assert all(len(user) <= 64 for user in logins._users._pauses)
