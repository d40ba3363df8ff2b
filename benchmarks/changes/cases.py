"""What is measured: each case is a server in a process of its own and a load generator in another."""

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.changes.change import SITE
from benchmarks.mqtt import HOST
from benchmarks.processes import FEEDER_HUB, Child, ChildFailed, module, output_of
from benchmarks.rounds import Case
from benchmarks.servers import READY_WITHIN_S, mosquitto, redis_server

_PAUSE_S: Final = 0.02
UNLIMITED_CALLS: Final[dict[str, object]] = {"http__max_calls_per_s": 0, "http__max_calls_per_s_per_address": 0}
"""All of the load is one token's, from one address."""


BARE: Final = "bare PUT"
RAW: Final = "raw MQTT"
PRODUCT: Final = "PUT config"
EXTERNAL: Final = f"{PRODUCT}, external parts"
REFUSED: Final = f"{PRODUCT}, refused"


@asynccontextmanager
async def bare_http(work_dir: Path) -> AsyncIterator[Case]:
    """A PUT that only parses and echoes: what HTTP costs by itself."""
    async with (
        Child.started("bare_http", module("changes.bare_http"), work_dir) as server,
        Child.started("bare_http_load", module("changes.http_load"), work_dir) as load,
    ):
        port = (await server.hear(READY_WITHIN_S))["port"]
        await load.say(port=port, token="unread")
        yield Case(BARE, server, load)


@asynccontextmanager
async def raw_mqtt(work_dir: Path) -> AsyncIterator[Case]:
    """A command and its reply over mosquitto alone, generator and desktop each a process: what MQTT costs by itself."""
    async with (
        mosquitto(work_dir) as server,
        Child.started("mosquitto_echo", module("changes.echo_desktop"), work_dir) as echo,
        Child.started("mosquitto_load", module("changes.mqtt_load"), work_dir) as load,
    ):
        access = {"port": server.port, "secret": "unread"}
        await echo.say(**access)
        await echo.hear(READY_WITHIN_S)
        await load.say(**access)
        yield Case(RAW, server.process, load)


@asynccontextmanager
async def product(work_dir: Path, feeders: int) -> AsyncIterator[Case]:
    """The hub as it comes: embedded broker, Valkey, SQLite on disk; one site, its desktop alive."""
    # All of the load is one site's, which the embedded broker reads at its rate otherwise; mosquitto has no such limit.
    async with _hub(work_dir, "embedded", feeders, mqtt__max_messages_per_s=0) as hub:
        yield await hub.case(PRODUCT)


@asynccontextmanager
async def external(work_dir: Path, feeders: int) -> AsyncIterator[Case]:
    """The hub with an external broker (mosquitto) and an external Redis; SQLite on disk."""
    async with (
        mosquitto(work_dir, for_a_hub=True) as broker,
        redis_server(work_dir) as redis_url,
        _hub(
            work_dir, "external", feeders, mqtt_port=broker.port, mqtt__url=f"mqtt://{HOST}:{broker.port}",
            redis__url=redis_url,
        ) as hub,
    ):  # fmt: skip
        yield await hub.case(EXTERNAL)


@asynccontextmanager
async def refused(work_dir: Path, feeders: int) -> AsyncIterator[Case]:
    """The hub as it comes, and a site whose desktop is not alive: every change is refused at once."""
    async with _hub(work_dir, "refusing", feeders, alive=False) as hub:
        yield await hub.case(REFUSED, status=409)


@dataclass(frozen=True, slots=True)
class _Hub:
    process: Child
    load: Child
    http_port: int
    token: str

    async def case(self, title: str, status: int = 200) -> Case:
        await self.load.say(port=self.http_port, token=self.token, status=status)
        return Case(title, self.process, self.load)


@asynccontextmanager
async def _hub(
    work_dir: Path, name: str, feeders: int, *, alive: bool = True, mqtt_port: int | None = None, **settings: object
) -> AsyncIterator[_Hub]:
    """A hub with one site. mqtt_port: of its broker, if that is an external one."""
    data_dir = work_dir / f"data-{name}"
    site = await output_of(
        [*FEEDER_HUB, "site", "add", SITE, "--feeders", str(feeders), "--json", "--data-dir", str(data_dir)]
    )
    serve = [*FEEDER_HUB, "serve", "--data-dir", str(data_dir), "--http-port", "0", "--mqtt-port", "0"]
    async with (
        Child.started(f"hub_{name}", serve, work_dir, UNLIMITED_CALLS | settings) as hub,
        Child.started(f"echo_{name}", module("changes.echo_desktop"), work_dir) as echo,
        Child.started(f"load_{name}", module("changes.http_load"), work_dir) as load,
    ):
        http_port, own_mqtt_port, token = await hub_greeting(hub)
        if alive:
            await echo.say(port=mqtt_port or own_mqtt_port, secret=site["mqtt"]["secret"])
            await echo.hear(READY_WITHIN_S)
            await until_alive(http_port, token)
        yield _Hub(hub, load, http_port, token)


async def hub_greeting(hub: Child) -> tuple[int, int, str]:
    """Its HTTP port, its MQTT port and the first administrator's token, as it prints them when it has started."""
    http_port = mqtt_port = token = None
    while http_port is None or mqtt_port is None or token is None:
        line = await hub.line(READY_WITHIN_S)
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            http_port = int(found[1])
        elif found := re.search(r"mqtt://127\.0\.0\.1:(\d+)", line):
            mqtt_port = int(found[1])
        elif found := re.search(r"\bfh_\S+", line):
            token = found[0]
    return http_port, mqtt_port, token


async def until_alive(http_port: int, token: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{http_port}/api/v1/sites/{SITE}/liveness", headers={"Authorization": f"Bearer {token}"}
    )
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def is_alive() -> bool:
        with directly.open(request, timeout=READY_WITHIN_S) as answer:
            return bool(json.load(answer)["alive"])

    for _ in range(int(READY_WITHIN_S / _PAUSE_S)):
        if await asyncio.to_thread(is_alive):
            return
        await asyncio.sleep(_PAUSE_S)
    raise ChildFailed(f"the hub does not see the desktop within {READY_WITHIN_S:g} s")
