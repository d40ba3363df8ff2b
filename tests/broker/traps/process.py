"""The broker under test in a process of its own, ours or the stock one: known from outside only, as to its clients."""

import asyncio
import logging
import multiprocessing
import subprocess
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Self

from amqtt.broker import Broker
from pwdlib.hashers.argon2 import Argon2Hasher

from broker.guard import Authenticate, Credentials, Rights
from broker.open import OPEN_OPTIONS, EverybodyMayDoEverything, let_everybody_in
from broker.server import BrokerOptions, EmbeddedBroker
from hub.protocol.topics import Identity, Topics
from tests.broker.conftest import SECRET, authenticate
from tests.broker.traps.stock import stock_broker

START_WITHIN_S = 20.0
SHUTDOWN_WITHIN_S = 10.0

# A child is forked from a process that has everything imported: it starts in milliseconds.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", __name__])


@dataclass(frozen=True)
class Wanted:
    """Which broker. `options` are of our `BrokerOptions`; the stock one has a word for `max_connections` only.

    anyone: open to everybody, instead of with identities and the contract's rights.
    ws: with a WebSocket listener.
    store: with a file of its own for what survives it.
    slow_passwords: passwords are hashed with argon2, at the cost that amqtt gives it.
    publish_acl: whether the stock broker gets its list of who may publish what.
    """

    which: Literal["ours", "stock"]
    directory: Path
    options: dict[str, Any]
    anyone: bool = False
    ws: bool = False
    store: bool = False
    slow_passwords: bool = False
    publish_acl: bool = True


@asynccontextmanager
async def listening(wanted: Wanted) -> AsyncIterator[Broker]:
    """The broker while it listens; to be shut down by whoever has it."""
    if wanted.which == "stock":
        stock = stock_broker(
            wanted.directory,
            SECRET.decode(),
            anyone=wanted.anyone,
            ws=wanted.ws,
            store=wanted.store,
            max_connections=wanted.options.get("max_connections", -1),
            slow_passwords=wanted.slow_passwords,
            publish_acl=wanted.publish_acl,
        )
        await stock.start()
        yield stock
        return
    options = replace(
        OPEN_OPTIONS if wanted.anyone else BrokerOptions(),
        **({"port": 0, "ws_port": 0 if wanted.ws else None} | wanted.options),
        store=wanted.directory / "broker.sqlite" if wanted.store else None,
    )
    check: Authenticate = authenticate_slowly() if wanted.slow_passwords else authenticate
    rights: Rights = Topics()
    if wanted.anyone:
        check, rights = let_everybody_in, EverybodyMayDoEverything()
    async with EmbeddedBroker(options, check, rights, lambda _: None) as ours:
        yield ours


def authenticate_slowly() -> Authenticate:
    """Who has passwords that take long to check, does it in a thread."""
    hasher = Argon2Hasher()
    hashed = hasher.hash(SECRET)

    async def check(shown: Credentials) -> Identity | None:
        right = await asyncio.to_thread(hasher.verify, shown.password or b"", hashed)
        return await authenticate(shown) if right else None

    return check


async def _serve(wanted: Wanted, pipe: Connection) -> None:
    async with listening(wanted) as broker:
        pipe.send({name: server.instance.sockets[0].getsockname()[1] for name, server in broker._servers.items()})
        asked = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), asked.set)
        await asked.wait()
        asyncio.get_running_loop().remove_reader(pipe.fileno())
        await broker.shutdown()
        pipe.send("shut down")
        await asyncio.get_running_loop().create_future()  # what it left open stays open


def _main(wanted: Wanted, pipe: Connection) -> None:
    logging.disable()
    warnings.simplefilter("ignore")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(wanted, pipe))


class DidNotStart(Exception):
    """The broker under test; what it says stands on standard error."""


class BrokerProcess:
    """A broker, from `async with` to its end, which is sudden."""

    def __init__(self, wanted: Wanted) -> None:
        self._pipe, theirs = _FORKS.Pipe()
        self._process = _FORKS.Process(target=_main, args=(wanted, theirs), daemon=True)
        self._theirs = theirs
        self._ports: dict[str, int] = {}

    @property
    def port(self) -> int:
        return self._ports["default"]

    @property
    def ws_port(self) -> int:
        return self._ports["ws"]

    @property
    def memory_bytes(self) -> int:
        """How much memory the process holds."""
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self._process.pid)], capture_output=True, check=True, text=True
        )
        return int(shown.stdout) * 1024

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._process.start)
        self._theirs.close()
        try:
            self._ports = await self._answer(START_WITHIN_S)
        except (EOFError, TimeoutError) as error:
            raise DidNotStart from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        self._pipe.close()

    async def kill(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.join)

    async def shutdown(self) -> None:
        """Have it shut down; its process stays. Raises TimeoutError."""
        self._pipe.send("shut down")
        await self._answer(SHUTDOWN_WITHIN_S)

    async def _answer(self, within_s: float) -> Any:
        if not await asyncio.to_thread(self._pipe.poll, within_s):
            raise TimeoutError(f"the broker did not answer within {within_s:g} s")
        return self._pipe.recv()
