"""Listening, and shutting down."""

from tests.broker.conftest import Peer


async def test_a_silent_websocket_is_closed_in_time(start_broker):
    place = await start_broker(ws=True, connect_timeout_s=0.2)
    silent = await Peer(place.broker.ws_port).open()
    place.peers.append(silent)
    assert await silent.closed() == []


async def test_a_shutdown_closes_a_connection_that_has_said_nothing(place):
    idle = await place.socket()
    await place.broker.shutdown()
    assert await idle.closed() == []
