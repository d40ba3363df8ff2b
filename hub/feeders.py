"""Feeders: what the hub wants of each, what its desktop reported, and where the two differ."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, bindparam, func, insert, or_, tuple_, update
from sqlalchemy import select as sa_select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from hub.command_states import CommandState
from hub.errors import Fault, InvalidOrder, NotFound
from hub.etags import etag_of, require_match
from hub.models import (
    CONFIG_REVISION,
    FEEDER,
    Command,
    CommandRow,
    ConfigRevision,
    Feeder,
    FeederEvent,
    FeederRow,
    JsonObject,
    Site,
)
from hub.protocol.local_days import day_of
from hub.protocol.messages import FeederConfig, State, differences
from hub.search import EVERYTHING, Search, feeder_says
from hub.statements import Row, Statement
from hub.tags import feeder_has, of_feeders, tag_feeder

_BOUNDS: Final = ("ge", "le", "gt", "lt", "max_length", "min_length")


def faults_of(error: ValidationError, prefix: str = "") -> list[Fault]:
    """Every field at fault, with the limit that it broke and its value."""
    return [
        Fault(
            prefix + ".".join(str(part) for part in fault["loc"]) or "body",
            fault["msg"].removeprefix("Value error, "),
            limit := next((float(fault["ctx"][bound]) for bound in _BOUNDS if bound in fault.get("ctx", {})), None),
            None if limit is None or not isinstance(fault["input"], int | float) else fault["input"],
        )
        for fault in error.errors(include_url=False)
    ]


def parse_config(config: JsonObject) -> FeederConfig:
    """Raises InvalidOrder, naming every field at fault."""
    try:
        return FeederConfig.model_validate(config)
    except ValidationError as error:
        raise InvalidOrder("The config breaks a limit or has a field that is wrong.", faults_of(error)) from error


def config_of(stored: JsonObject | None) -> FeederConfig | None:
    return None if stored is None else FeederConfig.model_validate(stored)


def etag(feeder: FeederRow) -> str | None:
    """Names the config as the farm has it; None where that is not known yet."""
    return None if feeder.reported_config is None else f'"{feeder.reported_version}.{feeder.local_rev}"'


def drift(feeder: Feeder) -> list[str]:
    """The fields in which what was reported differs from what was ordered."""
    desired, reported = config_of(feeder.desired_config), config_of(feeder.reported_config)
    return differences(desired, reported) if desired is not None and reported is not None else []


def get_feeder(session: Session, site: str, feeder: str) -> Feeder:
    """Raises NotFound."""
    row = session.get(Feeder, (site, feeder))
    if row is None:
        raise NotFound(f"Site {site} has no feeder {feeder}.")
    return row


def list_feeders(
    session: Session,
    site: str,
    after: str | None,
    limit: int,
    search: Search = EVERYTHING,
) -> list[Feeder]:
    """A site's feeders by id, those after the given one."""
    query = select(Feeder).where(Feeder.site_id == site).order_by(Feeder.id).limit(limit)
    if after is not None:
        query = query.where(Feeder.id > after)
    return list(session.exec(query.where(*_narrowed(search))))


def list_all_feeders(
    session: Session, after: tuple[str, str] | None, limit: int, only: Collection[str] | None, search: Search
) -> list[Feeder]:
    """Feeders by site and id, those after the given one; `only`: of these sites."""
    query = select(Feeder).order_by(Feeder.site_id, Feeder.id).limit(limit)
    if after is not None:
        query = query.where(tuple_(col(Feeder.site_id), col(Feeder.id)) > after)
    if only is not None:
        query = query.where(col(Feeder.site_id).in_(only))
    return list(session.exec(query.where(*_narrowed(search))))


def _narrowed(search: Search) -> Iterator[ColumnElement[bool]]:
    if search.tags:
        yield feeder_has(search.tags)
    if search.text is not None:
        yield feeder_says(search.text)
    if search.condition is not None:
        yield col(Feeder.condition) == search.condition


