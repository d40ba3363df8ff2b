"""Who was there and when: what begins and ends is written down once and told once, whoever notices it and how often."""

from datetime import datetime

from sqlmodel import Session

from hub import presence
from hub.database import Database
from hub.protocol.times import rfc3339, utc_now
from hub.quiet_log import QuietLines
from hub.sites import keep_site
from hub.stream import LiveStream


class History:
    """The spans in which sessions were alive, in the database and on the live stream."""

    def __init__(self, database: Database, stream: LiveStream, lines: QuietLines) -> None:
        self._database = database
        self._stream = stream
        self._lines = lines

    async def begin(self, site: str, session_id: str) -> None:
        """A session is alive; one that was before it is not. Raises NotFound."""
        now = utc_now()

        def work(session: Session) -> tuple[bool, bool]:
            keep_site(session, site)
            began = presence.begin(session, site, session_id, now)
            return began, began and presence.has_two_desktops(session, site, now)

        began, two_desktops = await self._database.write(work)
        if not began:
            return
        self._lines.info("desktop is alive", site, site=site, session=session_id)
        self._stream.publish("liveness", site, {"alive": True, "session": session_id, "since": rfc3339(now)})
        if two_desktops:
            self._lines.warning("two desktops of one site knock each other out", site, site=site)
            self._stream.publish("two-desktops", site, {"at": rfc3339(now)})

    async def end(self, site: str, session_id: str, by: str, last_seen_at: datetime | None) -> None:
        """A session is not alive any more. `by`: will, shutdown or expired."""
        now = utc_now()
        finished = await self._database.write(
            lambda session: presence.finish(session, site, session_id, now, by, last_seen_at)
        )
        if finished:
            self._lines.info("desktop is not alive", site, site=site, session=session_id, by=by)
            told = {"alive": False, "session": session_id, "ended_by": by, "at": rfc3339(now)}
            self._stream.publish("liveness", site, told)
