"""What is old goes, as the settings say: a few rows at a time, with pauses in which everybody else has the database."""

import asyncio
from types import TracebackType
from typing import Final, Self

import structlog
from prometheus_client import Counter

from hub import retention
from hub.database import AWAY, Database, why_away
from hub.protocol.times import utc_now
from hub.retention import Kept
from hub.tasks import GoingOn

LOOK_EVERY_S: Final = 600.0
ROWS_A_STEP: Final = 200
PAUSE_S: Final = 0.05

THINNED = Counter("feeder_hub_thinned_rows_total", "Rows that were older than the settings keep them.")
log = structlog.get_logger()


class Housekeeping:
    """`async with Housekeeping(...)`: it goes on inside the block."""

    def __init__(self, database: Database, kept: Kept, look_every_s: float = LOOK_EVERY_S) -> None:
        self._database = database
        self._kept = kept
        self._look_every_s = look_every_s
        self._going_on = GoingOn(self._keep_house, "housekeeping")

    async def __aenter__(self) -> Self:
        await self._going_on.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._going_on.__aexit__(kind, error, trace)

    async def _keep_house(self) -> None:
        while True:
            pause_s = self._look_every_s
            try:
                pause_s = PAUSE_S if await self._step() else self._look_every_s
            except AWAY as error:
                log.warning("old rows stay for now", reason=why_away(error))
            except Exception:
                log.exception("old rows could not be thinned")
            await asyncio.sleep(pause_s)

    async def _step(self) -> bool:
        """Whether something went."""
        now = utc_now()
        found = await self._database.read(lambda session: retention.find_old(session, now, self._kept, ROWS_A_STEP))
        gone = 0 if not found else await self._database.write(lambda session: retention.thin(session, found))
        THINNED.inc(gone)
        return gone > 0
