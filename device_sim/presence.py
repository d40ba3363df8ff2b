"""One desktop's presence: its session, its heartbeats, and the hub's time that pings tell it. No I/O."""

import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from hub.protocol.messages import Heartbeat, Offline, Ping, PlcHealth

FRESH_HEARTBEAT_S: Final = 5.0
"""A ping that answers an older heartbeat tells no time: it may have lain somewhere on its way."""
MOST_CORRECTIONS_A_MINUTE: Final = 5
"""So that two desktops, or a stuck broker, cannot make each other talk without end."""

log = logging.getLogger("feeder-sim")


class Presence:
    """`clock` counts seconds, also while the machine sleeps; it need not start at any particular moment."""

    def __init__(
        self,
        *,
        journal_id: str,
        interval_s: float,
        agent: str,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.journal_id = journal_id
        self.interval_s = interval_s
        self.agent = agent
        self.session: str | None = None
        self.live = False
        self.corrections = 0
        self._clock = clock
        self._new_id = new_id
        self._seq = 0
        self._sent_at_s: dict[int, float] = {}
        self._next_heartbeat_s = 0.0
        self._corrected_at_s: deque[float] = deque(maxlen=MOST_CORRECTIONS_A_MINUTE)
        self._hub_time: tuple[datetime, float] | None = None

    # --- the session ----------------------------------------------------------------------------------------

    def open(self) -> Offline:
        """A new session, before each CONNECT; the answer is the last will that goes with it."""
        self.session = self._new_id()
        self.live = False
        self._seq = 0
        self._sent_at_s = {}
        return Offline(online=False, session=self.session)

    def close(self) -> Offline | None:
        """The session has ended. The answer is what leaving on purpose says, if anybody can hear it."""
        was_live, self.live = self.live, False
        if not was_live or self.session is None:
            return None
        return Offline(online=False, session=self.session, reason="shutdown")

    def heartbeat(self, now: datetime, *, plc_connected: bool) -> Heartbeat:
        """The next heartbeat of a session that is open. It goes out at once or never."""
        if self.session is None:
            raise RuntimeError("a heartbeat belongs to a session, and none is open")
        self.live = True
        self._seq += 1
        self._next_heartbeat_s = self._clock() + self.interval_s
        self._sent_at_s[self._seq] = self._clock()
        self._sent_at_s.pop(self._seq - 20, None)
        return Heartbeat(
            online=True,
            session=self.session,
            seq=self._seq,
            sent_at=now,
            interval_s=self.interval_s,
            agent=self.agent,
            journal_id=self.journal_id,
            plc=PlcHealth(connected=plc_connected),
        )

    def heartbeat_is_due(self) -> bool:
        return self.live and self._clock() >= self._next_heartbeat_s

    def must_correct(self, payload: bytes, *, retained: bool) -> bool:
        """Whether our own heartbeat topic, read back, says that we are gone though we are here."""
        try:
            said = Offline.model_validate_json(payload)
        except ValidationError:
            if not retained:
                self._warn_of_another_desktop(payload)
            return False
        if not self.live or said.session == self.session:
            return False
        now_s = self._clock()
        if len(self._corrected_at_s) == MOST_CORRECTIONS_A_MINUTE and now_s - self._corrected_at_s[0] < 60:
            log.warning("the heartbeat topic says offline again and again; the next regular heartbeat must do")
            return False
        self._corrected_at_s.append(now_s)
        self.corrections += 1
        log.info("the heartbeat topic says offline for session %s; saying again that we are here", said.session)
        return True

    def _warn_of_another_desktop(self, payload: bytes) -> None:
        try:
            said = Heartbeat.model_validate_json(payload)
        except ValidationError:
            log.warning("the heartbeat topic holds something that is no heartbeat")
            return
        if self.live and said.session != self.session:
            log.warning("another desktop (%s) says that it is this site", said.agent or said.session)

    # --- the hub's time -------------------------------------------------------------------------------------

    def take_ping(self, ping: Ping, issued_at: datetime) -> None:
        """Take the ping's `issued_at` for the hub's time, if the heartbeat that it answers is fresh."""
        sent_at_s = self._sent_at_s.get(ping.seq) if ping.session == self.session else None
        if sent_at_s is not None and self._clock() - sent_at_s < FRESH_HEARTBEAT_S:
            self._hub_time = (issued_at, self._clock())

    def hub_now(self) -> datetime | None:
        """The hub's time, counted on from the last ping; None before the first."""
        if self._hub_time is None:
            return None
        told, at_s = self._hub_time
        return told + timedelta(seconds=self._clock() - at_s)
