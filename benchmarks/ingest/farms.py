"""The generator: many farms' desktops on connections of their own, which say heartbeats or events as fast as they go.

What the hub has taken in is seen where it writes it down: a heartbeat's seq in Redis, an event's row in the database.
So many are on their way at a time that the hub never waits, and so few that no broker drops one.
The first line on stdin is a `Ground`; then `SayOrder`s (see load.py).
"""

import asyncio
import contextlib
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis
from ulid import ULID

from benchmarks.changes.echo_desktop import answer
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured, Tally, serve_rounds
from benchmarks.mqtt import MqttClient
from hub.protocol.messages import Event, Heartbeat, encode
from hub.protocol.packets import Connect, Publish
from hub.protocol.times import utc_now
from hub.protocol.topics import Topics

HEARTBEATS: Final = "heartbeats"
EVENTS: Final = "events"
FEEDER: Final = "f1"
_LAPS_ON_THEIR_WAY: Final = 4
_EVENTS_ON_THEIR_WAY: Final = 2_000
_LOOK_EVERY_S: Final = 0.005
_TURN: Final = 50
"""Messages that are written before everybody else has a turn."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Where the farms speak to, and where the hub writes it down. database: SQLite's file."""

    mqtt_port: int
    redis_url: str
    database: str
    sites: list[str]


@dataclass(frozen=True, slots=True)
class SayOrder:
    """One round: `what` is HEARTBEATS or EVENTS."""

    what: str
    seconds: float


class Farm:
    """One farm's desktop. It answers what the hub asks, as every desktop does."""

    def __init__(self, site: str) -> None:
        self._topics = Topics()
        self._site = site
        self._session = str(ULID())
        self._seq = 0
        self._client: MqttClient | None = None

    async def come(self, port: int) -> None:
        self._client = await MqttClient.open(port, Connect(self._site, username=self._site, password=b"x"), self._take)
        await self._client.subscribe(*self._topics.desktop_filters(self._site)[:2])

    def _take(self, message: Publish) -> None:
        command = json.loads(message.payload)
        self._say(command["reply_to"], answer(command))

    def _say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self._client is not None
        self._client.publish(topic, payload, retain=retain)

    def beat(self) -> None:
        self._seq += 1
        heartbeat = Heartbeat(
            online=True,
            session=self._session,
            seq=self._seq,
            sent_at=utc_now(),
            interval_s=20,
            agent="farm of the benchmark",
            journal_id=self._session,
        )
        self._say(self._topics.heartbeat(self._site), encode(heartbeat), retain=True)

    def tell_of_a_meal(self) -> None:
        self._seq += 1
        event = Event(id=str(ULID()), seq=self._seq, kind="meal", at=utc_now(), planned_g=250.0, dispensed_g=249.5)
        self._say(self._topics.events(self._site, FEEDER), encode(event))

    def leave(self) -> None:
        if self._client is not None:
            self._client.close()


@contextlib.asynccontextmanager
async def farms(ground: Ground) -> AsyncIterator[list[Farm]]:
    """All of them, connected and alive."""
    found = [Farm(site) for site in ground.sites]
    for n in range(0, len(found), _TURN):
        await asyncio.gather(*(farm.come(ground.mqtt_port) for farm in found[n : n + _TURN]))
    try:
        yield found
    finally:
        for farm in found:
            farm.leave()


async def say_heartbeats(ground: Ground, tally: Tally) -> None:
    """Lap by lap, one heartbeat of each farm."""
    async with farms(ground) as found, Redis.from_url(ground.redis_url, decode_responses=True) as redis:

        async def seen() -> int:
            """The lap that has come through."""
            pipeline = redis.pipeline(transaction=False)
            for site in ground.sites:
                pipeline.hget(f"fh:{{{site}}}:seen", "seq")
            return min(int(seq or 0) for seq in await pipeline.execute())

        async def until_seen(lap: int) -> int:
            """The lap that has come through, which is this one or a later one."""
            while True:
                through = await seen()
                if through >= lap:
                    return through
                await asyncio.sleep(_LOOK_EVERY_S)  # nobody tells when Redis has it

        await redis.delete(*(f"fh:{{{site}}}:seen" for site in ground.sites))
        await _all(found, Farm.beat)
        await until_seen(1)  # each new session costs more than what follows: that is not what is measured
        tally.begin()
        lap = counted = 1
        while counted < lap or tally.goes_on():
            if tally.goes_on():
                await _all(found, Farm.beat)
                lap += 1
            through = await until_seen(max(lap - _LAPS_ON_THEIR_WAY, 1) if tally.goes_on() else lap)
            tally.add((through - counted) * len(found))
            counted = through


async def say_events(ground: Ground, tally: Tally) -> None:
    """One of each farm after the other, as long as not too many are on their way."""
    with contextlib.closing(sqlite3.connect(f"file:{ground.database}?mode=ro", uri=True)) as database:

        def stored() -> int:
            return int(database.execute("SELECT coalesce(max(rowid), 0) FROM feeder_event").fetchone()[0])

        async with farms(ground) as found:
            before = stored()
            tally.begin()
            sent = counted = 0
            while counted < sent or tally.goes_on():
                if tally.goes_on() and sent - counted < _EVENTS_ON_THEIR_WAY:
                    await _all(found, Farm.tell_of_a_meal)
                    sent += len(found)
                else:
                    await asyncio.sleep(_LOOK_EVERY_S)
                through = stored() - before
                tally.add(through - counted)
                counted = through


async def _all(found: list[Farm], do: Any) -> None:
    for n, farm in enumerate(found, 1):
        do(farm)
        if not n % _TURN:
            await asyncio.sleep(0)


async def measure(order: SayOrder, *, ground: Ground) -> Measured:
    tally = Tally(order.seconds)
    say = say_heartbeats if order.what == HEARTBEATS else say_events
    try:
        await asyncio.wait_for(say(ground, tally), order.seconds + LAST_ANSWERS_WITHIN_S)
    except TimeoutError:
        tally.failed("not everything that was said was taken in")
    return tally.measured()


if __name__ == "__main__":
    serve_rounds(SayOrder, partial(measure, ground=Ground(**json.loads(sys.stdin.readline()))))
