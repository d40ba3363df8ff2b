"""The days of a farm's clock, in every zone that there is, where clocks are set over midnight."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest

from hub.protocol.local_days import day_of, local_date, midnight_of

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
WEEKS = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(weeks=n) for n in range(68 * 52)]


def changes(zone: ZoneInfo) -> list[datetime]:
    """When the clocks of a zone are set (to the second), as far as it lasts for a week."""
    found = []
    offsets = [moment.astimezone(zone).utcoffset() for moment in WEEKS]
    for (before, after), (old, new) in zip(pairwise(WEEKS), pairwise(offsets), strict=True):
        if old != new:
            while after - before > timedelta(seconds=1):
                middle = (before + (after - before) / 2).replace(microsecond=0)
                before, after = (middle, after) if middle.astimezone(zone).utcoffset() == old else (before, middle)
            found.append(after)
    return found


def shown(moment: datetime, zone: ZoneInfo) -> date:
    return moment.astimezone(zone).date()


def test_each_day_begins_once_where_the_clock_comes_to_it_for_good() -> None:
    checked = 0
    for zone in map(ZoneInfo, sorted(available_timezones())):
        for change in changes(zone):
            hour = change.astimezone(zone).hour
            if 3 < hour < 21:  # far from midnight, on both sides of the change
                continue
            days = [shown(change, zone) + n * DAY for n in (-1, 0, 1, 2)]
            for day, (begins, ends) in zip(days, pairwise(midnight_of(day, zone) for day in days), strict=False):
                assert begins <= ends, (zone, day)
                if begins == ends:  # a day that never was
                    continue
                checked += 1
                assert shown(begins - timedelta(milliseconds=1), zone) < day == shown(begins, zone), (zone, day)
                later = (begins, change - MINUTE, change, change + MINUTE, ends - MINUTE)
                for moment in (moment for moment in later if begins <= moment < ends):
                    assert shown(moment, zone) >= day, (zone, moment)
                    assert local_date(moment, zone) == day, (zone, moment)
                    assert day_of(moment, zone) == (begins, ends), (zone, moment)
    assert checked > 1000


@pytest.mark.parametrize(
    ("zone", "day", "begins"),
    [
        ("America/St_Johns", "2010-11-07", "03:30"),  # at 00:01 back to 23:01: the day before goes on
        ("America/Havana", "2026-11-01", "04:00"),  # at 01:00 back to 00:00: the same day
        ("Asia/Beirut", "2026-03-29", "22:00"),  # from 00:00 to 01:00
    ],
)
def test_where_midnight_comes_twice_or_never_the_day_begins_at_the_right_one(zone: str, day: str, begins: str) -> None:
    assert midnight_of(date.fromisoformat(day), ZoneInfo(zone)).strftime("%H:%M") == begins