def feeder_etag(tags: Collection[str]) -> str:
    """Names what of a feeder people change at the hub. Its config has an ETag of its own."""
    return etag_of(tags=sorted(tags))


def change_feeder(session: Session, site: str, feeder: str, tags: Collection[str] | None, if_match: str | None) -> None:
    """Raises NotFound, or Changed."""
    lock_feeder(session, site, feeder, _LOCK_FOR_CHANGES)
    key = (site, feeder)
    require_match(if_match, feeder_etag(of_feeders(session, [key])[key]), f"feeder {feeder} of site {site}")
    if tags is not None:
        tag_feeder(session, site, feeder, tags)


def grams_today(session: Session, feeders: Sequence[Feeder], now: datetime) -> dict[tuple[str, str], float]:
    """Grams dispensed on each site's local day, by (site, feeder).

    What a clock that is ahead dates later is not of today.
    """
    sites = {row.site_id for row in feeders}
    zones = dict(session.exec(select(Site.id, Site.time_zone).where(col(Site.id).in_(sites))).all())
    found: dict[tuple[str, str], float] = {}
    for zone in set(zones.values()):
        begins, ends = day_of(now, ZoneInfo(zone))
        # For each feeder a look of its own into the index: of a join the database may begin at the wrong end.
        grams = (
            select(func.sum(FeederEvent.dispensed_g))
            .where(
                FeederEvent.site_id == Feeder.site_id,
                FeederEvent.feeder_id == Feeder.id,
                FeederEvent.at >= begins,
                FeederEvent.at < ends,
                col(FeederEvent.kind).in_(("meal", "dose")),
            )
            .correlate(Feeder)
            .scalar_subquery()
        )
        named = [(row.site_id, row.id) for row in feeders if zones[row.site_id] == zone]
        query = select(Feeder.site_id, Feeder.id, grams).where(tuple_(col(Feeder.site_id), col(Feeder.id)).in_(named))
        found |= {(site, feeder): total or 0.0 for site, feeder, total in session.exec(query)}
    return found


# --- what desktops report: statements built once ------------------------------------------------------------------

_THIS_FEEDER: Final = and_(FEEDER.c.site_id == bindparam("this_site"), FEEDER.c.id == bindparam("this_feeder"))
_VERSION_COLUMNS: Final = ("reported_version", "local_rev", "last_version", "desired_version")
_FLIGHT_COLUMNS: Final = ("pending_command_id", "in_flight_command_id")
_FOR_CHANGES: Final = ("site_id", "id", *_VERSION_COLUMNS, *_FLIGHT_COLUMNS)
_FOR_RULES: Final = (*_FOR_CHANGES, "reported_config", "desired_config", "state_journal_id", "state_seq")


def _lock(columns: tuple[str, ...]) -> Statement:
    return Statement(sa_select(*(FEEDER.c[name] for name in columns)).where(_THIS_FEEDER).with_for_update())


_LOCK: Final = _lock(_FOR_RULES)
_LOCK_FOR_CHANGES: Final = _lock(_FOR_CHANGES)
_CONFIG_COLUMNS: Final = ("reported_config", "reported_version", "local_rev", "last_version")
_STATE_COLUMNS: Final = (
    *("state_journal_id", "state_seq", "state_at"),
    *("condition", "control", "silo_g", "next_meal_at"),
)


def _update_of(*columns: str) -> Statement:
    return Statement(update(FEEDER).where(_THIS_FEEDER).values({name: bindparam(name) for name in columns}))


