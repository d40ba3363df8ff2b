"""What the desktop sees at its feeders: what happened becomes events, what changed becomes states."""

import logging
from collections.abc import Callable
from datetime import datetime

from device_sim import orders
from device_sim.journal import Journal
from device_sim.outbox import Outbox
from device_sim.plc import Fact, Plc, PlcLost
from hub.protocol.messages import Event, Outcome, State

log = logging.getLogger("feeder-sim")


class Feeders:
    """All feeders of the site, as the hub is told of them."""

    def __init__(self, plc: Plc, journal: Journal, outbox: Outbox, new_id: Callable[[], str]) -> None:
        self._plc = plc
        self._journal = journal
        self._outbox = outbox
        self._new_id = new_id
        self._last_states: dict[str, State] = {}
        self._gists: dict[str, tuple[object, ...]] = {}
        with journal.together():
            for name in plc.names:
                journal.save_registers(name, plc[name].registers)

    def pass_time(self, now: datetime) -> None:
        """Let time pass at the feeders, and tell what happened; a latched stop reaches whom it can."""
        if self._journal.latched:
            orders.latch_all(self._plc, self._journal)
        for name, fact in self._plc.advance(now):
            self._tell(name, fact, now)

    def _tell(self, name: str, fact: Fact, now: datetime) -> None:
        """Keep what happened as an event; if it ends a dose that was ordered, settle that as well."""
        with self._journal.together():
            event = Event(
                id=self._new_id(),
                seq=self._journal.next_event_seq(name),
                kind=fact.kind,
                at=fact.at,
                planned_g=fact.planned_g,
                dispensed_g=fact.dispensed_g,
                reason=fact.reason,
                command_id=fact.command_id,
            )
            self._journal.keep_event(name, event)
            self._journal.save_registers(name, self._plc[name].registers)
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
        self._outbox.event(name, event)

    def _settle_dose(self, command_id: str, fact: Fact, now: datetime) -> None:
        known = self._journal.find(command_id)
        if known is None or known.command is None or known.outcome is not None:
            return
        outcome = Outcome(
            id=command_id,
            status="applied" if fact.reason is None else "failed",
            code=fact.reason,
            dispensed_g=fact.dispensed_g,
        )
        self._journal.finish(outcome)
        self._outbox.outcome(known.command.reply_to, outcome, now)

    def notice_changes(self, now: datetime) -> None:
        """Publish the state of each feeder where it changed, and let its simulated PLC keep its registers."""
        for name in self._plc.names:
            state = self._look(name, now)
            if _gist(state) == self._gists.get(name):
                continue
            self._gists[name] = _gist(state)
            if state.condition != "plc_lost":
                self._journal.save_registers(name, self._plc[name].registers)
            log.info("%s: %s, %s, silo %g g", name, state.condition, state.control, state.silo_g or 0)
            self._publish_state(name, state)

    def publish_states(self, now: datetime) -> None:
        """Publish every feeder's state, changed or not."""
        for name in self._plc.names:
            state = self._look(name, now)
            self._gists[name] = _gist(state)
            self._publish_state(name, state)

    def _publish_state(self, name: str, state: State) -> None:
        numbered = state.model_copy(update={"seq": self._journal.next_state_seq(name)})
        self._outbox.state(name, numbered)

    def _look(self, name: str, now: datetime) -> State:
        """The feeder as it is, or behind a cut cable as it was. It is numbered when it goes out."""
        try:
            feeder = self._plc[name]
        except PlcLost:
            lost = {"condition": "plc_lost", "next_meal_at": None, "at": now}
            return self._last_states[name].model_copy(update=lost)
        self._last_states[name] = State(
            seq=0,
            journal_id=self._journal.journal_id,
            config=feeder.registers.config,
            config_version=self._journal.config_version(name),
            local_rev=feeder.registers.local_rev,
            condition=feeder.condition,
            control=feeder.registers.control,
            silo_g=round(feeder.registers.silo_g, 1),
            next_meal_at=feeder.next_meal_at,
            at=now,
        )
        return self._last_states[name]


def _gist(state: State) -> tuple[object, ...]:
    """What makes a state worth telling anew. The silo is told with what emptied or filled it."""
    return (
        state.config,
        state.config_version,
        state.local_rev,
        state.condition,
        state.control,
        state.next_meal_at,
    )
