"""Sites: fish farms with one desktop each, and their MQTT credentials."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import bindparam
from sqlalchemy import select as sa_select
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from hub.accounts import mqtt_password_hash, new_secret
from hub.errors import AlreadyExists, Fault, InvalidOrder, NotFound
from hub.etags import etag_of, require_match
from hub.models import SITE, Feeder, JsonObject, Site
from hub.protocol.topics import RESERVED_NAMES, is_id
from hub.search import as_sought
from hub.statements import Statement
from hub.tags import of_sites, tag_site

MAX_FEEDERS: Final = 500


@dataclass(frozen=True, slots=True)
class NewSite:
    """A site as it was just made; the secret is shown once and kept nowhere."""

    site: str
    feeders: list[str]
    secret: str


def check_id(noun: str, text: str) -> None:
    if not is_id(text):
        message = f"{text!r} cannot name a {noun}: 1 to 63 of a-z 0-9 _ -, beginning with a letter or digit"
        raise InvalidOrder(message, [Fault(noun, message)])


def check_time_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f"{name!r} is not an IANA time zone, such as Europe/Oslo"
        raise InvalidOrder(message, [Fault("time_zone", message)]) from error


def add_site(
    session: Session,
    site: str,
    feeders: Sequence[str],
    time_zone: str,
    now: datetime,
    *,
    name: str | None = None,
) -> NewSite:
    """Raises InvalidOrder or AlreadyExists."""
    check_id("site", site)
    check_time_zone(time_zone)
    if site.split("-")[0] in RESERVED_NAMES:
        message = f"The name {site} is reserved: it begins like the hub's own. Choose another one."
        raise InvalidOrder(message, [Fault("site", message)])
    if not 0 < len(feeders) <= MAX_FEEDERS or len(set(feeders)) != len(feeders):
        message = f"A site has 1 to {MAX_FEEDERS} feeders, each with a name of its own."
        raise InvalidOrder(message, [Fault("feeders", message)])
    for feeder in feeders:
        check_id("feeder", feeder)
    secret = new_secret()
    row = Site(
        id=site,
        name=name or site,
        sought=as_sought(site, name or site),
        time_zone=time_zone,
        mqtt_password_hash=mqtt_password_hash(secret),
        # Its desktop may have served another hub, or a site of that name: no order must look old to it.
        stop_epoch=int(now.timestamp()),
        created_at=now,
    )
    try:
        with session.begin_nested():  # to look first would not do: another process may add it at the same moment
            session.add(row)
    except IntegrityError as error:
        raise AlreadyExists(f"There is a site {site} already.") from error
    session.add_all(Feeder(site_id=site, id=feeder, created_at=now) for feeder in feeders)
    return NewSite(site, list(feeders), secret)


def numbered_feeders(count: int) -> list[str]:
    """f1 ... fN"""
    return [f"f{n}" for n in range(1, count + 1)]


def get_site(session: Session, site: str) -> Site:
    """Raises NotFound."""
    row = session.get(Site, site)
    if row is None:
        raise NotFound(f"There is no site {site}.")
    return row


def told(session: Session, site: str) -> JsonObject:
    """What a site is, for the audit. Raises NotFound."""
    row = get_site(session, site)
    feeders = session.exec(select(Feeder.id).where(Feeder.site_id == site).order_by(Feeder.id))
    tags = of_sites(session, [site])[site]
    return {"name": row.name, "time_zone": row.time_zone, "tags": tags, "feeders": list(feeders)}


def require_site(session: Session, site: str) -> int:
    """The site's stop epoch: the number of its last emergency stop. Raises NotFound."""
    row = _STOP_EPOCH.first(session, site=site)
    if row is None:
        raise NotFound(f"There is no site {site}.")
    return int(row.stop_epoch)


def keep_site(session: Session, site: str) -> None:
    """Nobody deletes it before this transaction ends. Raises NotFound."""
    if _KEEP.first(session, site=site) is None:
        raise NotFound(f"There is no site {site}.")


def stop_epochs_of(session: Session, sites: Iterable[str]) -> dict[str, int]:
    """The stop epochs of those that exist."""
    found = {site: _STOP_EPOCH.first(session, site=site) for site in sites}
    return {site: int(row.stop_epoch) for site, row in found.items() if row is not None}


_KEEP: Final = Statement(
    sa_select(SITE.c.id).where(SITE.c.id == bindparam("site")).with_for_update(read=True, key_share=True)
)
_STOP_EPOCH: Final = Statement(sa_select(SITE.c.stop_epoch).where(SITE.c.id == bindparam("site")))


def list_sites(session: Session) -> list[Site]:
    """All of them, by id."""
    return list(session.exec(select(Site).order_by(Site.id)))


def site_etag(site: Site, tags: Collection[str]) -> str:
    """Names what of a site people change."""
    return etag_of(name=site.name, time_zone=site.time_zone, tags=sorted(tags))


def change_site(
    session: Session,
    site: str,
    name: str | None,
    time_zone: str | None,
    tags: Collection[str] | None,
    if_match: str | None,
) -> None:
    """What is None stays as it is. Raises NotFound, InvalidOrder, or Changed."""
    row = session.get(Site, site, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"There is no site {site}.")
    require_match(if_match, site_etag(row, of_sites(session, [site])[site]), f"site {site}")
    rename(session, site, name, time_zone)
    if tags is not None:
        tag_site(session, site, tags)


def rename(session: Session, site: str, name: str | None, time_zone: str | None) -> Site:
    """Raises NotFound or InvalidOrder."""
    row = get_site(session, site)
    if time_zone is not None:
        check_time_zone(time_zone)
        row.time_zone = time_zone
    if name is not None:
        row.name, row.sought = name, as_sought(site, name)
    session.add(row)
    return row


def delete_site(session: Session, site: str) -> None:
    """With everything that belongs to it. Raises NotFound."""
    session.delete(get_site(session, site))


def is_site(session: Session, site: str) -> bool:
    return session.get(Site, site) is not None
