"""When a feeder's meals are due: the window in local time, the interval in elapsed time. No I/O.

A window opens at its `start` and closes before its `end`, both at the first time that the clock shows them;
where the clock jumps over them, at the first moment that exists. Meals go by elapsed seconds from the
opening, so the hour that comes twice has its meals twice and none of them bunch up.
"""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hub.protocol.local_days import local_date
from hub.protocol.messages import FeederConfig


def is_time_zone(name: str) -> bool:
    """Whether this machine knows the IANA time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a directory of zones
        return False
    return True


def next_meal_at(config: FeederConfig, time_zone: str, after: datetime) -> datetime | None:
    """The first moment later than `after` at which a meal is due, in UTC; None if the schedule is off."""
    if not config.enabled:
        return None
    return _due_after(after, config.interval_s, config.window.start, config.window.end, time_zone)


@lru_cache(1024)
def _due_after(after: datetime, interval_s: float, opens: str, closes: str, time_zone: str) -> datetime | None:
    """A desktop asks five times a second, and mostly the same."""
    interval = timedelta(seconds=interval_s)
    today = local_date(after, ZoneInfo(time_zone))
    # Yesterday's window may reach into today; a whole window may fall into the hour that does not exist.
    for days in range(-1, 4):
        begins, ends = _window_on(today + timedelta(days=days), opens, closes, time_zone)
        meals_gone = (after - begins) // interval + 1 if after >= begins else 0
        due = begins + meals_gone * interval
        if due < ends:
            return due
    return None


def _window_on(day: date, opens: str, closes: str, time_zone: str) -> tuple[datetime, datetime]:
    start, end = _minutes(opens), _minutes(closes)
    if end < start:
        end += 24 * 60
    return _moment(day, start, time_zone), _moment(day, end, time_zone)


def _minutes(time_of_day: str) -> int:
    hours, minutes = time_of_day.split(":")
    return int(hours) * 60 + int(minutes)


def _moment(day: date, minutes: int, time_zone: str) -> datetime:
    """When the farm's clock first shows so many minutes past midnight of `day`, or is first past them."""
    zone = ZoneInfo(time_zone)
    days, minutes = divmod(minutes, 24 * 60)
    local = datetime.combine(day + timedelta(days=days), time(minutes // 60, minutes % 60), zone)
    earlier, later = local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
    if earlier <= later:
        return earlier
    # The clock jumps over this time: between the two readings of it lies the jump. Find its minute.
    before, after = later, earlier
    offset = after.astimezone(zone).utcoffset()
    while after - before > timedelta(minutes=1):
        middle = before + (after - before) // 2
        middle = middle.replace(second=0, microsecond=0)
        if middle <= before:
            break
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after
