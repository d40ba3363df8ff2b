"""The Redis side: calls that are made while a pipeline is on its way travel together in the next one, in order."""

import asyncio
import math
from typing import Any, Final, Self

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hub.errors import Unavailable

CALL_TIMEOUT_S: Final = 2.0

_UNFIT: Final = (RedisConnectionError, OutOfMemoryError, ReadOnlyError, MasterDownError)
_UNFIT_WORDS: Final = ("MISCONF", "NOREPLICAS", "CLUSTERDOWN", "LOADING", "OOM", "READONLY")
"""It answers, but cannot do now what it is asked: as good as unreachable, and no fault of the call."""

Reply = Any


class StoreUnreachable(Unavailable):
    """Redis did not answer. Nothing may be concluded from that about any desktop."""


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
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Reply]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._sending is not None:
            await asyncio.wait({self._sending})
        await self.redis.aclose()

    def call(self, *command: Any) -> asyncio.Future[Reply]:
        """One Redis command. Calls are carried out in the order in which they are made, also those of later turns."""
        done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, done))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="redis-pipelines")
        return done

    async def calls(self, *commands: tuple[Any, ...]) -> list[Reply]:
        """Several commands, replies in their order. Raises what the first failing one raised."""
        return await asyncio.gather(*[self.call(*command) for command in commands])

    async def _send(self) -> None:
        # One pipeline at a time: two would go over two connections, and the later one might be carried out first.
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            await self._run(waiting)
        self._sending = None

    async def _run(self, waiting: list[tuple[tuple[Any, ...], asyncio.Future[Reply]]]) -> None:
        replies: list[Any]
        try:
            replies = await self._exchange([command for command, _ in waiting])
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            replies = [StoreUnreachable(f"Redis does not answer: {error}")] * len(waiting)
        except RedisError as error:
            replies = [error] * len(waiting)
        for (_, done), reply in zip(waiting, replies, strict=True):
            if isinstance(reply, _UNFIT) or (isinstance(reply, ResponseError) and str(reply).startswith(_UNFIT_WORDS)):
                reply = StoreUnreachable(f"Redis cannot work now: {reply}")
            self.failures += isinstance(reply, StoreUnreachable)
            if done.done():
                continue
            if isinstance(reply, Exception):
                done.set_exception(reply)
            else:
                done.set_result(reply)

    async def _exchange(self, commands: list[tuple[Any, ...]]) -> list[Any]:
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
