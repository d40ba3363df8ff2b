"""What is refused is told without flooding, and nothing of it is lost."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker import refusal_log
from broker.guard import Refusal
from broker.refusal_log import FIRST_FEW, MAX_KINDS, RefusalLog, Sieve


def refusal(reason: str = "foreign-publish", user: str | None = "pond7", network: int = 1) -> Refusal:
    return Refusal("publish", user, user, "a/topic", reason, f"10.0.{network // 256}.{network % 256}:4000")


def test_the_first_few_are_told_at_once_and_then_once_a_round_how_many_more():
    sieve = Sieve()
    assert [sieve.passes(refusal()) for _ in range(1000)] == [True] * FIRST_FEW + [False] * (1000 - FIRST_FEW)
    assert sieve.next_round() == [(refusal(), 1000 - FIRST_FEW)]
    assert [sieve.passes(refusal()) for _ in range(3)] == [False] * 3
    assert sieve.next_round() == [(refusal(), 3)]
    assert sieve.next_round() == []


def test_after_a_quiet_round_the_first_few_are_told_again():
    sieve = Sieve()
    for _ in range(100):
        sieve.passes(refusal())
    sieve.next_round()
    assert not sieve.passes(refusal())
    sieve.next_round()
    sieve.next_round()
    assert sieve.passes(refusal())


def test_one_users_flood_hides_nobody_elses_refusal_nor_another_reason():
    sieve = Sieve()
    for _ in range(100):
        sieve.passes(refusal())
    assert sieve.passes(refusal(user="pond8"))
    assert sieve.passes(refusal(reason="foreign-subscribe"))


def test_ports_of_one_address_are_one_stranger():
    sieve = Sieve()
    told = [sieve.passes(Refusal("connect", None, None, None, "x", f"10.0.0.1:{port}")) for port in range(1000, 1100)]
    assert sum(told) == FIRST_FEW


@given(st.lists(st.one_of(st.none(), st.tuples(st.sampled_from("abc"), st.integers(0, 3 * MAX_KINDS))), max_size=2000))
def test_everything_is_told_or_counted_and_the_memory_is_bounded(events):
    sieve, came, told = Sieve(), Counter(), Counter()
    for event in [*events, None]:
        if event is None:
            for last, times in sieve.next_round():
                told[last.reason] += times
        else:
            reason, network = event
            came[reason] += 1
            told[reason] += sieve.passes(refusal(reason, None, network))
        assert len(sieve._kinds) <= MAX_KINDS + 3  # the reasons there are
    assert told == came


def test_a_flood_from_many_networks_is_a_bounded_number_of_lines_a_round():
    sieve = Sieve()
    told = sum(sieve.passes(refusal("bad-credentials", None, network)) for network in range(20_000))
    assert told <= FIRST_FEW * (MAX_KINDS + 1)
    assert len(sieve.next_round()) <= MAX_KINDS + 1


async def test_the_log_tells_at_once_then_each_round_and_the_rest_at_its_end(monkeypatch):
    monkeypatch.setattr(refusal_log, "ROUND_S", 0.01)
    told: asyncio.Queue[tuple[Refusal, int]] = asyncio.Queue()
    async with RefusalLog(lambda refused, times: told.put_nowait((refused, times))) as log:
        for _ in range(100):
            log.record(refusal())
        assert told.qsize() == FIRST_FEW
        found = [await asyncio.wait_for(told.get(), 5) for _ in range(FIRST_FEW + 1)]
        assert found[-1] == (refusal(), 100 - FIRST_FEW)
        monkeypatch.setattr(refusal_log, "ROUND_S", 60.0)
        log.record(refusal())
    assert told.get_nowait() == (refusal(), 1)
