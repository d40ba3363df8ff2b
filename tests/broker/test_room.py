"""How many may come in: in all, from one address, and without having logged in. More are closed at once."""

import asyncio
import socket

import pytest
import websockets

from broker.admission import Admission, NoRoom, Room
from hub.protocol.packets import Connect, encode

CONNECT = encode(Connect("pond7", username="pond7", password=b"right"))


def enter(admission, network, put_out=None):
    """put_out: a list that is told who had to make room."""
    return admission.enter(network, 0, lambda reason: put_out.append((network, reason)))


@pytest.mark.parametrize(
    ("room", "reason"),
    [
        (Room(connections=2, per_network=9, unauthenticated=9), "too-many-connections"),
        (Room(connections=9, per_network=2, unauthenticated=9), "too-many-connections-of-address"),
    ],
)
def test_who_leaves_makes_room(room, reason):
    admission = Admission(room)
    first, _ = enter(admission, "a"), enter(admission, "a")
    with pytest.raises(NoRoom) as full:
        enter(admission, "a")
    assert full.value.reason == reason
    first.leave()
    enter(admission, "a")
    assert (admission.connections, admission.unauthenticated) == (2, 2)


def test_a_login_makes_room_for_another():
    admission = Admission(Room(connections=9, per_network=9, unauthenticated=1))
    first = enter(admission, "a")
    first.accepted()
    enter(admission, "a")
    first.leave()
    assert (admission.connections, admission.unauthenticated) == (1, 1)


def test_of_those_without_a_login_the_oldest_of_the_network_that_has_most_makes_room():
    admission, put_out = Admission(Room(connections=99, per_network=99, unauthenticated=4)), []
    crowd = [enter(admission, "crowd", put_out) for _ in range(3)]
    crowd[0].accepted()
    farm = enter(admission, "farm", put_out)
    for _ in range(2):
        enter(admission, "crowd", put_out)
    assert put_out == [("crowd", "too-many-unauthenticated")]
    assert admission.unauthenticated == 4
    for _ in range(50):
        enter(admission, "crowd", put_out)
    assert {network for network, _ in put_out} == {"crowd"}
    farm.accepted()
    assert admission.unauthenticated == 3
    crowd[1].leave()  # who was put out leaves too
    assert (admission.connections, admission.unauthenticated) == (55, 3)


def test_nobody_is_remembered_who_is_gone():
    admission = Admission(Room(connections=9, per_network=9, unauthenticated=9))
    for number in range(1_000):
        enter(admission, f"10.0.{number // 256}.{number % 256}").leave()
    assert not admission._of_network
    assert not admission._unauthenticated
    assert (admission.connections, admission.unauthenticated) == (0, 0)


async def closed_at_once(peers):
    async with asyncio.timeout(5):
        assert all([await peer.closed() == [] for peer in peers])


@pytest.mark.both_loops
async def test_a_crowd_from_one_address_keeps_nobody_else_out(start_broker):
    place = await start_broker(connect_timeout_s=3600, max_connections_per_address=50)
    crowd = await asyncio.gather(*(place.socket() for _ in range(500)))
    await place.until("refused_too-many-connections-of-address", 450)
    assert place.broker.counters["connections"] == 50
    other = await place.socket(source="127.0.0.2")
    assert (await other.connect("pond7")).code == 0
    gone = [peer for peer in crowd if peer.reader.at_eof() or peer.reader.exception()]
    await closed_at_once(gone)
    assert place.refusals[0].reason == "too-many-connections-of-address"
    for peer in (*crowd, other):
        peer.drop()
    await place.until_none("connections")
    assert (await (await place.socket()).connect("pond8")).code == 0


async def test_sockets_that_have_not_logged_in_are_few_and_those_that_have_are_many(start_broker):
    place = await start_broker(connect_timeout_s=3600, max_unauthenticated=3)
    for number in range(10):
        await place.client(f"pond{number}")
    assert place.broker.counters["connections_unauthenticated"] == 0
    silent = [await place.socket() for _ in range(3)]
    later = [await place.socket() for _ in range(3)]
    await closed_at_once(silent)
    assert place.broker.counters["refused_too-many-unauthenticated"] == 3
    assert place.broker.counters["connections_unauthenticated"] == 3
    assert (await later[0].connect("late")).code == 0


async def test_silent_sockets_from_a_few_addresses_keep_nobody_else_out(start_broker):
    place = await start_broker(connect_timeout_s=3600, max_unauthenticated=20)
    silent = [await place.socket(source=f"127.0.0.{1 + number % 5}") for number in range(30)]
    for number in range(10):
        assert (await (await place.socket(source="127.0.0.9")).connect(f"pond{number}")).code == 0
    await closed_at_once(silent[:10])


async def test_handshakes_count_as_sockets_that_have_not_logged_in(start_broker, tls):
    ports = {"tls_port": 0, "ws_port": 0, "wss_port": 0}
    place = await start_broker(connect_timeout_s=3600, max_unauthenticated=4, tls=tls.files, **ports)
    broker = place.broker
    ways = (broker.tls_port, broker.ws_port, broker.wss_port, broker.port)
    silent = [await place.socket(port=port) for port in ways]
    later = [await place.socket(port=port) for port in ways]
    await closed_at_once(silent)
    for peer in later:
        peer.drop()
    await place.until_none("connections")
    async with websockets.connect(f"ws://127.0.0.1:{broker.ws_port}", subprotocols=["mqtt"]) as client:
        assert broker.counters["connections_unauthenticated"] == 1
        await client.send(CONNECT)
        await client.recv()
        assert broker.counters["connections_unauthenticated"] == 0


async def test_a_refused_login_frees_its_place(start_broker):
    place = await start_broker(max_unauthenticated=1)
    for password in (b"wrong", b"wrong", b"right"):
        await place.until_none("connections")
        peer = await place.socket()
        code = (await peer.connect("pond7", password)).code
        if code:
            await peer.closed()
    assert code == 0


@pytest.mark.both_loops
async def test_an_ipv6_network_is_counted_as_one(start_broker):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("NOT TESTED: this machine has no IPv6")
    place = await start_broker(host="[::1]", max_connections_per_address=2)
    peers = [await place.socket(host="::1", local_addr=None) for _ in range(2)]
    await closed_at_once([await place.socket(host="::1", local_addr=None)])
    assert (await peers[0].connect("pond7")).code == 0
    assert place.refusals[0].address.startswith("[::1]:")
