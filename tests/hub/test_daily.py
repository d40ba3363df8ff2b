"""Sums by local day, also on the days that have 23 or 25 hours, and in zones without a midnight."""

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlmodel import Session
from ulid import ULID

from hub.daily import MAX_DAYS, MAX_DAYS_COARSE, Day, Resolution, daily_sums
from hub.errors import InvalidOrder, NotFound
from hub.ingest import store_event
from hub.protocol.messages import Event
from hub.sites import rename
from tests.hub.conftest import FEEDER, NOW, SITE


def told(session: Session, at: str | datetime, kind: str = "meal", planned_g: float = 10, fed_g: float = 9) -> None:
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    said = {"id": str(ULID()), "seq": 1, "kind": kind, "at": at, "planned_g": planned_g, "dispensed_g": fed_g}
    assert store_event(session, SITE, FEEDER, Event.model_validate(said), at)


def sums(session: Session, first: str, last: str) -> list[Day]:
    session.flush()
    return daily_sums(session, SITE, FEEDER, date.fromisoformat(first), date.fromisoformat(last), NOW)


@pytest.mark.both_databases
def test_a_day_has_its_meals_doses_skips_and_jams_and_a_day_without_any_is_there(session: Session) -> None:
    rename(session, SITE, None, "UTC")
    for kind in ("meal", "meal", "dose", "skipped", "jam", "silo", "sensor"):
        told(session, "2026-03-02T12:00:00Z", kind)
    empty, full, last = sums(session, "2026-03-01", "2026-03-03")
    assert full == Day(date(2026, 3, 2), meals=2, doses=1, skipped=1, jams=1, planned_g=30, dispensed_g=27)
    assert (empty, last) == (Day(date(2026, 3, 1)), Day(date(2026, 3, 3)))


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Oslo", "2026-03-29", 23),
        ("Europe/Oslo", "2026-10-25", 25),
        ("Europe/Oslo", "2026-06-01", 24),
        ("Asia/Beirut", "2026-03-29", 23),  # clocks jump over midnight itself
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("Pacific/Apia", "2011-12-30", 0),  # a day that never was
        ("America/St_Johns", "2010-11-06", 25),  # at 00:01 of the next day back to 23:01
    ],
)
def test_each_feeding_of_a_day_counts_for_it_and_none_of_another_day(
    session: Session, zone: str, day: str, hours: float
) -> None:
    """A meal each half hour of three days, told in UTC."""
    rename(session, SITE, None, zone)
    at = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=2)
    for n in range(48 * 5):
        told(session, at + timedelta(minutes=30 * n))
    before, that, after = sums(
        session, str(date.fromisoformat(day) - timedelta(days=1)), str(date.fromisoformat(day) + timedelta(days=1))
    )
    assert that.meals == 2 * hours
    assert before.meals == 48
    assert after.meals == 48


def test_by_default_they_are_the_thirty_days_that_end_today_by_the_sites_clock(session: Session) -> None:
    rename(session, SITE, None, "Pacific/Kiritimati")  # where it is tomorrow already
    found = daily_sums(session, SITE, FEEDER, None, None, NOW)
    assert (found[0].date, found[-1].date, len(found)) == (date(2026, 2, 1), date(2026, 3, 2), 30)


@pytest.mark.parametrize(("first", "last"), [("2026-03-02", "2026-03-01"), ("2025-01-01", "2026-03-01")])
def test_a_range_that_is_none_or_too_long_is_refused(session: Session, first: str, last: str) -> None:
    with pytest.raises(InvalidOrder) as refused:
        sums(session, first, last)
    assert refused.value.faults[0].limit == MAX_DAYS


def test_a_feeder_that_is_not_there_has_none(session: Session) -> None:
    with pytest.raises(NotFound):
        daily_sums(session, SITE, "f9", None, None, NOW)


@pytest.mark.both_databases
def test_weeks_and_months_sum_up_their_local_days_also_where_clocks_change(session: Session) -> None:
    """Each half hour of 2026, told in UTC, from 70 days before it."""
    rename(session, SITE, None, "Europe/Oslo")
    begin = datetime(2026, 2, 20, tzinfo=UTC)
    for n in range(48 * 60):
        told(session, begin + timedelta(minutes=30 * n))
    session.flush()

    def summed(resolution: Resolution) -> list[Day]:
        return daily_sums(session, SITE, FEEDER, date(2026, 2, 26), date(2026, 4, 2), NOW, resolution)

    days = summed("day")
    for resolution, begins in (
        ("week", ["2026-02-26", "2026-03-02", "2026-03-09", "2026-03-16", "2026-03-23", "2026-03-30"]),
        ("month", ["2026-02-26", "2026-03-01", "2026-04-01"]),
    ):
        spans = summed(resolution)
        assert [str(span.date) for span in spans] == begins
        assert sum(span.days for span in spans) == len(days) == 36
        for span in spans:
            its_own = [day for day in days if span.date <= day.date < span.date + timedelta(days=span.days)]
            assert span.meals == sum(day.meals for day in its_own)
            assert span.dispensed_g == pytest.approx(sum(day.dispensed_g for day in its_own))
    assert summed("month")[1].meals == (31 * 24 - 1) * 2, "March has an hour less"


@pytest.mark.parametrize("resolution", ["week", "month"])
def test_a_range_of_weeks_or_months_may_have_three_years_and_no_more(session: Session, resolution: Resolution) -> None:
    last = date(2026, 1, 1)
    whole = daily_sums(session, SITE, FEEDER, last - timedelta(days=MAX_DAYS_COARSE - 1), last, NOW, resolution)
    assert sum(span.days for span in whole) == MAX_DAYS_COARSE
    with pytest.raises(InvalidOrder):
        daily_sums(session, SITE, FEEDER, last - timedelta(days=MAX_DAYS_COARSE), last, NOW, resolution)