_TAKE_STATE: Final = _update_of(*_CONFIG_COLUMNS, *_STATE_COLUMNS)
_SETTLE_CONFIG: Final = _update_of(*_CONFIG_COLUMNS, *_FLIGHT_COLUMNS)
_END_FLIGHT: Final = _update_of(*_FLIGHT_COLUMNS)
_WANT: Final = _update_of("desired_config", "desired_version")
_WANT_WHAT_IS: Final = Statement(
    update(FEEDER)
    .where(_THIS_FEEDER)
    .values(desired_config=FEEDER.c.reported_config, desired_version=FEEDER.c.reported_version)
)
_INSERT_REVISION: Final = Statement(
    insert(CONFIG_REVISION)
    .inline()
    .values({column.name: bindparam(column.name) for column in CONFIG_REVISION.c if column.name != "id"})
)


def lock_feeder(session: Session, site: str, feeder: str, columns: Statement = _LOCK) -> Row:
    """What rules ask of the feeder's row; nobody else changes it until this transaction ends. Raises NotFound."""
    row = columns.first(session, this_site=site, this_feeder=feeder)
    if row is None:
        raise NotFound(f"Site {site} has no feeder {feeder}.")
    return row


def take_state(session: Session, site: str, feeder: str, state: State, now: datetime) -> list[str] | None:
    """Store a reported state; None if it is no news, else the fields in drift. Raises NotFound.

    now: the arrival, which is when a revision is from that was made on the farm; its clock may be years behind.
    A desktop with a new journal may have gone back in its versions: what it has now is the truth all the same.
    """
    row = lock_feeder(session, site, feeder)
    if row.state_journal_id == state.journal_id and row.state_seq is not None and state.seq <= row.state_seq:
        return None
    config = state.config.model_dump()
    taken = _taken(session, row, config, state.config_version, state.local_rev, now)
    _TAKE_STATE.run(
        session,
        this_site=site,
        this_feeder=feeder,
        **taken,
        state_journal_id=state.journal_id,
        state_seq=state.seq,
        state_at=state.at,
        condition=state.condition,
        control=state.control,
        silo_g=state.silo_g,
        next_meal_at=state.next_meal_at,
    )
    desired = config_of(row.desired_config)
    return [] if desired is None else differences(desired, state.config)


def settle_config(
    session: Session, site: str, feeder: str, command_id: str, answer: JsonObject, now: datetime, *, applied: bool
) -> bool:
    """A `set_config` has come to its end; returns whether another one waited for that.

    `answer` may have the config as the farm has it now. Where the newest change did not happen, it is not wanted any
    longer either; where an older one proves to have happened after that, it is.
    """
    row = lock_feeder(session, site, feeder, _LOCK_FOR_CHANGES)
    left = {
        "pending_command_id": None if row.pending_command_id == command_id else row.pending_command_id,
        "in_flight_command_id": None if row.in_flight_command_id == command_id else row.in_flight_command_id,
    }
    version, local_rev = answer.get("config_version", row.reported_version or 0), answer.get("local_rev", row.local_rev)
    # Told late, it may be older than what is known already.
    if "config" in answer and (version, local_rev) >= (row.reported_version or 0, row.local_rev):
        taken = _taken(session, row, answer["config"], version, local_rev, now)
        _SETTLE_CONFIG.run(session, this_site=site, this_feeder=feeder, **taken, **left)
    else:
        _END_FLIGHT.run(session, this_site=site, this_feeder=feeder, **left)
    if row.pending_command_id == command_id and not applied:
        _WANT_WHAT_IS.run(session, this_site=site, this_feeder=feeder)
    elif applied and row.pending_command_id is None and version > (row.desired_version or 0):
        _WANT.run(session, this_site=site, this_feeder=feeder, desired_config=answer["config"], desired_version=version)
    return left["pending_command_id"] is not None and left["in_flight_command_id"] is None


def end_flight(session: Session, command: CommandRow) -> None:
    """A `set_config` was not answered in time: the next change of its feeder need not wait for it any longer.

    The desktop does not begin it any more: it is past its `expires_at`, which is not later than its deadline.
    """
    session.connection().execute(
        update(FEEDER)
        .where(
            FEEDER.c.site_id == command.site_id,
            FEEDER.c.id == command.feeder_id,
            FEEDER.c.in_flight_command_id == command.id,
        )
        .values(in_flight_command_id=None)
    )


