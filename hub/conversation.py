"""What the hub says to a site of its own accord: the time, questions about open commands, thanks for events.

When a site is back the order is: `ping` (before anybody may send it anything), `report`, its latched stop, and then the
changes that wait for it.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog
from prometheus_client import Histogram
from sqlalchemy.exc import DataError, IntegrityError
from ulid import ULID

from hub import settlement
from hub.commands import Commands
from hub.database import AWAY, Database, why_away
from hub.errors import NotFound
from hub.liveness import AliveSession
from hub.models import JsonObject
from hub.orders import Desk
from hub.protocol.link import Link, NotConnected
from hub.protocol.messages import Command, CommandName, Heartbeat, Reply, encode
from hub.protocol.times import utc_now
from hub.sites import require_site, stop_epochs_of
from hub.tasks import Tasks
from hub.thanks import Thanks

PING_EVERY_S: Final = 60.0
FRESH_FOR_S: Final = 4.0
"""A desktop takes the time of a ping only if the heartbeat that it answers is less than 5 s old."""
ACK_DELAY_S: Final = 0.2
"""Thanks for what came meanwhile are said together."""
ASK_FOR_EVENTS_EVERY_S: Final = 2.0
_ANSWERS_KEPT_S: Final = 120.0
_MOST_QUESTIONS: Final = 10_000
_CANNOT_BE_STORED: Final = (NotFound, DataError, IntegrityError, OverflowError)
"""Of a feeder that is not there, or with a value that no column takes."""
LEAST_PING_PAUSE_S: Final = 0.5
"""A desktop that answers no ping and beats a hundred times a second is not asked a hundred times."""

ROUND_TRIP = Histogram("feeder_hub_ping_seconds", "From a ping to its reply, hub to desktop and back.")
log = structlog.get_logger()


@dataclass(slots=True)
class _Asked:
    """A question that awaits its reply. `session`, `journal_id`: whom it was asked of."""

    site: str
    name: str
    session: str
    journal_id: str
    at_s: float


@dataclass(slots=True)
class _Present:
    """A site's living session as this process heard of it.

    heard_all: every event that the desktop keeps has come by here in this session, or is on its way: its first
        heartbeat was heard, or it has answered a report since. Else some may have been said while nobody listened.
    pinged_at_s: when it was last told the hub's time. time_told_at_s: when it last confirmed it.
    """

    to: AliveSession
    heard_all: bool
    pinged_at_s: float = float("-inf")
    time_told_at_s: float = float("-inf")
    ask_again_at_s: float = float("-inf")
    thanks: Thanks = field(default_factory=Thanks)


class Conversation:
    """Speaks to the sites that this process hears."""

    def __init__(self, database: Database, commands: Commands, desk: Desk, link: Link, tasks: Tasks) -> None:
        self._database = database
        self._tasks = tasks
        self._commands = commands
        self._desk = desk
        self._link = link
        self._arriving: dict[str, _Present] = {}
        self._present: dict[str, _Present] = {}
        self._asked: dict[str, _Asked] = {}
        self._to_be_thanked: dict[str, _Present] = {}

    # --- who is there ------------------------------------------------------------------------------------------

    def hear(self, site: str, heartbeat: Heartbeat) -> bool:
        """A heartbeat has arrived; False if its session is not (yet) the one that is present for this process.

        Until `accept` or `dismiss` a new session is arriving: it can be spoken to, and takes nobody's place.
        """
        present = self._present.get(site)
        if present is not None and present.to.session == heartbeat.session:
            present.to = _addressee(heartbeat)
            return True
        arriving = self._arriving.get(site)
        if arriving is None or arriving.to.session != heartbeat.session:
            self._arriving[site] = _Present(_addressee(heartbeat), heard_all=heartbeat.seq == 1)
        else:
            arriving.to = _addressee(heartbeat)
        return False

    def accept(self, site: str, session: str) -> None:
        """The heartbeat counted: its session is the one that is present."""
        arriving = self._arriving.get(site)
        if arriving is not None and arriving.to.session == session:
            self._present[site] = self._arriving.pop(site)

    def disregard(self, site: str, session: str, seq: int) -> None:
        """The heartbeat proved nothing: its session does not arrive by it. A later one of it may still count."""
        arriving = self._arriving.get(site)
        if arriving is not None and (arriving.to.session, arriving.to.seq) == (session, seq):
            del self._arriving[site]

    def dismiss(self, site: str, session: str) -> None:
        """The session is not, or not any longer, the one that is present."""
        for known in (self._arriving, self._present):
            if site in known and known[site].to.session == session:
                del known[site]

    async def tell_time(self, site: str, heartbeat: Heartbeat) -> None:
        """Answer a heartbeat with a ping, where the session has not confirmed it for a minute. Raises NotFound."""
        present = self._who(site)
        if present is None or not self._must_know_time(present, heartbeat):
            return
        present.pinged_at_s = time.monotonic()
        await self._ask(site, _addressee(heartbeat), "ping", {"session": heartbeat.session, "seq": heartbeat.seq})

    def has_more_to_say(self, site: str, heartbeat: Heartbeat) -> bool:
        """Whether the next heartbeat of a session that is known is to be answered: with the time, or with thanks."""
        present = self._who(site)
        return present is not None and (present.thanks.owed or self._must_know_time(present, heartbeat))

    def _must_know_time(self, present: _Present, heartbeat: Heartbeat) -> bool:
        now_s = time.monotonic()
        confirmed_s, pinged_s = now_s - present.time_told_at_s, now_s - present.pinged_at_s
        return confirmed_s >= PING_EVERY_S - heartbeat.interval_s / 2 and pinged_s >= LEAST_PING_PAUSE_S

    def _who(self, site: str) -> _Present | None:
        """Who hears what is said now: the session that is arriving, else the one that is present."""
        return self._arriving.get(site) or self._present.get(site)

    # --- what it says ------------------------------------------------------------------------------------------

    async def ask_what_is_open(self, site: str, *, at_once: bool) -> None:
        """Ask a site that is there what became of its open commands, and tell it again of a latched stop.

        One hub process does (a lease on the rows). `at_once`: a session has begun, so every feeder's state is wanted.
        """
        present = self._present.get(site)
        if present is None or not self._link.connected:
            return
        now = utc_now()
        open_ids, stop = await self._database.write(
            lambda session: settlement.lease_questions(session, site, now, at_once=at_once)
        )
        if open_ids or at_once:
            await self._ask(site, present.to, "report", {"commands": open_ids})
        if stop is not None:
            self._commands.send_again(stop)
        if at_once:
            await self.send_what_waits(site)

    async def send_what_waits(self, site: str) -> None:
        """Send the changes that wait for nothing any more, once the session has confirmed the hub's time.

        Before that it would reject them for good (`clock_unknown`). Each hub process goes by what was confirmed to it.
        """
        present = self._present.get(site)
        if present is not None and present.time_told_at_s > float("-inf"):
            await self._commands.send_waiting(site, present.to.session)

    @contextmanager
    def taking_event(self, site: str, feeder: str, seq: int) -> Iterator[None]:
        """While an event is being stored; at the end the desktop is told soon, together with others.

        No event is acknowledged over an earlier one that is not stored, be it that it waits for its store, or that the
        hub failed to store it: the desktop says it again with its next session or report. One that cannot be stored,
        because of what it says, holds nobody up: it would not go better then.
        """
        present = self._who(site)
        if present is None:  # without a heartbeat before it there is nobody to thank; it will be sent again
            yield
            return
        present.thanks.waits(feeder, seq)
        try:
            yield
        except _CANNOT_BE_STORED:
            present.thanks.holds_nobody_up(feeder, seq)
            raise
        present.thanks.is_stored(feeder, seq)
        self._thank_soon(site, present)

    def thank_again(self, site: str) -> None:
        """What thanks were not heard are said once more: the broker or the database was away, or a message was lost."""
        present = self._present.get(site)
        if present is not None and present.thanks.owed:
            self._thank_soon(site, present)

    def _thank_soon(self, site: str, present: _Present) -> None:
        if not self._to_be_thanked:
            self._tasks.start(self._thank_all(), "ack_events")
        self._to_be_thanked[site] = present

    async def _thank_all(self) -> None:
        """Whoever told of events within a moment, together: one look at the rows serves all."""
        await asyncio.sleep(ACK_DELAY_S)
        due, self._to_be_thanked = self._to_be_thanked, {}
        try:
            stop_epochs = await self._database.read(lambda session: stop_epochs_of(session, due))
        except AWAY as error:
            log.warning("thanks for events wait for the next heartbeat", sites=len(due), reason=why_away(error))
            return
        for site, stop_epoch in stop_epochs.items():
            self._say_thanks(site, due[site], stop_epoch)

    def _say_thanks(self, site: str, present: _Present, stop_epoch: int) -> None:
        now_s = time.monotonic()
        if not present.heard_all:  # thanks for one event cover all before it: those must have been heard as well
            if now_s >= present.ask_again_at_s:
                present.ask_again_at_s = now_s + ASK_FOR_EVENTS_EVERY_S
                self._say(site, present.to, "report", {"commands": []}, stop_epoch, now_s)
            return
        if through := present.thanks.through():
            command_id = self._say(site, present.to, "ack_events", {"through": through}, stop_epoch, now_s)
            if command_id is not None:
                present.thanks.said(command_id, through)

    def _thanks_were_heard(self, site: str, reply: Reply) -> None:
        present = self._who(site)
        if present is not None and reply.status == "applied":
            present.thanks.were_heard(reply.id)

    # --- what comes back ---------------------------------------------------------------------------------------

    async def take_reply(self, site: str, reply: Reply) -> bool:
        """True if the reply answers something that was said here."""
        asked = self._asked.get(reply.id)
        if asked is None or asked.site != site:
            return False
        if reply.status in ("received", "running"):
            return True
        if asked.name == "ping":
            self._time_was_told(asked, reply)
        if asked.name == "ack_events":
            self._thanks_were_heard(site, reply)
        present = self._who(site)
        if asked.name == "report" and present is not None and present.to.session == asked.session:
            present.heard_all = True  # the events that it keeps came before this reply
            self._thank_soon(site, present)
        if reply.outcomes:
            await self._commands.take_outcomes(site, asked.journal_id, reply.outcomes)
        self._asked.pop(reply.id, None)
        return True

    def _time_was_told(self, asked: _Asked, reply: Reply) -> None:
        now_s = time.monotonic()
        took_s = now_s - asked.at_s
        ROUND_TRIP.observe(took_s)
        present = self._who(asked.site)
        # Where it took too long the desktop has not taken the time; the next heartbeat is answered again.
        has_taken_it = reply.status == "applied" and took_s < FRESH_FOR_S
        if has_taken_it and present is not None and present.to.session == asked.session:
            present.time_told_at_s = now_s

    # --- how -----------------------------------------------------------------------------------------------------

    async def _ask(self, site: str, to: AliveSession, name: CommandName, args: JsonObject) -> None:
        """Raises NotFound."""
        asked_at_s = time.monotonic()  # if the rows are slow, what is said answers an old heartbeat
        stop_epoch = await self._database.read(lambda session: require_site(session, site))
        self._say(site, to, name, args, stop_epoch, asked_at_s)

    def _say(
        self, site: str, to: AliveSession, name: CommandName, args: JsonObject, stop_epoch: int, asked_at_s: float
    ) -> str | None:
        """The id under which it was said, and whose reply is awaited; None: it was not said."""
        now = utc_now()
        command = Command(
            id=str(ULID()),
            name=name,
            args=args,
            session=to.session,
            journal_id=to.journal_id,
            stop_epoch=stop_epoch,
            reply_to=self._desk.topics.replies(site, self._desk.hub_id),
            issued_at=now,
            expires_at=now + timedelta(seconds=self._desk.timeout_s),
        )
        try:
            self._link.publish(self._desk.topics.commands(site), encode(command))
        except NotConnected:
            log.info("not said: no connection to the broker", site=site, name=name)
            return None
        self._forget_old_questions(asked_at_s)
        self._asked[command.id] = _Asked(site, name, to.session, to.journal_id, asked_at_s)
        return command.id

    def _forget_old_questions(self, now_s: float) -> None:
        while self._asked:  # the oldest is the first
            oldest = next(iter(self._asked))
            if now_s - self._asked[oldest].at_s <= _ANSWERS_KEPT_S and len(self._asked) < _MOST_QUESTIONS:
                return
            del self._asked[oldest]


def _addressee(heartbeat: Heartbeat) -> AliveSession:
    return AliveSession(heartbeat.session, heartbeat.journal_id, heartbeat.seq)
