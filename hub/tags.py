"""Tags: words that people give to sites and feeders, to find and to choose them by."""

from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Final

from pydantic import StringConstraints
from sqlalchemy import ColumnElement, and_, delete, exists, insert, true, tuple_
from sqlmodel import Session, col, select

from hub.models import Feeder, FeederTag, Site, SiteTag

TAG_PATTERN: Final = r"^[a-z0-9][a-z0-9_.:-]{0,49}$"
"""No comma and no space: several stand in one text with commas between them."""
MAX_TAGS: Final = 20
Tag = Annotated[str, StringConstraints(pattern=TAG_PATTERN)]


def of_sites(session: Session, sites: Sequence[str]) -> dict[str, list[str]]:
    """The tags of each site, sorted."""
    found: dict[str, list[str]] = {site: [] for site in sites}
    query = select(SiteTag).where(col(SiteTag.site_id).in_(sites)).order_by(SiteTag.tag)
    for row in session.exec(query):
        found[row.site_id].append(row.tag)
    return found


def of_feeders(session: Session, feeders: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """The tags of each (site, feeder), sorted."""
    found: dict[tuple[str, str], list[str]] = {feeder: [] for feeder in feeders}
    named = tuple_(col(FeederTag.site_id), col(FeederTag.feeder_id))
    for row in session.exec(select(FeederTag).where(named.in_(feeders)).order_by(FeederTag.tag)):
        found[row.site_id, row.feeder_id].append(row.tag)
    return found


def tag_site(session: Session, site: str, tags: Collection[str]) -> None:
    """These and no others."""
    session.execute(delete(SiteTag).where(col(SiteTag.site_id) == site))
    if tags:
        session.execute(insert(SiteTag), [{"site_id": site, "tag": tag} for tag in sorted(set(tags))])


def tag_feeder(session: Session, site: str, feeder: str, tags: Collection[str]) -> None:
    """These and no others."""
    session.execute(delete(FeederTag).where(col(FeederTag.site_id) == site, col(FeederTag.feeder_id) == feeder))
    if tags:
        rows = [{"site_id": site, "feeder_id": feeder, "tag": tag} for tag in sorted(set(tags))]
        session.execute(insert(FeederTag), rows)


def site_has(tags: Iterable[str]) -> ColumnElement[bool]:
    """Of a row of Site: whether it has all of these tags."""
    return _all(exists().where(col(SiteTag.tag) == tag, col(SiteTag.site_id) == col(Site.id)) for tag in tags)


def feeder_has(tags: Iterable[str]) -> ColumnElement[bool]:
    """Of a row of Feeder: whether it has all of these tags, its own or its site's."""
    return _all(
        exists().where(
            col(FeederTag.tag) == tag,
            col(FeederTag.site_id) == col(Feeder.site_id),
            col(FeederTag.feeder_id) == col(Feeder.id),
        )
        | exists().where(col(SiteTag.tag) == tag, col(SiteTag.site_id) == col(Feeder.site_id))
        for tag in tags
    )


def _all(conditions: Iterable[ColumnElement[bool]]) -> ColumnElement[bool]:
    return and_(true(), *conditions)
