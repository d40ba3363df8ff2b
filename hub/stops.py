"""The emergency stop that a site is under: since when, by whom, and which feeders have confirmed it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlmodel import Session, select

from hub.command_states import CommandState
from hub.models import Command, Feeder, Site
from hub.stories import stories

_HEARD: Final = (CommandState.RECEIVED, CommandState.APPLIED, CommandState.REJECTED, CommandState.FAILED)
"""States into which a stop comes by an answer of its desktop."""


@dataclass(frozen=True, slots=True)
class FeederStop:
    """Of one feeder. asked: its desktop has heard of the stop. confirmed: its PLC says that it stands; else `code`."""

    asked: bool
    confirmed: bool
    code: str | None


@dataclass(frozen=True, slots=True)
class Latch:
    """A site's latched stop; `feeders` by their names."""

    at: datetime
    command_id: str
    by: str
    feeders: list[tuple[str, FeederStop]]


def latch_of(session: Session, site: Site) -> Latch | None:
    """None: the site is not stopped."""
    if site.stopped_at is None or site.stop_command_id is None:
        return None
    stop = session.get(Command, site.stop_command_id)
    if stop is None:
        return None
    answered = (stop.result or {}).get("feeders", {})
    # It is published whoever is there, and told again to a site that comes back: an answer proves that it was heard.
    # The story tells of the answers by which it moved on, and the result is there, if empty, after any other.
    steps = {step.state for step in stories(session, [stop.id])[stop.id]}
    asked = stop.result is not None or not steps.isdisjoint(_HEARD)
    feeders = []
    for name in session.exec(select(Feeder.id).where(Feeder.site_id == site.id).order_by(Feeder.id)):
        told = answered.get(name, {})
        feeders.append((name, FeederStop(asked, bool(told.get("confirmed", False)), told.get("code"))))
    return Latch(site.stopped_at, stop.id, stop.actor, feeders)
