"""Bringing commands forward to their known end: from a reply, a report's outcome, or the deadline. No network here.

Every move is a conditional update: where no row is touched the news was late or a duplicate, and that is no error.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, bindparam, false, insert, not_, or_, update
from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select

from hub.command_states import SETTLED, CommandState, may_come_before
from hub.feeders import end_flight, settle_config
from hub.models import COMMAND, COMMAND_STEP, SITE, Command, CommandRow, JsonObject, Site
from hub.protocol.codes import Code
from hub.protocol.messages import FINAL_STATUSES, Answer, FeederConfig, Outcome, Reply, differences
from hub.statements import Row, Statement

_LONGEST_CAUSE: Final = 200
FIRST_REPORT_AFTER: Final = timedelta(seconds=2)
LONGEST_REPORT_PAUSE: Final = timedelta(seconds=60)
MAX_REPORTED: Final = 100
_VOIDED: Final = (CommandState.NOT_EXECUTED, CommandState.REJECTED)
"""What was never seen is refused where it comes after all: both say that nothing was done."""
QUESTIONS: Final = frozenset({"ping", "report"})
"""They change nothing, and no desktop journals them."""
ANSWERED_WITHIN: Final = timedelta(seconds=60)
"""After the deadline of a question; a reply that comes as late as that still counts."""
NO_REPLY: Final = "no_reply"
"""The code of a question that was never answered; no desktop's."""
NOT_READ_BACK: Final = "not_read_back"
"""The code of a change that a desktop called applied without the config as it read it back; no desktop's."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one piece of news. `command` None: no such command at that site. `moved`: its state changed.

    told_more: more is known of it, in the state that it had. another_waits: a change that waited for this one may be
    sent now.
    """

    command: CommandRow | None
    moved: bool
    told_more: bool = False
    contradiction: str | None = None
    another_waits: bool = False


def _advances(*returned: ColumnElement[Any]) -> dict[CommandState, Statement]:
    """For each state the move into it; what it returns of a command that moved."""

    def to(state: CommandState, *columns: str) -> Statement:
        is_before = or_(false(), *(COMMAND.c.state == before for before in sorted(may_come_before(state))))
        return Statement(
            update(COMMAND)
            .where(COMMAND.c.id == bindparam("this"), is_before)
            .values(state=state, **{name: bindparam(name) for name in columns})
            .returning(*returned)
        )

    return {
        **{state: to(state) for state in CommandState if state not in SETTLED},
        CommandState.UNKNOWN: to(CommandState.UNKNOWN, "next_report_at"),
        **{state: to(state, "settled_at", "code", "detail", "result") for state in SETTLED},
    }


_ADVANCE: Final = _advances(*COMMAND.c)
_ADVANCE_SENT: Final = _advances(COMMAND.c.id)
_TAKE_PARTIAL_STOP: Final = Statement(
    update(COMMAND)
    .where(COMMAND.c.id == bindparam("this"), COMMAND.c.settled_at.is_(None))
    .values(result=bindparam("result"))
    .returning(*COMMAND.c)
)
_INSERT_STEP: Final = Statement(insert(COMMAND_STEP))
_INSERT_SENT: Final = Statement(
    insert(COMMAND_STEP).values(
        [
            {
                "command_id": bindparam("this", type_=COMMAND_STEP.c.command_id.type),
                "state": state,
                "at": bindparam("now", type_=COMMAND_STEP.c.at.type),
                "cause": bindparam(cause, type_=COMMAND_STEP.c.cause.type),
            }
            for state, cause in ((CommandState.PENDING, "ordered"), (CommandState.SENT, "sent"))
        ]
    )
)
_FOR_RULES: Final = ("id", "site_id", "feeder_id", "name", "args", "state", "result", "journal_id")
_COMMAND: Final = Statement(
    sa_select(*(COMMAND.c[name] for name in _FOR_RULES)).where(
        COMMAND.c.id == bindparam("this"), COMMAND.c.site_id == bindparam("site")
    )
)
_IS_OPEN: Final = COMMAND.c.settled_at.is_(None)
_ON_ITS_WAY: Final = or_(COMMAND.c.state == CommandState.SENT, COMMAND.c.state == CommandState.RECEIVED)
_WITHOUT_REPLY: Final = sa_select(COMMAND.c.id).where(_IS_OPEN, _ON_ITS_WAY, COMMAND.c.deadline_at <= bindparam("now"))
_OVERDUE: Final = Statement(_WITHOUT_REPLY)
_IS_OVERDUE: Final = Statement(_WITHOUT_REPLY.where(COMMAND.c.id == bindparam("only")))
_IS_UNKNOWN: Final = and_(_IS_OPEN, COMMAND.c.state == CommandState.UNKNOWN)
_IS_QUESTION: Final = or_(*(COMMAND.c.name == name for name in sorted(QUESTIONS)))
_TO_ASK: Final = Statement(
    sa_select(COMMAND.c.site_id)
    .where(_IS_UNKNOWN, not_(_IS_QUESTION), COMMAND.c.next_report_at <= bindparam("now"))
    .distinct()
)
_UNANSWERED: Final = Statement(
    sa_select(COMMAND.c.id).where(_IS_UNKNOWN, _IS_QUESTION, COMMAND.c.deadline_at <= bindparam("since"))
)
_LOCK: Final = Statement(
    sa_select(COMMAND.c.state, COMMAND.c.result).where(COMMAND.c.id == bindparam("this")).with_for_update()
)
_KEEP_RESULT: Final = Statement(
    update(COMMAND).where(COMMAND.c.id == bindparam("this")).values(result=bindparam("result"))
)


