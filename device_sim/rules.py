"""The desktop's rules, without a socket: what comes in by MQTT or by the passing of time, and what goes out for it.

In the order in which a command meets them: retained or not ours - ignored; a `reply_to` that is not ours - ignored and
said; seen before - answered from the journal; an older stop epoch, the hub's time unknown or past - refused; wrong
arguments, stopped, not on remote, stale - refused; then journalled, done, read back, journalled again, answered.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import ValidationError
from ulid import ULID

from device_sim import orders
from device_sim.journal import Journal
from device_sim.orders import Refused, rejected
from device_sim.plc import Fact, Plc, PlcLost
from device_sim.presence import Presence
from hub.protocol.codes import MEANING, Code
from hub.protocol.limits import MAX_PAYLOAD_BYTES
from hub.protocol.messages import (
    AckEvents,
    Command,
    Event,
    Model,
    Offline,
    Outcome,
    Ping,
    Reply,
    ReplyStatus,
    Report,
    SessionId,
    State,
    encode,
)
from hub.protocol.topics import Kind, Topics, Ulid

FEEDER_COMMANDS: Final = frozenset({"set_config", "feed", "pause", "resume", "calibrate"})
HOUSEKEEPING: Final = frozenset({"ping", "report", "ack_events"})
AS_REPLY: Final[dict[str, tuple[ReplyStatus, Code]]] = {
    "interrupted": ("failed", Code.INTERRUPTED),
    "not_seen": ("rejected", Code.VOIDED),
}
"""How a duplicate of a command is answered whose outcome is a word that only a report knows."""

log = logging.getLogger("feeder-sim")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish, QoS 1, now; what cannot go out now is not kept: each session says everything anew."""

    topic: str
    payload: bytes
    retain: bool = False


class _Envelope(Model):
    """What a command that this desktop does not understand must have, to be answered at all."""

    id: Ulid
    reply_to: str
    session: SessionId | None = None
    journal_id: SessionId | None = None


