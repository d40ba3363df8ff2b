"""The rows of rollouts: made, looked at, stopped by people, and brought forward by whoever drives them. No network.

A rollout has one driver at a time, which holds a lease. Each step of it is taken under the lock of the rollout's row:
what is claimed (`sending`) is claimed once, and nothing is claimed of a rollout that is paused or has ended. What is
claimed is sent, also by the next driver; the command's idempotency key sees to it that it is sent once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import CursorResult, and_, exists, func, insert, or_, select, update
from sqlmodel import Session, col
from sqlmodel import select as select_rows
from ulid import ULID

from hub.command_states import CommandState
from hub.errors import HubError, KeyReused, NotFound, RolloutEnded
from hub.models import COMMAND, ROLLOUT, ROLLOUT_FEEDER, SITE, JsonObject, Rollout, RolloutFeeder
from hub.orders import Key
from hub.rollout_plan import UNCHANGED, Change, Planned, stored_faults
from hub.rollout_rules import (
    ENDED,
    OF_COMMAND,
    ON_ITS_WAY,
    End,
    Part,
    Plan,
    RolloutState,
    Send,
    allowed_now,
    next_after,
    next_step,
)

LEASE: Final = timedelta(seconds=10)
_LONGEST_DETAIL: Final = 1000
_PART: Final = ROLLOUT_FEEDER.c
CountsOf = dict[Part, int]


@dataclass(frozen=True, slots=True)
class Draft:
    """A rollout as it was ordered."""

    owner: str
    actor: str
    change: Change
    plan: Plan
    canaries: int
    queue_for_s: float | None
    key: Key | None = None


def plan_of_row(row: Rollout) -> Plan:
    return Plan(row.max_in_flight, row.per_minute, row.abort_share, row.abort_after)


# --- from people --------------------------------------------------------------------------------------------------


def made_before(session: Session, key: Key | None) -> Rollout | None:
    """The rollout that the key already stands for. Raises KeyReused."""
    if key is None:
        return None
    query = select_rows(Rollout).where(Rollout.owner == key.owner, Rollout.key == key.text)
    found = session.exec(query).first()
    if found is not None and found.fingerprint != key.fingerprint:
        raise KeyReused("This Idempotency-Key came before, with another request. Use a new key for a new order.")
    return found


def make(session: Session, draft: Draft, planned: Sequence[Planned], now: datetime) -> Rollout:
    """What the plan refuses, and what needs no change, is left out. Feeders of sites deleted since are no part of it.

    Raises KeyReused.
    """
    earlier = made_before(session, draft.key)
    if earlier is not None:
        return earlier
    sites = sorted({each.site for each in planned})
    locked = (
        select(SITE.c.id).where(SITE.c.id.in_(sites)).order_by(SITE.c.id).with_for_update(read=True, key_share=True)
    )
    there = set(session.connection().scalars(locked))
    rollout_id = str(ULID())
    row = {
        "id": rollout_id,
        "owner": draft.owner,
        "key": None if draft.key is None else draft.key.text,
        "fingerprint": None if draft.key is None else draft.key.fingerprint,
        "actor": draft.actor,
        "name": draft.change.name,
        "patch": draft.change.patch,
        "canaries": draft.canaries,
        "per_minute": draft.plan.per_minute,
        "max_in_flight": draft.plan.max_in_flight,
        "abort_share": draft.plan.abort_share,
        "abort_after": draft.plan.abort_after,
        "queue_for_s": draft.queue_for_s,
        "state": RolloutState.RUNNING,
        "created_at": now,
        "next_at": now,
    }
    session.connection().execute(insert(ROLLOUT), row)
    parts, canaries = [], 0
    for position, each in enumerate(each for each in planned if each.site in there):
        part = _part(rollout_id, position, each, now)
        if part["state"] == Part.WAITING and canaries < draft.canaries:
            part["is_canary"], canaries = True, canaries + 1
        parts.append(part)
    if parts:
        session.connection().execute(insert(ROLLOUT_FEEDER), parts)
    return session.get_one(Rollout, rollout_id)


def _part(rollout_id: str, position: int, planned: Planned, now: datetime) -> JsonObject:
    refusal = planned.refusal
    left_out = refusal is not None or planned.is_needless
    return {
        "rollout_id": rollout_id,
        "position": position,
        "site_id": planned.site,
        "feeder_id": planned.feeder,
        "is_canary": False,
        "state": Part.LEFT_OUT if left_out else Part.WAITING,
        "problem": None if refusal is None else type(refusal).__name__,
        "code": UNCHANGED if planned.is_needless else None,
        "detail": None if refusal is None else str(refusal)[:_LONGEST_DETAIL],
        "faults": None if refusal is None else stored_faults(refusal),
        "at": now,
    }


def get(session: Session, rollout_id: str, sites: Collection[str] | None) -> Rollout:
    """`sites`: those that the caller sees; None: all. Who sees none of a rollout's sites sees no rollout: NotFound."""
    row = session.get(Rollout, rollout_id)
    if row is None or (sites is not None and not sites_of(session, rollout_id, sites)):
        raise NotFound(f"There is no rollout {rollout_id}.")
    return row


