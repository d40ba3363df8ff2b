"""Writes that leave together: in their order, none lost at a close, and none to a connection that is gone."""

import asyncio
from typing import cast

from http_api.one_write import GatheringTransport


class Wire:
    """The transport below: what was written to it, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def gathering(wire: Wire) -> GatheringTransport:
    return GatheringTransport(cast("asyncio.Transport", wire), asyncio.get_running_loop())


async def test_the_writes_of_one_turn_are_one() -> None:
    wire = Wire()
    transport = gathering(wire)
    transport.write(b"head ")
    transport.write(b"body")
    assert wire.writes == []
    await asyncio.sleep(0)
    transport.write(b"next")
    await asyncio.sleep(0)
    assert wire.writes == [b"head body", b"next"]


async def test_what_was_written_before_a_close_still_leaves_and_nothing_after_it() -> None:
    wire = Wire()
    transport = gathering(wire)
    transport.write(b"last")
    transport.close()
    assert (wire.writes, wire.closed, transport.is_closing()) == ([b"last"], True, True)
    transport.write(b"too late")
    await asyncio.sleep(0)
    assert wire.writes == [b"last"]


async def test_to_a_connection_that_is_lost_nothing_is_written() -> None:
    wire = Wire()
    transport = gathering(wire)
    transport.write(b"lost")
    wire.closed = True
    await asyncio.sleep(0)
    assert wire.writes == []
