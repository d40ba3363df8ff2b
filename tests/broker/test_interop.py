"""Clients that other people wrote: paho in its own thread, mosquitto_pub and mosquitto_sub."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import paho.mqtt.client as paho
import pytest

HEARTBEAT = "fh/v1/pond7/heartbeat"
EVENTS = "fh/v1/pond7/feeders/f1/events"


class PahoClient:
    """paho, with its callbacks brought to the event loop."""

    def __init__(self, user: str, client_id: str, *, way: str = "port", clean: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self.inbox: asyncio.Queue[tuple[str, bytes, int, bool]] = asyncio.Queue()
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.client = client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            transport="websockets" if way in ("ws_port", "wss_port") else "tcp",
            clean_session=clean,
        )
        client.username_pw_set(user, "right")

        def tell(event: str) -> Callable[..., None]:
            return lambda *_: loop.call_soon_threadsafe(self.events.put_nowait, event)

        client.on_connect, client.on_subscribe, client.on_publish = map(tell, ("in", "granted", "published"))
        client.on_message = lambda *args: loop.call_soon_threadsafe(
            self.inbox.put_nowait, (args[2].topic, args[2].payload, args[2].qos, args[2].retain)
        )

    async def start(self, port: int) -> None:
        await asyncio.to_thread(self.client.connect, "127.0.0.1", port)
        self.client.loop_start()
        await self.seen("in")

    async def seen(self, event: str) -> None:
        assert await asyncio.wait_for(self.events.get(), 5) == event

    async def subscribe(self, topic_filter: str, qos: int) -> None:
        self.client.subscribe(topic_filter, qos)
        await self.seen("granted")

    async def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos, retain)
        await self.seen("published")

    async def heard(self) -> tuple[str, bytes, int, bool]:
        return await asyncio.wait_for(self.inbox.get(), 5)

    async def stop(self) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)


@pytest.fixture
async def paho_client(tls):
    started: list[PahoClient] = []

    async def start(place, user, client_id=None, **fields) -> PahoClient:
        client = PahoClient(user, client_id or user, **fields)
        started.append(client)
        way = fields.get("way", "port")
        if user != "hub" and way == "port":
            client.client.will_set(HEARTBEAT, b"offline", 1, retain=True)
        if way in ("tls_port", "wss_port"):
            client.client.tls_set_context(tls.client())
        await client.start(getattr(place.broker, way))
        return client

    yield start
    for client in started:
        await client.stop()


@pytest.mark.parametrize("way", ["port", "tls_port", "ws_port", "wss_port"])
async def test_paho_publishes_and_hears_every_qos(start_broker, paho_client, tls, way):
    place = await start_broker(tls_port=0, ws_port=0, wss_port=0, tls=tls.files)
    hub = await paho_client(place, "hub", way=way)
    await hub.subscribe("fh/v1/+/feeders/+/events", 2)
    site = await paho_client(place, "pond7", way=way)
    for qos in (0, 1, 2):
        await site.publish(EVENTS, b"x" * 50_000, qos)
        assert await hub.heard() == (EVENTS, b"x" * 50_000, qos, False)


async def test_paho_hears_the_retained_message_and_the_will(place, paho_client):
    site = await paho_client(place, "pond7")
    await site.publish(HEARTBEAT, b"online", 1, retain=True)
    hub = await paho_client(place, "hub")
    await hub.subscribe("fh/v1/+/heartbeat", 1)
    assert await hub.heard() == (HEARTBEAT, b"online", 1, True)
    assert await place.broker.disconnect_user("pond7")
    assert await hub.heard() == (HEARTBEAT, b"offline", 1, False)


async def test_paho_finds_its_stored_session_again(place, paho_client):
    hub = await paho_client(place, "hub", "hub-1", clean=False)
    await hub.subscribe("fh/v1/#", 2)
    await hub.stop()
    site = await paho_client(place, "pond7")
    for qos in (1, 2):
        await site.publish(EVENTS, b"missed", qos)
    again = await paho_client(place, "hub", "hub-1", clean=False)
    assert [await again.heard(), await again.heard()] == [
        (EVENTS, b"missed", 1, False),
        (EVENTS, b"missed", 2, False),
    ]


async def run(program: str, place, *arguments: str, way: str = "port") -> asyncio.subprocess.Process:
    port = str(getattr(place.broker, way))
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        program, "-h", "127.0.0.1", "-p", port, "-P", "right", *arguments, stdout=pipe, stderr=pipe
    )


@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_mosquitto_pub_and_sub_work_unchanged(place, needs_program, qos):
    publish, subscribe = needs_program("mosquitto_pub"), needs_program("mosquitto_sub")
    hub = await run(
        subscribe, place, "-u", "hub", "-i", "hub-1", "-q", "2", "-t", "fh/v1/#", "-C", "1", "-F", "%t %q %p"
    )
    await place.until("connects")
    while not place.broker._exchange._subscriptions.match(EVENTS):
        await asyncio.sleep(0.005)
    site = await run(publish, place, "-u", "pond7", "-i", "pond7", "-q", qos, "-t", EVENTS, "-m", "meal")
    assert await asyncio.wait_for(site.communicate(), 10) == (b"", b"")
    assert (await asyncio.wait_for(hub.communicate(), 10))[0] == f"{EVENTS} {qos} meal\n".encode()


async def test_mosquitto_pub_shows_a_certificate(start_broker, tls, tmp_path, needs_program):
    publish = needs_program("mosquitto_pub")
    place = await start_broker(tls_port=0, tls=replace(tls.files, client_certificates="required"))
    own = tls.authority.issue_cert("pond7.example", common_name="pond7")
    own.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    authority, certificate = ("--cafile", str(tls.files.client_ca)), ("--cert", str(tmp_path / "own.pem"))
    message = ("-u", "pond7", "-i", "pond7", "-q", "1", "-t", EVENTS, "-m", "meal")
    site = await run(publish, place, *message, *authority, *certificate, "--key", certificate[1], way="tls_port")
    assert await asyncio.wait_for(site.communicate(), 10) == (b"", b"")
    assert site.returncode == 0
    stranger = await run(publish, place, *message, *authority, way="tls_port")
    await asyncio.wait_for(stranger.communicate(), 10)
    assert stranger.returncode != 0
    assert place.refusals[0].reason == "client-certificate"


async def test_mosquitto_pub_is_told_that_it_may_not_enter(place, needs_program):
    publish = needs_program("mosquitto_pub")
    site = await run(publish, place, "-u", "pond7", "-i", "pond8", "-t", EVENTS, "-m", "x")
    _, errors = await asyncio.wait_for(site.communicate(), 10)
    assert site.returncode != 0
    assert b"identifier rejected" in errors
