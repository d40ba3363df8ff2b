"""What is measured: each case is a server in a process of its own and a load generator in another."""

import asyncio
import json
import re
import secrets
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.changes.change import SITE
from benchmarks.processes import ROOT, Child, ChildFailed, module, output_of
from benchmarks.rounds import Case

READY_WITHIN_S: Final = 20.0
_PAUSE_S: Final = 0.02


@asynccontextmanager
async def bare_http(work_dir: Path) -> AsyncIterator[Case]:
    """A PUT that only parses and echoes: what HTTP costs by itself."""
    async with (
        Child.started("bare_http", module("changes.bare_http"), work_dir) as server,
        Child.started("bare_http_load", module("changes.http_load"), work_dir) as load,
    ):
        port = (await server.hear(READY_WITHIN_S))["port"]
        await load.say(port=port, token="unread")
        yield Case("bare PUT", server, load)


@asynccontextmanager
async def raw_mqtt(work_dir: Path) -> AsyncIterator[Case]:
    """A command and its reply over the embedded broker alone: what MQTT costs by itself."""
    secret = secrets.token_urlsafe(32)
    async with (
        Child.started("raw_broker", module("changes.raw_broker"), work_dir) as broker,
        Child.started("raw_echo", module("changes.echo_desktop"), work_dir) as echo,
        Child.started("raw_load", module("changes.mqtt_load"), work_dir) as load,
    ):
        await broker.say(secret=secret)
        port = (await broker.hear(READY_WITHIN_S))["port"]
        await echo.say(port=port, secret=secret)
        await echo.hear(READY_WITHIN_S)
        await load.say(port=port, secret=secret)
        yield Case("raw MQTT", broker, load)


@asynccontextmanager
async def product(work_dir: Path, feeders: int) -> AsyncIterator[Case]:
    """The hub as it comes: embedded broker, Valkey, SQLite on disk; one site, its desktop alive."""
    data_dir = work_dir / "data"
    feeder_hub = [sys.executable, str(ROOT / "main.py")]
    site = await output_of(
        [*feeder_hub, "site", "add", SITE, "--feeders", str(feeders), "--json", "--data-dir", str(data_dir)]
    )
    serve = [*feeder_hub, "serve", "--data-dir", str(data_dir), "--http-port", "0", "--mqtt-port", "0"]
    async with (
        Child.started("hub", serve, work_dir) as hub,
        Child.started("hub_echo", module("changes.echo_desktop"), work_dir) as echo,
        Child.started("hub_load", module("changes.http_load"), work_dir) as load,
    ):
        http_port, mqtt_port, token = await _greeting_of(hub)
        await echo.say(port=mqtt_port, secret=site["mqtt"]["secret"])
        await echo.hear(READY_WITHIN_S)
        await _until_alive(http_port, token)
        await load.say(port=http_port, token=token)
        yield Case("PUT config", hub, load)


async def _greeting_of(hub: Child) -> tuple[int, int, str]:
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


async def _until_alive(http_port: int, token: str) -> None:
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
