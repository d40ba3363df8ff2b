"""The broker under test in a process of its own, ours or the stock one: known from outside only, as to its clients."""

import asyncio
import logging
import multiprocessing
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop
from amqtt.broker import Broker
from pwdlib.hashers.argon2 import Argon2Hasher

from broker.guard import Authenticate, Credentials, Rights
from broker.open import OPEN_OPTIONS, EverybodyMayDoEverything, let_everybody_in
from broker.server import BrokerOptions, EmbeddedBroker
from hub.protocol.topics import Identity, Topics
from tests.broker.conftest import SECRET, authenticate
from tests.broker.traps.stock import stock_broker
from tests.broker.traps.wanted import Wanted

START_WITHIN_S = 20.0
SHUTDOWN_WITHIN_S = 10.0

# A child is forked from a process that has everything imported: it starts in milliseconds.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", __name__])


@asynccontextmanager
async def listening(wanted: Wanted) -> AsyncIterator[Broker]:
    """The broker while it listens; to be shut down by whoever has it."""
    if wanted.which == "stock":
        stock = stock_broker(wanted, SECRET.decode())
        await stock.start()
        yield stock
        return
    options = replace(
        OPEN_OPTIONS if wanted.anyone else BrokerOptions(),
        port=0,
        ws_port=0 if wanted.ws else None,
        tls_port=0 if wanted.tls else None,
        tls=wanted.tls,
        store=wanted.directory / "broker.sqlite" if wanted.store else None,
        **wanted.options,
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
    # Each on the loop that it runs on outside of tests.
    loop_factory = uvloop.new_event_loop if wanted.which == "ours" else None
    with asyncio.Runner(loop_factory=loop_factory) as runner, suppress(KeyboardInterrupt):
        runner.run(_serve(wanted, pipe))


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
    def tls_port(self) -> int:
        return self._ports["tls"]

    @property
    def memory_bytes(self) -> int:
        """How much memory the process holds now (RSS)."""
        statm = Path(f"/proc/{self._process.pid}/statm")
        if not statm.exists():
            pytest.skip("NOT TESTED: this system does not tell in /proc what a process holds")
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

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
