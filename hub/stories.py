"""Commands as people look at them: the story of each, lists of them, and what is closed by somebody who has looked."""

from datetime import datetime
from typing import Final

from sqlalchemy import and_, func
from sqlmodel import Session, col, select

from hub.command_states import CommandState
from hub.errors import NotFound, NotUnresolved
from hub.models import Command, CommandStep
from hub.protocol.times import rfc3339

_EARLY: Final = (CommandState.PENDING, CommandState.SENT, CommandState.RECEIVED, CommandState.UNKNOWN)
_ORDER: Final = {
    state: n for n, state in enumerate((*_EARLY, *(state for state in CommandState if state not in _EARLY)))
}


def stories(session: Session, command_ids: list[str]) -> dict[str, list[CommandStep]]:
    """The steps of some commands, each in the order in which states may follow each other."""
    found: dict[str, list[CommandStep]] = {command_id: [] for command_id in command_ids}
    for step in session.exec(select(CommandStep).where(col(CommandStep.command_id).in_(command_ids))):
        found[step.command_id].append(step)
    for steps in found.values():
        steps.sort(key=lambda step: _ORDER[CommandState(step.state)])
    return found


def settled_of(session: Session, command_ids: list[str]) -> list[Command]:
    """Those of some commands that have come to their end."""
    query = select(Command).where(col(Command.id).in_(command_ids), col(Command.settled_at).is_not(None))
    return list(session.exec(query))


def close(session: Session, command_id: str, by: str, remark: str, now: datetime) -> Command:
    """A person has looked into what could not be known. The first one's word stands; the same again changes nothing.

    Raises NotFound, or NotUnresolved.
    """
    command = session.get(Command, command_id, with_for_update=True, populate_existing=True)
    if command is None:
        raise NotFound(f"There is no command {command_id}.")
    if command.state != CommandState.UNRESOLVED:
        raise NotUnresolved(f"Command {command_id} is {command.state}: only what is unresolved is closed by a person.")
    if command.closed_at is not None:
        if (command.closed_by, command.remark) == (by, remark):
            return command
        raise NotUnresolved(f"{command.closed_by} closed it at {rfc3339(command.closed_at)}: {command.remark}")
    command.closed_at, command.closed_by, command.remark = now, by, remark
    session.add(command)
    return command


IS_UNRESOLVED: Final = and_(col(Command.state) == CommandState.UNRESOLVED, col(Command.closed_at).is_(None))


def count_unresolved(session: Session, sites: list[str]) -> dict[str, int]:
    """Commands that are unresolved and not closed, by site; sites without any are left out."""
    query = select(Command.site_id, func.count()).where(col(Command.site_id).in_(sites), IS_UNRESOLVED)
    return dict(session.exec(query.group_by(Command.site_id)).all())


def list_commands(
    session: Session, site: str, feeder: str | None, before: str | None, limit: int, *, unresolved: bool = False
) -> list[Command]:
    """A site's (or one feeder's) commands, the newest first; `before`: only older ones than that id.

    unresolved: only those, and of them only those that nobody has closed.
    """
    query = select(Command).where(Command.site_id == site).order_by(col(Command.id).desc()).limit(limit)
    if feeder is not None:
        query = query.where(Command.feeder_id == feeder)
    if before is not None:
        query = query.where(col(Command.id) < before)
    if unresolved:
        query = query.where(IS_UNRESOLVED)
    return list(session.exec(query))
