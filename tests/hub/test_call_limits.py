"""Limits of calls: the rule over windows, several processes on one Redis, and a Redis that is away."""

import pytest

import hub.call_limits
from hub.call_limits import WINDOW_S, CallLimits, SlidingCounts, network_of
from hub.store import Store
from tests.hub.conftest import until

START_S = 1_795_000_000.0
assert START_S % WINDOW_S == 0


def let_in(counts: SlidingCounts, calls: int, now_s: float, most: int = 100) -> int:
    return sum(counts.admit("a", most, now_s) == 0 for _ in range(calls))


def test_within_a_window_so_many_are_let_in_and_each_key_has_its_own() -> None:
    counts = SlidingCounts()
    assert let_in(counts, 150, START_S) == 100
    assert counts.admit("b", 100, START_S) == 0


def test_over_a_windows_end_no_second_burst_is_let_in() -> None:
    counts = SlidingCounts()
    assert let_in(counts, 150, START_S + WINDOW_S - 0.1) == 100
    assert let_in(counts, 150, START_S + WINDOW_S + 0.1) <= 2
    assert 48 <= let_in(counts, 150, START_S + 1.5 * WINDOW_S) <= 52
    assert let_in(counts, 150, START_S + 5 * WINDOW_S) == 100


@pytest.mark.parametrize("at_s", [0.0, 3.0, WINDOW_S - 0.01, WINDOW_S + 0.01, WINDOW_S + 4.0])
def test_who_waits_as_long_as_told_is_let_in_and_not_much_earlier(at_s: float) -> None:
    counts = SlidingCounts()
    assert let_in(counts, 100, START_S) == 100
    let_in(counts, 100, START_S + at_s)
    now_s = START_S + at_s
    wait_s = counts.admit("a", 100, now_s)
    assert 0 < wait_s <= 2 * WINDOW_S
    assert counts.admit("a", 100, now_s + max(0, wait_s - 0.15)) > 0
    assert counts.admit("a", 100, now_s + wait_s + 0.01) == 0


def test_at_a_steady_pace_above_the_limit_the_limits_pace_gets_through() -> None:
    counts = SlidingCounts()
    through = sum(counts.admit("a", 100, START_S + n / 20) == 0 for n in range(20 * WINDOW_S * 10))
    assert 900 <= through <= 1100


def test_more_keys_than_can_be_kept_are_let_in_uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.call_limits, "MOST_KEYS", 3)
    counts = SlidingCounts()
    for key in "abc":
        assert counts.admit(key, 1, START_S) == 0
    assert [counts.admit("d", 1, START_S) for _ in range(3)] == [0, 0, 0]
    assert counts.admit("a", 1, START_S) > 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "address:192.0.2.7"),
        ("::ffff:192.0.2.7", "address:192.0.2.7"),
        ("2001:db8::1:2:3:4", "address:2001:db8::/64"),
        ("fe80::1%eth0", "address:fe80::/64"),
        ("", "address:"),
        ("no address" * 100, "address:" + ("no address" * 100)[:64]),
    ],
)
def test_an_address_stands_for_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_two_processes_count_together(store: Store, other_store: Store) -> None:
    async with CallLimits(store, 10, 0) as one, CallLimits(other_store, 10, 0) as two:
        assert [one.admit_caller("anna") for _ in range(100)] == [0] * 100

        async def is_refused_there() -> bool:
            return two.admit_caller("anna") > 0

        assert two.admit_caller("anna") == 0
        assert await until(is_refused_there)
        assert two.admit_caller("ben") == 0
        assert two.admit_address("192.0.2.7") == 0


async def test_what_is_urgent_has_room_where_the_rest_has_none(store: Store) -> None:
    async with CallLimits(store, 10, 10) as limits:
        while not (wait_s := limits.admit_caller("anna")):
            pass
        assert 1 <= wait_s <= 2 * WINDOW_S
        assert limits.admit_caller("anna", urgent=True) == 0
        while not limits.admit_address("192.0.2.7"):
            pass
        assert limits.admit_address("192.0.2.7", urgent=True) == 0


async def test_without_redis_nobody_is_refused(no_store: Store) -> None:
    async with CallLimits(no_store, 1, 1) as limits:
        while not limits.admit_caller("anna"):
            pass

        async def is_let_in() -> bool:
            return limits.admit_caller("anna") == 0

        assert await until(is_let_in)


async def test_no_limit_counts_nothing(store: Store) -> None:
    async with CallLimits(store, 0, 0) as limits:
        assert [limits.admit_caller("anna") + limits.admit_address("::1") for _ in range(10_000)] == [0] * 10_000
        assert limits._counts.unsettled(START_S) == []
