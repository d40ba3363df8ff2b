"""Bringing commands forward to their known end: from a reply, a report's outcome, or the deadline. No network here.

Every move is a conditional update: where no row is touched the news was late or a duplicate, and that is no error.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import update
from sqlmodel import Session, col, select

from hub.command_states import SETTLED, CommandState, may_come_before
from hub.feeders import get_feeder, settle_pending, take_answered_config
from hub.models import Command, CommandStep, JsonObject, Site
from hub.protocol.codes import Code
from hub.protocol.messages import FINAL_STATUSES, Answer, FeederConfig, Outcome, Reply, differences

FIRST_REPORT_AFTER: Final = timedelta(seconds=2)
LONGEST_REPORT_PAUSE: Final = timedelta(seconds=60)
MAX_REPORTED: Final = 100


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one piece of news. `command` None: no such command at that site. `moved`: its state changed."""

    command: Command | None
    moved: bool
    contradiction: str | None = None


def advance(session: Session, command_id: str, to: CommandState, cause: str, now: datetime, **values: object) -> bool:
    """Move a command forward, if it may move there; the step is part of its story."""
    if to in SETTLED:
        values["settled_at"] = now
    moved = session.execute(
        update(Command)
        .where(col(Command.id) == command_id, col(Command.state).in_(may_come_before(to)))
        .values(state=to, **values)
        .returning(col(Command.id))
        .execution_options(synchronize_session=False)
    ).first()
    if moved is None:
        return False
    session.add(CommandStep(command_id=command_id, state=to, at=now, cause=cause[:200]))
    return True


def take_reply(session: Session, site: str, reply: Reply, now: datetime) -> Settled:
    """A desktop's reply to one command of its own site."""
    command = _command_of(session, site, reply.id)
    if command is None:
        return Settled(None, moved=False)
    if reply.status not in FINAL_STATUSES:
        moved = advance(session, command.id, CommandState.RECEIVED, f"reply {reply.status}", now)
        return Settled(_as_it_is_now(session, command), moved)
    return _settle(session, command, CommandState(reply.status), reply, f"reply {reply.status}", now)


def take_outcome(session: Session, site: str, asked_of_journal: str, outcome: Outcome, now: datetime) -> Settled:
    """What a desktop's journal says of a command whose outcome was unknown."""
    command = _command_of(session, site, outcome.id)
    if command is None:
        return Settled(None, moved=False)
    cause = f"report {outcome.status}"
    match outcome.status:
        case "applied" | "rejected" | "failed":
            return _settle(session, command, CommandState(outcome.status), outcome, cause, now)
        case "interrupted" if outcome.dispensed_g is not None:
            interrupted = outcome.model_copy(update={"code": outcome.code or Code.INTERRUPTED})
            return _settle(session, command, CommandState.FAILED, interrupted, cause, now)
        case "not_seen" if command.journal_id == asked_of_journal:
            return _settle(session, command, CommandState.NOT_EXECUTED, outcome, cause, now)
        case "running":
            return Settled(command, moved=False)
        case _:
            return _settle(session, command, CommandState.UNRESOLVED, outcome, cause, now)


def mark_overdue(session: Session, now: datetime, only: str | None = None) -> list[Command]:
    """Commands past their deadline without a final reply: their outcome is unknown from now on."""
    query = select(Command.id).where(
        col(Command.settled_at).is_(None),
        col(Command.state).in_((CommandState.SENT, CommandState.RECEIVED)),
        Command.deadline_at <= now,
    )
    if only is not None:
        query = query.where(Command.id == only)
    overdue = [
        command_id
        for command_id in session.exec(query).all()
        if advance(session, command_id, CommandState.UNKNOWN, "no final reply in time", now, next_report_at=now)
    ]
    if not overdue:
        return []
    session.flush()
    return list(
        session.exec(select(Command).where(col(Command.id).in_(overdue)).execution_options(populate_existing=True))
    )


