"""What somebody without a password can do: nothing to anybody else, and not much to the broker."""

import asyncio
from contextlib import suppress

import pytest
import websockets

from hub.protocol.packets import Connect, Will, encode
from tests.broker.conftest import WAIT_S

HEARTBEAT = "fh/v1/pond7/heartbeat"
COMMANDS = "fh/v1/pond7/commands"
CONNECT = encode(Connect("pond7", username="pond7", password=b"right"))


async def knock(place, connect):
    """Send a CONNECT and wait until the broker has closed the connection."""
    stranger = await place.socket()
    stranger.send(connect)
    await asyncio.wait_for(stranger.reader.read(), WAIT_S)


@pytest.mark.parametrize("clean", [True, False])
async def test_a_wrong_password_with_the_victims_client_id_leaves_its_subscriptions_alone(place, clean):
    victim = await place.client("pond7", clean_session=False)
    await victim.subscribe(COMMANDS)
    await knock(place, Connect("pond7", clean_session=clean, username="pond7", password=b"wrong"))
    hub = await place.hub()
    await hub.publish(COMMANDS, b"still yours")
    assert [payload for _, payload, _, _ in await place.heard(victim)] == [b"still yours"]


async def test_a_wrong_password_with_the_victims_client_id_does_not_kick_it(place):
    victim = await place.client("pond7", clean_session=False)
    await knock(place, Connect("pond7", clean_session=False, username="pond7", password=b"wrong"))
    await place.settle()
    assert await victim.so_far() == []


async def test_the_will_of_somebody_with_a_wrong_password_never_goes_out(place):
    hub = await place.hub("fh/v1/#")
    await place.client("pond7", clean_session=False, will=Will(HEARTBEAT, b"mine"))
    stolen = Will("fh/v1/pond8/heartbeat", b"stolen", qos=1, retain=True)
    await knock(place, Connect("pond7", clean_session=False, username="pond7", password=b"wrong", will=stolen))
    assert await place.heard(hub) == []


async def test_an_empty_websocket_frame_stops_nobody(start_broker):
    place = await start_broker(ws=True)
    other = await place.client("pond7")
    async with websockets.connect(f"ws://127.0.0.1:{place.broker.ws_port}", subprotocols=["mqtt"]) as stranger:
        await stranger.send(b"")
    assert await other.so_far() == []


async def test_whoever_does_not_send_a_connect_in_time_is_closed(start_broker):
    place = await start_broker(connect_timeout_s=0.2)
    silent = await place.socket()
    assert await silent.closed() == []


async def test_idle_sockets_give_their_places_back(start_broker):
    place = await start_broker(max_connections=5, connect_timeout_s=0.2)
    idle = [await place.socket() for _ in range(5)]
    await asyncio.gather(*(peer.closed() for peer in idle), return_exceptions=True)
    await place.client("pond7")


async def test_one_connection_too_many_is_closed_at_once_instead_of_parked(start_broker):
    place = await start_broker(max_connections=5)
    for _ in range(5):
        await place.socket()
    late = await place.socket()
    assert await late.closed() == []


@pytest.mark.parametrize("connect", [b"\x10\x11\0\4MQTT\5\2\0\0\0\5pond7", CONNECT], ids=["level 5", "a good one"])
async def test_whoever_leaves_right_after_its_connect_takes_no_place_for_good(start_broker, connect):
    place = await start_broker(max_connections=10)
    for _ in range(10):
        hasty = await place.socket()
        hasty.writer.write(connect)
        await hasty.writer.drain()
        hasty.drop()
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(EOFError, ConnectionError):  # until the broker has seen that they are gone
                await place.client("pond8")
                break


async def test_failed_logins_leave_nothing_behind(start_broker):
    place = await start_broker(max_login_pause_s=0)  # or few of them would be looked at

    async def fail(number):
        await knock(place, Connect(f"stranger{number}", username=f"stranger{number}", password=b"wrong"))

    for number in range(200):
        await fail(number)
    before = place.broker.memory_bytes
    for number in range(200, 1200):
        await fail(number)
    assert (place.broker.memory_bytes - before) / 1000 < 4_000
