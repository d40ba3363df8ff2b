"""A world from one seed: the hub's processes, a farm, people, trouble; then everything heals, and is judged."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any, Final

from ulid import ULID

from hub.protocol.times import rfc3339
from hub.protocol.topics import Topics
from tests.simulation.broker import Broker, Network
from tests.simulation.clock import LIFE, Life, Stalled, VirtualLoop, exponential
from tests.simulation.farm import Farm
from tests.simulation.judge import Judge
from tests.simulation.keys import Keys
from tests.simulation.ledger import Ledger
from tests.simulation.people import People
from tests.simulation.process import HubProcess
from tests.simulation.rows import Tables
from tests.simulation.seams import seams
from tests.simulation.trouble import Trouble

SITE: Final = "pond7"
TIME_ZONE: Final = "Asia/Jerusalem"
FEEDERS: Final = ["f1", "f2"]
STORMS: Final = 3
"""As many on the average in a world, however long it is."""
HEALS_WITHIN_S: Final = 1800.0
DAYS: Final = (
    datetime(2026, 3, 1, 5, tzinfo=UTC),
    datetime(2026, 3, 26, 22, tzinfo=UTC),  # two hours before the clocks go forward
    datetime(2026, 10, 24, 21, tzinfo=UTC),  # two hours before they go back
)


class Finding(AssertionError):
    """What must hold does not: in which world, when, and what."""


@dataclass
class Report:
    """What was seen in one world."""

    seed: int
    hours: float
    orders: int = 0
    faults: int = 0
    events: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    """Commands by the state in which they ended."""
    story: list[str] = field(default_factory=list)
    """What happened, line by line, if it was asked for."""
    finding: str | None = None


@cache
def _tables() -> Tables:
    return Tables(SITE, FEEDERS, TIME_ZONE)


def _disk() -> str | None:
    """Memory, where there is such a disk: the journal writes through at every step."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


