"""Who may enter: password, identity, client id and will, all before anything of a session is touched."""

import asyncio

import pytest

from hub.protocol.packets import Connect, Disconnect, Pingreq, Publish, Subscribe, Will, encode

HEARTBEAT = "fh/v1/pond7/heartbeat"


@pytest.mark.parametrize(
    ("user", "password", "client_id", "code"),
    [
        ("pond7", b"wrong", "pond7", 5),
        ("pond7", None, "pond7", 5),
        ("pond7", b"right", "pond8", 2),
        ("pond7", b"right", "pond7-2", 2),
        ("pond7", b"right", "hub-1", 2),
        ("hub", b"right", "pond7", 2),
        ("pond7", b"right", "pond7", 0),
        ("hub", b"right", "hub-1", 0),
    ],
)
async def test_password_and_client_id_decide_who_enters(place, user, password, client_id, code):
    peer = await place.socket()
    assert (await peer.connect(user, password, client_id=client_id)).code == code
    if code:
        assert await peer.closed() == []
        assert place.refusals[0].client_id == client_id
        assert place.broker.counters[f"refused_{place.refusals[0].reason}"] == 1
    assert place.broker.counters["sessions"] == (0 if code else 1)


async def test_an_empty_client_id_without_clean_session_is_refused(place):
    peer = await place.socket()
    assert (await peer.connect("hub", client_id="", clean_session=False)).code == 2  # [MQTT-3.1.3-8]
    assert await peer.closed() == []


@pytest.mark.parametrize(("user", "begins"), [("pond7", "pond7."), ("hub", "hub-"), ("monitor", "monitor.")])
async def test_an_empty_client_id_is_replaced_by_one_of_the_users_own(place, user, begins):
    first, second = await place.socket(), await place.socket()
    assert (await first.connect(user, client_id="")).code == 0  # [MQTT-3.1.3-6]
    assert (await second.connect(user, client_id="")).code == 0
    client_ids = list(place.broker._exchange._subscribers)
    assert len(set(client_ids)) == 2
    assert all(client_id.startswith(begins) for client_id in client_ids)


async def test_a_client_without_credentials_is_refused(place):
    peer = await place.socket()
    peer.send(Connect("pond7"))
    assert (await peer.receive()).code == 5
    assert place.refusals[0].reason == "no-credentials"


@pytest.mark.parametrize(("user", "password"), [("pond7", b"wrong"), ("pond8", b"right")])
async def test_a_thief_with_the_victims_client_id_changes_nothing(place, user, password):
    hub = await place.hub("fh/v1/+/heartbeat")
    victim = await place.client("pond7", clean_session=False)
    await victim.subscribe("fh/v1/pond7/commands")
    thief = await place.socket()
    will = Will(HEARTBEAT, b"stolen", qos=1, retain=True)
    assert (await thief.connect(user, password, client_id="pond7", will=will)).code != 0
    await thief.closed()
    await hub.publish("fh/v1/pond7/commands", b"still yours")
    assert await victim.messages() == [("fh/v1/pond7/commands", b"still yours", 1, False)]
    assert await hub.messages() == []


async def test_what_follows_a_refused_connect_is_not_looked_at(place):
    hub = await place.hub("fh/v1/+/heartbeat")
    thief = await place.socket()
    thief.send(Connect("pond7", username="pond7", password=b"wrong"), Publish(HEARTBEAT, b"x"), Disconnect())
    await thief.closed()
    assert await hub.messages() == []  # [MQTT-3.1.4-5]


async def test_what_follows_a_good_connect_need_not_wait_for_the_connack(place):
    peer = await place.socket()
    connect = Connect("pond7", username="pond7", password=b"right")
    peer.send(connect, Subscribe(1, (("fh/v1/pond7/commands", 1),)), Pingreq())
    await peer.receive()
    assert (await peer.receive()).codes == (1,)


@pytest.mark.parametrize("version", [(b"MQTT", 5), (b"MQTT", 3), (b"MQIsdp", 3)])
async def test_other_versions_of_mqtt_are_told_so(place, version):
    name, level = version
    peer = await place.socket()
    peer.writer.write(b"\x10" + bytes((7 + len(name),)) + bytes((0, len(name))) + name + bytes((level, 2, 0, 0, 0)))
    assert (await peer.receive()).code == 1  # [MQTT-3.1.2-2]
    assert await peer.closed() == []


@pytest.mark.parametrize("first", [encode(Pingreq()), encode(Publish("a")), b"GET / HTTP/1.1\r\n\r\n", b"\0" * 9])
async def test_anything_but_a_connect_first_closes_without_an_answer(place, first):
    peer = await place.socket()
    peer.writer.write(first)
    assert await peer.closed() == []  # [MQTT-3.1.0-1]


async def test_a_second_connect_closes_the_connection(place):
    peer = await place.client("pond7")
    peer.send(Connect("pond7", username="pond7", password=b"right"))
    assert await peer.closed() == []  # [MQTT-3.1.0-2]


@pytest.mark.parametrize("dribble", [b"", b"\x10", encode(Connect("pond7", username="pond7"))[:-1]])
async def test_a_client_that_does_not_connect_in_time_is_closed(start_broker, dribble):
    place = await start_broker(connect_timeout_s=0.1)
    peer = await place.socket()
    peer.writer.write(dribble)
    assert await peer.closed() == []
    assert place.refusals[0].reason == "connect-timeout"


async def test_idle_sockets_hold_no_place_longer_than_the_time_limit(start_broker):
    place = await start_broker(connect_timeout_s=0.2, max_connections=5)
    idle = [await place.socket() for _ in range(5)]
    late = await place.socket()
    assert await late.closed() == []  # refused at once, not parked
    assert place.refusals[0].reason == "too-many-connections"
    await asyncio.gather(*(peer.closed() for peer in idle))
    await place.client("pond7")


async def test_when_nobody_can_be_authenticated_the_server_says_unavailable(place, monkeypatch):
    async def broken(user, password):
        raise RuntimeError("the database is away")

    monkeypatch.setattr(place.broker._guard, "_authenticate", broken)
    peer = await place.socket()
    assert (await peer.connect("pond7")).code == 3
    assert await peer.closed() == []


@pytest.mark.parametrize("first", [b"\x20", b"\x30", b"\x40", b"\x82", b"\xc0", b"\x00", b"\xf0"])
async def test_a_first_byte_that_begins_no_connect_ends_the_connection_at_once(start_broker, first):
    """Or a stranger could have a packet of its own length kept for as long as its time to log in."""
    place = await start_broker(connect_timeout_s=60.0)
    peer = await place.socket()
    peer.writer.write(first)  # the length that it would declare never comes
    assert await peer.closed() == []  # [MQTT-3.1.0-1]
    assert place.refusals[0].reason == "malformed"
