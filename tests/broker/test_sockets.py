"""The TCP socket under everything else: chunks, turns, flow control, ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from broker.sockets import CHUNK_BYTES, MOST_UNREAD_BYTES, Socket

pytestmark = pytest.mark.both_loops

WAIT_S = 5.0
Pair = tuple[Socket, asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def pair(high_water_bytes: int = 65_536) -> AsyncIterator[Pair]:
    """The broker's end and the other one."""
    loop = asyncio.get_running_loop()
    opened = loop.create_future()
    server = await loop.create_server(partial(Socket, opened.set_result, high_water_bytes), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    socket = await asyncio.wait_for(opened, WAIT_S)
    try:
        async with asyncio.timeout(WAIT_S):
            yield socket, reader, writer
    finally:
        writer.transport.abort()
        socket.abort()
        await socket.close()
        server.close()
        await server.wait_closed()


async def test_a_writer_is_paused_above_the_high_water_mark_and_says_when_it_is_writable_again():
    async with pair(high_water_bytes=10_000) as (socket, reader, _):
        writable = asyncio.Event()
        socket.on_writable(writable.set)
        written = 0
        while not socket.paused:
            socket.write(bytes(100_000))
            written += 100_000
        assert socket.buffered_bytes > 10_000
        assert not writable.is_set()
        await reader.readexactly(written)
        await writable.wait()
        assert not socket.paused


async def test_bytes_are_given_out_in_chunks_with_turns_for_others_in_between():
    async with pair() as (socket, _, writer):
        turns = 0

        async def others():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        writer.write(bytes(4 * CHUNK_BYTES))
        received = len(await socket.read())
        while len(socket._received) < 3 * CHUNK_BYTES:
            await asyncio.sleep(0)
        counting = asyncio.create_task(others())
        while received < 4 * CHUNK_BYTES:
            chunk = await socket.read()
            assert 0 < len(chunk) <= CHUNK_BYTES
            received += len(chunk)
        assert turns >= 3
        counting.cancel()


async def test_a_peer_that_sends_more_than_is_read_has_to_wait():
    async with pair() as (socket, _, writer):
        total = 20_000_000
        writer.write(bytes(total))
        while len(socket._received) <= MOST_UNREAD_BYTES:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(socket._received) < 1_000_000
        received = 0
        while received < total:
            received += len(await socket.read())
        assert received == total


async def test_what_was_answered_goes_out_before_the_end_is_told():
    async with pair() as (socket, reader, writer):
        writer.write(b"question")
        writer.write_eof()
        assert await socket.read() == b"question"
        asyncio.get_running_loop().call_soon(socket.write, b"answer")
        assert await socket.read() == b""
        socket.abort()
        assert await reader.read() == b"answer"


async def test_a_reset_is_raised_and_then_still_the_end():
    async with pair() as (socket, _, writer):
        writer.transport.abort()
        try:
            assert await socket.read() == b""
        except ConnectionError:
            with pytest.raises(ConnectionError):
                await socket.read()
        socket.write(b"into the void")
        await socket.close()
        await socket.close()
