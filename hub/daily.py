"""What a feeder was fed on each local day: sums that are right on the days when clocks change."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Select, case, func, literal, select
from sqlmodel import Session

from hub.errors import Fault, InvalidOrder
from hub.feeders import get_feeder
from hub.models import FEEDER_EVENT
from hub.protocol.local_days import local_date, midnight_of
from hub.sites import get_site

MAX_DAYS = 366


@dataclass(slots=True)
class Day:
    """One local date. Grams of meals and doses together; `planned_g` of skipped meals is not in it."""

    date: date
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
    session: Session, site: str, feeder: str, first: date | None, last: date | None, now: datetime
) -> list[Day]:
    """Each local date from `first` to `last`, both in it; by default the 30 days that end today.

    A feeding counts for the day on which it began. Raises NotFound, and InvalidOrder for a range that is none or has
    more than MAX_DAYS.
    """
    time_zone = get_site(session, site).time_zone
    get_feeder(session, site, feeder)
    zone = ZoneInfo(time_zone)
    last = last or local_date(now, zone)
    first = first or last - timedelta(days=29)
    if not 0 <= (last - first).days < MAX_DAYS:
        message = f"`from` is on or before `to`, and the range has at most {MAX_DAYS} days"
        raise InvalidOrder("The range of days is wrong.", [Fault("query.from", message, MAX_DAYS)])
    days = {first + timedelta(days=n): Day(first + timedelta(days=n)) for n in range((last - first).days + 1)}
    for n, *sums in session.connection().execute(_sums(site, feeder, list(days), zone)):
        days[first + timedelta(days=n)].add(*sums)
    return list(days.values())


def _sums(site: str, feeder: str, days: list[date], zone: ZoneInfo) -> Select[Any]:
    """The database sums up: a year has half a million events. Rows of a day's number, a kind and its sums."""
    event = FEEDER_EVENT.c
    midnights = [midnight_of(day, zone) for day in (*days, days[-1] + timedelta(days=1))]
    told = (
        select(_number(midnights, 0, len(days)).label("n"), event.kind, event.planned_g, event.dispensed_g)
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
