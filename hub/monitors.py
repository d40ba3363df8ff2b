"""Monitors: MQTT users of tools that only read: the broker's figures and, if wanted, the topics of one site."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
from sqlmodel import Session, select

from hub.accounts import mqtt_password_hash, mqtt_password_matches, new_secret
from hub.database import AWAY, Database, why_away
from hub.errors import AlreadyExists, NotFound
from hub.models import Monitor
from hub.protocol.topics import Identity
from hub.sites import check_id, get_site
from hub.tasks import GoingOn

USER_PREFIX: Final = "monitor-"
"""What a monitor's MQTT user name begins with; `monitor` is reserved, so no site is ever called so."""
LOOK_EVERY_S: Final = 0.5
_NOBODYS_HASH: Final = mqtt_password_hash(new_secret())

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NewMonitor:
    """A monitor as it was just made; the secret is shown once and kept nowhere."""

    name: str
    site: str | None
    username: str
    secret: str


def username(name: str) -> str:
    """The MQTT user name of a monitor."""
    return USER_PREFIX + name


def add_monitor(session: Session, name: str, site: str | None, now: datetime) -> NewMonitor:
    """`site`: whose topics it may read; None for the broker's figures only.

    Raises InvalidOrder, AlreadyExists, or NotFound for the site.
    """
    check_id("monitor", name)
    if site is not None:
        get_site(session, site)
    if session.get(Monitor, name) is not None:
        raise AlreadyExists(f"There is a monitor {name} already.")
    secret = new_secret()
    session.add(Monitor(name=name, site_id=site, mqtt_password_hash=mqtt_password_hash(secret), created_at=now))
    return NewMonitor(name, site, username(name), secret)


def list_monitors(session: Session) -> list[Monitor]:
    """All of them, by name."""
    return list(session.exec(select(Monitor).order_by(Monitor.name)))


def remove_monitor(session: Session, name: str) -> Monitor:
    """As it was. Raises NotFound."""
    row = session.get(Monitor, name)
    if row is None:
        raise NotFound(f"There is no monitor {name}.")
    session.delete(row)
    return row


def monitor_of(session: Session, user: str, secret: bytes) -> Monitor | None:
    """Whose MQTT user name and secret these are, or None. It takes as long for a monitor that does not exist."""
    row = session.get(Monitor, user.removeprefix(USER_PREFIX))
    matches = mqtt_password_matches(_NOBODYS_HASH if row is None else row.mqtt_password_hash, secret)
    return row if matches else None


class MonitorLogins:
    """Says whose secret a monitor shows, and cuts off those that were removed while they were connected.

    Another process removes them (the command line, another hub), so the table is looked at twice a second, as soon
    as a monitor has been here.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._let_in: dict[str, str] = {}  # by user name: the hash of the secret that it came in with

    async def identify(self, user: str, secret: bytes) -> Identity | None:
        """Which monitor it is, or None if it is none."""
        row = await self._database.read(lambda session: monitor_of(session, user, secret))
        if row is None:
            return None
        self._let_in[user] = row.mqtt_password_hash
        return Identity("monitor", user, row.site_id)

    @asynccontextmanager
    async def watched(self, disconnect: Callable[[str], Awaitable[object]]) -> AsyncIterator[None]:
        """Inside the block the connections of a monitor that is no more are ended; `disconnect` takes its user name."""
        async with GoingOn(lambda: self._look_again_and_again(disconnect), "monitor logins"):
            yield

    async def _look_again_and_again(self, disconnect: Callable[[str], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._cut_off_removed(disconnect)
            except AWAY as error:
                log.warning("removed monitors may be connected still", reason=why_away(error))
            except Exception:
                log.exception("removed monitors may be connected still")

    async def _cut_off_removed(self, disconnect: Callable[[str], Awaitable[object]]) -> None:
        if not self._let_in:
            return
        monitors = await self._database.read(list_monitors)
        hashes = {username(monitor.name): monitor.mqtt_password_hash for monitor in monitors}
        for user in [user for user, known in self._let_in.items() if hashes.get(user) != known]:
            del self._let_in[user]
            await disconnect(user)
            log.info("monitor cut off: it was removed", user=user)
