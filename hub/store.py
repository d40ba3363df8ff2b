"""The Redis side: calls that are made while a pipeline is on its way travel together in the next one, in order."""

import asyncio
import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from hub.errors import Unavailable

CALL_TIMEOUT_S: Final = 2.0

_UNFIT: Final = (RedisConnectionError, OutOfMemoryError, ReadOnlyError, MasterDownError)
_UNFIT_WORDS: Final = ("MISCONF", "NOREPLICAS", "CLUSTERDOWN", "LOADING", "OOM", "READONLY")
"""It answers, but cannot do now what it is asked: as good as unreachable, and no fault of the call."""

Reply = Any


class StoreUnreachable(Unavailable):
    """Redis did not answer. Nothing may be concluded from that about any desktop."""


@dataclass(slots=True)
class _Asked:
    """`alone`: one command, whose error is raised to whoever awaits it."""

    commands: Sequence[tuple[Any, ...]]
    alone: bool
    done: asyncio.Future[Any]

    def answer(self, replies: list[Reply]) -> None:
        if self.done.done():
            return
        if not self.alone:
            self.done.set_result(replies)
        elif isinstance(replies[0], Exception):
            self.done.set_exception(replies[0])
        else:
            self.done.set_result(replies[0])


def _by_hash(command: tuple[Any, ...]) -> tuple[Any, ...]:
    return ("EVALSHA", _hash_of(command[1]), *command[2:]) if command[0] == "EVAL" else command


@functools.cache
def _hash_of(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class Store:
    """`async with Store(url) as store`. Raises StoreUnreachable when Redis is away; the next call tries again.

    Keys that go together carry the same `{hash tag}`; commands are those of Redis 6.2.
    """

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=CALL_TIMEOUT_S,
            socket_connect_timeout=CALL_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self.failures = 0
        """How many calls were not carried out because Redis could not be reached; it only goes up."""
        self._waiting: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._sending is not None:
            await asyncio.wait({self._sending})
        await self.redis.aclose()

    def call(self, *command: Any) -> asyncio.Future[Reply]:
        """One Redis command. Calls are carried out in the order in which they are made, also those of later turns."""
        return self._ask([command], alone=True)

    async def calls(self, *commands: tuple[Any, ...]) -> list[Reply]:
        """Several commands, replies in their order. Raises what the first failing one raised."""
        replies = await self.attempts(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def attempts(self, commands: Sequence[tuple[Any, ...]]) -> asyncio.Future[list[Reply]]:
        """Several commands; for each its reply, or the error that it would raise."""
        return self._ask(commands, alone=False)

    def _ask(self, commands: Sequence[tuple[Any, ...]], *, alone: bool) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(commands, alone, done))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="redis-pipelines")
        return done

    async def _send(self) -> None:
        # One pipeline at a time: two would go over two connections, and the later one might be carried out first.
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            replies = iter(await self._replies_to([command for asked in waiting for command in asked.commands]))
            for asked in waiting:
                asked.answer([next(replies) for _ in asked.commands])
        self._sending = None

    async def _replies_to(self, commands: list[tuple[Any, ...]]) -> list[Reply]:
        """A reply, or an error, for each."""
        replies: list[Any]
        try:
            replies = await self._exchange(commands)
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            replies = [StoreUnreachable(f"Redis does not answer: {error}")] * len(commands)
        except Exception as error:  # noqa: BLE001 - handed to those who asked; the next calls are not at fault
            replies = [error] * len(commands)
        for n, reply in enumerate(replies):
            if isinstance(reply, _UNFIT) or (isinstance(reply, ResponseError) and str(reply).startswith(_UNFIT_WORDS)):
                replies[n] = StoreUnreachable(f"Redis cannot work now: {reply}")
            self.failures += isinstance(replies[n], StoreUnreachable)
        return replies

    async def _exchange(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Scripts go by their hashes; one that Redis does not know, or not any more, is sent as it is."""
        replies = await self._pipeline([_by_hash(command) for command in commands])
        unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            for n, reply in zip(unknown, await self._pipeline([commands[n] for n in unknown]), strict=True):
                replies[n] = reply
        return replies

    async def _pipeline(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """What redis-py's own pipeline does, without the parts of it that we do not use: half its price."""
        pool: Any = self.redis.connection_pool
        connection = await pool.get_connection()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await connection.send_packed_command(b"".join([pack_command(command) for command in commands]))
                return [await self._reply(connection, command[0]) for command in commands]
        finally:
            await pool.release(connection)

    async def _reply(self, connection: AbstractConnection, name: str) -> Any:
        try:
            reply = await connection.read_response(timeout=math.inf)  # the whole exchange has its time
        except ResponseError as error:
            return error
        as_redis_py_has_it = self.redis.response_callbacks.get(name)
        return reply if as_redis_py_has_it is None else as_redis_py_has_it(reply)
