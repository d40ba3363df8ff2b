"""A database as a hub has it after a year: sites, feeders, a meal every hour, changes of config, presence.

To look at pages with, and to measure. The same plan makes the same rows. Events lie in the order in which they would
have come in, hour by hour over all feeders: so what a chart reads is as scattered as in a hub that has been at work.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlmodel import Session, select

from hub.database import Database
from hub.errors import Refused
from hub.models import Site
from hub.sites import MAX_FEEDERS, add_site
from hub.tags import tag_feeder, tag_site

_ZONES: Final = ("Europe/Oslo", "Atlantic/Reykjavik", "America/Santiago", "Australia/Hobart", "America/St_Johns")
_SPECIES: Final = ("salmon", "trout", "char")
_CONDITIONS: Final = ("running",) * 17 + ("paused", "empty", "jammed")
_MEALS_A_DAY: Final = 24
_DAYS_TOGETHER: Final = 10
"""Each transaction writes to the end of every feeder's part of each index: the fewer, the less is written twice."""
_SQLITE_CACHE_KIB: Final = 500_000
"""What one writes to; with SQLite's 2 MB the disk is read for every row."""
_DAYS_BETWEEN_CHANGES: Final = 30
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(a + b for a in _CROCKFORD for b in _CROCKFORD)
_EVENT: Final = (
    *("site_id", "id", "feeder_id", "seq", "kind", "at", "planned_g", "dispensed_g", "reason", "command_id"),
    "received_at",
)
_COMMAND: Final = (
    *("id", "site_id", "feeder_id", "name", "args", "state", "result", "actor", "hub_id", "stop_epoch", "created_at"),
    *("expires_at", "deadline_at", "report_count", "settled_at"),
)
_STEP: Final = ("command_id", "state", "at", "cause")
_REVISION: Final = ("site_id", "feeder_id", "version", "local_rev", "origin", "actor", "at", "config", "command_id")
_PRESENCE: Final = ("site_id", "session", "began_at", "ended_at", "ended_by", "last_seen_at")

