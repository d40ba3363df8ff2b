"""Who logs in to the embedded broker as a site: by its secret, or for a time by the one before."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from hub.database import AWAY, Database, why_away
from hub.protocol.times import utc_now
from hub.site_secrets import Which, drop_old_secrets, end_old_secret, sites_past_overlap, which_secret
from hub.tasks import GoingOn

LOOK_EVERY_S: Final = 1.0

log = structlog.get_logger()
Disconnect = Callable[[str], Awaitable[object]]
"""Ends every connection of a user by its name."""


class SiteLogins:
    """Says whether a secret is a site's, and sees to it that nobody stays connected whose secret has ended.

    That is so for every connection that was there before the desktop came with the new secret, and for every one that
    is there when an overlap is over: of these none has the new secret, or the overlap would have ended before.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._disconnect: Disconnect | None = None

    async def identify(self, site: str, secret: bytes, client_id: str) -> bool:
        """client_id: whether it is the desktop, or a tool beside it, which ends no overlap."""
        now = utc_now()
        which = await self._database.read(lambda session: which_secret(session, site, secret, now))
        if which is Which.NEWER and client_id == site:
            try:
                ended = await self._database.write(lambda session: end_old_secret(session, site, secret))
            except AWAY as error:  # then it ends by its time, or with the next login
                log.warning("an old secret counts on: the database is away", site=site, reason=why_away(error))
            else:
                if ended:
                    log.info("the desktop has its new secret; the old one has ended", site=site)
                    await self._end_connections(site)
        return which is not None

    @asynccontextmanager
    async def watched(self, disconnect: Disconnect) -> AsyncIterator[None]:
        """Inside the block connections end with the secret they came in by."""
        self._disconnect = disconnect
        async with GoingOn(self._look_again_and_again, "site logins"):
            yield

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                await self._end_overlaps()
            except AWAY as error:
                log.warning("old secrets may be connected still", reason=why_away(error))
            except Exception:
                log.exception("old secrets may be connected still")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _end_overlaps(self) -> None:
        now = utc_now()
        over = await self._database.read(lambda session: sites_past_overlap(session, now))
        if not over:
            return
        await self._database.write(lambda session: drop_old_secrets(session, over, now))
        for site in over:
            log.warning("the old secret has ended, and the desktop never came with the new one", site=site)
            await self._end_connections(site)

    async def _end_connections(self, site: str) -> None:
        if self._disconnect is not None:
            await self._disconnect(site)
