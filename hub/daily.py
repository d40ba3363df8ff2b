"""What a feeder was fed on each local day: sums that are right on the days when clocks change."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlmodel import Session, select

from hub.errors import Fault, InvalidOrder
from hub.feeders import get_feeder, midnight_of
from hub.models import FeederEvent
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

    def add(self, kind: str, planned_g: float | None, dispensed_g: float | None) -> None:
        match kind:
            case "meal" | "dose":
                self.meals += kind == "meal"
                self.doses += kind == "dose"
                self.planned_g += planned_g or 0.0
                self.dispensed_g += dispensed_g or 0.0
            case "skipped":
                self.skipped += 1
            case "jam":
                self.jams += 1


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
    last = last or now.astimezone(zone).date()
    first = first or last - timedelta(days=29)
    if not 0 <= (last - first).days < MAX_DAYS:
        message = f"`from` is on or before `to`, and the range has at most {MAX_DAYS} days"
        raise InvalidOrder("The range of days is wrong.", [Fault("query.from", message, MAX_DAYS)])
    days = {first + timedelta(days=n): Day(first + timedelta(days=n)) for n in range((last - first).days + 1)}
    rows = session.exec(
        select(FeederEvent.at, FeederEvent.kind, FeederEvent.planned_g, FeederEvent.dispensed_g).where(
            FeederEvent.site_id == site,
            FeederEvent.feeder_id == feeder,
            FeederEvent.at >= midnight_of(first, zone),
            FeederEvent.at < midnight_of(last + timedelta(days=1), zone),
        )
    )
    for at, kind, planned_g, dispensed_g in rows:
        days[at.astimezone(zone).date()].add(kind, planned_g, dispensed_g)
    return list(days.values())
