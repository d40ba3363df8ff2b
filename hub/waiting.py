"""Changes that wait: for a site that is away, or for an earlier change of the same feeder. No network here.

At most one waits per feeder, and it is the feeder's `pending_command_id`; `in_flight_command_id` is what was sent and
not answered. A change is sent when nothing of its feeder is in flight, its site is there and not stopped, and its time
is not over. So two changes of a feeder never overtake each other, however many processes take part: all of it happens
under the lock of the feeder's row. Different feeders never wait for each other.

A patch that waits is made again when it is sent, upon the config as the farm then has it: it carries nothing of a
change before it that came to nothing. Where the two do not fit together any more it is `refused`.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import bindparam, update
from sqlalchemy import select as sa_select
from sqlmodel import Session

from hub import settlement
from hub.command_states import CommandState
from hub.errors import ConfigUnknown, HubError, InvalidOrder
from hub.feeders import lock_feeder, settle_config
from hub.liveness import AliveSession
from hub.models import COMMAND, CONFIG_REVISION, FEEDER, SITE, Command, CommandRow, command_row
from hub.orders import Desk, patched
from hub.statements import Statement

NO_LONGER_FITS: Final = "no_longer_fits"
"""The code of a patch that waited and was refused; no desktop's, as none ever saw it."""

_IS_WAITING: Final = (COMMAND.c.settled_at.is_(None), COMMAND.c.state == CommandState.PENDING)
_WAITING: Final = (
    sa_select(COMMAND.c.id, COMMAND.c.feeder_id)
    .where(COMMAND.c.site_id == bindparam("site"), *_IS_WAITING)
    .order_by(COMMAND.c.id)
)
_SITES: Final = Statement(sa_select(COMMAND.c.site_id).where(*_IS_WAITING).distinct())
_OVERDUE: Final = Statement(sa_select(COMMAND.c.id).where(*_IS_WAITING, COMMAND.c.expires_at <= bindparam("now")))
_STOP: Final = (
    sa_select(SITE.c.stop_epoch, SITE.c.stopped_at).where(SITE.c.id == bindparam("site")).with_for_update(read=True)
)
"""As in orders: a stop waits until what is sent here is committed, and what comes after the stop sees its latch."""


def sites_with_waiting(session: Session) -> list[str]:
    return [row.site_id for row in _SITES.run(session)]


def send_waiting(session: Session, site: str, to: AliveSession, desk: Desk, now: datetime) -> list[CommandRow]:
    """The site's changes that wait for nothing any more: `sent` now, to be published once committed, or `refused`."""
    stop = session.connection().execute(_STOP, {"site": site}).first()
    if stop is None or stop.stopped_at is not None:
        return []
    moved = [
        _send(session, site, feeder, command_id, to, stop.stop_epoch, desk, now)
        for command_id, feeder in session.connection().execute(_WAITING, {"site": site}).all()
    ]
    return [command for command in moved if command is not None]


def _send(
    session: Session,
    site: str,
    feeder: str,
    command_id: str,
    to: AliveSession,
    stop_epoch: int,
    desk: Desk,
    now: datetime,
) -> CommandRow | None:
    row = lock_feeder(session, site, feeder)
    command = session.get(Command, command_id, populate_existing=True)
    if command is None or row.in_flight_command_id is not None or command.expires_at <= now:
        return None
    config = command.args["config"]
    if command.patch is not None:
        try:
            config = patched(row.reported_config, command.patch).model_dump()
        except (ConfigUnknown, InvalidOrder) as error:
            return _refuse(session, command, error, now)
    version = int(command.args["config_version"])
    if version <= (row.reported_version or 0):  # the farm is ahead of this database, which was restored
        version = max(row.last_version, row.reported_version) + 1
    expires_at = now + timedelta(seconds=desk.timeout_s)
    # Somebody may still wait for it in the process that took the order; of an older one nobody knows if it is there.
    somebody_waits = now < command.created_at + timedelta(seconds=desk.timeout_s)
    moved = (
        session.connection()
        .execute(
            update(COMMAND)
            .where(COMMAND.c.id == command_id, COMMAND.c.state == CommandState.PENDING)
            .values(
                state=CommandState.SENT,
                args=command.args | {"config": config, "config_version": version},
                session=to.session,
                journal_id=to.journal_id,
                stop_epoch=stop_epoch,
                hub_id=command.hub_id if somebody_waits else desk.hub_id,
                expires_at=expires_at,
                deadline_at=expires_at,
            )
            .returning(*COMMAND.c)
        )
        .mappings()
        .first()
    )
    if moved is None:
        return None
    connection = session.connection()
    settlement.add_step(session, command_id, CommandState.SENT, "waited; to be published", now)
    connection.execute(
        update(FEEDER)
        .where(FEEDER.c.site_id == site, FEEDER.c.id == feeder)
        .values(
            in_flight_command_id=command_id,
            desired_config=config,
            desired_version=version,
            last_version=max(row.last_version, version),
        )
    )
    if (config, version) != (command.args["config"], command.args["config_version"]):
        connection.execute(
            update(CONFIG_REVISION)
            .where(CONFIG_REVISION.c.command_id == command_id)
            .values(config=config, version=version)
        )
    return command_row(**moved)


def _refuse(session: Session, command: Command, error: HubError, now: datetime) -> CommandRow | None:
    """End a patch that does not fit the config that it would be sent upon."""
    assert command.feeder_id is not None
    faults = "".join(f" {fault.field}: {fault.message}." for fault in getattr(error, "faults", ()))
    detail = f"While it waited the config became one that this patch does not fit; nothing was sent. {error}{faults}"
    cause = "does not fit the config any more"
    moved = settlement.advance(
        session, command.id, CommandState.REFUSED, cause, now, code=NO_LONGER_FITS, detail=detail[:1000]
    )
    if moved is not None:
        settle_config(session, command.site_id, command.feeder_id, command.id, {}, now, applied=False)
    return moved


def expire_waiting(session: Session, now: datetime) -> list[CommandRow]:
    """End what has waited for too long; it was never sent, and is not wanted any more."""
    ended = []
    for command in _OVERDUE.run(session, now=now):
        detail = "It waited until its time was over, and was never sent."
        moved = settlement.advance(session, command.id, CommandState.EXPIRED, "waited too long", now, detail=detail)
        if moved is not None and moved.feeder_id is not None:
            settle_config(session, moved.site_id, moved.feeder_id, moved.id, {}, now, applied=False)
            ended.append(moved)
    return ended
