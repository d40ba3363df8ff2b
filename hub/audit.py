"""The audit: who changed what, when, from where, and who was refused. Entries are only ever added.

Each is written in the transaction of its change. A command's entry tells what was ordered; what became of it is the
command's state. Secrets never stand in an entry.
"""

import functools
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Integer, bindparam, insert, text
from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select
from ulid import ULID

from hub.models import AUDIT_ENTRY, AuditEntry, Command, JsonObject, Site
from hub.protocol.times import utc_now
from hub.rights import Caller, Right
from hub.statements import Statement

REFUSED: Final = "refused"
NOBODY: Final = "unknown"
"""The actor of a try to log in as nobody the hub knows: what was typed there may be a password."""
_FIRST, _LAST = "", "Z" * 26
"""No ULID is smaller, and none is greater."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class By:
    """Who does something. actor: `token:NAME`, `person:LOGIN`, `cli:USER`; caller_id: the token's or person's.

    address: where it came from; "" where there is none.
    """

    actor: str
    caller_id: str | None = None
    address: str = ""


HUB: Final = By("hub")
"""What the hub does by itself."""


@dataclass(slots=True)
class Trail:
    """What a change tells of itself. What tells nothing leaves an entry all the same: who did what, from where.

    site: the one that it is about, until it says otherwise.
    """

    site: str | None = None
    target: str = ""
    before: JsonObject | None = None
    after: JsonObject | None = None

    def note(
        self,
        *,
        site: str | None = None,
        target: str = "",
        before: JsonObject | None = None,
        after: JsonObject | None = None,
    ) -> None:
        """What was changed, and what of it was so before and is so after: values that JSON has."""
        self.site, self.target, self.before, self.after = site or self.site, target, before, after


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. outcome: `refused`, or the state of its command; None: done, or the command is kept no more."""

    row: AuditEntry
    outcome: str | None


_INSERT: Final = Statement(
    insert(AUDIT_ENTRY).values({column.name: bindparam(column.name) for column in AUDIT_ENTRY.c})
)


def record(
    session: Session,
    by: By,
    action: str,
    *,
    site: str | None = None,
    target: str = "",
    before: JsonObject | None = None,
    after: JsonObject | None = None,
    outcome: str | None = None,
    command_id: str | None = None,
) -> None:
    """Add an entry. What is too long for it is cut, so that nothing keeps a change from being recorded."""
    _INSERT.run(
        session,
        id=str(ULID()),
        at=utc_now(),
        actor=_cut(by.actor, 100),
        caller_id=by.caller_id,
        address=_cut(by.address, 64),
        action=action,
        site_id=site,
        target=_cut(target, 100),
        before=before,
        after=after,
        outcome=outcome,
        command_id=command_id,
    )


def record_order(
    session: Session,
    by: By,
    command_id: str,
    name: str,
    now: datetime,
    *,
    site: str,
    feeder: str | None,
    before: JsonObject | None,
    after: JsonObject,
) -> None:
    """The entry of a command: each change runs through here. It has the command's id, which is one of its moment."""
    _INSERT.run(
        session,
        id=command_id,
        at=now,
        actor=by.actor,
        caller_id=by.caller_id,
        address=by.address,
        action=name,
        site_id=site,
        target=feeder or "",
        before=before,
        after=after,
        outcome=None,
        command_id=command_id,
    )


def recorded(by: By, action: str, site: str | None, work: Callable[[Session, Trail], T]) -> Callable[[Session], T]:
    """The work, with its entry in the same transaction. site: the one that it is about, if it is about one."""

    def audited(session: Session) -> T:
        trail = Trail(site)
        result = work(session, trail)
        record(session, by, action, site=trail.site, target=trail.target, before=trail.before, after=trail.after)
        return result

    return audited


def _cut(told: str, length: int) -> str:
    return told.replace("\0", "")[:length]


# --- reading -----------------------------------------------------------------------------------------------------


def sites_open_to(session: Session, caller: Caller) -> Mapping[str, str] | None:
    """The sites whose entries somebody may read, each with an id that theirs are not smaller than; None: all entries.

    A site that was deleted and made anew may be somebody else's: what was before is nobody's but the hub's own admins'.
    """
    if caller.may(Right.ADMINISTER, None):
        return None
    theirs = [site for site in caller.roles if site is not None and caller.may(Right.ADMINISTER, site)]
    found = session.exec(select(Site.id, Site.created_at).where(col(Site.id).in_(theirs)))
    return {site: str(ULID.from_datetime(made))[:10] for site, made in found}


def list_entries(
    session: Session,
    sites: Mapping[str, str] | None,
    *,
    actor: str | None = None,
    action: str | None = None,
    before: str | None = None,
    limit: int,
) -> list[Entry]:
    """The newest first; `before`: only older ones than that id. sites: as `sites_open_to` has them."""
    find = _newest(by_site=sites is not None, by_actor=actor is not None, by_action=_kind_of(action))
    wanted: dict[str, Any] = {"before": before or _LAST, "at_most": limit}
    wanted |= {} if actor is None else {"actor": actor}
    wanted |= {} if action is None else {"action": action}
    ids: list[str] = []
    # Site by site, as no index has some sites' entries in the order of time; each needs to say only what is newer than
    # the last one that will be told anyway.
    for site, since in ({None: _FIRST} if sites is None else sites).items():
        enough = max(since, ids[-1]) if len(ids) == limit else since
        found = find.run(session, since=enough, **wanted, **({} if site is None else {"site": site}))
        ids = heapq.nlargest(limit, [*ids, *(row.id for row in found)])
    query = (
        select(AuditEntry, Command.state)
        .join(Command, col(Command.id) == AuditEntry.command_id, isouter=True)
        .where(col(AuditEntry.id).in_(ids))
        .order_by(col(AuditEntry.id).desc())
    )
    return [Entry(row, row.outcome or state) for row, state in session.exec(query)]


def _kind_of(action: str | None) -> str:
    if action is None:
        return "any"
    return "usual" if action == "set_config" else "rare"


@functools.cache
def _newest(*, by_site: bool, by_actor: bool, by_action: str) -> Statement:
    entry = AUDIT_ENTRY.c
    query = (
        sa_select(entry.id)
        .where(entry.id < bindparam("before"), entry.id >= bindparam("since"))
        .order_by(entry.id.desc())
        .limit(bindparam("at_most", type_=Integer))
    )
    if by_site:
        query = query.where(entry.site_id == bindparam("site"))
    if by_actor:
        query = query.where(entry.actor == bindparam("actor"))
    if by_action != "any":
        query = query.where(entry.action == bindparam("action"))
    if by_action == "rare":  # says that the index of rare ones has them
        query = query.where(text("action <> 'set_config'"))
    return Statement(query)
