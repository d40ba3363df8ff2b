"""Sites' MQTT secrets: a new one and, for a time after it, the one before, so that a rotation cuts no farm off."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import bindparam, update
from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select

from hub.accounts import mqtt_password_hash, mqtt_password_matches, new_secret
from hub.errors import NotFound
from hub.models import SITE, Site
from hub.statements import Statement

OVERLAP_S: Final = 24 * 3600
MAX_OVERLAP_S: Final = 30 * 24 * 3600
_NOBODYS_HASH: Final = mqtt_password_hash(new_secret())


class Which(StrEnum):
    CURRENT = "current"
    """The newest, and there is no other."""
    NEWER = "newer"
    """The newest, while the old one still counts."""
    OLD = "old"


@dataclass(frozen=True, slots=True)
class NewSecret:
    """Shown once and kept nowhere. old_ends_at: None: the old one has ended."""

    secret: str
    old_ends_at: datetime | None


def rotate_secret(session: Session, site: str, now: datetime, overlap: timedelta = timedelta(0)) -> NewSecret:
    """A new MQTT secret. The old one counts on for `overlap`, or until the desktop has come with the new one.

    Of several rotations in that time the old one is still that of the first: the desktop knows no other.
    Raises NotFound.
    """
    row = session.get(Site, site, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"There is no site {site}.")
    in_use = _old_hash(row.old_mqtt_password_hash, row.old_secret_ends_at, now) or row.mqtt_password_hash
    secret, ends_at = new_secret(), now + overlap if overlap else None
    row.mqtt_password_hash = mqtt_password_hash(secret)
    row.old_mqtt_password_hash = None if ends_at is None else in_use
    row.old_secret_ends_at = ends_at
    session.add(row)
    return NewSecret(secret, ends_at)


def which_secret(session: Session, site: str, secret: bytes, now: datetime) -> Which | None:
    """Which of the site's MQTT secrets this is; None: none of them.

    It takes as long for a site that does not exist, or has no old secret: nobody can find out which do.
    """
    current, old_hash, ends_at = _SECRETS.first(session, site=site) or (None, None, None)
    old = _old_hash(old_hash, ends_at, now)
    is_current = mqtt_password_matches(current or _NOBODYS_HASH, secret) and current is not None
    is_old = mqtt_password_matches(old or _NOBODYS_HASH, secret) and old is not None
    if is_current:
        return Which.CURRENT if old is None else Which.NEWER
    return Which.OLD if is_old else None


_SECRETS: Final = Statement(
    sa_select(SITE.c.mqtt_password_hash, SITE.c.old_mqtt_password_hash, SITE.c.old_secret_ends_at).where(
        SITE.c.id == bindparam("site")
    )
)


def end_old_secret(session: Session, site: str, secret: bytes) -> bool:
    """The desktop has come with the new one, so the old one ends. False: another one is the new one by now."""
    row = session.get(Site, site, with_for_update=True, populate_existing=True)
    if row is None or row.old_mqtt_password_hash is None or not mqtt_password_matches(row.mqtt_password_hash, secret):
        return False
    row.old_mqtt_password_hash = row.old_secret_ends_at = None
    session.add(row)
    return True


def sites_past_overlap(session: Session, now: datetime) -> list[str]:
    """Those whose old secret has had its time, and is there still."""
    return list(session.exec(select(Site.id).where(col(Site.old_secret_ends_at) <= now)))


def drop_old_secrets(session: Session, sites: list[str], now: datetime) -> None:
    """Of those whose old secret has had its time."""
    session.execute(
        update(Site)
        .where(col(Site.id).in_(sites), col(Site.old_secret_ends_at) <= now)
        .values(old_mqtt_password_hash=None, old_secret_ends_at=None)
    )


def _old_hash(stored: str | None, ends_at: datetime | None, now: datetime) -> str | None:
    """That of the old secret, as long as it counts."""
    return stored if ends_at is not None and now < ends_at else None