def list_rollouts(session: Session, sites: Collection[str] | None, before: str | None, limit: int) -> list[Rollout]:
    """The newest first, those of which the caller sees a site."""
    query = select_rows(Rollout).order_by(col(Rollout.id).desc()).limit(limit)
    if before is not None:
        query = query.where(Rollout.id < before)
    if sites is not None:
        query = query.where(exists().where(_PART.rollout_id == ROLLOUT.c.id, _PART.site_id.in_(sites)))
    return list(session.exec(query))


def list_parts(
    session: Session,
    rollout_id: str,
    sites: Collection[str] | None,
    state: Part | None,
    after: int | None,
    limit: int,
) -> list[RolloutFeeder]:
    """In the order of their turns, those of the caller's sites."""
    query = select_rows(RolloutFeeder).where(RolloutFeeder.rollout_id == rollout_id)
    if sites is not None:
        query = query.where(col(RolloutFeeder.site_id).in_(sites))
    if state is not None:
        query = query.where(RolloutFeeder.state == state)
    if after is not None:
        query = query.where(RolloutFeeder.position > after)
    return list(session.exec(query.order_by(col(RolloutFeeder.position)).limit(limit)))


def sites_of(session: Session, rollout_id: str, among: Collection[str] | None = None) -> list[str]:
    query = select(_PART.site_id).where(_PART.rollout_id == rollout_id).distinct().order_by(_PART.site_id)
    if among is not None:
        query = query.where(_PART.site_id.in_(among))
    return list(session.connection().scalars(query))


def counts_of(
    session: Session, rollout_ids: Collection[str], sites: Collection[str] | None = None
) -> dict[str, CountsOf]:
    """How many parts are in each state, by rollout; of some sites only, where they are given."""
    query = select(_PART.rollout_id, _PART.state, func.count()).where(_PART.rollout_id.in_(rollout_ids))
    if sites is not None:
        query = query.where(_PART.site_id.in_(sites))
    found: dict[str, CountsOf] = {rollout_id: {} for rollout_id in rollout_ids}
    for rollout_id, state, count in session.connection().execute(query.group_by(_PART.rollout_id, _PART.state)):
        found[rollout_id][Part(state)] = count
    return found


def counts_by_site(session: Session, rollout_id: str, sites: Collection[str] | None) -> dict[str, CountsOf]:
    query = select(_PART.site_id, _PART.state, func.count()).where(_PART.rollout_id == rollout_id)
    if sites is not None:
        query = query.where(_PART.site_id.in_(sites))
    found: dict[str, CountsOf] = {}
    for site, state, count in session.connection().execute(query.group_by(_PART.site_id, _PART.state)):
        found.setdefault(site, {})[Part(state)] = count
    return found


def turn_to(session: Session, rollout_id: str, state: RolloutState, by: str, now: datetime) -> Rollout:
    """Pause, resume or cancel it; what it is already changes nothing. Raises RolloutEnded, NotFound."""
    row = session.get(Rollout, rollout_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"There is no rollout {rollout_id}.")
    if row.state == state:
        return row
    if RolloutState(row.state) in ENDED:
        raise RolloutEnded(f"Rollout {rollout_id} is {row.state}: it does not go on. Start a new one for the rest.")
    if state is RolloutState.CANCELLED:
        _end(session, rollout_id, End(state), by, now)
    else:
        session.connection().execute(update(ROLLOUT).where(ROLLOUT.c.id == rollout_id).values(state=state))
    return session.get_one(Rollout, rollout_id, populate_existing=True)


def _end(session: Session, rollout_id: str, end: End, by: str | None, now: datetime) -> None:
    session.connection().execute(
        update(ROLLOUT)
        .where(ROLLOUT.c.id == rollout_id)
        .values(state=end.state, reason=end.reason, ended_by=by, ended_at=now)
    )
    session.connection().execute(
        update(ROLLOUT_FEEDER)
        .where(_PART.rollout_id == rollout_id, _PART.state == Part.WAITING)
        .values(state=Part.SKIPPED, at=now)
    )


