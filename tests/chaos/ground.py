"""What a run of chaos stands on: one hub with its parts as real processes, its sites, and the lines between them."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.chaos.line import Line, Tap, Way
from tests.chaos.pulse import HeartbeatTap, Pulse
from tests.end_to_end.external import Mosquitto, RedisServer
from tests.end_to_end.hub_process import HubProcess, SimulatedFarm
from tests.end_to_end.postgres import Postgres, postgres_program, postgres_server

TTL_S: Final = 3.0
HEARTBEAT_S: Final = 1.0
COMMAND_TIMEOUT_S: Final = 2.0
SITES: Final = 3
FEEDERS: Final = 20
"""Each of them may have a dose every ten seconds."""
HEALED_WITHIN_S: Final = 60.0
_TICK_S: Final = 0.1
_ASK_WITHIN_S: Final = 10.0
_KNOWN_WITHIN_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.1
_SETTINGS: Final = {
    "liveness__ttl_s": TTL_S,
    "liveness__heartbeat_s": HEARTBEAT_S,
    "commands__timeout_s": COMMAND_TIMEOUT_S,
}


class NotInTime(Exception):
    """What was awaited has not come to be."""


@dataclass(slots=True)
class Site:
    """A site with its desktop as a process. sent, heard: its heartbeats behind its own line, and before the hub."""

    name: str
    feeders: list[str]
    line: Line
    desktop: SimulatedFarm
    sent: Pulse
    heard: Pulse
    is_stopped: bool = False
    """Somebody has ordered a stop, and its release has not been confirmed."""


@dataclass(slots=True)
class Ground:
    """One hub. mosquitto, redis, postgres: None where its part is the embedded one."""

    name: str
    directory: Path
    hub: HubProcess
    api: httpx.AsyncClient
    mosquitto: Mosquitto | None = None
    redis: RedisServer | None = None
    postgres: Postgres | None = None
    broker_line: Line | None = None
    redis_line: Line | None = None
    postgres_line: Line | None = None
    sites: list[Site] = field(default_factory=list)

    async def get(self, path: str, **query: Any) -> Any:
        """Raises httpx.HTTPError."""
        return (await self.api.get(path, params=query)).raise_for_status().json()

    async def pages(self, path: str) -> list[dict[str, Any]]:
        """All items of a list, the newest first."""
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": 500}
        while True:
            page = await self.get(path, **query)
            found += page["items"]
            if page["next"] is None:
                return found
            query["cursor"] = page["next"]

    async def is_ready(self) -> bool:
        """Every part of the hub can be reached, and every site is alive."""
        try:
            if (await self.api.get(f"{self.hub.http_url}/readyz")).status_code != httpx.codes.OK:
                return False
            return all(site["liveness"]["alive"] is True for site in (await self.get("/sites"))["items"])
        except httpx.HTTPError:
            return False

    async def wait_ready(self, within_s: float) -> None:
        """Raises NotInTime."""
        ends_at_s = time.monotonic() + within_s
        while not await self.is_ready():
            if time.monotonic() > ends_at_s:
                raise NotInTime(f"not ready, or a site not alive, within {within_s:g} s")
            await asyncio.sleep(_LOOK_EVERY_S)


@asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[Ground]:
    """One process: the embedded broker, the embedded Redis-compatible server, SQLite."""
    async with AsyncExitStack() as stack:
        hub = HubProcess(directory / "data", **_SETTINGS)
        ground = await _begun(stack, Ground("embedded", directory, hub, _client()))
        await _settle(stack, ground, lambda: hub.mqtt_port)
        yield ground


@asynccontextmanager
async def external(directory: Path) -> AsyncIterator[Ground]:
    """With mosquitto, redis-server and (where it is installed) PostgreSQL, and lines to them."""
    async with AsyncExitStack() as stack:
        settings: dict[str, Any] = dict(_SETTINGS)
        postgres = postgres_line = None
        if postgres_program("postgres") is not None:
            postgres = stack.enter_context(postgres_server(directory))
            server = postgres
            postgres_line = await stack.enter_async_context(Line(lambda: server.port))
            settings |= {"database__url": postgres.url.replace(f":{postgres.port}/", f":{postgres_line.port}/")}
        redis = stack.enter_context(RedisServer(_program("redis-server"), directory).running())
        redis_line = await stack.enter_async_context(Line(lambda: redis.port))
        mosquitto = Mosquitto(_program("mosquitto"), directory / "mosquitto", directory / "data", **settings)
        await asyncio.to_thread(stack.enter_context, mosquitto.running())
        heard: dict[str, Pulse] = {}
        broker_line = await stack.enter_async_context(Line(lambda: mosquitto.port, _tap(Way.DOWN, heard)))
        settings |= {
            "redis__url": f"redis://127.0.0.1:{redis_line.port}/0",
            "mqtt__url": f"mqtt://127.0.0.1:{broker_line.port}",
        }
        hub = HubProcess(directory / "data", **settings)
        parts = {"mosquitto": mosquitto, "redis": redis, "postgres": postgres}
        lines = {"broker_line": broker_line, "redis_line": redis_line, "postgres_line": postgres_line}
        ground = await _begun(stack, Ground("external", directory, hub, _client(), **parts, **lines))  # type: ignore[arg-type]  # by name
        await _settle(stack, ground, lambda: mosquitto.port, heard)
        yield ground


GROUNDS: Final = {"embedded": embedded, "external": external}


def _program(name: str) -> str:
    path = shutil.which(name)
    assert path is not None, f"{name} is not installed; `make programs` installs it or says how"
    return path


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_ASK_WITHIN_S, limits=httpx.Limits(max_connections=200))


async def _begun(stack: AsyncExitStack, ground: Ground) -> Ground:
    """The hub runs, and can be asked."""
    await stack.enter_async_context(ground.api)
    stack.callback(ground.hub.discard)
    await asyncio.to_thread(ground.hub.start)
    ground.api.base_url = httpx.URL(f"{ground.hub.http_url}/api/v1")
    ground.api.headers["Authorization"] = f"Bearer {ground.hub.token}"
    return ground


async def _settle(
    stack: AsyncExitStack, ground: Ground, broker_port: Callable[[], int], heard: dict[str, Pulse] | None = None
) -> None:
    """Sites with desktops, each behind a line of its own, alive and known. `heard`: who is to see the hub's pulses."""
    for number in range(1, SITES + 1):
        body = {"site": f"pond{number}", "feeders": FEEDERS}
        made = (await ground.api.post("/sites", json=body)).raise_for_status().json()
        sent = Pulse(TTL_S)
        line = await stack.enter_async_context(Line(broker_port, _tap(Way.UP, {made["site"]: sent})))
        url, secret = f"mqtt://127.0.0.1:{line.port}", made["mqtt"]["secret"]
        desktop = SimulatedFarm(ground.directory, url, made["site"], secret, FEEDERS, HEARTBEAT_S, tick_s=_TICK_S)
        at_hub = sent
        if heard is not None:
            at_hub = heard[made["site"]] = Pulse(TTL_S)
        ground.sites.append(Site(made["site"], made["feeders"], line, desktop, sent, at_hub))
    if ground.mosquitto is not None:
        await asyncio.to_thread(ground.mosquitto.export)
    for site in ground.sites:
        stack.callback(site.desktop.discard)
        await asyncio.to_thread(site.desktop.start)
    await ground.wait_ready(_KNOWN_WITHIN_S)


def _tap(way: Way, pulses: dict[str, Pulse]) -> Callable[[Way], Tap | None]:
    def tap(of: Way) -> Tap | None:
        return HeartbeatTap(pulses, time.monotonic, from_broker=way is Way.DOWN) if of is way else None

    return tap
