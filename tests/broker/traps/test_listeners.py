"""Before the first byte of MQTT: sockets that say nothing, pages of others, certificates."""

from dataclasses import replace

import pytest
import trustme
import websockets


@pytest.mark.parametrize("port", ["tls_port", "ws_port"])
async def test_whoever_does_not_open_tls_or_a_websocket_in_time_is_closed(start_broker, tls, port):
    place = await start_broker(tls=tls.files, ws=True, connect_timeout_s=0.2)
    silent = await place.socket(port=getattr(place.broker, port))
    assert await silent.closed() == []


async def test_a_page_of_somebody_else_opens_no_websocket(start_broker):
    place = await start_broker(ws=True)
    url = f"ws://127.0.0.1:{place.broker.ws_port}"
    try:
        async with websockets.connect(url, subprotocols=["mqtt"], origin="https://evil.example"):
            opened = True
    except websockets.InvalidStatus:
        opened = False
    assert not opened


async def lets_in(place, context):
    """Whether a client with that TLS, and with the right password, gets in."""
    try:
        peer = await place.socket(port=place.broker.tls_port, ssl=context)
        return (await peer.connect("pond7")).code == 0
    except (EOFError, OSError):
        return False


async def test_a_broker_that_requires_a_certificate_lets_nobody_in_without(start_broker, tls):
    place = await start_broker(tls=replace(tls.files, client_certificates="required"))
    assert not await lets_in(place, tls.client())


async def test_a_broker_that_wants_no_certificate_does_not_mind_whose_it_is(start_broker, tls):
    place = await start_broker(tls=replace(tls.files, client_certificates="none"))
    assert await lets_in(place, tls.client("pond7", authority=trustme.CA()))
