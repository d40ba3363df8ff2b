"""The bare broker: open to everybody, on loopback only."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import websockets

from hub.protocol.packets import Connack, Connect, Publish, Subscribe, Will, encode
from tests.broker.conftest import Peer
from tests.end_to_end.external import free_port

BROKER = [sys.executable, "main.py", "broker"]


async def run(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*BROKER, *arguments, stdout=pipe, stderr=pipe)


async def test_anybody_may_do_anything_without_credentials(open_place):
    one, other = await open_place.socket(), await open_place.socket()
    for peer, client_id in ((one, "one"), (other, "")):
        peer.send(Connect(client_id))
        assert (await peer.receive()).code == 0
    one.send(Subscribe(1, (("#", 2),)))
    assert (await one.receive()).codes == (2,)
    await other.publish("any/topic", b"x", retain=True)
    assert await one.receive() == Publish("any/topic", b"x", 1, packet_id=1)


async def test_a_will_on_a_topic_of_the_brokers_own_lets_its_client_in_and_is_dropped(open_place):
    listener, leaver = await open_place.socket(), await open_place.socket()
    listener.send(Connect("listener"), Subscribe(1, (("$SYS/broker/connection/#", 0), ("#", 0))))
    leaver.send(Connect("leaver", will=Will("$SYS/broker/connection/bridge/state", b"0", retain=True)))
    assert await leaver.receive() == Connack()
    leaver.drop()
    await open_place.until("ended_lost")
    assert [packet for packet in await listener.so_far() if isinstance(packet, Publish)] == []
    assert open_place.broker.counters["refused_foreign-publish"] == 1


async def test_mosquitto_bridges_to_it_and_tells_of_its_connection_in_its_will(open_place, tmp_path, needs_program):
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    remote = f"127.0.0.1:{open_place.broker.port}"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\n"
        f"connection farm\naddress {remote}\ntopic out/# out 1\ntopic in/# in 1\n"
        "try_private false\nrestart_timeout 1\n"  # or it asks for a protocol of its own first, and again in 10 s
    )
    bridge = await asyncio.create_subprocess_exec(
        needs_program("mosquitto"), "-c", config, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        far = await open_place.client("far")
        assert await far.subscribe("out/#") == (1,)
        await open_place.until("subscriptions", 2)  # the bridge's too
        near = await Peer(port).open()
        await near.connect("near")
        assert await near.subscribe("in/#") == (1,)
        await near.publish("out/one", b"from the farm")
        assert (await far.receive()).payload == b"from the farm"
        await far.publish("in/one", b"to the farm")
        assert (await near.receive()).payload == b"to the farm"
        near.drop()
    finally:
        bridge.terminate()
        await asyncio.wait_for(bridge.wait(), 10)


def test_a_command_that_cannot_say_its_port_ends_with_a_sentence():
    with Path("/dev/full").open("w") as full:
        command = [*BROKER, "--open", "--port", "0"]
        broker = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=20, check=False)
    assert broker.returncode == 1
    assert broker.stderr.startswith("Standard output cannot be written")


async def test_the_command_says_its_port_and_ends_with_0(open_place):
    broker = await run("--open", "--port", "0", "--ws-port", "0")
    said = json.loads(await asyncio.wait_for(broker.stdout.readline(), 20))
    assert said["ws_port"]
    peer = await Peer(said["port"]).open()
    peer.send(Connect("one"))
    assert (await peer.receive()).code == 0
    broker.send_signal(signal.SIGTERM)
    _, complaints = await asyncio.wait_for(broker.communicate(), 10)
    assert (broker.returncode, complaints) == (0, b"")
    peer.drop()


async def test_the_command_serves_every_way_and_says_their_ports(tls):
    files = ("--tls-cert", str(tls.files.certificate), "--tls-key", str(tls.files.key))
    ports = ("--port", "0", "--tls-port", "0", "--ws-port", "0", "--wss-port", "0")
    broker = await run("--open", *ports, *files)
    said = json.loads(await asyncio.wait_for(broker.stdout.readline(), 20))
    assert sorted(said) == ["port", "tls_port", "ws_port", "wss_port"]
    peer = await Peer(said["tls_port"], ssl=tls.client()).open()
    peer.send(Connect("one"))
    assert (await peer.receive()).code == 0
    for port, scheme, secure in ((said["ws_port"], "ws", None), (said["wss_port"], "wss", tls.client())):
        url = f"{scheme}://127.0.0.1:{port}"
        async with websockets.connect(url, ssl=secure, subprotocols=["mqtt"], origin="https://any.example") as client:
            await client.send(encode(Connect("one")))
            assert await client.recv() == encode(Connack())
    broker.send_signal(signal.SIGTERM)
    _, complaints = await asyncio.wait_for(broker.communicate(), 10)
    assert (broker.returncode, complaints) == (0, b"")
    peer.drop()


@pytest.mark.parametrize("given", ["", "--tls-cert x.pem", "--tls-key x.pem"])
async def test_tls_needs_a_certificate_and_its_key(given):
    broker = await run("--open", "--port", "0", "--tls-port", "0", *given.split())
    _, complaints = await asyncio.wait_for(broker.communicate(), 20)
    assert broker.returncode == 2
    assert b"--tls-cert and --tls-key" in complaints


async def test_a_file_that_cannot_be_used_is_told_with_its_flag(tls):
    tls.files.key.write_text("no key")
    files = ("--tls-cert", str(tls.files.certificate), "--tls-key", str(tls.files.key))
    broker = await run("--open", "--port", "0", "--tls-port", "0", *files)
    _, complaints = await asyncio.wait_for(broker.communicate(), 20)
    said = f"{tls.files.key} holds no private key in PEM format. Name another file: --tls-key.\n"
    assert (broker.returncode, complaints.decode()) == (1, said)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
async def test_an_open_broker_refuses_any_address_that_others_reach(host):
    broker = await run("--open", "--port", "0", "--host", host)
    _, complaints = await asyncio.wait_for(broker.communicate(), 20)
    assert broker.returncode == 2
    assert b"loopback only" in complaints


async def test_it_does_not_start_without_saying_open():
    broker = await run("--port", "0")
    _, complaints = await asyncio.wait_for(broker.communicate(), 20)
    assert broker.returncode == 2
    assert b"--open" in complaints