def advance(
    session: Session,
    command_id: str,
    to: CommandState,
    cause: str,
    now: datetime,
    *,
    code: str | None = None,
    detail: str | None = None,
    result: JsonObject | None = None,
    sent: Row | None = None,
) -> CommandRow | None:
    """Move a command forward, if it may move there; the step is part of its story. None: it may not (any more).

    `code`, `detail` and `result` belong to an end; what is `unknown` is asked about from `now` on. `sent`: the row as
    it was when it was sent, if that is known; the rest of it stays as it was, so it need not be read.
    """
    values: dict[str, Any] = {}
    if to in SETTLED:
        values = {"settled_at": now, "code": code, "detail": detail, "result": result}
    elif to is CommandState.UNKNOWN:
        values = {"next_report_at": now}
    moved = (_ADVANCE if sent is None else _ADVANCE_SENT)[to].first(session, this=command_id, **values)
    if moved is None:
        return None
    add_step(session, command_id, to, cause, now)
    return moved if sent is None else sent.but(state=to, **values)


def add_step(session: Session, command_id: str, state: CommandState, cause: str, now: datetime) -> None:
    """A command came into a state; the row of it is part of the same transaction."""
    _INSERT_STEP.run(session, command_id=command_id, state=state, at=now, cause=cause[:_LONGEST_CAUSE])


def add_sent(session: Session, command_id: str, actor: str, now: datetime) -> None:
    """The first two steps of a command that does not wait."""
    _INSERT_SENT.run(session, this=command_id, now=now, ordered=_ordered_by(actor), sent="to be published")


def add_pending(session: Session, command_id: str, actor: str, now: datetime) -> None:
    """The first step of a command that waits."""
    add_step(session, command_id, CommandState.PENDING, _ordered_by(actor), now)


def _ordered_by(actor: str) -> str:
    return f"ordered by {actor}"[:_LONGEST_CAUSE]


def take_reply(session: Session, site: str, reply: Reply, now: datetime, sent: Row | None = None) -> Settled:
    """A desktop's reply to one command of its own site.

    sent: the row of that command as it was when it was sent, if that is known; not a stop's, which may change since.
    """
    command = _COMMAND.first(session, this=reply.id, site=site) if sent is None else sent
    if command is None:
        return Settled(None, moved=False)
    # A stop that some PLC has not confirmed goes on: the desktop latches it there when it can, and is told it again.
    partial_stop = command.name == "stop_all" and reply.status == "failed"
    if partial_stop or reply.status not in FINAL_STATUSES:
        moved = advance(session, command.id, CommandState.RECEIVED, f"reply {reply.status}", now, sent=sent)
        told_more = _take_partial_stop(session, command, reply) if command.name == "stop_all" else None
        return Settled(told_more or moved or command, moved is not None, told_more is not None)
    if command.name == "stop_all" and reply.code == Code.STALE_EPOCH and _raise_epoch(session, command, now):
        _take_partial_stop(session, command, reply)
        moved = advance(session, command.id, CommandState.UNKNOWN, "the desktop has seen a higher stop epoch", now)
        return Settled(moved or command, moved is not None)
    return _settle(session, command, CommandState(reply.status), reply, f"reply {reply.status}", now, sent)


