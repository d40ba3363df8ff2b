"""What may come a thousand times a second is told without flooding, and nothing of it is lost."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hub import quiet_log
from hub.quiet_log import FIRST_FEW, MAX_KINDS, QuietLog, Sieve


def event(reason: str = "foreign-publish", source: str = "pond7") -> tuple[str, str, str]:
    return reason, source, f"{reason} of {source}"


TOLD = "foreign-publish of pond7"


def test_the_first_few_are_told_at_once_and_then_once_a_round_how_many_more():
    sieve = Sieve()
    assert [sieve.passes(*event()) for _ in range(1000)] == [True] * FIRST_FEW + [False] * (1000 - FIRST_FEW)
    assert sieve.next_round() == [(TOLD, 1000 - FIRST_FEW)]
    assert [sieve.passes(*event()) for _ in range(3)] == [False] * 3
    assert sieve.next_round() == [(TOLD, 3)]
    assert sieve.next_round() == []


def test_after_a_quiet_round_the_first_few_are_told_again():
    sieve = Sieve()
    for _ in range(100):
        sieve.passes(*event())
    sieve.next_round()
    assert not sieve.passes(*event())
    sieve.next_round()
    sieve.next_round()
    assert sieve.passes(*event())


def test_one_users_flood_hides_nobody_elses_refusal_nor_another_reason():
    sieve = Sieve()
    for _ in range(100):
        sieve.passes(*event())
    assert sieve.passes(*event(source="pond8"))
    assert sieve.passes(*event(reason="foreign-subscribe"))


@given(st.lists(st.one_of(st.none(), st.tuples(st.sampled_from("abc"), st.integers(0, 3 * MAX_KINDS))), max_size=2000))
def test_everything_is_told_or_counted_and_the_memory_is_bounded(events):
    sieve, came, told = Sieve(), Counter(), Counter()
    for each in [*events, None]:
        if each is None:
            for last, times in sieve.next_round():
                told[last.split()[0]] += times
        else:
            reason, network = each
            came[reason] += 1
            told[reason] += sieve.passes(*event(reason, str(network)))
        assert len(sieve._kinds) <= MAX_KINDS + 3  # the reasons there are
    assert told == came


def test_a_flood_from_many_networks_is_a_bounded_number_of_lines_a_round():
    sieve = Sieve()
    told = sum(sieve.passes(*event("bad-credentials", str(network))) for network in range(20_000))
    assert told <= FIRST_FEW * (MAX_KINDS + 1)
    assert len(sieve.next_round()) <= MAX_KINDS + 1


async def test_the_log_tells_at_once_then_each_round_and_the_rest_at_its_end(monkeypatch):
    monkeypatch.setattr(quiet_log, "ROUND_S", 0.01)
    told: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    async with QuietLog(lambda event, times: told.put_nowait((event, times))) as log:
        for _ in range(100):
            log.record(*event())
        assert told.qsize() == FIRST_FEW
        found = [await asyncio.wait_for(told.get(), 5) for _ in range(FIRST_FEW + 1)]
        assert found[-1] == (TOLD, 100 - FIRST_FEW)
        monkeypatch.setattr(quiet_log, "ROUND_S", 60.0)
        log.record(*event())
    assert told.get_nowait() == (TOLD, 1)
