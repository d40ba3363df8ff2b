"""What a rollout would change: the feeders that are selected, what each has and would have, and what is refused.

`select_feeders` reads; the rest has no I/O.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import or_, select, tuple_
from sqlmodel import Session

from hub.errors import ConfigUnknown, DesktopOffline, Fault, HubError, InvalidOrder, NotAllowed, NotFound, Stopped
from hub.liveness import Liveness
from hub.models import FEEDER, SITE, JsonObject
from hub.orders import REFUSED_WHILE_STOPPED, patched
from hub.rights import Caller, Right

MAX_FEEDERS: Final = 20_000
UNCHANGED: Final = "unchanged"
"""The code of a feeder that is left out because it has that config already."""
_CONDITION_AFTER: Final = {"pause": "paused", "resume": "running"}


@dataclass(frozen=True, slots=True)
class Selection:
    """All feeders of some sites, some feeders of others; `everything`: of every site where the caller may operate."""

    sites: tuple[str, ...] = ()
    feeders: tuple[tuple[str, str], ...] = ()
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A merge patch of the config (RFC 7396), or the command `pause` or `resume`."""

    name: str
    patch: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A selected feeder as it is; refusal: why it cannot be part of a rollout at all."""

    site: str
    feeder: str | None
    config: JsonObject | None = None
    condition: str | None = None
    is_changing: bool = False
    is_stopped: bool = False
    refusal: HubError | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """What a rollout would do to a feeder: `before` and `after` have the fields that differ.

    refusal: why it would not; feeder None: it is about the whole site.
    """

    site: str
    feeder: str | None
    before: JsonObject
    after: JsonObject
    refusal: HubError | None = None

    @property
    def is_needless(self) -> bool:
        """Nothing would change."""
        return self.refusal is None and not self.after


def select_feeders(session: Session, selection: Selection, caller: Caller) -> list[Chosen]:
    """The feeders by site and id, first what was named and cannot be had. Raises InvalidOrder."""
    named = {*selection.sites, *(site for site, _ in selection.feeders)}
    known = set(session.connection().scalars(select(SITE.c.id)))
    sites: set[str] = set()
    lacking: list[Chosen] = []
    for site in sorted(known if selection.everything else named):
        if site not in known or not caller.sees(site):
            if not selection.everything:
                gone = NotFound(f"There is no site {site}.")
                lacking.append(Chosen(site, None, refusal=gone))
        elif caller.may(Right.OPERATE, site):
            sites.add(site)
        elif not selection.everything:
            barred = NotAllowed(f"A rollout needs the right to {Right.OPERATE} at {site}; {caller.is_what()}.")
            lacking.append(Chosen(site, None, refusal=barred))
    whole = sites if selection.everything else sites & set(selection.sites)
    single = {pair for pair in selection.feeders if pair[0] in sites - whole}
    found = [
        Chosen(row.site_id, row.id, row.reported_config, row.condition, row.pending is not None, row.stop is not None)
        for row in _rows(session, whole, single)
    ]
    ids = {(each.site, each.feeder) for each in found}
    for site, feeder in sorted(set(selection.feeders)):
        if site in sites and (site, feeder) not in ids:
            gone = NotFound(f"Site {site} has no feeder {feeder}.")
            lacking.append(Chosen(site, feeder, refusal=gone))
    if len(found) > MAX_FEEDERS:
        raise InvalidOrder(f"The selection has {len(found)} feeders; a rollout has at most {MAX_FEEDERS}.")
    return lacking + found


def _rows(session: Session, sites: set[str], feeders: set[tuple[str, str]]) -> Sequence[Any]:
    feeder = FEEDER.c
    return (
        session.connection()
        .execute(
            select(
                *(feeder.site_id, feeder.id, feeder.reported_config, feeder.condition),
                *(feeder.pending_command_id.label("pending"), SITE.c.stopped_at.label("stop")),
            )
            .join(SITE, SITE.c.id == feeder.site_id)
            .where(or_(feeder.site_id.in_(sites), tuple_(feeder.site_id, feeder.id).in_(sorted(feeders))))
            .order_by(feeder.site_id, feeder.id)
        )
        .all()
    )


def plan_of(chosen: Sequence[Chosen], change: Change, live: Mapping[str, Liveness], *, may_wait: bool) -> list[Planned]:
    """may_wait: a feeder whose site is away waits for it; else it is refused."""
    return [_planned(each, change, live.get(each.site), may_wait=may_wait) for each in chosen]


def _planned(chosen: Chosen, change: Change, live: Liveness | None, *, may_wait: bool) -> Planned:
    before: JsonObject = {}
    after: JsonObject = {}
    refusal = chosen.refusal
    if refusal is None:
        try:
            before, after = _differences(chosen, change)
            if chosen.is_stopped and change.name in REFUSED_WHILE_STOPPED:
                raise Stopped(f"The emergency stop of site {chosen.site} is latched; release it first.")
            if live is not None and live.alive is False and not may_wait:
                raise DesktopOffline(chosen.site, live.last_seen_at)
        except (ConfigUnknown, InvalidOrder, Stopped, DesktopOffline) as error:
            refusal = error
    return Planned(chosen.site, chosen.feeder, before, after, refusal)


def _differences(chosen: Chosen, change: Change) -> tuple[JsonObject, JsonObject]:
    """Raises ConfigUnknown, InvalidOrder."""
    if change.patch is None:
        return {"condition": chosen.condition}, {"condition": _CONDITION_AFTER[change.name]}
    config = patched(chosen.config, change.patch).model_dump()
    known = chosen.config or {}
    # While another change of it is on its way, what the feeder has says nothing of what it will have.
    fields = [name for name in config if chosen.is_changing or config[name] != known.get(name)]
    return {name: known.get(name) for name in fields}, {name: config[name] for name in fields}


def stored_faults(error: HubError) -> list[JsonObject] | None:
    """The faults that an error names, as a row keeps them."""
    faults: Sequence[Fault] = getattr(error, "faults", ())
    told = [{name: value for name, value in asdict(fault).items() if value is not None} for fault in faults]
    return told or None
