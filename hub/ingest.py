"""Taking in what desktops say: from a message to Redis, rows and the live stream.

A message is acknowledged to the broker only after what it says is stored. Where the database or Redis is away the
message waits here, unacknowledged; the broker's in-flight window bounds how many do.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, TypeVar

from prometheus_client import Counter
from pydantic import BaseModel, ValidationError
from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlmodel import Session

from hub import presence
from hub.commands import Commands
from hub.conversation import Conversation
from hub.database import Database
from hub.errors import NotFound
from hub.feeders import get_feeder, take_state
from hub.liveness import Beat, LivenessKeys
from hub.models import FEEDER, FEEDER_EVENT
from hub.protocol.limits import MAX_PAYLOAD_BYTES
from hub.protocol.link import Message
from hub.protocol.messages import Event, Heartbeat, Offline, Reply, State
from hub.protocol.times import rfc3339, utc_now
from hub.protocol.topics import Address, Kind, Topics
from hub.quiet_log import QuietLines
from hub.rejects import Rejects
from hub.sites import get_site
from hub.statements import Statement
from hub.store import StoreUnreachable
from hub.stream import LiveStream
from hub.tasks import Tasks

RETRY_PAUSE_S: Final = 0.25

MESSAGES = Counter("feeder_hub_messages_total", "MQTT messages taken in, by kind.", ["kind"])
_messages = functools.cache(MESSAGES.labels)

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


class Rejected(Exception):
    """The message changes nothing. `reason` counts, `detail` explains."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Ingest:
    """`receive` is what the link calls for each message; the rest goes on in tasks.

    They begin in the order of arrival; where a store is away one may finish after a later one, which the rules bear:
    seq, versions and states only move forward.
    """

    def __init__(
        self,
        database: Database,
        liveness: LivenessKeys,
        stream: LiveStream,
        commands: Commands,
        conversation: Conversation,
        rejects: Rejects,
        topics: Topics,
        tasks: Tasks,
    ) -> None:
        self._database = database
        self._liveness = liveness
        self._stream = stream
        self._commands = commands
        self._conversation = conversation
        self._rejects = rejects
        self._lines = rejects.lines
        self._topics = topics
        self._tasks = tasks
        self._take: dict[Kind, Callable[[Address, Message], Awaitable[None]]] = {
            Kind.HEARTBEAT: self._take_heartbeat,
            Kind.STATE: self._take_state,
            Kind.EVENTS: self._take_event,
            Kind.REPLIES: self._take_reply,
        }

    def receive(self, message: Message) -> None:
        """In the event loop, in order; returns at once."""
        address = self._topics.parse(message.topic)
        if address is None or address.kind not in self._take:
            self._tasks.start(self._reject_topic(message), "reject topic")
        else:
            self._tasks.start(self._take_in(address, message), f"take {address.kind}")

    async def _reject_topic(self, message: Message) -> None:
        site = message.topic.removeprefix(self._topics.root + "/").split("/")[0]
        detail = "the contract knows no such topic; ids are lower-case letters, digits, - and _"
        await self._rejects.record(site, "unknown-topic", detail, message.topic, message.payload)
        message.acknowledge()

    async def _take_in(self, address: Address, message: Message) -> None:
        try:
            await self._insist(message, lambda: self._take[address.kind](address, message))
        except Rejected as error:
            await self._rejects.record(address.site, error.reason, str(error), message.topic, message.payload)
        except NotFound as error:
            await self._rejects.record(address.site, "unknown", str(error), message.topic, message.payload)
        except Exception as error:  # noqa: BLE001 - it is logged, kept for people, and costs this message only
            self._lines.warning("message could not be taken in", repr(error), topic=message.topic, exc_info=error)
            await self._rejects.record(address.site, "internal", repr(error), message.topic, message.payload)
        finally:
            _messages(address.kind).inc()
            message.acknowledge()

    # --- one kind each -----------------------------------------------------------------------------------------

    async def _take_heartbeat(self, address: Address, message: Message) -> None:
        site = address.site
        said = _read_heartbeat(message)
        if isinstance(said, Offline):
            await self._take_offline(site, said, message)
            return
        if message.retained:
            return  # a replay of something said earlier proves nothing
        known = self._conversation.hear(site, said)
        if not known:  # it must know the time before anybody, seeing its key, sends it an order
            await self._insist(message, lambda: self._conversation.tell_time(site, said))
        beat = await self._insist(message, lambda: self._beat(site, said, message))
        if beat is Beat.ENDED:
            self._conversation.dismiss(site, said.session)
            return
        if beat is Beat.STALE:
            self._conversation.disregard(site, said.session, said.seq)
            return
        self._conversation.accept(site, said.session)
        if beat is not Beat.RENEWED or not known:
            await self._insist(message, lambda: self._begin(site, said.session))
        if beat is Beat.RENEWED:
            self._conversation.thank_again(site)
            await self._conversation.tell_time(site, said)
        else:
            await self._insist(message, lambda: self._conversation.ask_what_is_open(site, at_once=True))

    async def _beat(self, site: str, said: Heartbeat, message: Message) -> Beat:
        waited_s = time.monotonic() - message.received_at_s
        if waited_s >= self._liveness.ttl_s:
            return Beat.STALE  # Redis was away for so long that this proves nothing any more
        skew_s = (said.sent_at - utc_now()).total_seconds() + waited_s
        return await self._liveness.beat(site, said, skew_s, waited_s)

    async def _insist(self, message: Message, step: Callable[[], Awaitable[R]]) -> R:
        """Do a step until its store is there. A step that was done is not done again when a later one has to wait."""
        waits = False
        while True:
            try:
                return await step()
            except (StoreUnreachable, OperationalError, InterfaceError) as error:
                if not waits:
                    self._lines.warning("message waits: its store is away", message.topic, reason=str(error))
                waits = True
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _begin(self, site: str, session_id: str) -> None:
        now = utc_now()

        def work(session: Session) -> tuple[bool, bool]:
            get_site(session, site)
            return presence.begin(session, site, session_id, now), presence.has_two_desktops(session, site, now)

        began, two_desktops = await self._database.write(work)
        if not began:
            return
        self._lines.info("desktop is alive", site, site=site, session=session_id)
        self._stream.publish("liveness", site, {"alive": True, "session": session_id, "since": rfc3339(now)})
        if two_desktops:
            self._lines.warning("two desktops of one site knock each other out", site, site=site)
            self._stream.publish("two-desktops", site, {"at": rfc3339(now)})

    async def _take_offline(self, site: str, said: Offline, message: Message) -> None:
        ended = await self._insist(message, lambda: self._liveness.end(site, said.session))
        self._conversation.dismiss(site, said.session)
        by = "shutdown" if said.reason == "shutdown" else "will"
        if ended:
            await self._insist(
                message, lambda: announce_end(self._database, self._stream, self._lines, site, said.session, by, None)
            )

    async def _take_state(self, address: Address, message: Message) -> None:
        state = _read(State, message)
        feeder = _feeder_of(address)

        drift = await self._database.write(lambda session: take_state(session, address.site, feeder, state))
        if drift is not None:
            told = state.model_dump(mode="json", exclude={"seq", "journal_id"})
            self._stream.publish("state", address.site, {"feeder": feeder, **told, "drift": drift})

    async def _take_event(self, address: Address, message: Message) -> None:
        event = _read(Event, message)
        feeder = _feeder_of(address)
        received_at = utc_now()
        with self._conversation.taking_event(address.site, feeder, event.seq):
            stored = await self._insist(
                message,
                lambda: self._database.write(
                    lambda session: store_event(session, address.site, feeder, event, received_at)
                ),
            )
        if stored:
            told = event.model_dump(mode="json", exclude_none=True, exclude={"seq"})
            self._stream.publish("event", address.site, {"feeder": feeder, **told})

    async def _take_reply(self, address: Address, message: Message) -> None:
        reply = _read(Reply, message)
        if await self._conversation.take_reply(address.site, reply):
            return
        settled = await self._commands.take_reply(address.site, reply)
        if settled.command is None:
            raise Rejected("unknown-command", f"site {address.site} was sent no command {reply.id}")
        journal_id = settled.command.journal_id
        if settled.command.name == "report" and reply.outcomes and journal_id is not None:
            await self._commands.take_outcomes(address.site, journal_id, reply.outcomes)


