"""Feeders: what the hub wants of each, what its desktop reported, and where the two differ."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from pydantic import ValidationError
from sqlalchemy import func, update
from sqlmodel import Session, col, select

from hub.errors import Fault, InvalidOrder, NotFound
from hub.models import ConfigRevision, Feeder, FeederEvent, JsonObject, Site
from hub.protocol.messages import FeederConfig, State, differences

_BOUNDS: Final = ("ge", "le", "gt", "lt", "max_length", "min_length")


def faults_of(error: ValidationError, prefix: str = "") -> list[Fault]:
    """Every field at fault, with the limit that it broke."""
    return [
        Fault(
            prefix + ".".join(str(part) for part in fault["loc"]) or "body",
            fault["msg"].removeprefix("Value error, "),
            next((float(fault["ctx"][bound]) for bound in _BOUNDS if bound in fault.get("ctx", {})), None),
        )
        for fault in error.errors(include_url=False, include_input=False)
    ]


def parse_config(config: JsonObject) -> FeederConfig:
    """Raises InvalidOrder, naming every field at fault."""
    try:
        return FeederConfig.model_validate(config)
    except ValidationError as error:
        raise InvalidOrder("The config breaks a limit or has a field that is wrong.", faults_of(error)) from error


def config_of(stored: JsonObject | None) -> FeederConfig | None:
    return None if stored is None else FeederConfig.model_validate(stored)


def etag(feeder: Feeder) -> str | None:
    """Names the config as the farm has it; None where that is not known yet."""
    return None if feeder.reported_config is None else f'"{feeder.reported_version}.{feeder.local_rev}"'


def drift(feeder: Feeder) -> list[str]:
    """The fields in which what was reported differs from what was ordered."""
    desired, reported = config_of(feeder.desired_config), config_of(feeder.reported_config)
    return differences(desired, reported) if desired is not None and reported is not None else []


def get_feeder(session: Session, site: str, feeder: str, *, lock: bool = False) -> Feeder:
    """Raises NotFound. `lock`: nobody else changes the row until this transaction ends."""
    row = session.get(Feeder, (site, feeder), with_for_update=lock, populate_existing=lock)
    if row is None:
        raise NotFound(f"Site {site} has no feeder {feeder}.")
    return row


def list_feeders(session: Session, site: str, after: str | None, limit: int) -> list[Feeder]:
    query = select(Feeder).where(Feeder.site_id == site).order_by(Feeder.id).limit(limit)
    if after is not None:
        query = query.where(Feeder.id > after)
    return list(session.exec(query))


def local_midnight(time_zone: str, now: datetime) -> datetime:
    """When the site's local day began."""
    local = now.astimezone(ZoneInfo(time_zone))
    return local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)


def grams_today(session: Session, site: Site, feeders: list[str], now: datetime) -> dict[str, float]:
    """Grams dispensed since the site's local midnight, by feeder."""
    sums = session.exec(
        select(FeederEvent.feeder_id, func.sum(FeederEvent.dispensed_g))
        .where(
            FeederEvent.site_id == site.id,
            FeederEvent.at >= local_midnight(site.time_zone, now),
            col(FeederEvent.feeder_id).in_(feeders),
            col(FeederEvent.kind).in_(("meal", "dose")),
        )
        .group_by(FeederEvent.feeder_id)
    )
    found = {feeder: total or 0.0 for feeder, total in sums}
    return {feeder: found.get(feeder, 0.0) for feeder in feeders}


def take_answered_config(session: Session, feeder: Feeder, answer: JsonObject, at: datetime) -> None:
    """The config that came with an answer to a command, unless something newer is known already."""
    version = answer.get("config_version", feeder.reported_version or 0)
    local_rev = answer.get("local_rev", feeder.local_rev)
    if (version, local_rev) >= (feeder.reported_version or 0, feeder.local_rev):
        _take_config(session, feeder, answer["config"], version, local_rev, at)


def take_state(session: Session, site: str, feeder: str, state: State) -> Feeder | None:
    """Store a reported state; None if it is no news. Raises NotFound.

    A desktop with a new journal may have gone back in its versions: what it has now is the truth all the same.
    """
    row = get_feeder(session, site, feeder, lock=True)
    if row.state_journal_id == state.journal_id and row.state_seq is not None and state.seq <= row.state_seq:
        return None
    _take_config(session, row, state.config.model_dump(), state.config_version, state.local_rev, state.at)
    row.state_journal_id, row.state_seq, row.state_at = state.journal_id, state.seq, state.at
    row.condition, row.control = state.condition, state.control
    row.silo_g, row.next_meal_at = state.silo_g, state.next_meal_at
    return row


def _take_config(
    session: Session, feeder: Feeder, config: JsonObject, version: int, local_rev: int, at: datetime
) -> None:
    """The farm's desktop has read this config back from the PLC. An edit made on the farm becomes a revision."""
    edited_on_farm = local_rev > feeder.local_rev
    feeder.reported_config = config
    feeder.reported_version = version
    feeder.local_rev = local_rev
    feeder.last_version = max(feeder.last_version, version)
    session.add(feeder)
    if edited_on_farm:
        session.add(
            ConfigRevision(
                site_id=feeder.site_id,
                feeder_id=feeder.id,
                version=version,
                local_rev=local_rev,
                origin="local",
                at=at,
                config=config,
            )
        )


def settle_pending(session: Session, site: str, feeder: str, command_id: str, *, applied: bool) -> None:
    """The newest change of a feeder's config has come to its end; one that did not happen is not wanted any longer."""
    ends = (
        col(Feeder.site_id) == site,
        col(Feeder.id) == feeder,
        col(Feeder.pending_command_id) == command_id,
    )
    values: dict[str, object] = {"pending_command_id": None}
    if not applied:
        values |= {"desired_config": Feeder.reported_config, "desired_version": Feeder.reported_version}
    session.execute(update(Feeder).where(*ends).values(values))


@dataclass(frozen=True, slots=True)
class RevisionPage:
    """Revisions of a feeder's config, the newest first."""

    items: list[ConfigRevision]
    next: int | None


def list_revisions(session: Session, site: str, feeder: str, before: int | None, limit: int) -> RevisionPage:
    query = (
        select(ConfigRevision)
        .where(ConfigRevision.site_id == site, ConfigRevision.feeder_id == feeder)
        .order_by(col(ConfigRevision.id).desc())
        .limit(limit + 1)
    )
    if before is not None:
        query = query.where(col(ConfigRevision.id) < before)
    rows = list(session.exec(query))
    return RevisionPage(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)


def dose_duration(grams: float, feeder: Feeder) -> timedelta:
    """How long a dose may take at the feeder's rate, with a fifth and two seconds to spare."""
    config = config_of(feeder.reported_config)
    rate_g_per_s = config.feed_rate_g_per_s if config is not None else _SLOWEST_LIKELY_RATE_G_PER_S
    return timedelta(seconds=grams / rate_g_per_s * 1.2 + 2)


_SLOWEST_LIKELY_RATE_G_PER_S: Final = 5.0