class World:
    """One run. `hours`: how long people order and things go wrong, before everything heals."""

    def __init__(self, seed: int, hours: float, *, tell: bool = False) -> None:
        self.report = Report(seed, hours)
        self._tell = tell
        self._random = random = Random(f"world {seed}")
        self._hours = hours
        self._disk = Path(tempfile.mkdtemp(prefix="feeder-hub-simulation-", dir=_disk()))
        begins_at = random.choice(DAYS)
        executor_s = random.choice([0.001, 0.001, 0.03])
        executor = Random(f"executor {seed}")
        self._loop = loop = VirtualLoop(begins_at, lambda: exponential(executor, executor_s, 0.3))
        self._ids = Random(f"ids {seed}")
        topics = Topics()
        heartbeat_s = random.choice([20.0, 60.0, 180.0, 300.0])
        self._ttl_s = heartbeat_s + 5
        network = Network(Random(f"network {seed}"), random.choice([0.005, 0.03, 0.2]), 20.0, random.choice([0, 0.05]))
        self._broker = Broker(loop, network, topics, random.choice([0.0, 0.5, 5.0]))
        self._ledger = Ledger(self._fault, self._note, lambda: loop.now_s)
        self._farm = Farm(
            SITE,
            FEEDERS,
            TIME_ZONE,
            heartbeat_s,
            loop,
            self._broker,
            topics,
            Random(f"farm {seed}"),
            self._ledger,
            self._disk,
            self._new_id,
        )
        self._tables = _tables()
        self._raw = self._tables.begin_anew()
        self._keys = Keys(loop.true_ms)
        self._processes = [
            HubProcess(
                f"h{number}",
                loop,
                self._broker,
                self._tables,
                self._keys,
                topics,
                Random(f"hub {number} {seed}"),
                self._ttl_s,
                timeout_s=10.0,
                clock_off=timedelta(milliseconds=random.randint(-20, 20)),
            )
            for number in range(1, random.choice([1, 2, 2]) + 1)
        ]
        self._people = People(loop, Random(f"people {seed}"), SITE, FEEDERS, self._processes, self._note, self._fault)
        self._trouble = Trouble(
            loop,
            Random(f"trouble {seed}"),
            network,
            self._broker,
            self._processes,
            self._farm,
            self._tables,
            self._keys,
            self._note,
        )
        self._judge = Judge(
            loop,
            self._raw,
            self._keys,
            SITE,
            self._broker,
            self._farm,
            self._processes,
            self._trouble,
            self._people,
            self._ledger,
            self._ttl_s,
            self._note,
            self._fault,
        )
        self._wire_up()

    def _wire_up(self) -> None:
        seen = self._raw.total_changes

        def look_at_what_is_new() -> None:
            nonlocal seen
            if seen != self._raw.total_changes:
                seen = self._raw.total_changes
                self._judge.read_log()
                stir()

        def stir() -> None:
            for process in self._processes:
                process.stir()

        def key_gone(key: str, value: Any) -> None:
            self._loop.after(0, stir)
            self._judge.key_gone(key, value)

        self._tables.committed = lambda: self._loop.after(0, look_at_what_is_new)
        self._keys.gone = key_gone
        self._broker.overheard = self._judge.overheard
        for process in self._processes:
            process.published = partial(self._judge.published, process.hub_id)
            process.heard = lambda letter, process=process: self._judge.heard(process, letter)  # type: ignore[misc]
        self._loop.set_exception_handler(self._on_exception)

    # --- from its beginning to its end ---------------------------------------------------------------------------

    def run(self) -> Report:
        """Live through it. The report names what was found, if anything was."""
        try:
            with self._lived_in():
                self._loop.run_until_complete(self._found_or(self._live()))
        except Finding as finding:
            self.report.finding = str(finding)
        except Stalled:
            self.report.finding = "nothing happens any more"
        finally:
            shutil.rmtree(self._disk, ignore_errors=True)
        self.report.orders = self._people.orders
        self.report.faults = self._trouble.faults
        self.report.events = len(self._ledger.events)
        self.report.ends = dict(self._raw.execute("SELECT state, count(*) FROM command GROUP BY state ORDER BY state"))
        return self.report

    async def _found_or(self, life: Any) -> None:
        self._finding: asyncio.Future[None] = self._loop.create_future()
        living = self._loop.create_task(life)
        await asyncio.wait({living, self._finding}, return_when=asyncio.FIRST_COMPLETED)
        if not living.done():
            living.cancel()
        if self._finding.done():
            self._finding.result()
        living.result()

    async def _live(self) -> None:
        for process in self._processes:
            process.start(first=True)
        self._loop.at(1.0, self._farm.boot)
        await asyncio.sleep(5)
        ends_s = self._hours * 3600
        while True:
            # People and trouble come in storms, as they do; between them there are hours of nothing but heartbeats.
            await asyncio.sleep(min(self._random.expovariate(STORMS / ends_s), ends_s - self._loop.now_s))
            if self._loop.now_s >= ends_s:
                break
            storm_s = self._random.uniform(30, 240)
            await asyncio.gather(
                self._now_and_then(storm_s, 12, self._people.order_something),
                self._now_and_then(storm_s, self._random.choice([8, 20, 1000]), self._trouble.strike),
            )
        self._trouble.heal()
        await self._recover()
        self._judge.judge_the_end()

    async def _now_and_then(self, for_s: float, mean_s: float, act: Any) -> None:
        ends_s = self._loop.now_s + for_s
        while (pause_s := self._random.expovariate(1 / mean_s)) < ends_s - self._loop.now_s:
            await asyncio.sleep(pause_s)
            act()

    async def _recover(self) -> None:
        healed_s = self._loop.now_s
        await asyncio.sleep(60)
        if self._random.random() < 0.5:
            self._people.order("release")
        if self._farm.connection is not None:  # each session tells anew what the hub has not heard
            self._farm.connection.cut(silently=False)
        await asyncio.sleep(120)
        while self._judge.what_is_open() and self._loop.now_s < healed_s + HEALS_WITHIN_S:
            await asyncio.sleep(10)
        await asyncio.sleep(30)

    @contextlib.contextmanager
    def _lived_in(self) -> Iterator[None]:
        kept_commands = self._random.choice([20_000, 40])
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            with seams(loop.utc_now, loop.time, self._new_id, self._on_error, kept_commands):
                try:
                    yield
                finally:
                    self._end_all()
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _end_all(self) -> None:
        self._tables.committed = lambda: None
        for process in self._processes:
            process.kill()
        self._farm.kill()
        rest = asyncio.all_tasks(self._loop)
        for task in rest:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))

    # --- what is told --------------------------------------------------------------------------------------------

    def _new_id(self) -> str:
        life = LIFE.get()
        at = self._loop.true_time() if life is None else self._loop.utc_now()
        return str(ULID(int(at.timestamp() * 1000).to_bytes(6, "big") + self._ids.randbytes(10)))

    def _note(self, what: str) -> None:
        if self._tell:
            self.report.story.append(f"{rfc3339(self._loop.true_time())}  {what}")

    def _fault(self, what: str) -> None:
        self._note(f"FOUND: {what}")
        if not self._finding.done():
            after = timedelta(seconds=round(self._loop.now_s, 3))
            self._finding.set_exception(Finding(f"seed {self.report.seed}, after {after}: {what}"))

    def _on_error(self, event: dict[str, Any]) -> None:
        """The hub logs an error only where something failed that it has no rule for."""
        life = LIFE.get()
        if life is None or not life.over:
            self._fault(f"the hub fails: {event}")

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        task = context.get("task") or context.get("future")
        context_of = getattr(task, "get_context", None)  # since Python 3.12
        life: Life | None = None if context_of is None else context_of().get(LIFE)
        if not isinstance(error, asyncio.CancelledError) and not (life is not None and life.over):
            self._fault(f"{context['message']}: {error!r}")
