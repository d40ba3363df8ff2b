"""What is old enough to go: events, commands, config revisions, presence spans, idempotency keys and audit entries.

It goes in small steps. `find_old` looks, in a transaction that only reads; `thin` deletes what it found, by primary
key, in one that others hardly notice. Any number of hub processes may do so. What is open never goes, however old.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, CursorResult, Select, Table, delete, exists, func, or_, select, tuple_
from sqlmodel import Session
from ulid import ULID

from hub.command_states import CommandState
from hub.models import (
    AUDIT_ENTRY,
    COMMAND,
    CONFIG_REVISION,
    FEEDER,
    FEEDER_EVENT,
    IDEMPOTENCY_KEY,
    PRESENCE,
    ROLLOUT,
    SITE,
)

_ONE_AT_A_TIME: Final = 7204522
"""The advisory lock of whoever thins, in PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How long each kind is kept; None: for ever."""

    events: timedelta | None = None
    commands: timedelta | None = None
    revisions: timedelta | None = None
    presence: timedelta | None = None
    idempotency_keys: timedelta | None = None
    audit: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Old:
    """Rows of one table that may go, by their primary keys."""

    table: Table
    keys: list[tuple[Any, ...]]


def find_old(session: Session, now: datetime, kept: Kept, at_most: int) -> list[Old]:
    """What may go, at most so many rows in all (those that go with a command do not count)."""
    found = []
    for table, keep, query in (
        (IDEMPOTENCY_KEY, kept.idempotency_keys, _old_keys),
        (CONFIG_REVISION, kept.revisions, _old_revisions),
        (COMMAND, kept.commands, _old_commands),
        (ROLLOUT, kept.commands, _old_rollouts),
        (FEEDER_EVENT, kept.events, _old_events),
        (PRESENCE, kept.presence, _old_presence),
        (AUDIT_ENTRY, kept.audit, _old_audit_entries),
    ):
        if keep is not None and at_most > 0:
            keys = [tuple(row) for row in session.connection().execute(query(now - keep).limit(at_most))]
            if keys:
                found.append(Old(table, keys))
                at_most -= len(keys)
    return found


def thin(session: Session, found: list[Old]) -> int:
    """Delete what `find_old` found; returns how many rows went. None do while another process is at it."""
    if session.get_bind().dialect.name == "postgresql" and not session.connection().scalar(
        select(func.pg_try_advisory_xact_lock(_ONE_AT_A_TIME))
    ):
        return 0
    gone = 0
    for old in found:
        key = tuple_(*old.table.primary_key.columns)
        result = session.connection().execute(delete(old.table).where(key.in_(old.keys)))
        assert isinstance(result, CursorResult)
        gone += result.rowcount
    return gone


def _made_before(moment: datetime) -> str:
    """Less than every ULID of that moment or later, and more than all earlier ones: the primary key finds by time."""
    return str(ULID.from_datetime(moment))[:10]


def _old_keys(before: datetime) -> Select[Any]:
    """A key is as old as its command. While that is open its caller may still ask again; so may a rollout (its owner)
    until it has settled.
    """
    key = IDEMPOTENCY_KEY.c
    return select(key.owner, key.key).where(
        key.command_id < _made_before(before),
        ~exists().where(COMMAND.c.id == key.command_id, COMMAND.c.settled_at.is_(None)),
        ~exists().where(ROLLOUT.c.id == key.owner, ROLLOUT.c.settled_at.is_(None)),
    )


def _old_rollouts(before: datetime) -> Select[Any]:
    """Kept as long as commands, with the parts of all their feeders."""
    return select(ROLLOUT.c.id).where(ROLLOUT.c.id < _made_before(before), ROLLOUT.c.settled_at < before)


def _old_commands(before: datetime) -> Select[Any]:
    """Neither what is open (also what a person has to look into), nor a latched stop, nor what a revision tells of."""
    command = COMMAND.c
    return (
        select(command.id)
        .where(
            command.id < _made_before(before),
            command.settled_at < before,
            or_(command.state != CommandState.UNRESOLVED, command.closed_at.is_not(None)),
            ~exists().where(SITE.c.id == command.site_id, SITE.c.stop_command_id == command.id),
            ~exists().where(
                *_feeder_of(COMMAND),
                or_(FEEDER.c.pending_command_id == command.id, FEEDER.c.in_flight_command_id == command.id),
            ),
            ~exists().where(CONFIG_REVISION.c.command_id == command.id),
        )
        .order_by(command.id)
    )


def _old_revisions(before: datetime) -> Select[Any]:
    """Neither what a feeder has, nor what it is to have, nor a change that is open."""
    revision = CONFIG_REVISION.c
    return (
        select(revision.id)
        .where(
            revision.at < before,
            ~exists().where(
                *_feeder_of(CONFIG_REVISION),
                or_(FEEDER.c.desired_version == revision.version, FEEDER.c.reported_version == revision.version),
            ),
            ~exists().where(COMMAND.c.id == revision.command_id, COMMAND.c.settled_at.is_(None)),
        )
        .order_by(revision.at)
    )


def _old_events(before: datetime) -> Select[Any]:
    """By the farm's time, which the index has, and by that of the arrival: a farm's clock may be years behind."""
    event = FEEDER_EVENT.c
    # `|| ''`: so that no planner looks up the feeder of each event, instead of the old events of each feeder.
    of_a_feeder = (event.site_id == FEEDER.c.site_id.concat(""), event.feeder_id == FEEDER.c.id.concat(""))
    return select(event.site_id, event.id).where(*of_a_feeder, event.at < before, event.received_at < before)


def _old_presence(before: datetime) -> Select[Any]:
    return select(PRESENCE.c.id).where(PRESENCE.c.ended_at < before).order_by(PRESENCE.c.ended_at)


def _old_audit_entries(before: datetime) -> Select[Any]:
    entry = AUDIT_ENTRY.c.id
    return select(entry).where(entry < _made_before(before)).order_by(entry)


def _feeder_of(table: Table) -> tuple[ColumnElement[bool], ...]:
    return FEEDER.c.site_id == table.c.site_id, FEEDER.c.id == table.c.feeder_id