def _raise_epoch(session: Session, stop: CommandRow, now: datetime) -> bool:
    """Give a latched stop an epoch that its desktop has not seen, to be told again; False if it is not what holds.

    A desktop may have served a hub before this one, or a site of the same name that was deleted. Where a release has
    been ordered, it is the release that the desktop has seen.
    """
    site = session.get(Site, stop.site_id, with_for_update=True, populate_existing=True)
    row = session.get(Command, stop.id, populate_existing=True)
    if site is None or row is None or site.stop_command_id != row.id or site.stop_epoch != row.stop_epoch:
        return False
    site.stop_epoch = row.stop_epoch = max(site.stop_epoch + 1, int(now.timestamp()))
    session.add_all((site, row))
    return True


def _take_partial_stop(session: Session, command: CommandRow, reply: Reply) -> CommandRow | None:
    """Which feeders have confirmed a stop until now; at least, that its desktop has heard of it.

    None: that is no news, or the stop has settled meanwhile.
    """
    result = _result(reply) if reply.feeders else command.result or {}
    if result == command.result:
        return None
    return _TAKE_PARTIAL_STOP.first(session, this=command.id, result=result)


def take_outcome(session: Session, site: str, asked_of_journal: str, outcome: Outcome, now: datetime) -> Settled:
    """What a desktop's journal says of a command whose outcome was unknown."""
    command = _COMMAND.first(session, this=outcome.id, site=site)
    if command is None:
        return Settled(None, moved=False)
    cause = f"report {outcome.status}"
    match outcome.status:
        case "applied" | "rejected" | "failed":
            return _settle(session, command, CommandState(outcome.status), outcome, cause, now)
        case "interrupted" if outcome.dispensed_g is not None:
            interrupted = outcome.model_copy(update={"code": outcome.code or Code.INTERRUPTED})
            return _settle(session, command, CommandState.FAILED, interrupted, cause, now)
        # A stop names no journal. An earlier one may have seen it; what holds now is the stop or release after it.
        case "not_seen" if command.journal_id in (None, asked_of_journal):
            return _settle(session, command, CommandState.NOT_EXECUTED, outcome, cause, now)
        case "running":
            return Settled(command, moved=False)
        case _:
            return _settle(session, command, CommandState.UNRESOLVED, outcome, cause, now)


def mark_overdue(session: Session, now: datetime, only: str | None = None) -> list[CommandRow]:
    """Commands past their deadline without a final reply: their outcome is unknown from now on."""
    due = _OVERDUE.run(session, now=now) if only is None else _IS_OVERDUE.run(session, now=now, only=only)
    moved = [advance(session, one.id, CommandState.UNKNOWN, "no final reply in time", now) for one in due]
    overdue = [command for command in moved if command is not None]
    for command in overdue:
        if command.name == "set_config":
            end_flight(session, command)
    return overdue


