"""What must hold: all the time, at every commit and heartbeat, and in the end, when everything has been whole for long.

The judge knows the contract's words and not the hub's tables of rules: a rule that is changed there is judged here
as before.
"""

import json
import sqlite3
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hub.store import CALL_TIMEOUT_S
from tests.simulation.broker import Broker, Letter
from tests.simulation.clock import VirtualLoop
from tests.simulation.farm import Farm
from tests.simulation.keys import Keys
from tests.simulation.ledger import Dose, Ledger
from tests.simulation.people import People
from tests.simulation.process import HubProcess
from tests.simulation.trouble import Trouble

_ANSWERED = {"applied", "rejected", "failed"}
FORWARD = {
    "pending": {"sent", "refused", "expired", "superseded"},
    "sent": _ANSWERED | {"received", "unknown"},
    "received": _ANSWERED | {"unknown"},
    "unknown": _ANSWERED | {"not_executed", "unresolved"},
}
"""PROTOCOL.md's states; what is not a key here is an end."""
ENDS = {state for after in FORWARD.values() for state in after} - set(FORWARD)
NEVER_ACTED = {"rejected", "refused", "expired", "superseded", "not_executed"}
MOVES_A_FEEDER = {"feed", "set_config", "resume", "calibrate"}
LIVENESS_LATE_S = 1.0
SETTLES_WITHIN_S = 1.5
"""In a world that works, everything that one message causes is done by then."""
SETTLES_AFTER_OUTAGE_S = 2 * CALL_TIMEOUT_S + 1
"""A call that Redis does not answer holds up those behind it until its time-out."""
FARM_TOLERANCE_G = 0.002


