"""One hub process: its real parts upon a simulated link, Redis and database, and its end at any step."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from hub.commands import Commands
from hub.conversation import Conversation
from hub.ingest import Ingest
from hub.liveness import EPOCH_KEY, RECOVERING_KEY, LivenessKeys
from hub.orders import Desk
from hub.protocol.link import Message, NotConnected
from hub.protocol.topics import Topics
from hub.quiet_log import QuietLines
from hub.rejects import Rejects
from hub.rounds import ROUND_EVERY_S, Rounds
from hub.stream import LiveStream
from hub.tasks import Tasks
from tests.simulation.broker import Broker, Connection, Letter
from tests.simulation.clock import Life, VirtualLoop, exponential
from tests.simulation.keys import Keys, SimulatedStore, unreachable
from tests.simulation.rows import Opened, Tables

STREAM_KEEPS = 1000
DUE_IN_VAIN_S = 3.0
_NEXT_DUE = """
SELECT min(CASE state WHEN 'pending' THEN expires_at WHEN 'unknown' THEN next_report_at ELSE deadline_at END)
FROM command WHERE settled_at IS NULL
"""
_ANYTHING_OPEN = "SELECT 1 FROM command WHERE settled_at IS NULL LIMIT 1"


class SimulatedLink:
    """The hub's place at the broker, over a network; its session there is a stored one."""

    def __init__(self, process: "HubProcess", life: Life) -> None:
        self.receive: Callable[[Message], None] | None = None
        self._process = process
        self._life = life
        self._connection: Connection | None = None
        self._granted = False
        self._unsent: list[tuple[str, bytes]] = []
        self._qos = {name.split("/")[-1]: qos for name, qos in process.topics.hub_filters(process.hub_id)}

    @property
    def connected(self) -> bool:
        return self._granted

    def publish(self, topic: str, payload: bytes) -> None:
        if not self._granted or self._connection is None:
            raise NotConnected
        if not self._life.step():
            return
        self._process.published(topic, payload)
        self._unsent.append((topic, payload))
        self._hand_over(self._connection, topic, payload)

    def _hand_over(self, connection: Connection, topic: str, payload: bytes) -> None:
        def arrive() -> None:
            if (topic, payload) in self._unsent:
                self._unsent.remove((topic, payload))
            self._process.broker.publish(topic, payload)

        connection.to_broker(arrive)

    def wants(self, topic: str) -> int | None:
        address = self._process.topics.parse(topic)
        if address is None:
            return None
        if address.kind == "replies":
            return 1 if address.hub_id == self._process.hub_id else None
        return self._qos.get(address.kind)

    def connect(self) -> None:
        if self._life.over:
            return
        process = self._process

        def granted(connection: Connection) -> None:
            if self._life.over or self._connection is not connection:
                return
            self._granted = True
            process.stir()
            # What was handed over while the connection broke may reach the broker after all, and twice.
            unsent, self._unsent = self._unsent, []
            for topic, payload in unsent:
                if process.random.random() < 0.5:
                    self._hand_over(connection, topic, payload)

        self._connection = process.broker.connect(
            process.client_id, self.wants, self._arrived, self._lost, granted, stored=True
        )
        waiting = self._connection
        process.loop.after(10.0, lambda: self._give_up(waiting))

    def _give_up(self, connection: Connection) -> None:
        if self._connection is connection and not self._granted:
            connection.abandon()
            self._lost()

    def _lost(self) -> None:
        self._granted = False
        self._connection = None
        self._process.loop.after(self._process.random.uniform(0.1, 5), self.connect)

    def drop(self) -> None:
        self._granted = False
        if self._connection is not None:
            self._connection.abandon()

    def cut(self, *, silently: bool) -> None:
        if self._connection is not None:
            self._connection.cut(silently=silently)

    def _arrived(self, letter: Letter) -> None:
        receive, connection = self.receive, self._connection
        if receive is None or self._life.over or connection is None:
            return
        process = self._process

        def acknowledge() -> None:
            if letter.number and self._life.step():
                connection.to_broker(lambda: process.broker.acknowledge(process.client_id, letter))

        message = Message(letter.topic, letter.payload, letter.retained, process.loop.now_s, acknowledge)
        process.heard(letter)
        self._life.context.run(receive, message)


