"""Sites as a list shows each, in one query: its row, its tags, and how many of its commands are unresolved."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlmodel import Session, col

from hub.models import COMMAND, SITE, SiteTag
from hub.search import Search, site_says
from hub.stories import IS_UNRESOLVED
from hub.tags import site_has

_COLUMNS: Final = [SITE.c[name] for name in ("id", "name", "time_zone", "created_at", "stop_epoch", "stopped_at")]
_TAGS: Final = (
    select(func.aggregate_strings(col(SiteTag.tag), ",")).where(col(SiteTag.site_id) == SITE.c.id).scalar_subquery()
)
_UNRESOLVED: Final = (
    select(func.count()).select_from(COMMAND).where(COMMAND.c.site_id == SITE.c.id, IS_UNRESOLVED).scalar_subquery()
)


@dataclass(frozen=True, slots=True)
class Listed:
    """site: a row with the columns of Site that people see."""

    site: Any
    tags: list[str]
    unresolved: int


def list_page(
    session: Session, after: str | None, limit: int, only: Collection[str] | None, search: Search
) -> list[Listed]:
    """Sites by id, those after the given one; `only` and `search` narrow to some."""
    query = select(*_COLUMNS, _TAGS, _UNRESOLVED).order_by(SITE.c.id).limit(limit)
    if after is not None:
        query = query.where(SITE.c.id > after)
    if only is not None:
        query = query.where(SITE.c.id.in_(only))
    if search.tags:
        query = query.where(site_has(search.tags))
    if search.text is not None:
        query = query.where(site_says(search.text))
    return [
        Listed(row, [] if row[-2] is None else sorted(row[-2].split(",")), row[-1])
        for row in session.connection().execute(query)
    ]
