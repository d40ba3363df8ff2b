"""The life of a command: which state may follow which, and why. Forward only; no I/O.

    pending ----> sent ----> received ----> applied | rejected | failed
       |            |            |
       |            `------------+--> unknown --> applied | rejected | failed | not_executed | unresolved
       |
       `--> refused | expired | superseded          (never sent)

`unknown` (sent, and past its deadline without a final reply) is no end: a late reply or a report settles it.
"""

from enum import StrEnum
from typing import Final


class CommandState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    RECEIVED = "received"
    APPLIED = "applied"
    REJECTED = "rejected"
    FAILED = "failed"
    REFUSED = "refused"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    UNKNOWN = "unknown"
    NOT_EXECUTED = "not_executed"
    UNRESOLVED = "unresolved"


S = CommandState

_ANSWERED: Final = frozenset({S.APPLIED, S.REJECTED, S.FAILED})

MAY_BECOME: Final[dict[CommandState, frozenset[CommandState]]] = {
    S.PENDING: frozenset({S.SENT, S.REFUSED, S.EXPIRED, S.SUPERSEDED}),
    S.SENT: _ANSWERED | {S.RECEIVED, S.UNKNOWN},
    S.RECEIVED: _ANSWERED | {S.UNKNOWN},
    S.UNKNOWN: _ANSWERED | {S.NOT_EXECUTED, S.UNRESOLVED},
    S.APPLIED: frozenset(),
    S.REJECTED: frozenset(),
    S.FAILED: frozenset(),
    S.REFUSED: frozenset(),
    S.EXPIRED: frozenset(),
    S.SUPERSEDED: frozenset(),
    S.NOT_EXECUTED: frozenset(),
    S.UNRESOLVED: frozenset(),
}
"""The whole table of transitions."""

SETTLED: Final = frozenset(state for state, after in MAY_BECOME.items() if not after)
"""States that are ends."""


def may_come_before(state: CommandState) -> frozenset[CommandState]:
    """The states from which a command may move to this one."""
    return frozenset(before for before, after in MAY_BECOME.items() if state in after)