def lease_questions(session: Session, site: str, now: datetime, *, at_once: bool) -> tuple[list[str], Command | None]:
    """What to ask this site now: ids for a `report`, and the stop that is latched there and not yet confirmed.

    Whoever gets them here is the one hub process that asks; the next one is due after a pause that grows. `at_once`: a
    new session has begun, so the pauses start again, and a latched stop is repeated whether confirmed or not.
    """
    row = session.get(Site, site)
    latched = None if row is None else row.stop_command_id
    query = select(Command).where(
        Command.site_id == site, Command.state == CommandState.UNKNOWN, Command.expires_at < now
    )
    if not at_once:
        query = query.where(col(Command.next_report_at) <= now)
    ids, stop = [], None
    for command in session.exec(query.order_by(Command.id).limit(MAX_REPORTED).with_for_update(skip_locked=True)):
        asked = 0 if at_once else command.report_count
        command.next_report_at = now + min(FIRST_REPORT_AFTER * 2 ** min(asked, 5), LONGEST_REPORT_PAUSE)
        command.report_count = asked + 1
        session.add(command)
        if command.id == latched:
            stop = command  # asking would make the desktop void it: it is sent again instead
        else:
            ids.append(command.id)
    if at_once and latched is not None:
        stop = session.get(Command, latched)
    return ids, stop


def sites_to_ask(session: Session, now: datetime) -> list[str]:
    """Sites with commands whose outcome is unknown and whose pause is over."""
    query = select(Command.site_id).where(
        col(Command.settled_at).is_(None),
        Command.state == CommandState.UNKNOWN,
        col(Command.next_report_at) <= now,
    )
    return list(session.exec(query.distinct()))


def _command_of(session: Session, site: str, command_id: str) -> Command | None:
    command = session.get(Command, command_id)
    return command if command is not None and command.site_id == site else None


def _as_it_is_now(session: Session, command: Command) -> Command:
    """A copy: news that is taken in later within the same transaction must not change what is told of this one."""
    session.flush()
    session.refresh(command)
    return Command(**command.model_dump())


def _result(answer: Answer) -> JsonObject:
    return answer.model_dump(
        mode="json",
        exclude_none=True,
        include={"config", "config_version", "local_rev", "dispensed_g", "feeders"},
    )


def _settle(session: Session, command: Command, to: CommandState, answer: Answer, cause: str, now: datetime) -> Settled:
    result, code, detail = _result(answer), answer.code, answer.detail
    if command.name == "set_config" and to is CommandState.APPLIED:
        ordered = FeederConfig.model_validate(command.args["config"])
        wrong = [] if answer.config is None else differences(ordered, answer.config)
        if wrong:
            to, code = CommandState.FAILED, Code.READ_BACK_DIFFERS
            detail = f"The desktop said applied, but what it read back differs in {', '.join(wrong)}."
        else:
            result = {
                "config": command.args["config"],
                "config_version": command.args["config_version"],
            } | result
    if not advance(session, command.id, to, cause, now, code=code, detail=detail, result=result or None):
        return Settled(command, moved=False, contradiction=_contradiction(session, command, to, result))
    _follow_up(session, command, to, result, now)
    return Settled(_as_it_is_now(session, command), moved=True)


def _contradiction(session: Session, command: Command, to: CommandState, result: JsonObject) -> str | None:
    """A final answer after another one: the same is a duplicate; for a dose the larger amount counts."""
    told, known = result.get("dispensed_g"), (command.result or {}).get("dispensed_g")
    other_dose = told is not None and told != known
    if other_dose and (known is None or told > known):
        command.result = (command.result or {}) | {"dispensed_g": told}
        session.add(command)
    if other_dose:
        return f"{to} with {told} g came after {command.state} with {known} g"
    return None if command.state == to else f"{to} came after {command.state}"


def _follow_up(session: Session, command: Command, to: CommandState, result: JsonObject, now: datetime) -> None:
    """What the end of a command means for its feeder or its site."""
    if command.name == "set_config" and command.feeder_id is not None:
        feeder = get_feeder(session, command.site_id, command.feeder_id, lock=True)
        if "config" in result:
            take_answered_config(session, feeder, result, now)
            session.flush()
        settle_pending(session, command.site_id, command.feeder_id, command.id, applied=to is CommandState.APPLIED)
    elif command.name == "release" and to is CommandState.APPLIED:
        session.execute(
            update(Site)
            .where(col(Site.id) == command.site_id, col(Site.stop_epoch) == command.stop_epoch)
            .values(stopped_at=None, stop_command_id=None)
        )
