"""What may still be fed: the safety limits of doses at the hub, from the same table that the desktop reads.

The desktop and the PLC hold them too, and better: they know what was really fed. The hub refuses what it knows to be
too much before anything is sent, and says what is left. A dose whose end is not known counts as fed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import bindparam
from sqlalchemy import select as sa_select
from sqlmodel import Session

from hub.command_states import CommandState
from hub.errors import Fault, InvalidOrder
from hub.feeders import config_of
from hub.models import COMMAND, FEEDER_EVENT
from hub.protocol.limits import LIMITS
from hub.protocol.local_days import day_of

NOT_FED: Final = frozenset(
    {CommandState.REFUSED, CommandState.REJECTED, CommandState.NOT_EXECUTED, CommandState.EXPIRED}
)
"""How a dose ends of which nothing was fed."""
_ROOM_G: Final = LIMITS["daily_limit_g"].tolerance
"""Sums of what PLCs count in 32 bits do not come out even."""
_PAUSE_S: Final = LIMITS["dose_pause_s"].minimum


@dataclass(frozen=True, slots=True)
class Dose:
    """A dose that was ordered, and may have been fed. `dispensed_g`: as far as that is known."""

    command_id: str
    ordered_at: datetime
    grams: float
    dispensed_g: float | None


@dataclass(frozen=True, slots=True)
class Fed:
    """A meal or a dose that the farm told of."""

    command_id: str | None
    dispensed_g: float


def fed_today_g(events: Iterable[Fed], doses: Iterable[Dose]) -> float:
    """Grams of what was told, and of the doses that nobody has told of yet."""
    told = list(events)
    told_of = {event.command_id for event in told}
    untold = (dose for dose in doses if dose.command_id not in told_of)
    return sum(event.dispensed_g for event in told) + sum(
        dose.grams if dose.dispensed_g is None else dose.dispensed_g for dose in untold
    )


def faults_of_dose(grams: float, daily_limit_g: float, fed_g: float, last_dose_s_ago: float | None) -> list[Fault]:
    """What speaks against a dose now. `last_dose_s_ago`: seconds since the last one was ordered; None: never."""
    faults = []
    left_g = max(0.0, daily_limit_g - fed_g)
    if fed_g + grams > daily_limit_g + _ROOM_G:
        message = f"{grams:g} g are more than is left of today's {daily_limit_g:g} g: {left_g:g} g"
        faults.append(Fault("args.grams", message, daily_limit_g, value=grams, left_today_g=left_g))
    if last_dose_s_ago is not None and last_dose_s_ago < _PAUSE_S:
        message = f"the last dose was ordered {last_dose_s_ago:.1f} s ago; there must be {_PAUSE_S:g} s between two"
        faults.append(Fault("dose_pause_s", message, _PAUSE_S, value=round(last_dose_s_ago, 3), left_today_g=left_g))
    return faults


def check_dose(session: Session, site: str, feeder: str, grams: float, target: Any, now: datetime) -> None:
    """Raises InvalidOrder, naming every limit that it would break.

    target: the feeder's row, locked, with its site's `time_zone`; so of two doses at once one is the later.
    """
    daily_limit_g, fed_g, last_s_ago = _so_far(session, site, feeder, target, now)
    faults = faults_of_dose(grams, daily_limit_g, fed_g, last_s_ago)
    if faults:
        raise InvalidOrder("The dose would break a safety limit; nothing was sent.", faults)


def left_today_g(session: Session, site: str, feeder: str, target: Any, now: datetime) -> float:
    """Grams that the feeder may still be fed today."""
    daily_limit_g, fed_g, _ = _so_far(session, site, feeder, target, now)
    return max(0.0, daily_limit_g - fed_g)


def _so_far(session: Session, site: str, feeder: str, target: Any, now: datetime) -> tuple[float, float, float | None]:
    """The daily limit, what was fed of it today, and how many seconds ago the last dose was ordered."""
    midnight, next_midnight = day_of(now, ZoneInfo(target.time_zone))
    doses = _doses(session, site, feeder, min(midnight, now - timedelta(seconds=_PAUSE_S)))
    last_s_ago = None if not doses else (now - max(dose.ordered_at for dose in doses)).total_seconds()
    today = [dose for dose in doses if dose.ordered_at >= midnight]
    config = config_of(target.reported_config)
    # Where the farm's config is not known yet the desktop alone holds the daily limit.
    daily_limit_g = LIMITS["daily_limit_g"].maximum if config is None else config.daily_limit_g
    return daily_limit_g, fed_today_g(_fed(session, site, feeder, midnight, next_midnight), today), last_s_ago


_OF_A_DOSE: Final = ("id", "created_at", "args", "state", "result")
_DOSES: Final = sa_select(*(COMMAND.c[name] for name in _OF_A_DOSE)).where(
    COMMAND.c.site_id == bindparam("site"),
    COMMAND.c.feeder_id == bindparam("feeder"),
    COMMAND.c.name == "feed",
    COMMAND.c.created_at >= bindparam("since"),
    COMMAND.c.state.not_in(NOT_FED),
)
_FED: Final = sa_select(FEEDER_EVENT.c.command_id, FEEDER_EVENT.c.dispensed_g).where(
    FEEDER_EVENT.c.site_id == bindparam("site"),
    FEEDER_EVENT.c.feeder_id == bindparam("feeder"),
    FEEDER_EVENT.c.at >= bindparam("since"),
    FEEDER_EVENT.c.at < bindparam("until"),
    FEEDER_EVENT.c.kind.in_(("meal", "dose")),
)


def _doses(session: Session, site: str, feeder: str, since: datetime) -> list[Dose]:
    rows = session.connection().execute(_DOSES, {"site": site, "feeder": feeder, "since": since})
    return [Dose(row.id, row.created_at, row.args["grams"], _dispensed_g(row)) for row in rows]


def _dispensed_g(command: Any) -> float | None:
    """As far as it is known. A dose that ended early says how far it came; one that failed without that never began."""
    told: float | None = (command.result or {}).get("dispensed_g")
    return 0.0 if told is None and command.state == CommandState.FAILED else told


def _fed(session: Session, site: str, feeder: str, since: datetime, until: datetime) -> list[Fed]:
    """What a clock that is ahead dates later does not use up the limit of each day until then."""
    rows = session.connection().execute(_FED, {"site": site, "feeder": feeder, "since": since, "until": until})
    return [Fed(row.command_id, row.dispensed_g or 0.0) for row in rows]