class Judge:
    """`fault` ends the world."""

    def __init__(
        self,
        loop: VirtualLoop,
        raw: sqlite3.Connection,
        keys: Keys,
        site: str,
        broker: Broker,
        farm: Farm,
        processes: list[HubProcess],
        trouble: Trouble,
        people: People,
        ledger: Ledger,
        ttl_s: float,
        note: Callable[[str], None],
        fault: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._raw = raw
        self._keys = keys
        self._site = site
        self._alive_key = f"fh:{{{site}}}:alive"
        self._broker = broker
        self._farm = farm
        self._processes = processes
        self._trouble = trouble
        self._people = people
        self._ledger = ledger
        self._ttl_s = ttl_s
        self._note = note
        self._fault = fault
        self._read_through = 0
        self._doses_sent: set[str] = set()
        self._said_offline: set[str] = set()
        self._heard_at_s = float("-inf")
        self._awaits_silence = False

    # --- commands, at every commit -------------------------------------------------------------------------------

    def read_log(self) -> None:
        """Every move of every command, in the order of their commits."""
        rows = self._raw.execute(
            "SELECT n, what, id, name, was, is_now, stopped FROM sim_log WHERE n > ?", (self._read_through,)
        ).fetchall()
        for number, what, command_id, name, was, is_now, stopped in rows:
            self._read_through = number
            if what == "placed":
                self._note(f"{name} {command_id} is placed as {is_now}")
                if stopped and name in MOVES_A_FEEDER:
                    self._fault(f"{name} {command_id} is placed although the stop is latched")
                continue
            self._note(f"{name} {command_id} is {is_now}")
            if is_now not in FORWARD.get(was, ()):
                self._fault(f"the story of {name} {command_id} goes from {was} to {is_now}")
            if is_now == "sent" and stopped:
                self._fault(f"{name} {command_id} waited, and is sent although the stop is latched")

    def published(self, hub_id: str, _topic: str, payload: bytes) -> None:
        """A hub process publishes. A dose is never sent twice, and whoever says a stop hears its reply."""
        if b'"name":"stop_all"' in payload:
            reply_to = json.loads(payload)["reply_to"]
            if not reply_to.endswith(f"/{hub_id}"):
                self._fault(f"hub {hub_id} says a stop whose reply goes to {reply_to}")
        if b'"name":"feed"' in payload:
            command_id = json.loads(payload)["id"]
            if command_id in self._doses_sent:
                self._fault(f"feed {command_id} is sent twice")
            self._doses_sent.add(command_id)

    # --- liveness, at every heartbeat ----------------------------------------------------------------------------

    def heard(self, process: HubProcess, letter: Letter) -> None:
        """A hub process is handed a message."""
        if letter.retained or not letter.topic.endswith("/heartbeat"):
            return
        said = json.loads(letter.payload)
        if not said["online"]:
            return
        at_s, life, session = self._loop.now_s, process.life, said["session"]
        self._heard_at_s = at_s
        if not self._awaits_silence:
            self._awaits_silence = True
            self._loop.after(self._ttl_s + LIVENESS_LATE_S, self._look_for_silence)

        def must_be_alive() -> None:
            quiet = self._is_quiet_since(at_s - SETTLES_AFTER_OUTAGE_S)
            if process.life is life and session == self._farm.session and quiet:
                facts = self._keys.get(self._alive_key)
                if facts is None or facts["session"] != session:
                    held = None if facts is None else facts["session"]
                    self._fault(f"session {session} is heard, and held to be alive is {held}")

        self._loop.after(SETTLES_WITHIN_S, must_be_alive)

    def _look_for_silence(self) -> None:
        """Where no heartbeat has come for as long as one counts, what follows of that is looked at when it must be so.

        One timer for all heartbeats: only after the last one is there anything to see.
        """
        late_at_s = self._heard_at_s + self._ttl_s + LIVENESS_LATE_S
        if self._loop.now_s < late_at_s:
            self._loop.at(late_at_s, self._look_for_silence)
            return
        self._awaits_silence = False
        self._must_be_gone()
        self._loop.after(2 * CALL_TIMEOUT_S, self._must_be_gone)
        self._loop.after(SETTLES_WITHIN_S, self._must_be_told_gone)

    def overheard(self, topic: str, payload: bytes) -> None:
        """The broker routes a message."""
        if topic.endswith("/heartbeat") and not (said := json.loads(payload))["online"]:
            self._said_offline.add(said["session"])

    def key_gone(self, key: str, facts: Any) -> None:
        """A key was deleted, and did not expire. Only what a session itself says, or a newer session, ends it."""
        if key != self._alive_key:
            return

        def look() -> None:
            session = facts["session"]
            replaced = self._keys.get(key) is not None
            if session == self._farm.session and session not in self._said_offline and not replaced:
                self._fault(f"session {session} is held to be dead, and nobody has said so")

        self._loop.after(0, look)

    def _is_quiet_since(self, at_s: float) -> bool:
        """Nothing was wrong with what the hub stands on, and the desktop is where the broker has it."""
        trouble = self._trouble
        here = self._broker.connections.get(self._site)
        return (
            max(trouble.redis_s, trouble.database_s, trouble.network_s) < at_s
            and here is not None
            and here is self._farm.connection
        )

    def _must_be_gone(self) -> None:
        silent_s = self._loop.now_s - self._heard_at_s
        # Where Redis does not answer, a heartbeat may lie behind a call that waits for its time-out.
        slow_s = 2 * CALL_TIMEOUT_S if self._trouble.redis_s > self._heard_at_s - CALL_TIMEOUT_S else 0
        if silent_s >= self._ttl_s + LIVENESS_LATE_S + slow_s and self._keys.get(self._alive_key) is not None:
            self._fault(f"held to be alive, though the last heartbeat is {silent_s:.1f} s old")

    def _must_be_told_gone(self) -> None:
        now_s = self._loop.now_s
        since_s = now_s - self._ttl_s - LIVENESS_LATE_S - SETTLES_WITHIN_S
        trouble = self._trouble
        whole = max(trouble.redis_s, trouble.database_s) < since_s - self._ttl_s
        watched = any(p.life is not None and p.began_at_s < now_s - 5 for p in self._processes)
        if self._heard_at_s <= since_s and whole and watched:
            spans = self._count("SELECT count(*) FROM presence WHERE ended_at IS NULL")
            if spans:
                self._fault(f"the history has the site alive {now_s - self._heard_at_s:.1f} s after its last heartbeat")

    # --- in the end ----------------------------------------------------------------------------------------------

    def what_is_open(self) -> list[str]:
        """What has not come to its end yet."""
        rows = self._raw.execute("SELECT id, name, state FROM command WHERE settled_at IS NULL ORDER BY id").fetchall()
        unsaid = self._farm.journal.unacknowledged() if self._farm.journal is not None else set()
        return [f"{name} {command_id} is {state}" for command_id, name, state in rows] + [
            f"event {event} is not acknowledged" for event in sorted(unsaid)
        ]

    def judge_the_end(self) -> None:
        """Everything has been whole for long enough: what the hub says is what is so."""
        self.read_log()
        for still_open in self.what_is_open():
            self._fault(f"no known end: {still_open}")
        self._judge_commands()
        self._judge_stops()
        self._judge_configs()
        self._judge_events()
        spans = self._raw.execute("SELECT session FROM presence WHERE ended_at IS NULL").fetchall()
        if spans != [(self._farm.session,)]:
            self._fault(f"alive is {self._farm.session}, and the history has {spans}")

    def _judge_commands(self) -> None:
        for command_id, name, state, settled_at, result in self._raw.execute(
            "SELECT id, name, state, settled_at, result FROM command ORDER BY id"
        ).fetchall():
            if (settled_at is not None) != (state in ENDS):
                self._fault(f"{name} {command_id} is {state}, settled at {settled_at}")
            told = self._people.told.get(command_id)
            if told in ENDS and told != state:
                self._fault(f"{name} {command_id} was told to be {told}, and is {state}")
            if name == "feed":
                self._judge_dose(command_id, state, json.loads(result or "{}"))
        self._judge_steps()

    def _judge_dose(self, command_id: str, state: str, result: dict[str, Any]) -> None:
        dose = self._ledger.doses.get(command_id, Dose())
        told_g = result.get("dispensed_g")
        if state in NEVER_ACTED and dose.starts:
            self._fault(f"feed {command_id} is {state}, and was fed: {dose.fed_g:g} g")
        if state == "applied" and not dose.starts:
            self._fault(f"feed {command_id} is applied, and never began")
        if state in ("applied", "failed") and abs((told_g or 0) - dose.fed_g) > FARM_TOLERANCE_G:
            self._fault(f"feed {command_id} is {state} with {told_g} g, and {dose.fed_g:g} g were fed")

    def _judge_steps(self) -> None:
        """Changes of one feeder are on their way one after the other, and their versions go up with them."""
        on_their_way = self._raw.execute(
            "SELECT c.feeder_id, c.id, json_extract(c.args, '$.config_version'), s.at, "
            "(SELECT min(l.n) FROM sim_log l WHERE l.id = c.id AND l.is_now = 'sent') AS began, "
            "(SELECT min(l.n) FROM sim_log l WHERE l.id = c.id AND l.was IN ('sent', 'received') "
            " AND l.is_now <> 'received') AS ended "
            "FROM command c JOIN command_step s ON s.command_id = c.id AND s.state = 'sent' "
            "WHERE c.name = 'set_config' ORDER BY c.feeder_id, began"
        ).fetchall()
        for before, after in pairwise(on_their_way):
            if before[0] != after[0]:
                continue
            if before[5] is None or before[5] > after[4]:
                self._fault(f"set_config {after[1]} is sent while {before[1]} of the same feeder is on its way")
            if before[2] >= after[2]:
                self._fault(f"set_config {after[1]} has version {after[2]} after {before[2]}")

    def _judge_stops(self) -> None:
        stopped = self._count("SELECT stopped_at IS NOT NULL FROM site")
        journal = self._farm.journal
        assert journal is not None
        if journal.latched != bool(stopped):
            self._fault(f"stopped at the hub: {bool(stopped)}; at the desktop: {journal.latched}")
        for name in self._farm.plc.names:
            if self._farm.plc[name].registers.latched != bool(stopped):
                self._fault(f"stopped at the hub: {bool(stopped)}; at {name}: {not stopped}")

    def _judge_configs(self) -> None:
        journal = self._farm.journal
        assert journal is not None
        for name, reported, version, local_rev, pending, in_flight, desired in self._raw.execute(
            "SELECT id, reported_config, reported_version, local_rev, pending_command_id, in_flight_command_id, "
            "desired_config FROM feeder"
        ).fetchall():
            registers = self._farm.plc[name].registers
            there = (registers.config.model_dump(), journal.config_version(name), registers.local_rev)
            if (json.loads(reported), version, local_rev) != there:
                self._fault(f"config of {name}: reported {reported} {version}.{local_rev}, there is {there}")
            if pending or in_flight:
                self._fault(f"a change of {name} is still held to be open: {pending} or {in_flight}")
            if desired is not None and json.loads(desired) != json.loads(reported) and not self._may_drift(name):
                self._fault(f"config of {name}: wanted {desired}, and nobody on the farm has made it {reported}")

    def _may_drift(self, feeder: str) -> bool:
        """Somebody has edited what was applied last, or it cannot be known what was.

        Who lost the journal's disk reports no version any more, so versions tell nothing here.
        """
        return bool(
            self._count(
                "SELECT EXISTS (SELECT 1 FROM feeder f JOIN config_revision r ON r.feeder_id = f.id "
                " AND r.origin = 'local' AND r.local_rev = f.local_rev AND r.config = f.reported_config "
                f"WHERE f.id = '{feeder}') OR EXISTS (SELECT 1 FROM command "
                f" WHERE feeder_id = '{feeder}' AND name = 'set_config' AND state = 'unresolved')"
            )
        )

    def _judge_events(self) -> None:
        stored = {event_id for (event_id,) in self._raw.execute("SELECT id FROM feeder_event")}
        if missing := self._ledger.events - stored:
            self._fault(f"events never stored: {sorted(missing)}")

    def _count(self, statement: str) -> int:
        return int(self._raw.execute(statement).fetchone()[0])
