"""Taking in what desktops say: from a message to Redis, rows and the live stream."""

from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from hub.commands import Commands
from hub.conversation import Conversation
from hub.database import Database
from hub.feeders import get_feeder, take_state
from hub.heartbeats import Heartbeats
from hub.history import History
from hub.intake import Intake, Rejected, read
from hub.liveness import LivenessKeys
from hub.models import FEEDER, FEEDER_EVENT
from hub.protocol.link import Message
from hub.protocol.messages import Event, Reply, State
from hub.protocol.times import utc_now
from hub.protocol.topics import Address, Kind, Topics
from hub.rejects import Rejects
from hub.statements import Statement
from hub.stream import LiveStream
from hub.tasks import Tasks


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
        self._stream = stream
        self._commands = commands
        self._conversation = conversation
        self._rejects = rejects
        self._topics = topics
        self._tasks = tasks
        self._intake = Intake(rejects, tasks)
        history = History(database, stream, rejects.lines)
        self._heartbeats = Heartbeats(liveness, history, conversation, self._intake, tasks)
        self._take = {Kind.STATE: self._take_state, Kind.EVENTS: self._take_event, Kind.REPLIES: self._take_reply}

    def receive(self, message: Message) -> None:
        """In the event loop, in order; returns at once."""
        address = self._topics.parse(message.topic)
        if address is not None and address.kind is Kind.HEARTBEAT:
            self._heartbeats.receive(address, message)
        elif address is not None and address.kind in self._take:
            take = self._take[address.kind]
            self._intake.start(address, message, lambda: take(address, message))
        else:
            self._tasks.start(self._reject_topic(message), "reject topic")

    async def _reject_topic(self, message: Message) -> None:
        site = message.topic.removeprefix(self._topics.root + "/").split("/")[0]
        detail = "the contract knows no such topic; ids are lower-case letters, digits, - and _"
        await self._rejects.record(site, "unknown-topic", detail, message.topic, message.payload)
        message.acknowledge()

    # --- one kind each -----------------------------------------------------------------------------------------

    async def _take_state(self, address: Address, message: Message) -> None:
        state = read(State, message)
        feeder = _feeder_of(address)
        now = utc_now()
        drift = await self._database.write(lambda session: take_state(session, address.site, feeder, state, now))
        if drift is not None:
            told = state.model_dump(mode="json", exclude={"seq", "journal_id"})
            self._stream.publish("state", address.site, {"feeder": feeder, **told, "drift": drift})

    async def _take_event(self, address: Address, message: Message) -> None:
        event = read(Event, message)
        feeder = _feeder_of(address)
        received_at = utc_now()
        with self._conversation.taking_event(address.site, feeder, event.seq):
            stored = await self._intake.insist(
                message,
                lambda: self._database.write(
                    lambda session: store_event(session, address.site, feeder, event, received_at)
                ),
            )
        if stored:
            told = event.model_dump(mode="json", exclude_none=True, exclude={"seq"})
            self._stream.publish("event", address.site, {"feeder": feeder, **told})

    async def _take_reply(self, address: Address, message: Message) -> None:
        reply = read(Reply, message)
        if await self._conversation.take_reply(address.site, reply):
            return
        settled = await self._commands.take_reply(address.site, reply)
        if settled.command is None:
            raise Rejected("unknown-command", f"site {address.site} was sent no command {reply.id}")
        if settled.another_waits:
            await self._conversation.send_what_waits(address.site)
        journal_id = settled.command.journal_id
        if settled.command.name == "report" and reply.outcomes and journal_id is not None:
            await self._commands.take_outcomes(address.site, journal_id, reply.outcomes)


def store_event(session: Session, site: str, feeder: str, event: Event, received_at: datetime) -> bool:
    """Store an event once by its id; False if it was there. Raises NotFound."""
    if _FEEDER.first(session, site=site, feeder=feeder) is None:
        get_feeder(session, site, feeder)  # says what is not there
    store = _STORE[session.get_bind().dialect.name]
    return bool(store.run(session, site_id=site, feeder_id=feeder, received_at=received_at, **event.model_dump()))


_FEEDER: Final = Statement(
    select(FEEDER.c.id)
    .where(FEEDER.c.site_id == bindparam("site"), FEEDER.c.id == bindparam("feeder"))
    .with_for_update(read=True, key_share=True)  # so that nobody deletes it before the event is stored
)
_STORE: Final = {
    name: Statement(dialect.insert(FEEDER_EVENT).on_conflict_do_nothing().returning(FEEDER_EVENT.c.id))
    for name, dialect in (("sqlite", sqlite), ("postgresql", postgresql))
}


def _feeder_of(address: Address) -> str:
    assert address.feeder is not None
    return address.feeder