class HubProcess:
    """A hub by its id, running or not. `commands` and the rest belong to the life that it has now."""

    def __init__(
        self,
        hub_id: str,
        loop: VirtualLoop,
        broker: Broker,
        tables: Tables,
        keys: Keys,
        topics: Topics,
        random: Random,
        ttl_s: float,
        timeout_s: float,
        clock_off: timedelta,
    ) -> None:
        self.hub_id = hub_id
        self.client_id = f"hub-{hub_id}"
        self.loop = loop
        self.broker = broker
        self.topics = topics
        self.random = random
        self.life: Life | None = None
        self.link: SimulatedLink
        self.commands: Commands
        self.ready = False
        self.redis_away = False
        self.began_at_s = 0.0
        self.published: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.heard: Callable[[Letter], None] = lambda _letter: None
        self._tables = tables
        self._keys = keys
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._clock_off = clock_off
        self._stirred: asyncio.Future[bool] | None = None

    def start(self, *, first: bool = False) -> None:
        if self.life is not None:
            return
        self.began_at_s = self.loop.now_s
        self.life = life = Life(self.hub_id, self.kill, self._clock_off)
        life.context.run(self._assemble, life)
        self.loop.start(self._run(life, first=first), life)

    def _assemble(self, life: Life) -> None:
        self._database: Opened = self._tables.opened()
        store = SimulatedStore(self._exchange_with_redis(life), self._keys)
        stream, tasks, lines = LiveStream(store, STREAM_KEEPS), Tasks(), QuietLines()
        rejects = Rejects(store, lines)
        self.liveness = LivenessKeys(store, self._ttl_s)
        desk = Desk(self.hub_id, self.topics, self._timeout_s)
        self.link = SimulatedLink(self, life)
        self.commands = Commands(self._database, self.liveness, stream, rejects, desk, self.link)
        conversation = Conversation(self._database, self.commands, desk, self.link, tasks)
        ingest = Ingest(self._database, self.liveness, stream, self.commands, conversation, rejects, self.topics, tasks)
        self.link.receive = ingest.receive
        self._rounds = Rounds(self._database, self.liveness, stream, self.commands, conversation, lines)

    async def _run(self, life: Life, *, first: bool) -> None:
        await self._database.__aenter__()
        self.ready = True
        if first:
            await self.liveness.begin_epoch(recovering=False)
        self.loop.at(self.loop.now_s, self.link.connect)
        while not life.over:
            await self._rounds.go_round()
            await asyncio.sleep(ROUND_EVERY_S)
            await self._something_to_do()

    def kill(self) -> None:
        """As `kill -9` does: the sockets are closed by the kernel, everything else is as it was."""
        life, self.life = self.life, None
        self.ready = False
        if life is not None:
            life.end()
            self.link.drop()

    # --- rounds in which there is nothing to do are left out -----------------------------------------------------

    def stir(self) -> None:
        """Something was committed, or a key is gone: the next round has something to look at."""
        if self._stirred is not None and not self._stirred.done():
            self._stirred.set_result(True)

    async def _something_to_do(self) -> None:
        while (pause_s := self._quiet_for_s()) > ROUND_EVERY_S:
            self._stirred = stirred = self.loop.create_future()
            self.loop.after(pause_s, partial(_time_has_passed, stirred))
            if await stirred:
                await asyncio.sleep(self.random.uniform(0, ROUND_EVERY_S))
                if self._something_is_open():
                    return
            elif pause_s == DUE_IN_VAIN_S:
                return

    def _something_is_open(self) -> bool:
        """A command has not come to its end: what was stirred may have to do with it."""
        return self._tables.raw.execute(_ANYTHING_OPEN).fetchone() is not None

    def _quiet_for_s(self) -> float:
        """How long no round can find anything: nothing is due before, every open span has its key, Redis was not away.

        While Redis recovers, a key that is missing means nothing. What is due and could not be done waits for
        something to change; every few seconds it is tried all the same.
        """
        if self.liveness.must_look_anew or self._keys.get(EPOCH_KEY) is None:
            return 0.0
        raw = self._tables.raw
        pause_s = 3600.0
        due_at = raw.execute(_NEXT_DUE).fetchone()[0]
        if due_at is not None:
            due = datetime.fromisoformat(due_at).replace(tzinfo=UTC)
            due_s = (due - self.loop.true_time()).total_seconds() - ROUND_EVERY_S
            pause_s = due_s if due_s > 0 else DUE_IN_VAIN_S
        for (site,) in raw.execute("SELECT site_id FROM presence WHERE ended_at IS NULL"):
            alive = f"fh:{{{site}}}:alive"
            holds = alive if self._keys.get(alive) is not None else RECOVERING_KEY
            if self._keys.get(holds) is None:
                return 0.0
            pause_s = min(pause_s, (self._keys.expires_at_ms[holds] - self._keys.now_ms()) / 1000)
        return pause_s

    # --- Redis -------------------------------------------------------------------------------------------------

    def _exchange_with_redis(self, life: Life) -> Any:
        def seconds() -> float:
            return exponential(self.random, 0.0005, 0.5)

        async def exchange(run: Callable[[], list[Any]]) -> list[Any]:
            if not life.step():
                raise asyncio.CancelledError
            answered: asyncio.Future[list[Any]] = self.loop.create_future()

            def arrive() -> None:
                if self.redis_away and self.random.random() < 0.8:
                    self.loop.after(self.random.uniform(0, 2), lambda: answer(None))
                    return
                replies = run()  # once it is on its way, the end of the process does not call it back
                lost = self.redis_away and self.random.random() < 0.5
                if life.step():
                    self.loop.after(seconds(), lambda: answer(None if lost else replies))

            def answer(replies: list[Any] | None) -> None:
                if life.over or answered.done():
                    return
                if replies is None:
                    answered.set_exception(unreachable())
                else:
                    answered.set_result(replies)

            self.loop.after(seconds(), arrive)
            return await answered

        return exchange


def _time_has_passed(stirred: "asyncio.Future[bool]") -> None:
    if not stirred.done():
        stirred.set_result(False)