def _may_be_asked_about(site: str, latched: str | None, now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Outcomes that are unknown, of what the desktop cannot begin any more and its journal knows."""
    return (
        COMMAND.c.site_id == site,
        _IS_UNKNOWN,
        not_(_IS_QUESTION),
        # A stop that was never published is repeated before its time is over.
        or_(COMMAND.c.expires_at < now, COMMAND.c.id == latched),
    )


def reportable(session: Session, site: Site, now: datetime) -> list[str]:
    """What a person's `report` asks this site, beside what is asked by the clock.

    A latched stop is not asked about, which would make the desktop void it: it is sent again until it is confirmed.
    """
    query = select(Command.id).where(
        *_may_be_asked_about(site.id, site.stop_command_id, now), COMMAND.c.id != site.stop_command_id
    )
    return list(session.exec(query.order_by(Command.id).limit(MAX_REPORTED)))


def lease_questions(session: Session, site: str, now: datetime, *, at_once: bool) -> tuple[list[str], Command | None]:
    """What to ask this site now: ids for a `report`, and the stop that is latched there and not yet confirmed.

    Whoever gets them here is the one hub process that asks; the next one is due after a pause that grows. `at_once`: a
    new session has begun, so the pauses start again, and a latched stop is repeated whether confirmed or not.
    """
    row = session.get(Site, site)
    latched = None if row is None else row.stop_command_id
    query = select(Command).where(*_may_be_asked_about(site, latched, now))
    if not at_once:
        query = query.where(col(Command.next_report_at) <= now)
    ids, stop = [], None
    for command in session.exec(query.order_by(Command.id).limit(MAX_REPORTED).with_for_update(skip_locked=True)):
        asked = 0 if at_once else command.report_count
        command.next_report_at = now + min(FIRST_REPORT_AFTER * 2 ** min(asked, 5), LONGEST_REPORT_PAUSE)
        command.report_count = asked + 1
        session.add(command)
        if command.id == latched:
            stop = command
        else:
            ids.append(command.id)
    if at_once and latched is not None:
        stop = session.get(Command, latched)
    return ids, stop


def end_unanswered(session: Session, now: datetime) -> list[CommandRow]:
    """End questions whose reply has not come and will not: no journal knows of them, so nobody can be asked."""
    detail = "No reply has come. It changes nothing on the farm, whether it arrived there or not."
    ended = [
        advance(session, one.id, CommandState.FAILED, "no reply", now, code=NO_REPLY, detail=detail)
        for one in _UNANSWERED.run(session, since=now - ANSWERED_WITHIN)
    ]
    return [command for command in ended if command is not None]


def sites_to_ask(session: Session, now: datetime) -> list[str]:
    """Sites with commands whose outcome is unknown and whose pause is over."""
    return [row.site_id for row in _TO_ASK.run(session, now=now)]


def _result(answer: Answer) -> JsonObject:
    return answer.model_dump(
        mode="json",
        exclude_none=True,
        include={"config", "config_version", "local_rev", "dispensed_g", "feeders"},
    )


def _settle(
    session: Session,
    command: CommandRow,
    to: CommandState,
    answer: Answer,
    cause: str,
    now: datetime,
    sent: Row | None = None,
) -> Settled:
    result, code, detail = _result(answer), answer.code, answer.detail
    if command.name == "set_config" and to is CommandState.APPLIED:
        ordered = FeederConfig.model_validate(command.args["config"])
        if answer.config is None:
            to, code = CommandState.FAILED, NOT_READ_BACK
            detail = "The desktop said applied, but not what it read back from the PLC: whether it holds is not known."
        elif wrong := differences(ordered, answer.config):
            to, code = CommandState.FAILED, Code.READ_BACK_DIFFERS
            detail = f"The desktop said applied, but what it read back differs in {', '.join(wrong)}."
        else:
            as_ordered = {name: command.args[name] for name in ("config_version", "local_rev")}
            result = as_ordered | result
    moved = advance(session, command.id, to, cause, now, code=code, detail=detail, result=result or None, sent=sent)
    if moved is None:
        return Settled(command, moved=False, contradiction=_contradiction(session, command.id, to, result))
    another_waits = _follow_up(session, moved, to, result, now)
    return Settled(moved, moved=True, another_waits=another_waits)


def _contradiction(session: Session, command_id: str, to: CommandState, result: JsonObject) -> str | None:
    """A final answer after another one: the same is a duplicate; for a dose the larger amount counts.

    It is kept in the command's result. The row is read under its lock: another process may have settled it just now.
    """
    command = _LOCK.first(session, this=command_id)
    if command is None:
        return None
    kept: JsonObject = dict(command.result or {})
    told, known = result.get("dispensed_g"), kept.get("dispensed_g")
    if told is not None and told != known:
        contradiction = f"{to} with {told} g came after {command.state} with {known} g"
        kept["dispensed_g"] = told if known is None else max(told, known)
    elif command.state != to and (command.state, to) != _VOIDED:
        contradiction = f"{to} came after {command.state}"
    else:
        return None
    _KEEP_RESULT.run(session, this=command_id, result=kept | {"contradiction": contradiction})
    return contradiction


def _follow_up(session: Session, command: CommandRow, to: CommandState, result: JsonObject, now: datetime) -> bool:
    """What the end of a command means for its feeder or its site; returns whether another change may be sent now."""
    if command.name == "set_config" and command.feeder_id is not None:
        applied = to is CommandState.APPLIED
        return settle_config(session, command.site_id, command.feeder_id, command.id, result, now, applied=applied)
    if command.name == "release":
        _end_latch(session, command, released=to is CommandState.APPLIED)
    return False


def _end_latch(session: Session, release: CommandRow, *, released: bool) -> None:
    """A release has come to its end. It concerns the stop that it was ordered after, and none that came later.

    Where it released nothing that stop goes on, with the epoch of the release: to a desktop that has seen the release
    it would look old otherwise.
    """
    stop = sa_select(COMMAND.c.id).where(
        COMMAND.c.id == sa_select(SITE.c.stop_command_id).where(SITE.c.id == release.site_id).scalar_subquery(),
        COMMAND.c.stop_epoch < release.stop_epoch,
    )
    if released:
        freed = update(SITE).where(SITE.c.id == release.site_id, SITE.c.stop_command_id.in_(stop))
        session.connection().execute(freed.values(stopped_at=None, stop_command_id=None))
    else:
        goes_on = update(COMMAND).where(COMMAND.c.id.in_(stop)).values(stop_epoch=release.stop_epoch)
        session.connection().execute(goes_on)