class DesktopRules:
    """One site's desktop. `now` is the machine's time; `clock` counts seconds, also while the machine sleeps."""

    def __init__(
        self,
        site: str,
        plc: Plc,
        journal: Journal,
        clock: Callable[[], float],
        topics: Topics,
        *,
        heartbeat_s: float = 20,
        agent: str = "feeder-sim",
        new_id: Callable[[], str] = lambda: str(ULID()),
    ) -> None:
        self.site = site
        self.plc = plc
        self.journal = journal
        self.topics = topics
        self.presence = Presence(
            journal_id=journal.journal_id, interval_s=heartbeat_s, agent=agent, clock=clock, new_id=new_id
        )
        self._new_id = new_id
        self._outbox: list[Outgoing] = []
        self._last_states: dict[str, State] = {}
        self._gists: dict[str, tuple[object, ...]] = {}
        with journal.together():
            for name in plc.names:
                journal.save_registers(name, plc[name].registers)

    # --- the session ----------------------------------------------------------------------------------------

    def start(self, now: datetime) -> None:
        """Catch up with the PLC, and settle what a crash left unsettled. Once, before the first session."""
        self._pass_time(now)
        for entry in self.journal.unfinished():
            if entry.command is None:
                continue
            feeder = (
                self.plc[entry.feeder]
                if entry.feeder is not None and entry.feeder in self.plc.names
                else None
            )
            with self.journal.together():
                outcome = orders.recovered(entry.command, entry.feeder, feeder, self.journal)
                self.journal.finish(outcome)
            log.warning(
                "%s %s was cut off by a stop of this desktop: %s",
                entry.command.name,
                outcome.id,
                outcome.status,
            )
        self._pass_time(now)
        self._notice_changes(now)

    def open_session(self) -> Offline:
        """Begin a session, before each CONNECT. The answer is its last will, retained, on the heartbeat topic."""
        return self.presence.open()

    def subscribed(self, now: datetime) -> list[Outgoing]:
        """Every subscription is granted: say that we are here, how all feeders are, and what was not acknowledged."""
        self._pass_time(now)
        self._outbox = []
        self._heartbeat(now)
        self._publish_states(now)
        for feeder, event in self.journal.events():
            self._outbox.append(Outgoing(self.topics.events(self.site, feeder), event))
        return self._take_outbox()

    def leave(self) -> list[Outgoing]:
        """End the session on purpose."""
        farewell = self.presence.close()
        if farewell is None:
            return []
        return [Outgoing(self.topics.heartbeat(self.site), encode(farewell), retain=True)]

    def lost(self) -> None:
        """The connection is gone; the feeders feed on."""
        self.presence.close()

    def tick(self, now: datetime) -> list[Outgoing]:
        """Let time pass: what happened at the feeders, and a heartbeat when it is due."""
        self._pass_time(now)
        self._notice_changes(now)
        if self.presence.heartbeat_is_due():
            self._heartbeat(now)
        return self._take_outbox()

    def receive(self, topic: str, payload: bytes, retained: bool, now: datetime) -> list[Outgoing]:
        """One message from the broker."""
        address = self.topics.parse(topic)
        if address is None or address.site != self.site:
            log.warning("ignored a message on %s, which is not ours", topic)
        elif address.kind is Kind.HEARTBEAT:
            if self.presence.must_correct(payload):
                self._heartbeat(now)
        elif address.kind is not Kind.COMMANDS:
            log.warning("ignored a message on %s, which carries no commands", topic)
        elif retained:
            log.warning("ignored a retained command on %s", topic)
        elif len(payload) > MAX_PAYLOAD_BYTES:
            log.warning("ignored a command of %d bytes", len(payload))
        else:
            self._pass_time(now)
            self._read_command(address.feeder, payload, now)
            self._pass_time(now)
            self._notice_changes(now)
        return self._take_outbox()

    # --- a command, rule by rule ----------------------------------------------------------------------------

    def _read_command(self, name: str | None, payload: bytes, now: datetime) -> None:
        try:
            command = Command.model_validate_json(payload)
        except ValidationError as error:
            self._answer_what_is_not_understood(payload, error, now)
            return
        is_stop = command.name == "stop_all"
        if not is_stop and not self._is_ours(command):
            log.info("ignored %s %s: it was meant for another session", command.name, command.id)
        elif not self._may_answer(command.reply_to):
            log.error(
                "ignored %s %s: its reply_to %r is not ours", command.name, command.id, command.reply_to
            )
        elif (name is not None) != (command.name in FEEDER_COMMANDS):
            self._reply(command.reply_to, rejected(command.id, Refused(Code.UNKNOWN_COMMAND)), now)
        elif command.name in HOUSEKEEPING:
            self._keep_house(command, now)
        else:
            self._take_command(name, command, now)

    def _answer_what_is_not_understood(self, payload: bytes, error: ValidationError, now: datetime) -> None:
        faults = "; ".join(
            f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors(include_url=False)
        )
        try:
            envelope = _Envelope.model_validate_json(payload)
        except ValidationError:
            log.warning("ignored what is no command: %s", faults)
            return
        if self._is_ours(envelope) and self._may_answer(envelope.reply_to):
            unknown = any(fault["loc"] == ("name",) for fault in error.errors(include_url=False))
            code = Code.UNKNOWN_COMMAND if unknown else Code.BAD_ARGS
            self._reply(envelope.reply_to, rejected(envelope.id, Refused(code, faults[:1000])), now)

    def _is_ours(self, command: Command | _Envelope) -> bool:
        return (command.session, command.journal_id) == (self.presence.session, self.presence.journal_id)

    def _may_answer(self, reply_to: str) -> bool:
        address = self.topics.parse(reply_to)
        return address is not None and address.kind is Kind.REPLIES and address.site == self.site

    def _take_command(self, name: str | None, command: Command, now: datetime) -> None:
        """A command that is ours and changes something: at most once, whatever happens."""
        outcome: Outcome | None
        try:
            known = self.journal.find(command.id)
            if known is not None:
                log.info("%s %s is here already", command.name, command.id)
                self._reply(command.reply_to, known.outcome or Outcome(id=command.id, status="running"), now)
                return
            self._check_epoch_and_time(command)
            args = orders.arguments(command)
            orders.check(command, args, name, self.plc, self.journal)
            self.journal.begin(command, name)
            with self.journal.together():
                outcome = orders.do(command, args, name, self.plc, self.journal)
                if outcome is not None:
                    self.journal.finish(outcome)
        except Refused as refused:
            outcome = rejected(command.id, refused)
            self.journal.finish(outcome)
        except PlcLost:
            outcome = Outcome(
                id=command.id, status="failed", code=Code.PLC_LOST, detail=MEANING[Code.PLC_LOST]
            )
            self.journal.finish(outcome)
        if outcome is None:
            self._say(command.reply_to, Reply(id=command.id, status="received", at=now))
            outcome = Outcome(id=command.id, status="running")
        self._reply(command.reply_to, outcome, now)

    def _keep_house(self, command: Command, now: datetime) -> None:
        """Commands that change nothing at a feeder need no journal: done twice, they do no more than once."""
        outcomes = None
        try:
            match orders.arguments(command):
                case Ping() as ping:
                    if not self.presence.take_ping(ping, command.issued_at):
                        raise Refused(Code.EXPIRED, "the heartbeat that it answers is not fresh")
                case AckEvents(through=through):
                    with self.journal.together():
                        for feeder, seq in through.items():
                            self.journal.forget_events(feeder, seq)
                case Report(commands=commands):
                    self._publish_states(now)
                    with self.journal.together():
                        outcomes = [self._outcome(command_id) for command_id in commands]
        except Refused as refused:
            self._reply(command.reply_to, rejected(command.id, refused), now)
        else:
            self._say(command.reply_to, Reply(id=command.id, status="applied", outcomes=outcomes, at=now))

    def _outcome(self, command_id: str) -> Outcome:
        """What the journal says; a command that it does not know is refused from now on, before this is answered."""
        known = self.journal.find(command_id)
        if known is not None:
            # A hundred long details would not fit into one message.
            outcome = known.outcome or Outcome(id=command_id, status="running")
            return outcome.model_copy(update={"detail": None})
        if self.journal.is_forgotten(command_id):
            return Outcome(id=command_id, status="forgotten")
        outcome = Outcome(id=command_id, status="not_seen", code=Code.VOIDED)
        self.journal.finish(outcome)
        return outcome

    def _check_epoch_and_time(self, command: Command) -> None:
        if self.journal.is_forgotten(command.id):
            raise Refused(Code.FORGOTTEN)
        if command.stop_epoch < self.journal.stop_epoch:
            raise Refused(Code.STALE_EPOCH)
        if command.name == "stop_all":
            return  # a stop is never too late: its epoch alone decides
        hub_now = self.presence.hub_now()
        if hub_now is None:
            raise Refused(Code.CLOCK_UNKNOWN)
        if hub_now >= command.expires_at:
            late_s = (hub_now - command.expires_at).total_seconds()
            raise Refused(Code.EXPIRED, f"it was {late_s:.1f} s past its expires_at")

    # --- from the feeders to the hub ------------------------------------------------------------------------

    def _pass_time(self, now: datetime) -> None:
        if self.journal.latched:
            orders.latch_all(self.plc, self.journal)
        for name, fact in self.plc.advance(now):
            self._tell(name, fact, now)

    def _tell(self, name: str, fact: Fact, now: datetime) -> None:
        """Keep what happened as an event; if it ends a dose that was ordered, settle and answer that as well."""
        with self.journal.together():
            event = Event(
                id=self._new_id(),
                seq=self.journal.next_event_seq(name),
                kind=fact.kind,
                at=fact.at,
                planned_g=fact.planned_g,
                dispensed_g=fact.dispensed_g,
                reason=fact.reason,
                command_id=fact.command_id,
            )
            self.journal.keep_event(name, event)
            self.journal.save_registers(name, self.plc[name].registers)
            if fact.command_id is not None:
                self._settle_dose(fact.command_id, fact, now)
        log.info(
            "%s: %s%s%s",
            name,
            fact.kind,
            "" if fact.planned_g is None else f" {fact.dispensed_g or 0:g} of {fact.planned_g:g} g",
            "" if fact.reason is None else f" ({fact.reason})",
        )
        self._gists.pop(name, None)  # the silo, and more, changed: the state goes out anew
        if self.presence.live:
            self._outbox.append(Outgoing(self.topics.events(self.site, name), encode(event)))

    def _settle_dose(self, command_id: str, fact: Fact, now: datetime) -> None:
        known = self.journal.find(command_id)
        if known is None or known.command is None or known.outcome is not None:
            return
        outcome = Outcome(
            id=command_id,
            status="applied" if fact.reason is None else "failed",
            code=fact.reason,
            dispensed_g=fact.dispensed_g,
        )
        self.journal.finish(outcome)
        self._reply(known.command.reply_to, outcome, now)

    def _notice_changes(self, now: datetime) -> None:
        """Publish the state of each feeder where it changed, and let its simulated PLC keep its registers."""
        for name in self.plc.names:
            state = self._look(name, now)
            if _gist(state) == self._gists.get(name):
                continue
            self._gists[name] = _gist(state)
            if state.condition != "plc_lost":
                self.journal.save_registers(name, self.plc[name].registers)
            log.info("%s: %s, %s, silo %g g", name, state.condition, state.control, state.silo_g or 0)
            self._publish_state(name, state)

    def _publish_states(self, now: datetime) -> None:
        for name in self.plc.names:
            state = self._look(name, now)
            self._gists[name] = _gist(state)
            self._publish_state(name, state)

    def _publish_state(self, name: str, state: State) -> None:
        if self.presence.live:
            numbered = state.model_copy(update={"seq": self.journal.next_state_seq(name)})
            self._outbox.append(Outgoing(self.topics.state(self.site, name), encode(numbered), retain=True))

    def _look(self, name: str, now: datetime) -> State:
        """The feeder as it is; behind a cut cable as it was when it was last seen. Its number is given when it goes out."""
        try:
            feeder = self.plc[name]
        except PlcLost:
            lost = {"condition": "plc_lost", "next_meal_at": None, "at": now}
            return self._last_states[name].model_copy(update=lost)
        self._last_states[name] = State(
            seq=0,
            journal_id=self.journal.journal_id,
            config=feeder.registers.config,
            config_version=self.journal.config_version(name),
            local_rev=feeder.registers.local_rev,
            condition=feeder.condition,
            control=feeder.registers.control,
            silo_g=round(feeder.registers.silo_g, 1),
            next_meal_at=feeder.next_meal_at,
            at=now,
        )
        return self._last_states[name]

    # --- out ------------------------------------------------------------------------------------------------

    def _heartbeat(self, now: datetime) -> None:
        heartbeat = self.presence.heartbeat(now, plc_connected=self.plc.connected)
        self._outbox.append(Outgoing(self.topics.heartbeat(self.site), encode(heartbeat), retain=True))

    def _reply(self, reply_to: str, outcome: Outcome, now: datetime) -> None:
        """Answer with what became of a command, in the words that a reply has."""
        status, code = AS_REPLY.get(outcome.status, (outcome.status, outcome.code))
        answer = outcome.model_dump(exclude={"status", "code"}, exclude_none=True)
        self._say(reply_to, Reply.model_validate(answer | {"status": status, "code": code, "at": now}))

    def _say(self, reply_to: str, reply: Reply) -> None:
        log.info("%s %s%s", reply.id, reply.status, "" if reply.code is None else f" ({reply.code})")
        if self.presence.live:
            self._outbox.append(Outgoing(reply_to, encode(reply)))

    def _take_outbox(self) -> list[Outgoing]:
        taken, self._outbox = self._outbox, []
        return taken


def _gist(state: State) -> tuple[object, ...]:
    """What makes a state worth telling anew. The silo alone does not: it is told with what emptied or filled it."""
    return (
        state.config,
        state.config_version,
        state.local_rev,
        state.condition,
        state.control,
        state.next_meal_at,
    )
