"""The days of a farm's clock, on which sums and the daily limit go: each begins once, and follows the one before."""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def local_date(moment: datetime, zone: ZoneInfo) -> date:
    """The day that it is then. Where a clock is set back over midnight, the day before goes on for that time."""
    shown = moment.astimezone(zone).date()
    return shown if moment >= midnight_of(shown, zone) else shown - _DAY


def day_of(moment: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """When the day that it is then began, and when the next one begins."""
    day = local_date(moment, zone)
    return midnight_of(day, zone), midnight_of(day + _DAY, zone)


@lru_cache(4096)
def midnight_of(day: date, zone: ZoneInfo) -> datetime:
    """The first moment, in UTC, from which on the clock shows that day or a later one."""
    local = datetime.combine(day, time(), zone)
    first, second = local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
    if first < second:  # midnight comes twice: does the day before come back in between?
        return second if (second - _SECOND).astimezone(zone).date() < day else first
    while first - second > _SECOND:  # the clock jumps over midnight: find the second in which it jumps
        middle = (second + (first - second) / 2).replace(microsecond=0)
        if middle.astimezone(zone).date() < day:
            second = middle
        else:
            first = middle
    return first
