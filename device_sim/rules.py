"""The desktop's rules, without a socket: what comes in by MQTT or with time, and what goes out for it.

What a command meets, in this order: retained, or not for this session: ignored. A `reply_to` that is not
ours: ignored, and logged. Seen before: answered from the journal. An older stop epoch, the hub's time
unknown, too late: refused. Wrong arguments, stopped, not on remote, stale: refused. Then it is journalled,
done, read back, its outcome journalled, and answered.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from pydantic import ValidationError
from ulid import ULID

from device_sim import orders
from device_sim.feeders import Feeders
from device_sim.journal import Journal
from device_sim.orders import Refused, rejected
from device_sim.outbox import Outbox, Outgoing
from device_sim.plc import Plc, PlcLost
from device_sim.presence import Presence
from hub.protocol.codes import MEANING, Code
from hub.protocol.limits import MAX_PAYLOAD_BYTES
from hub.protocol.messages import (
    FEEDER_COMMANDS,
    AckEvents,
    Command,
    Model,
    Offline,
    Outcome,
    Ping,
    Reply,
    Report,
    SessionId,
)
from hub.protocol.topics import Kind, Topics, Ulid

HOUSEKEEPING: Final = frozenset({"ping", "report", "ack_events"})

log = logging.getLogger("feeder-sim")


class _Envelope(Model):
    """What a command that this desktop does not understand must have, to be answered at all."""

    id: Ulid
    reply_to: str
    session: SessionId | None = None
    journal_id: SessionId | None = None


class DesktopRules:
    """One site's desktop. `now` is the machine's time; `clock` counts seconds, asleep or awake."""

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
        self._outbox = Outbox(site, topics, self.presence)
        self._feeders = Feeders(plc, journal, self._outbox, new_id)

    # --- the session ----------------------------------------------------------------------------------------

    def start(self, now: datetime) -> None:
        """Catch up with the PLC, and settle what a crash left unsettled. Once, before the first session."""
        self._feeders.pass_time(now)
        for name, command in self.journal.unfinished():
            with self.journal.together():
                outcome = orders.recovered(command, name, self.plc, self.journal)
                self.journal.finish(outcome)
            log.warning(
                "this desktop was stopped in the middle of %s %s: %s",
                command.name,
                command.id,
                outcome.status,
            )
        self._feeders.pass_time(now)
        self._feeders.notice_changes(now)

    def open_session(self) -> Offline:
        """Begin a session, before each CONNECT. The answer is its last will, for the heartbeat topic."""
        return self.presence.open()

    def subscribed(self, now: datetime) -> list[Outgoing]:
        """Every subscription is granted: say that we are here, and what the hub has not heard yet."""
        self._feeders.pass_time(now)
        self._outbox.heartbeat(now, plc_connected=self.plc.connected)
        self._tell_anew(now)
        return self._outbox.take()

    def _tell_anew(self, now: datetime) -> None:
        """Every feeder's state, and every event that the hub has not acknowledged."""
        self._feeders.publish_states(now)
        for feeder, event in self.journal.events():
            self._outbox.event(feeder, event)

    def leave(self) -> list[Outgoing]:
        """End the session on purpose."""
        farewell = self.presence.close()
        if farewell is not None:
            self._outbox.farewell(farewell)
        return self._outbox.take()

    def lost(self) -> None:
        """The connection is gone; the feeders feed on."""
        self.presence.close()

    def tick(self, now: datetime) -> list[Outgoing]:
        """Let time pass: what happened at the feeders, and a heartbeat when it is due."""
        self._feeders.pass_time(now)
        self._feeders.notice_changes(now)
        if self.presence.heartbeat_is_due():
            self._outbox.heartbeat(now, plc_connected=self.plc.connected)
        return self._outbox.take()

    def receive(self, topic: str, payload: bytes, retained: bool, now: datetime) -> list[Outgoing]:
        """One message from the broker."""
        address = self.topics.parse(topic)
        if address is None or address.site != self.site:
            log.warning("ignored a message on %s, which is not ours", topic)
        elif address.kind is Kind.HEARTBEAT:
            if self.presence.must_correct(payload, retained=retained):
                self._outbox.heartbeat(now, plc_connected=self.plc.connected)
        elif address.kind is not Kind.COMMANDS:
            log.warning("ignored a message on %s, which carries no commands", topic)
        elif retained:
            log.warning("ignored a retained command on %s", topic)
        elif len(payload) > MAX_PAYLOAD_BYTES:
            log.warning("ignored a command of %d bytes", len(payload))
        else:
            self._feeders.pass_time(now)
            self._read_command(address.feeder, payload, now)
            self._feeders.pass_time(now)
            self._feeders.notice_changes(now)
        return self._outbox.take()

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
            log.error("ignored %s %s: its reply_to %r is not ours", command.name, command.id, command.reply_to)
        elif (name is not None) != (command.name in FEEDER_COMMANDS):
            self._outbox.outcome(command.reply_to, rejected(command.id, Refused(Code.UNKNOWN_COMMAND)), now)
        elif command.name in HOUSEKEEPING:
            self._keep_house(command, now)
        else:
            self._take_command(name, command, now)

    def _answer_what_is_not_understood(self, payload: bytes, error: ValidationError, now: datetime) -> None:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors(include_url=False))
        try:
            envelope = _Envelope.model_validate_json(payload)
        except ValidationError:
            log.warning("ignored what is no command: %s", faults)
            return
        if self._is_ours(envelope) and self._may_answer(envelope.reply_to):
            unknown = any(fault["loc"] == ("name",) for fault in error.errors(include_url=False))
            code = Code.UNKNOWN_COMMAND if unknown else Code.BAD_ARGS
            self._outbox.outcome(envelope.reply_to, rejected(envelope.id, Refused(code, faults[:1000])), now)

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
            # A stop that comes again while it holds is looked at anew: a feeder may have confirmed it meanwhile.
            stop_holds = command.name == "stop_all" and self.journal.latched
            if known is not None and not stop_holds:
                log.info("%s %s is here already", command.name, command.id)
                self._outbox.outcome(command.reply_to, known.outcome or Outcome(id=command.id, status="running"), now)
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
            outcome = Outcome(id=command.id, status="failed", code=Code.PLC_LOST, detail=MEANING[Code.PLC_LOST])
            self.journal.finish(outcome)
        if outcome is None:
            self._outbox.reply(command.reply_to, Reply(id=command.id, status="received", at=now))
            outcome = Outcome(id=command.id, status="running")
        self._outbox.outcome(command.reply_to, outcome, now)

    def _keep_house(self, command: Command, now: datetime) -> None:
        """Commands that change nothing at a feeder need no journal: done twice, they do no more than once."""
        outcomes = None
        try:
            match orders.arguments(command):
                case Ping() as ping:
                    self.presence.take_ping(ping, command.issued_at)
                case AckEvents(through=through):
                    with self.journal.together():
                        for feeder, seq in through.items():
                            self.journal.forget_events(feeder, seq)
                case Report(commands=commands):
                    self._tell_anew(now)
                    with self.journal.together():
                        outcomes = [self._outcome(command_id) for command_id in commands]
        except Refused as refused:
            self._outbox.outcome(command.reply_to, rejected(command.id, refused), now)
        else:
            self._outbox.reply(command.reply_to, Reply(id=command.id, status="applied", outcomes=outcomes, at=now))

    def _outcome(self, command_id: str) -> Outcome:
        """What the journal says; a command that it does not know is void from now on, on disk."""
        known = self.journal.find(command_id)
        if known is not None:
            # A hundred long details, or stops of every feeder of a large site, would not fit into one message.
            outcome = known.outcome or Outcome(id=command_id, status="running")
            return outcome.model_copy(update={"detail": None, "feeders": None})
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