def _taken(
    session: Session, row: Row, config: JsonObject, version: int, local_rev: int, at: datetime
) -> dict[str, Any]:
    """What changes in the row by a config read back from the PLC. An edit made on the farm becomes a revision."""
    if local_rev > row.local_rev:
        add_revision(session, row.site_id, row.id, version, local_rev, config, at)
    return {
        "reported_config": config,
        "reported_version": version,
        "local_rev": local_rev,
        "last_version": max(row.last_version, version),
    }


def add_revision(
    session: Session,
    site: str,
    feeder: str,
    version: int,
    local_rev: int,
    config: JsonObject,
    at: datetime,
    *,
    actor: str | None = None,
    command_id: str | None = None,
) -> None:
    """A revision of a feeder's config: ordered by somebody, or (without a command) made on the farm itself."""
    _INSERT_REVISION.run(
        session,
        site_id=site,
        feeder_id=feeder,
        version=version,
        local_rev=local_rev,
        config=config,
        at=at,
        actor=actor,
        command_id=command_id,
        origin="local" if command_id is None else "hub",
    )


@dataclass(frozen=True, slots=True)
class RevisionPage:
    """Revisions of a feeder's config, the newest first, each with the config that held before it.

    That is the last one before it that took effect; None: there was none.
    """

    items: list[tuple[ConfigRevision, JsonObject | None]]
    next: int | None


def list_revisions(session: Session, site: str, feeder: str, before: int | None, limit: int) -> RevisionPage:
    earlier: Any = aliased(ConfigRevision)
    # Made on the farm; applied; or ordered so long ago that its command is not kept any more.
    took_effect = or_(earlier.command_id.is_(None), col(Command.state) == CommandState.APPLIED)
    held_before = (
        select(earlier.config)
        .outerjoin(Command, col(Command.id) == earlier.command_id)
        .where(earlier.site_id == site, earlier.feeder_id == feeder, earlier.id < ConfigRevision.id, took_effect)
        .order_by(earlier.id.desc())
        .limit(1)
        .correlate(ConfigRevision)
        .scalar_subquery()
    )
    query = (
        select(ConfigRevision, held_before)
        .where(ConfigRevision.site_id == site, ConfigRevision.feeder_id == feeder)
        .order_by(col(ConfigRevision.id).desc())
        .limit(limit + 1)
    )
    if before is not None:
        query = query.where(col(ConfigRevision.id) < before)
    rows = [(revision, config) for revision, config in session.exec(query)]
    return RevisionPage(rows[:limit], rows[limit - 1][0].id if len(rows) > limit else None)


def get_revision(session: Session, site: str, feeder: str, revision: int) -> ConfigRevision:
    """Raises NotFound."""
    row = session.get(ConfigRevision, revision)
    if row is None or (row.site_id, row.feeder_id) != (site, feeder):
        raise NotFound(f"Feeder {feeder} of site {site} has no revision {revision}.")
    return row


def list_events(session: Session, site: str, feeder: str, before: str | None, limit: int) -> list[FeederEvent]:
    """A feeder's events, the newest first by their ULIDs; `before`: only older ones than that id."""
    query = (
        select(FeederEvent)
        .where(FeederEvent.site_id == site, FeederEvent.feeder_id == feeder)
        .order_by(col(FeederEvent.id).desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(col(FeederEvent.id) < before)
    return list(session.exec(query))


def dose_duration(grams: float, feeder: FeederRow) -> timedelta:
    """How long a dose may take at the feeder's rate, with a fifth and two seconds to spare."""
    config = config_of(feeder.reported_config)
    rate_g_per_s = config.feed_rate_g_per_s if config is not None else _SLOWEST_LIKELY_RATE_G_PER_S
    return timedelta(seconds=grams / rate_g_per_s * 1.2 + 2)


_SLOWEST_LIKELY_RATE_G_PER_S: Final = 5.0
