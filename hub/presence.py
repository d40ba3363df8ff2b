"""The history of liveness: spans in which a session was alive. A conditional write decides who tells of a change.

Several hub processes may notice the same change at once; the one whose write touches the row tells the live stream.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import and_, bindparam, func, update
from sqlalchemy import select as sa_select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from hub.models import PRESENCE, Presence
from hub.statements import Statement

TWO_DESKTOPS_SESSIONS: Final = 3
TWO_DESKTOPS_WITHIN: Final = timedelta(minutes=1)
"""More sessions than that within that time: two desktops knock each other out."""


def begin(session: Session, site: str, desktop_session: str, at: datetime) -> bool:
    """A session is alive from now on; a span of an older session ends. False if that was known already."""
    _END_OLDER.run(session, site=site, session=desktop_session, at=at)
    begin_span = _BEGIN[session.get_bind().dialect.name]
    return bool(begin_span.run(session, site_id=site, session=desktop_session, began_at=at))


def finish(
    session: Session, site: str, desktop_session: str, at: datetime, by: str, last_seen_at: datetime | None
) -> bool:
    """The session is not alive any more. False if that was known already, or was another session."""
    return bool(_FINISH.run(session, site=site, session=desktop_session, at=at, by=by, last_seen_at=last_seen_at))


_OPEN: Final = and_(PRESENCE.c.site_id == bindparam("site"), PRESENCE.c.ended_at.is_(None))
_END_OLDER: Final = Statement(
    update(PRESENCE)
    .where(_OPEN, PRESENCE.c.session != bindparam("session"))
    .values(ended_at=bindparam("at"), ended_by="replaced", last_seen_at=bindparam("at"))
)
_BEGIN: Final = {
    name: Statement(
        dialect.insert(PRESENCE)
        .values({column: bindparam(column) for column in ("site_id", "session", "began_at")})
        .on_conflict_do_nothing()
        .returning(PRESENCE.c.id)
    )
    for name, dialect in (("sqlite", sqlite), ("postgresql", postgresql))
}
_FINISH: Final = Statement(
    update(PRESENCE)
    .where(_OPEN, PRESENCE.c.session == bindparam("session"))
    .values(ended_at=bindparam("at"), ended_by=bindparam("by"), last_seen_at=bindparam("last_seen_at"))
    .returning(PRESENCE.c.id)
)


def finish_all(session: Session, at: datetime, by: str) -> None:
    """Every open span ends."""
    session.execute(update(Presence).where(col(Presence.ended_at).is_(None)).values(ended_at=at, ended_by=by))


def open_spans(session: Session) -> list[tuple[str, str]]:
    """(site, session) of everybody who is held to be alive."""
    return list(session.exec(select(Presence.site_id, Presence.session).where(col(Presence.ended_at).is_(None))))


def has_two_desktops(session: Session, site: str, now: datetime) -> bool:
    """Whether the site's sessions follow each other so fast that there must be two desktops."""
    found = _BEGUN_SINCE.first(session, site=site, since=now - TWO_DESKTOPS_WITHIN)
    return found is not None and found.number > TWO_DESKTOPS_SESSIONS


_BEGUN_SINCE: Final = Statement(
    sa_select(func.count().label("number"))
    .select_from(PRESENCE)
    .where(PRESENCE.c.site_id == bindparam("site"), PRESENCE.c.began_at > bindparam("since"))
)


def last_seen(session: Session) -> dict[str, datetime]:
    """When the sites were last seen, by their spans that tell."""
    query = select(Presence.site_id, func.max(Presence.last_seen_at)).group_by(Presence.site_id)
    return {site: at for site, at in session.exec(query) if at is not None}


def is_empty(session: Session) -> bool:
    """Whether nobody has ever been alive."""
    return session.exec(select(Presence.id).limit(1)).first() is None


def list_spans(session: Session, site: str, before: int | None, limit: int) -> list[Presence]:
    """A site's spans, the newest first; `before`: only those with a smaller id."""
    query = select(Presence).where(Presence.site_id == site).order_by(col(Presence.id).desc()).limit(limit)
    if before is not None:
        query = query.where(col(Presence.id) < before)
    return list(session.exec(query))
