"""The farm: a PLC that outlives its desktop, and the reference desktop with its journal, which may be killed.

The desktop's rules and its journal are the real ones. A kill comes between any two of its steps to the disk: what it
had not committed there is lost, what the PLC did is done.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from device_sim.__main__ import DEFAULT_CONFIG
from device_sim.journal import Journal
from device_sim.outbox import Outgoing
from device_sim.plc import Plc, Registers
from device_sim.rules import DesktopRules
from hub.protocol.messages import Event, Outcome, encode
from hub.protocol.topics import Topics
from tests.simulation.broker import Broker, Connection, Letter
from tests.simulation.clock import Life, VirtualLoop
from tests.simulation.ledger import Ledger, WatchedFeeder

LONGEST_LOOK_S = 120.0
ANSWER_TIMEOUT_S = 10.0


class Killed(BaseException):
    """The desktop was killed in the middle of what it did."""


class WatchedJournal(Journal):
    """The real journal; before and after each of its commits the desktop may be killed."""

    def __init__(self, file: Path, life: Life, ledger: Ledger) -> None:
        self._life = life
        self._ledger = ledger
        self._kept: list[str] = []
        super().__init__(file)

    def unacknowledged(self) -> set[str]:
        return events_in(self._database)

    def keep_event(self, feeder: str, event: Event) -> None:
        super().keep_event(feeder, event)
        self._kept.append(event.id)

    def _step(self) -> None:
        if not self._life.step():
            raise Killed

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        outermost = not self._database.in_transaction
        with super().together():
            yield
            self._step()
        if outermost:
            kept, self._kept = self._kept, []
            self._ledger.events.update(kept)
            self._step()

    def finish(self, outcome: Outcome) -> None:
        self._step()
        super().finish(outcome)
        self._step()

    def set_config_version(self, feeder: str, version: int) -> None:
        super().set_config_version(feeder, version)
        self._ledger.took_version(self.journal_id, feeder, version)


def events_in(journal: sqlite3.Connection) -> set[str]:
    """Those that no hub has acknowledged, by their ids."""
    return {Event.model_validate_json(event).id for (event,) in journal.execute("SELECT event FROM events")}


class Farm:
    """One site. `clock_off`: how far the desktop's machine is from the true time."""

    def __init__(
        self,
        site: str,
        feeders: list[str],
        time_zone: str,
        heartbeat_s: float,
        loop: VirtualLoop,
        broker: Broker,
        topics: Topics,
        random: Random,
        ledger: Ledger,
        disk: Path,
        new_id: Callable[[], str],
    ) -> None:
        self.site = site
        self.clock_off = timedelta()
        self.rules: DesktopRules | None = None
        self.life: Life | None = None
        self.journal: WatchedJournal | None = None
        self.connection: Connection | None = None
        self._heartbeat_s = heartbeat_s
        self._loop = loop
        self._broker = broker
        self._topics = topics
        self._random = random
        self._ledger = ledger
        self._disk = disk
        self._disks = self._looks = 0
        self._new_id = new_id
        self.plc = Plc(
            {
                name: WatchedFeeder(
                    name,
                    ledger,
                    Registers(config=DEFAULT_CONFIG, time_zone=time_zone, clock=self.now(), silo_g=1e6),
                )
                for name in feeders
            }
        )

    def now(self) -> datetime:
        """What the desktop's machine holds to be the time."""
        return self._loop.true_time() + self.clock_off

    @property
    def session(self) -> str | None:
        """The session that lives, by the desktop's own belief."""
        if self.rules is None or not self.rules.presence.live:
            return None
        return self.rules.presence.session

    @property
    def _file(self) -> Path:
        return self._disk / f"journal-{self._disks}.sqlite"

    # --- from its start to its end -----------------------------------------------------------------------------

    def boot(self) -> None:
        if self.rules is not None:
            return
        self.plc.cut.clear()  # the reference desktop reads every feeder when it starts
        self.life = Life("desktop", self._die)
        with self._mortal():
            self.journal = WatchedJournal(self._file, self.life, self._ledger)
            self.rules = DesktopRules(
                self.site,
                self.plc,
                self.journal,
                lambda: self._loop.now_s,
                self._topics,
                heartbeat_s=self._heartbeat_s,
                new_id=self._new_id,
            )
            self.rules.start(self.now())
            self._connect()
            self._look_again()

    def kill(self) -> None:
        """As `kill -9` or a power cut does."""
        with self._mortal():
            self._die()

    def _die(self) -> None:
        life, self.life = self.life, None
        if life is not None:
            life.end()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        self.rules = None

    def lose_disk(self) -> None:
        """The desktop gets a new disk, and begins a new journal."""
        self.kill()
        if self._file.exists():
            with contextlib.closing(sqlite3.connect(self._file)) as old:
                self._ledger.events -= events_in(old)
        self._disks += 1

    def leave(self) -> None:
        """It is shut down properly."""
        with self._mortal():
            if self.rules is not None and self.connection is not None:
                self._publish(self.rules.leave())
                self.connection.to_broker(lambda connection=self.connection: setattr(connection, "will", None))  # type: ignore[misc]
                self._loop.after(0.3, lambda connection=self.connection: connection.abandon())  # type: ignore[misc]
                self.connection = None
            self._die()

    @contextlib.contextmanager
    def _mortal(self) -> Iterator[None]:
        try:
            yield
        except Killed:
            pass
        finally:
            if self.rules is None:
                self._close_journal()

    def _close_journal(self) -> None:
        if self.journal is not None and self.rules is None:
            self.journal._database.close()
            self.journal = None

    # --- its connection ----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        rules, life = self.rules, self.life
        if rules is None or life is None:
            return
        will = rules.open_session()
        command_filters = {self._topics.commands(self.site), self._topics.heartbeat(self.site)}
        of_feeders = {self._topics.commands(self.site, name) for name in self.plc.names}

        def wants(topic: str) -> int | None:
            return 1 if topic in command_filters or topic in of_feeders else None

        def mine(act: Callable[[], None]) -> None:
            if self.life is life and self.connection is connection:
                with self._mortal():
                    act()

        def receive(letter: Letter) -> None:
            mine(lambda: self._receive(rules, letter))

        def granted(_connection: Connection) -> None:
            mine(lambda: self._publish(rules.subscribed(self.now())))
            mine(self._look_again)

        def lost() -> None:
            if self.life is life and self.connection is connection:
                self.connection = None
                rules.lost()
                self._loop.after(self._random.uniform(0.25, 4), lambda: self._connect_again(life))

        def not_answered() -> None:
            if self.connection is connection and not rules.presence.live:
                connection.abandon()
                lost()

        connection = self._broker.connect(
            self.site,
            wants,
            receive,
            lost,
            granted,
            stored=False,
            will=(self._topics.heartbeat(self.site), encode(will)),
        )
        self.connection = connection
        self._loop.after(ANSWER_TIMEOUT_S, not_answered)

    def _connect_again(self, life: Life) -> None:
        if self.life is life and self.connection is None:
            with self._mortal():
                self._connect()

    def _receive(self, rules: DesktopRules, letter: Letter) -> None:
        self._publish(rules.receive(letter.topic, letter.payload, letter.retained, self.now()))
        self._look_again()

    def _publish(self, messages: list[Outgoing]) -> None:
        connection = self.connection
        if connection is None:
            return
        for message in messages:
            connection.to_broker(
                lambda message=message: self._broker.publish(message.topic, message.payload, retain=message.retain)  # type: ignore[misc]
            )

    # --- time --------------------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        """The real desktop looks five times a second; here, shortly after there is something to see."""
        rules, life = self.rules, self.life
        if rules is None or life is None:
            return
        self._looks += 1
        looks = self._looks

        def look() -> None:
            if self.life is life and self._looks == looks:
                with self._mortal():
                    self._publish(rules.tick(self.now()))
                    self._look_again()

        self._loop.after(self._pause_s(rules) + self._random.uniform(0, 0.2), look)

    def _pause_s(self, rules: DesktopRules) -> float:
        pauses_s = [LONGEST_LOOK_S]
        if rules.presence.live:
            pauses_s.append(rules.presence._next_heartbeat_s - self._loop.now_s)
        now = self.now()
        for name in self.plc.names:
            registers = self.plc.on_site(name).registers
            if registers.feeding is not None:
                left_g = registers.feeding.planned_g - registers.feeding.dispensed_g
                ends_at = registers.clock + timedelta(seconds=left_g / registers.config.feed_rate_g_per_s)
                pauses_s.append((ends_at - now).total_seconds())
        return max(0.0, min(pauses_s))
