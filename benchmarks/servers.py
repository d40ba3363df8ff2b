"""The brokers that are measured, each a process of its own on loopback: Debian's mosquitto and ours without a hub."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.mqtt import HOST
from benchmarks.processes import FEEDER_HUB, Child, ChildFailed

READY_WITHIN_S: Final = 20.0
_LOOK_EVERY_S: Final = 0.02
# Its limits of 20 messages in flight and 1,000 that wait are as they come: a window of 100 does not fill them.
# A hub has a mosquitto with more room, as `feeder-hub export mosquitto` writes it.
_MOSQUITTO_CONF: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
log_dest stderr
log_type error
"""

_ROOM_FOR_A_HUB: Final = "max_inflight_messages 1000\nmax_queued_messages 100000\n"


@dataclass(frozen=True, slots=True)
class Server:
    """A broker that listens. `ports` by the name that its command gives them: `port`, `ws_port`, ..."""

    process: Child
    ports: dict[str, int | None]

    @property
    def port(self) -> int:
        return self.port_of("port")

    def port_of(self, name: str) -> int:
        """Raises ChildFailed if it does not listen there."""
        port = self.ports.get(name)
        if port is None:
            raise ChildFailed(f"the broker does not say its {name}")
        return port


@asynccontextmanager
async def mosquitto(work_dir: Path, *, for_a_hub: bool = False) -> AsyncIterator[Server]:
    """Debian's mosquitto, open to everybody, without persistence. Raises ChildFailed where there is none."""
    program = shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ChildFailed("mosquitto is not installed; `make programs` installs it or says how")
    port = free_port()
    config = work_dir / f"mosquitto-{port}.conf"
    # Started by root it would give up the right to read this directory.
    more = ("user root\n" if os.geteuid() == 0 else "") + (_ROOM_FOR_A_HUB if for_a_hub else "")
    config.write_text(_MOSQUITTO_CONF.format(port=port) + more)
    async with Child.started(config.stem, [program, "-c", str(config)], work_dir) as process:
        await _until_listening(process, port)
        yield Server(process, {"port": port})


@asynccontextmanager
async def bare_broker(work_dir: Path, *flags: str, port: int = 0, name: str = "broker") -> AsyncIterator[Server]:
    """`feeder-hub broker --open`, which says its ports. Raises ChildFailed."""
    command = [*FEEDER_HUB, "broker", "--open", "--port", str(port), *flags]
    async with Child.started(name, command, work_dir) as process:
        yield Server(process, await process.hear(READY_WITHIN_S))


@asynccontextmanager
async def redis_server(work_dir: Path) -> AsyncIterator[str]:
    """Debian's redis-server, which keeps nothing; its URL. Raises ChildFailed where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        raise ChildFailed("redis-server is not installed; `make programs` installs it or says how")
    port = free_port()
    flags = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", str(work_dir)]
    async with Child.started("redis-server", [program, *flags], work_dir) as process:
        await _until_listening(process, port)
        yield f"redis://{HOST}:{port}/0"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as once:
        port: int = once.getsockname()[1]
        return port


async def _until_listening(process: Child, port: int) -> None:
    for _ in range(int(READY_WITHIN_S / _LOOK_EVERY_S)):
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except ConnectionRefusedError:
            if process.has_ended:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        else:
            writer.close()
            return
    raise ChildFailed(f"nothing listens on port {port}.\n{process.last_words()}")
