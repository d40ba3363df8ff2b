"""What the hub does by the clock, twice a second: notice who is gone, and bring overdue commands to their end."""

import asyncio
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import structlog

from hub import presence, settlement, waiting
from hub.commands import Commands
from hub.conversation import Conversation
from hub.database import AWAY, Database, why_away
from hub.errors import Unavailable
from hub.history import History
from hub.liveness import LivenessKeys
from hub.protocol.times import utc_now
from hub.quiet_log import QuietLines
from hub.stream import LiveStream
from hub.tasks import GoingOn

ROUND_EVERY_S: Final = 0.5

log = structlog.get_logger()


class Rounds:
    """`async with Rounds(...)`: the rounds go on inside the block."""

    def __init__(
        self,
        database: Database,
        liveness: LivenessKeys,
        stream: LiveStream,
        commands: Commands,
        conversation: Conversation,
        lines: QuietLines,
    ) -> None:
        self._database = database
        self._liveness = liveness
        self._history = History(database, stream, lines)
        self._commands = commands
        self._conversation = conversation
        self._going_on = GoingOn(self._go_on, "rounds")

    async def __aenter__(self) -> Self:
        await self._going_on.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._going_on.__aexit__(kind, error, trace)

    async def _go_on(self) -> None:
        while True:
            await self.go_round()
            await asyncio.sleep(ROUND_EVERY_S)

    async def go_round(self) -> None:
        """Every duty once. One that fails is left to the next round, and keeps nobody from the others."""
        look_at_others = self._commands.look_at_others
        for duty in (look_at_others, self._notice_the_gone, self._settle_overdue, self._send_waiting, self._ask_again):
            try:
                await duty()
            except (Unavailable, *AWAY) as error:
                log.warning("a round was left out", duty=duty.__name__.strip("_"), reason=why_away(error))
            except Exception:
                log.exception("a round failed", duty=duty.__name__.strip("_"))

    async def _notice_the_gone(self) -> None:
        """Spans that the history holds open although the key is gone, or is another session's."""
        spans = dict(await self._database.read(presence.open_spans))
        now_alive = await self._liveness.sessions(list(spans))
        for site, session_id in now_alive.items():
            if session_id != spans[site]:  # its beginning was written before that of the one which it replaced
                await self._history.begin(site, session_id)
        for live in await self._liveness.read([site for site in spans if site not in now_alive]):
            if live.alive is False:
                await self._write_off(live.site, spans[live.site], live.last_seen_at)

    async def _write_off(self, site: str, session_id: str, last_seen_at: datetime | None) -> None:
        await self._history.end(site, session_id, "expired", last_seen_at)
        self._conversation.dismiss(site, session_id)
        for session_now in (await self._liveness.sessions([site])).values():
            await self._history.begin(site, session_now)  # it was there again before its end was written

    async def _settle_overdue(self) -> None:
        await self._commands.mark_overdue()
        await self._commands.end_overdue()

    async def _send_waiting(self) -> None:
        """What nobody else has sent: its time came while no process looked, or it took the order a moment too late."""
        for site in await self._database.read(waiting.sites_with_waiting):
            await self._conversation.send_what_waits(site)

    async def _ask_again(self) -> None:
        now = utc_now()
        for site in await self._database.read(lambda session: settlement.sites_to_ask(session, now)):
            await self._conversation.ask_what_is_open(site, at_once=False)
