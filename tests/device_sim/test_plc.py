"""The feeder's physics: nothing is fed that was not in the silo, and interlocks hold."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.plc import Feeder, Interlocked, Plc, PlcLost, Registers
from hub.protocol.messages import FeederConfig, Window, differences

SIX = datetime(2026, 3, 10, 6, 0, tzinfo=UTC)


def feeder(silo_g: float = 40_000, clock: datetime = SIX - timedelta(hours=1), **changed: object) -> Feeder:
    fields: dict[str, object] = {
        "enabled": True,
        "meal_g": 250,
        "interval_s": 3600,
        "window": Window(start="06:00", end="19:30"),
        "daily_limit_g": 4000,
        "feed_rate_g_per_s": 12.5,
        "silo_low_g": 5000,
    }
    zone = str(changed.pop("time_zone", "UTC"))
    config = FeederConfig.model_validate(fields | changed)
    return Feeder(Registers(config=config, time_zone=zone, clock=clock, silo_g=silo_g))


def test_a_meal_takes_its_grams_over_the_rate_and_is_told_when_it_is_done() -> None:
    one = feeder()
    assert one.advance(SIX + timedelta(seconds=19)) == []
    (fact,) = one.advance(SIX + timedelta(seconds=20))
    assert (fact.kind, fact.at, fact.planned_g, fact.dispensed_g) == ("meal", SIX, 250, 250)
    assert one.registers.silo_g == 39_750


def test_a_feeder_looked_at_once_a_day_fed_the_same_as_one_looked_at_every_second() -> None:
    seldom, often = feeder(interval_s=1800), feeder(interval_s=1800)
    facts = seldom.advance(SIX + timedelta(hours=3))
    watched = [fact for s in range(3 * 3600 + 1) for fact in often.advance(SIX + timedelta(seconds=s))]
    assert facts == watched
    assert seldom.registers.silo_g == pytest.approx(often.registers.silo_g)


def test_meals_past_the_daily_limit_are_skipped_and_the_next_local_day_begins_anew() -> None:
    one = feeder(daily_limit_g=600, window=Window(start="00:00", end="24:00"), time_zone="Asia/Jerusalem")
    start = datetime(2026, 3, 10, tzinfo=ZoneInfo("Asia/Jerusalem")).astimezone(UTC)
    one.registers.clock = start - timedelta(minutes=1)
    facts = one.advance(start + timedelta(hours=26))
    fed = [fact.at.astimezone(ZoneInfo("Asia/Jerusalem")).strftime("%d %H") for fact in facts if fact.kind == "meal"]
    assert fed == ["10 00", "10 01", "11 00", "11 01"]
    assert {fact.reason for fact in facts if fact.kind == "skipped"} == {"limit"}


def test_doses_count_towards_the_daily_limit() -> None:
    one = feeder(daily_limit_g=500)
    one.advance(SIX - timedelta(minutes=10))
    one.start_dose(300, "dose")
    facts = one.advance(SIX + timedelta(minutes=1))
    assert [(fact.kind, fact.reason) for fact in facts] == [("dose", None), ("skipped", "limit")]
    with pytest.raises(Interlocked, match="limit"):
        one.start_dose(201, "another")


def test_a_silo_that_runs_empty_ends_the_meal_and_says_so() -> None:
    one = feeder(silo_g=100, silo_low_g=50)
    facts = one.advance(SIX + timedelta(hours=1, seconds=1))
    told = [(fact.kind, fact.reason, fact.dispensed_g) for fact in facts]
    assert told[:3] == [("silo", "low", None), ("silo", "empty", None), ("meal", "empty", 100)]
    assert told[3] == ("skipped", "empty", None)
    assert one.condition == "empty"


def test_a_jam_ends_the_feeding_where_it_is_and_the_schedule_waits_for_a_person() -> None:
    one = feeder()
    one.advance(SIX + timedelta(seconds=10))
    one.jam()
    told = [(fact.kind, fact.reason) for fact in one.advance(SIX + timedelta(hours=1))]
    assert told == [("jam", None), ("meal", "jammed"), ("skipped", "jammed")]
    assert one.registers.silo_g == 40_000 - 125
    one.clear_jam()
    assert [fact.kind for fact in one.advance(SIX + timedelta(hours=2, minutes=1))] == ["meal"]


def test_a_latched_stop_stops_the_schedule_too_until_it_is_released() -> None:
    one = feeder()
    one.latch()
    assert {fact.reason for fact in one.advance(SIX + timedelta(hours=3))} == {"stopped"}
    assert one.next_meal_at is None
    one.release()
    assert [fact.kind for fact in one.advance(SIX + timedelta(hours=4, minutes=1))] == ["meal"]


def test_going_back_to_remote_starts_nothing() -> None:
    one = feeder()
    one.advance(SIX - timedelta(minutes=30))
    one.start_dose(1000, "dose")
    one.advance(SIX - timedelta(minutes=30) + timedelta(seconds=10))
    one.switch("service")
    one.switch("remote")
    (fact,) = one.advance(SIX - timedelta(minutes=1))
    assert (fact.reason, fact.dispensed_g) == ("not_remote", 125)


@pytest.mark.parametrize("hindrance", ["stopped", "jammed", "empty", "paused", "busy", "not_remote"])
def test_the_plc_itself_refuses_a_dose_that_it_must_not_feed(hindrance: str) -> None:
    one = feeder()
    one.advance(SIX - timedelta(minutes=30))
    match hindrance:
        case "stopped":
            one.latch()
        case "jammed":
            one.jam()
        case "empty":
            one.registers.silo_g = 0
        case "paused":
            one.pause()
        case "busy":
            one.start_dose(10, "first")
        case _:
            one.switch("local")
    with pytest.raises(Interlocked) as refused:
        one.start_dose(10, "second")
    assert refused.value.code == hindrance


def test_numbers_come_back_as_the_32_bits_that_a_plc_keeps() -> None:
    one = feeder()
    wanted = one.registers.config.model_copy(update={"meal_g": 100.1, "feed_rate_g_per_s": 0.1})
    one.write_config(wanted, "UTC")
    assert one.registers.config.meal_g == 100.0999984741211
    assert differences(wanted, one.registers.config) == []


def test_what_happens_behind_a_cut_cable_is_told_when_it_is_whole_again() -> None:
    plc = Plc({"f1": feeder()})
    plc.cut.add("f1")
    assert plc.advance(SIX + timedelta(minutes=1)) == []
    with pytest.raises(PlcLost):
        plc["f1"]
    plc.cut.clear()
    assert [fact.kind for _, fact in plc.advance(SIX + timedelta(minutes=2))] == ["meal"]


ACTS = st.sampled_from(
    [
        "wait",
        "wait",
        "wait",
        "dose",
        "jam",
        "clear",
        "pause",
        "resume",
        "latch",
        "release",
        "refill",
        "service",
        "remote",
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ACTS, st.floats(0.01, 20_000)), max_size=40), st.floats(0, 5000))
def test_mass_is_conserved_whatever_is_done(acts: list[tuple[str, float]], silo_g: float) -> None:
    one = feeder(silo_g=silo_g, interval_s=600, meal_g=333.3, daily_limit_g=100_000, feed_rate_g_per_s=7.7)
    now, filled_g, told_g = one.registers.clock, silo_g, 0.0
    for act, number in acts:
        before_g = one.registers.dispensed_total_g
        match act:
            case "wait":
                now += timedelta(seconds=number)
            case "dose":
                try:
                    one.start_dose(number, "dose")
                except Interlocked:
                    assert one.registers.dispensed_total_g == before_g
            case "jam":
                one.jam()
            case "clear":
                one.clear_jam()
            case "pause":
                one.pause()
            case "resume":
                one.resume()
            case "latch":
                one.latch()
            case "release":
                one.release()
            case "refill":
                one.refill(number)
                filled_g += number
            case "service" | "remote" as control:
                one.switch(control)
        told_g += sum(fact.dispensed_g or 0 for fact in one.advance(now))
        assert one.registers.silo_g >= 0
        assert one.registers.dispensed_total_g >= before_g
    running_g = one.registers.feeding.dispensed_g if one.registers.feeding else 0
    assert one.registers.silo_g + one.registers.dispensed_total_g == pytest.approx(filled_g, abs=1e-6)
    assert told_g + running_g == pytest.approx(one.registers.dispensed_total_g, abs=0.1)


def test_between_the_starts_of_two_doses_there_is_a_pause() -> None:
    one = feeder()
    one.start_dose(10, "first")
    begun = one.registers.clock
    one.advance(begun + timedelta(seconds=9.9))
    with pytest.raises(Interlocked) as refused:
        one.start_dose(10, "second")
    assert refused.value.code == "limit"
    one.advance(begun + timedelta(seconds=10))
    one.start_dose(10, "second")