Rows = Iterable[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """So many sites with so many feeders together, over the days before `until`."""

    sites: int
    feeders: int
    days: int
    until: date
    seed: int = 1

    def feeders_of(self, site: int) -> int:
        return self.feeders // self.sites + (site < self.feeders % self.sites)

    @property
    def first_day(self) -> date:
        return self.until - timedelta(days=self.days)

    @property
    def events(self) -> int:
        return self.feeders * self.days * _MEALS_A_DAY


class NotEmpty(Refused):
    pass


def site_id(site: int) -> str:
    return f"farm-{site + 1:04}"


def fill(database: Database, plan: Plan, tell: Callable[[int], None]) -> None:
    """Make all of it, some days in a transaction. tell: how many events have come to those before. Raises NotEmpty.

    If it does not come to its end, what is there is of no use: it will not be filled again.
    """
    database.write_now(lambda session: _add_sites(session, plan))
    for first in range(0, plan.days, _DAYS_TOGETHER):
        numbers = range(first, min(first + _DAYS_TOGETHER, plan.days))
        database.write_now(partial(_add_days, plan=plan, numbers=numbers, tell=tell))
    if not database.is_sqlite:  # as PostgreSQL does by itself, a little later
        database.write_now(lambda session: session.connection().execute(text("ANALYZE")))


def _add_sites(session: Session, plan: Plan) -> None:
    if session.exec(select(Site.id).limit(1)).first() is not None:
        raise NotEmpty("There are sites in this database already. Name an empty one for the demo data.")
    if not 1 <= plan.sites <= plan.feeders <= plan.sites * MAX_FEEDERS:
        raise NotEmpty(f"Each site has 1 to {MAX_FEEDERS} feeders: choose other numbers of sites and feeders.")
    since = datetime.combine(plan.first_day, datetime.min.time(), UTC)
    for number in range(plan.sites):
        site, feeders = site_id(number), [f"f{n + 1}" for n in range(plan.feeders_of(number))]
        zone = _ZONES[number % len(_ZONES)]
        add_site(session, site, feeders, zone, since, name=f"Fish farm {number + 1}")
        session.flush()
        tag_site(session, site, [_SPECIES[number % 3], zone.split("/")[0].lower()])
        for n, feeder in enumerate(feeders):
            if n % 4 == 0:
                tag_feeder(session, site, feeder, ["indoor"])
    session.expunge_all()
    _set_states(session.connection(), plan)


def _set_states(connection: Connection, plan: Plan) -> None:
    """What each feeder was last ordered and has last reported."""
    statement = text(
        "UPDATE feeder SET last_version = :version, desired_config = :config, desired_version = :version, "
        "reported_config = :config, reported_version = :version, condition = :condition, control = 'remote', "
        "silo_g = :silo_g, state_journal_id = 'demo', state_seq = 1, state_at = :at WHERE site_id = :site AND id = :id"
    )
    at = _at(connection, datetime.combine(plan.until, datetime.min.time()))
    version, draw = 1 + plan.days // _DAYS_BETWEEN_CHANGES, random.Random(plan.seed)  # noqa: S311 - no secret
    rows = [
        {
            "site": site_id(site),
            "id": f"f{n + 1}",
            "version": version,
            "config": json.dumps(_config(plan.days // _DAYS_BETWEEN_CHANGES)),
            "condition": draw.choice(_CONDITIONS),
            "silo_g": round(draw.uniform(0, 500_000), 1),
            "at": at,
        }
        for site in range(plan.sites)
        for n in range(plan.feeders_of(site))
    ]
    if connection.dialect.name == "postgresql":
        statement = text(
            statement.text.replace(":config", "CAST(:config AS json)").replace(":at", "CAST(:at AS timestamptz)")
        )
    connection.execute(statement, rows)


def _config(change: int) -> dict[str, Any]:
    return {
        "enabled": True,
        "meal_g": 200.0 + 5 * (change % 10),
        "interval_s": 3600,
        "window": {"start": "00:00", "end": "23:59"},
        "daily_limit_g": 9000.0,
        "feed_rate_g_per_s": 12.5,
        "silo_low_g": 5000.0,
    }


def _add_days(session: Session, plan: Plan, numbers: Iterable[int], tell: Callable[[int], None]) -> None:
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA cache_size = -{_SQLITE_CACHE_KIB}")
    for number in numbers:
        _add_day(connection, plan, number)
        tell(plan.feeders * _MEALS_A_DAY)


def _add_day(connection: Connection, plan: Plan, number: int) -> None:
    day = plan.first_day + timedelta(days=number)
    _insert(connection, "feeder_event", _EVENT, _meals(connection, plan, day, number))
    _insert(connection, "presence", _PRESENCE, _spans(connection, plan, day, last=number == plan.days - 1))
    if number % _DAYS_BETWEEN_CHANGES == 0:
        commands, steps, revisions = _changes(connection, plan, day, number // _DAYS_BETWEEN_CHANGES)
        _insert(connection, "command", _COMMAND, commands)
        _insert(connection, "command_step", _STEP, steps)
        _insert(connection, "config_revision", _REVISION, revisions)


def _meals(connection: Connection, plan: Plan, day: date, number: int) -> Iterator[tuple[Any, ...]]:
    """Of all feeders, hour by hour."""
    zone = "" if connection.dialect.name == "sqlite" else "+00"
    midnight_ms = _ms(datetime.combine(day, datetime.min.time()))
    draw = random.Random(f"{plan.seed} {day}")  # noqa: S311 - no secret
    planned_g = _config(number // _DAYS_BETWEEN_CHANGES)["meal_g"]
    feeders = [(site_id(site), f"f{n + 1}", n) for site in range(plan.sites) for n in range(plan.feeders_of(site))]
    for hour in range(_MEALS_A_DAY):
        seq = number * _MEALS_A_DAY + hour + 1
        for site, feeder, n in feeders:
            into_hour_ms = int(draw.random() * 3_600_000)
            second, ms = divmod(into_hour_ms, 1000)
            at = f"{day} {hour:02}:{second // 60:02}:{second % 60:02}.{ms:03}000{zone}"
            luck = draw.random()
            kind, dispensed_g, reason = "meal", round(planned_g * (0.97 + 0.06 * luck), 1), None
            if luck < 0.01:
                kind, dispensed_g, reason = "skipped", None, "daily_limit"
            elif luck < 0.011:
                kind, dispensed_g, reason = "jam", 0.0, "auger"
            row_id = f"{_time_of_ulid(midnight_ms + hour * 3_600_000 + into_hour_ms)}{n:06}{seq:010}"
            yield site, row_id, feeder, seq, kind, at, planned_g, dispensed_g, reason, None, at


def _spans(connection: Connection, plan: Plan, day: date, *, last: bool) -> Iterator[tuple[Any, ...]]:
    """One a day of each site; the last one goes on."""
    begins = datetime.combine(day, datetime.min.time()) + timedelta(seconds=30)
    began_at, ended_at = _at(connection, begins), _at(connection, begins + timedelta(hours=23, minutes=58))
    for site in range(plan.sites):
        session = f"{day}-{site}"
        yield (
            site_id(site),
            session,
            began_at,
            None if last else ended_at,
            None if last else "will",
            None if last else ended_at,
        )


def _changes(
    connection: Connection, plan: Plan, day: date, change: int
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """A change of every feeder's config: commands, their steps, and revisions."""
    moment = datetime.combine(day, datetime.min.time()) + timedelta(hours=9)
    at, later = _at(connection, moment), _at(connection, moment + timedelta(seconds=10))
    config = _config(change)
    args = json.dumps({"config": config, "config_version": change + 1, "local_rev": 0})
    result = json.dumps({"config": config, "config_version": change + 1, "local_rev": 0})
    commands, steps, revisions = [], [], []
    for site in range(plan.sites):
        for n in range(plan.feeders_of(site)):
            key, feeder = f"{_time_of_ulid(_ms(moment))}{site:06}{n:010}", f"f{n + 1}"
            ends = (at, later, later, 0, at)
            commands.append(
                (key, site_id(site), feeder, "set_config", args, "applied", result, "token:demo", "demo", 0, *ends)
            )
            steps += [(key, state, at, "demo") for state in ("pending", "sent", "received", "applied")]
            revisions.append((site_id(site), feeder, change + 1, 0, "hub", "token:demo", at, json.dumps(config), key))
    return commands, steps, revisions


def _insert(connection: Connection, table: str, columns: tuple[str, ...], rows: Rows) -> None:
    """As fast as the driver can. Texts have neither tabs nor backslashes."""
    names, driver = ", ".join(columns), connection.connection.driver_connection
    assert driver is not None
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(columns))
        driver.executemany(f"INSERT INTO {table} ({names}) VALUES ({places})", rows)  # noqa: S608 - no strangers' text
        return
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write("\t".join("\\N" if value is None else str(value) for value in row) + "\n")


def _at(connection: Connection, moment: datetime) -> str:
    """A moment of UTC as the database keeps it."""
    return moment.isoformat(" ", "microseconds") + ("" if connection.dialect.name == "sqlite" else "+00")


def _ms(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp()) * 1000


def _time_of_ulid(ms: int) -> str:
    """The ten characters with which a ULID of that moment begins."""
    return (
        _PAIRS[ms >> 40 & 1023]
        + _PAIRS[ms >> 30 & 1023]
        + _PAIRS[ms >> 20 & 1023]
        + _PAIRS[ms >> 10 & 1023]
        + _PAIRS[ms & 1023]
    )