async def announce_end(
    database: Database,
    stream: LiveStream,
    lines: QuietLines,
    site: str,
    session_id: str,
    by: str,
    last_seen_at: datetime | None,
) -> None:
    """A session has ended: once in the history and once on the live stream, whoever notices it and how often."""
    now = utc_now()
    finished = await database.write(lambda session: presence.finish(session, site, session_id, now, by, last_seen_at))
    if finished:
        lines.info("desktop is not alive", site, site=site, session=session_id, by=by)
        stream.publish("liveness", site, {"alive": False, "session": session_id, "ended_by": by, "at": rfc3339(now)})


def store_event(session: Session, site: str, feeder: str, event: Event, received_at: datetime) -> bool:
    """Store an event once by its id; False if it was there. Raises NotFound."""
    if _FEEDER.first(session, site=site, feeder=feeder) is None:
        get_feeder(session, site, feeder)  # says what is not there
    store = _STORE[session.get_bind().dialect.name]
    return bool(store.run(session, site_id=site, feeder_id=feeder, received_at=received_at, **event.model_dump()))


_FEEDER: Final = Statement(
    select(FEEDER.c.id).where(FEEDER.c.site_id == bindparam("site"), FEEDER.c.id == bindparam("feeder"))
)
_STORE: Final = {
    name: Statement(dialect.insert(FEEDER_EVENT).on_conflict_do_nothing().returning(FEEDER_EVENT.c.id))
    for name, dialect in (("sqlite", sqlite), ("postgresql", postgresql))
}


def _feeder_of(address: Address) -> str:
    assert address.feeder is not None
    return address.feeder


def _read(model: type[M], message: Message) -> M:
    if len(message.payload) > MAX_PAYLOAD_BYTES:
        raise Rejected("too-large", f"{len(message.payload)} bytes; the contract knows at most {MAX_PAYLOAD_BYTES}")
    try:
        return model.model_validate_json(message.payload)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        reason = "not-json" if faults[0]["type"] == "json_invalid" else "not-the-schema"
        raise Rejected(
            reason, "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        ) from error


class _Online(BaseModel):
    online: bool


def _read_heartbeat(message: Message) -> Heartbeat | Offline:
    if not message.payload:
        raise Rejected("not-json", "the heartbeat topic was cleared; nothing is concluded from that")
    return _read(Heartbeat, message) if _read(_Online, message).online else _read(Offline, message)
