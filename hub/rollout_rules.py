"""Rollouts: one change for many feeders, a few at a time. What is next, given the counts. No I/O here.

A feeder's part goes forward only:

    left_out                                     refused, or needless, when the rollout was planned; it has no turn
    waiting -> sending -> sent -> applied        the PLC has read it back
       |          |        |---> refused         by the desktop, or it was never sent after all
       |          |        |---> failed          sent, and not done
       |          |        `---> unknown -> applied, failed, unresolved
       |          |---> refused                  by the hub, when its turn came; nothing was sent
       |          `---> waiting                  it cannot be sent now; nothing was
       `---> skipped                             the rollout was aborted or cancelled before its turn

The canaries come first. No other feeder has its turn before each of them has ended as applied; where one has not, the
rollout is aborted. So it is when too large a share of those that have ended did not end as applied.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from hub.command_states import CommandState


class RolloutState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    ABORTED = "aborted"
    CANCELLED = "cancelled"


class Part(StrEnum):
    """What has become of one feeder's part."""

    LEFT_OUT = "left_out"
    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    UNKNOWN = "unknown"
    APPLIED = "applied"
    REFUSED = "refused"
    FAILED = "failed"
    UNRESOLVED = "unresolved"
    SKIPPED = "skipped"


ENDED: Final = frozenset({RolloutState.FINISHED, RolloutState.ABORTED, RolloutState.CANCELLED})
ON_ITS_WAY: Final = (Part.SENDING, Part.SENT, Part.UNKNOWN)
"""Sent, or about to be, and not known to have ended."""
ENDED_BADLY: Final = (Part.REFUSED, Part.FAILED, Part.UNRESOLVED)

OF_COMMAND: Final[Mapping[CommandState, Part]] = {
    CommandState.PENDING: Part.SENT,
    CommandState.SENT: Part.SENT,
    CommandState.RECEIVED: Part.SENT,
    CommandState.UNKNOWN: Part.UNKNOWN,
    CommandState.APPLIED: Part.APPLIED,
    CommandState.REJECTED: Part.REFUSED,
    CommandState.REFUSED: Part.REFUSED,
    CommandState.EXPIRED: Part.REFUSED,
    CommandState.SUPERSEDED: Part.REFUSED,
    CommandState.FAILED: Part.FAILED,
    CommandState.NOT_EXECUTED: Part.FAILED,
    CommandState.UNRESOLVED: Part.UNRESOLVED,
}
"""What the state of a part's command makes of the part."""

Counts = Mapping[Part, int]
"""How many parts are in each state; those that are not named are none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a rollout goes on.

    abort_share: of those that have ended, from 0 to 1; more of them than that ended badly: abort. abort_after: the
    share counts once so many have ended. per_minute: changes; max_in_flight: sent, and not known to have ended.
    """

    max_in_flight: int
    per_minute: int
    abort_share: float
    abort_after: int


@dataclass(frozen=True, slots=True)
class Send:
    """Up to `count` more may be sent, and only canaries if `canaries`."""

    count: int
    canaries: bool


@dataclass(frozen=True, slots=True)
class End:
    state: RolloutState
    reason: str | None = None


def next_step(state: RolloutState, plan: Plan, canaries: Counts, others: Counts) -> Send | End | None:
    """What is to be done now; None: nothing. Pace and liveness say how much of a Send can be done."""
    if state in ENDED:
        return None
    if (reason := why_abort(plan, canaries, others)) is not None:
        return End(RolloutState.ABORTED, reason)
    waiting = canaries.get(Part.WAITING, 0) + others.get(Part.WAITING, 0)
    canaries_end = _sum(canaries, (Part.WAITING, *ON_ITS_WAY)) == 0
    if not waiting and not any(_sum(each, (Part.SENDING, Part.SENT)) for each in (canaries, others)):
        return End(RolloutState.FINISHED)
    room = plan.max_in_flight - _sum(canaries, ON_ITS_WAY) - _sum(others, ON_ITS_WAY)
    candidates = others if canaries_end else canaries
    count = min(room, candidates.get(Part.WAITING, 0))
    if state is RolloutState.PAUSED or count <= 0:
        return None
    return Send(count, canaries=not canaries_end)


def why_abort(plan: Plan, canaries: Counts, others: Counts) -> str | None:
    """None: nothing speaks for it."""
    if bad := _sum(canaries, ENDED_BADLY):
        return f"{bad} of the canaries did not end as applied."
    bad = _sum(others, ENDED_BADLY)
    ended = bad + canaries.get(Part.APPLIED, 0) + others.get(Part.APPLIED, 0)
    if bad and ended >= plan.abort_after and bad > plan.abort_share * ended:
        return f"{bad} of the {ended} that have ended were not applied, more than the share of {plan.abort_share:g}."
    return None


def _sum(counts: Counts, parts: tuple[Part, ...]) -> int:
    return sum(counts.get(part, 0) for part in parts)


# --- pace -------------------------------------------------------------------------------------------------------

CATCHES_UP: Final = timedelta(seconds=1)
"""A driver looks now and then only: what would have been sent meanwhile may be, but no more than of so long."""


def allowed_now(plan: Plan, next_at: datetime, now: datetime) -> int:
    """How many changes the pace allows. next_at: when the next one may be sent."""
    if now < next_at:
        return 0
    pause = timedelta(minutes=1) / plan.per_minute
    return 1 + min(now - next_at, CATCHES_UP) // pause


def next_after(plan: Plan, next_at: datetime, sent: int, now: datetime) -> datetime:
    """When the next change may be sent, after so many have been sent now."""
    return max(next_at, now - CATCHES_UP) + sent * (timedelta(minutes=1) / plan.per_minute)