# --- by the driver ------------------------------------------------------------------------------------------------


def unsettled(session: Session) -> list[Rollout]:
    """Rollouts of which something may still change."""
    return list(session.exec(select_rows(Rollout).where(col(Rollout.settled_at).is_(None)).order_by(Rollout.id)))


def take_lease(session: Session, rollout_id: str, driver: str, now: datetime) -> bool:
    """Drive it from now on, or go on; False: somebody else does."""
    mine = or_(ROLLOUT.c.driver == driver, ROLLOUT.c.driver.is_(None), ROLLOUT.c.leased_until <= now)
    taken = session.connection().execute(
        update(ROLLOUT)
        .where(ROLLOUT.c.id == rollout_id, ROLLOUT.c.settled_at.is_(None), mine)
        .values(driver=driver, leased_until=now + LEASE)
    )
    return _rows_of(taken) == 1


def end_leases(session: Session, driver: str) -> None:
    """The driver goes; whoever comes next need not wait."""
    session.connection().execute(
        update(ROLLOUT).where(ROLLOUT.c.driver == driver).values(driver=None, leased_until=None)
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What a driver has to know before it asks who is alive: `claims` more may be sent now, at these sites.

    again: claimed before, and perhaps not sent.
    """

    step: Send | End | None
    claims: int
    sites: list[str]
    again: list[RolloutFeeder]


def look(session: Session, row: Rollout, now: datetime) -> Look:
    step = _next_step(session, row)
    claims, sites = 0, []
    if isinstance(step, Send):
        claims = min(step.count, allowed_now(plan_of_row(row), row.next_at, now))
        if claims and row.queue_for_s is not None:
            sites = list(session.connection().scalars(select(_PART.site_id).where(*_waiting(row.id, step)).distinct()))
    again = select_rows(RolloutFeeder).where(RolloutFeeder.rollout_id == row.id, RolloutFeeder.state == Part.SENDING)
    return Look(step, claims, sites, list(session.exec(again)))


def _waiting(rollout_id: str, step: Send) -> tuple[Any, ...]:
    return _PART.rollout_id == rollout_id, _PART.state == Part.WAITING, _PART.is_canary == step.canaries


def _next_step(session: Session, row: Rollout) -> Send | End | None:
    query = select(_PART.is_canary, _PART.state, func.count()).where(_PART.rollout_id == row.id)
    counts: dict[bool, CountsOf] = {True: {}, False: {}}
    for is_canary, state, count in session.connection().execute(query.group_by(_PART.is_canary, _PART.state)):
        counts[bool(is_canary)][Part(state)] = count
    return next_step(RolloutState(row.state), plan_of_row(row), counts[True], counts[False])


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken. claimed: to be sent by this driver. ended: the rollout did. refused: sites of parts."""

    claimed: list[RolloutFeeder]
    ended: bool = False
    refused: frozenset[str] = frozenset()


def take_step(
    session: Session, rollout_id: str, driver: str, alive: Collection[str], away: Collection[str], now: datetime
) -> Taken:
    """Decide anew under the lock, and claim what is to be sent, or end the rollout.

    alive, away: of the sites of those that wait, as far as it is known; they are not asked for where none may wait.
    """
    row = session.get(Rollout, rollout_id, with_for_update=True, populate_existing=True)
    if row is None or row.driver != driver:
        return Taken([])
    step = _next_step(session, row)
    if isinstance(step, End):
        _end(session, rollout_id, step, None, now)
        return Taken([], ended=True)
    if step is None:
        return Taken([])
    refused: frozenset[str] = frozenset()
    candidates = select_rows(RolloutFeeder).where(*_waiting(rollout_id, step))
    if row.queue_for_s is not None:
        refused = _wait_for_sites(session, row, step, away, now)
        candidates = candidates.where(col(RolloutFeeder.site_id).in_(alive))
    count = min(step.count, allowed_now(plan_of_row(row), row.next_at, now))
    claimed = list(session.exec(candidates.order_by(col(RolloutFeeder.position)).limit(count)))
    if claimed:
        positions = [part.position for part in claimed]
        session.connection().execute(
            update(ROLLOUT_FEEDER)
            .where(_PART.rollout_id == rollout_id, _PART.position.in_(positions))
            .values(state=Part.SENDING, at=now)
        )
        next_at = next_after(plan_of_row(row), row.next_at, len(claimed), now)
        session.connection().execute(update(ROLLOUT).where(ROLLOUT.c.id == rollout_id).values(next_at=next_at))
    return Taken(claimed, refused=refused)


def _wait_for_sites(session: Session, row: Rollout, step: Send, away: Collection[str], now: datetime) -> frozenset[str]:
    """Parts whose turn has come and whose sites are away wait; those that have for too long are refused."""
    assert row.queue_for_s is not None
    theirs = (*_waiting(row.id, step), _PART.site_id.in_(away))
    detail = f"Its site was away, and did not come back within {row.queue_for_s:g} s; nothing was sent."
    refused = session.connection().execute(
        update(ROLLOUT_FEEDER)
        .where(*theirs, _PART.waits_until <= now)
        .values(state=Part.REFUSED, problem="DesktopOffline", detail=detail, at=now)
        .returning(_PART.site_id)
    )
    gone = frozenset(refused.scalars())
    session.connection().execute(
        update(ROLLOUT_FEEDER)
        .where(*theirs, _PART.waits_until.is_(None))
        .values(waits_until=now + timedelta(seconds=row.queue_for_s))
    )
    return gone


def mark_sent(session: Session, part: RolloutFeeder, command_id: str, now: datetime) -> None:
    _move(session, part, Part.SENDING, now, state=Part.SENT, command_id=command_id)


def mark_refused(session: Session, part: RolloutFeeder, error: HubError, now: datetime) -> None:
    """By the hub, when its turn came; nothing was sent."""
    detail = str(error)[:_LONGEST_DETAIL]
    told = {"problem": type(error).__name__, "detail": detail, "faults": stored_faults(error)}
    _move(session, part, Part.SENDING, now, state=Part.REFUSED, **told)


def give_back(session: Session, part: RolloutFeeder, now: datetime) -> None:
    """It could not be sent now, and was not. Its turn comes again, unless the rollout has ended meanwhile."""
    row = session.get(Rollout, part.rollout_id, with_for_update=True, populate_existing=True)
    has_ended = row is None or RolloutState(row.state) in ENDED
    _move(session, part, Part.SENDING, now, state=Part.SKIPPED if has_ended else Part.WAITING)


def _move(session: Session, part: RolloutFeeder, before: Part, now: datetime, **values: Any) -> bool:
    moved = session.connection().execute(
        update(ROLLOUT_FEEDER)
        .where(_PART.rollout_id == part.rollout_id, _PART.position == part.position, _PART.state == before)
        .values(at=now, **values)
    )
    return _rows_of(moved) == 1


@dataclass(frozen=True, slots=True)
class News:
    """What has become of a part's command since."""

    part: RolloutFeeder
    state: Part
    code: str | None
    detail: str | None


def news_of(session: Session, rollout_id: str) -> list[News]:
    """Parts whose commands have come into a state that the parts do not show yet."""
    query = (
        select_rows(RolloutFeeder, COMMAND.c.state, COMMAND.c.code, COMMAND.c.detail)
        .join(COMMAND, COMMAND.c.id == _PART.command_id)
        .where(
            _PART.rollout_id == rollout_id,
            _PART.state.in_((Part.SENT, Part.UNKNOWN)),
            or_(
                COMMAND.c.settled_at.is_not(None),
                and_(COMMAND.c.state == CommandState.UNKNOWN, _PART.state == Part.SENT),
            ),
        )
    )
    rows = session.exec(query).all()
    return [News(part, OF_COMMAND[CommandState(state)], code, detail) for part, state, code, detail in rows]


def take_news(session: Session, found: Sequence[News], now: datetime) -> list[News]:
    """Those that were news; another process may have been faster."""
    return [
        news
        for news in found
        if _move(session, news.part, Part(news.part.state), now, state=news.state, code=news.code, detail=news.detail)
    ]


def _is_to_settle(rollout_id: str) -> tuple[Any, ...]:
    """It has ended, and the outcome of every feeder is known."""
    is_open = exists().where(_PART.rollout_id == rollout_id, _PART.state.in_(ON_ITS_WAY))
    return ROLLOUT.c.id == rollout_id, ROLLOUT.c.ended_at.is_not(None), ROLLOUT.c.settled_at.is_(None), ~is_open


def is_to_settle(session: Session, rollout_id: str) -> bool:
    return session.connection().scalar(select(ROLLOUT.c.id).where(*_is_to_settle(rollout_id))) is not None


def settle(session: Session, rollout_id: str, now: datetime) -> None:
    session.connection().execute(
        update(ROLLOUT).where(*_is_to_settle(rollout_id)).values(settled_at=now, driver=None, leased_until=None)
    )


def _rows_of(result: object) -> int:
    return cast("CursorResult[Any]", result).rowcount
