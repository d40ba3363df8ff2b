"""What a feeder was fed on each local day: sums that are right on the days when clocks change."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Select, case, func, literal, select
from sqlmodel import Session

from hub.errors import Fault, InvalidOrder
from hub.feeders import get_feeder
from hub.models import FEEDER_EVENT
from hub.protocol.local_days import local_date, midnight_of
from hub.sites import get_site

MAX_DAYS: Final = 366
MAX_DAYS_COARSE: Final = 3 * MAX_DAYS
"""Of weeks and months."""
Resolution = Literal["day", "week", "month"]


@dataclass(slots=True)
class Day:
    """One local date, or `days` of them from there on: a week from Monday, a month, or what the range has of it.

    Grams of meals and doses together; `planned_g` of skipped meals is not in it.
    """

    date: date
    days: int = 1
    meals: int = 0
    doses: int = 0
    skipped: int = 0
    jams: int = 0
    planned_g: float = 0.0
    dispensed_g: float = 0.0

    def add(self, kind: str, number: int, planned_g: float | None, dispensed_g: float | None) -> None:
        """So many events of a kind, with their grams together."""
        match kind:
            case "meal" | "dose":
                self.meals += number if kind == "meal" else 0
                self.doses += number if kind == "dose" else 0
                self.planned_g += planned_g or 0.0
                self.dispensed_g += dispensed_g or 0.0
            case "skipped":
                self.skipped += number
            case "jam":
                self.jams += number


def daily_sums(
    session: Session,
    site: str,
    feeder: str,
    first: date | None,
    last: date | None,
    now: datetime,
    resolution: Resolution = "day",
) -> list[Day]:
    """Each local date, week or month from `first` to `last`, both in it; by default the 30 days that end today.

    A feeding counts for the day on which it began. Raises NotFound, and InvalidOrder for a range that is none or has
    more days than its resolution may have.
    """
    time_zone = get_site(session, site).time_zone
    get_feeder(session, site, feeder)
    zone = ZoneInfo(time_zone)
    last = last or local_date(now, zone)
    first = first or last - timedelta(days=29)
    longest = MAX_DAYS if resolution == "day" else MAX_DAYS_COARSE
    if not 0 <= (last - first).days < longest:
        message = f"`from` is on or before `to`, and the range has at most {longest} days"
        raise InvalidOrder("The range of days is wrong.", [Fault("query.from", message, longest)])
    begins = [day for day in _dates(first, last) if day == first or _begins(day, resolution)]
    ends = [*begins[1:], last + timedelta(days=1)]
    days = [Day(day, (end - day).days) for day, end in zip(begins, ends, strict=True)]
    for n, *sums in session.connection().execute(_sums(site, feeder, [*begins, ends[-1]], zone)):
        days[n].add(*sums)
    return days


def _dates(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _begins(day: date, resolution: Resolution) -> bool:
    """Whether a week or a month begins with it; every day does."""
    match resolution:
        case "day":
            return True
        case "week":
            return day.weekday() == 0
        case "month":
            return day.day == 1


def _sums(site: str, feeder: str, bounds: list[date], zone: ZoneInfo) -> Select[Any]:
    """The database sums up: a year has half a million events. Rows of the number of a span between two bounds, a kind
    and its sums.
    """
    event = FEEDER_EVENT.c
    midnights = [midnight_of(day, zone) for day in bounds]
    told = (
        select(_number(midnights, 0, len(bounds) - 1).label("n"), event.kind, event.planned_g, event.dispensed_g)
        .where(event.site_id == site, event.feeder_id == feeder, event.at >= midnights[0], event.at < midnights[-1])
        .subquery()
        .c
    )
    return select(told.n, told.kind, func.count(), func.sum(told.planned_g), func.sum(told.dispensed_g)).group_by(
        told.n, told.kind
    )


def _number(midnights: list[datetime], first: int, end: int) -> ColumnElement[int]:
    """Which of the days from `first` to before `end` an event is of, found by halves."""
    if end - first == 1:
        return literal(first)
    half = (first + end) // 2
    earlier, later = _number(midnights, first, half), _number(midnights, half, end)
    return case((FEEDER_EVENT.c.at < midnights[half], earlier), else_=later)
