"""The broker as a whole: its life, its listeners, its counters."""

import errno
import socket

import pytest

from broker.listeners import ListenError
from broker.server import BrokerOptions, EmbeddedBroker
from hub.protocol.topics import Topics


async def nobody(user: str, password: bytes) -> None:
    return None


@pytest.mark.parametrize("option", ["port", "tls_port", "ws_port", "wss_port"])
async def test_a_taken_port_is_said_with_its_option(option, tls):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = BrokerOptions(**{"port": 0, "tls": tls.files, option: port})
        with pytest.raises(ListenError) as error:
            async with EmbeddedBroker(options, nobody, Topics(), print):
                pytest.fail("it started")
    assert (error.value.errno, error.value.option) == (errno.EADDRINUSE, option)
    assert (error.value.host, error.value.port) == ("127.0.0.1", port)


async def test_what_is_encrypted_may_have_an_address_of_its_own(start_broker, tls):
    ports = {"tls_port": 0, "ws_port": 0, "wss_port": 0}
    place = await start_broker(host="127.0.0.1", tls_host="127.0.0.2", tls=tls.files, **ports)
    listening = {name: server.instance.sockets[0].getsockname()[0] for name, server in place.broker._servers.items()}
    plain, secure = "127.0.0.1", "127.0.0.2"
    assert listening == {"default": plain, "ws": plain, "tls": secure, "wss": secure}


async def test_counters_tell_what_happened_and_what_is(place):
    hub = await place.hub("fh/v1/#", clean_session=False)
    site = await place.client("pond7")
    await site.publish("fh/v1/pond7/heartbeat", retain=True)
    await site.publish("fh/v1/pond8/heartbeat", retain=True)
    hub.drop()
    await place.until("ended_lost")
    await site.publish("fh/v1/pond7/heartbeat")
    counters = place.broker.counters
    assert {name: counters[name] for name in ("clients_connected", "sessions", "messages_queued", "retained")} == {
        "clients_connected": 1,
        "sessions": 2,
        "messages_queued": 1,
        "retained": 1,
    }
    assert counters["messages_received"] == 3
    assert counters["refused_foreign-publish"] == 1


async def test_a_packet_longer_than_the_limit_closes_the_connection_when_it_is_declared(start_broker):
    place = await start_broker(max_packet_bytes=1000)
    site = await place.client("pond7")
    site.writer.write(b"\x30\xff\xff\xff\x7f")
    assert await site.closed() == []
    assert place.refusals[0].reason == "packet-too-large"


async def test_a_fault_of_the_broker_costs_one_connection_only(place, monkeypatch, caplog):
    other = await place.client("pond8")
    site = await place.client("pond7")
    monkeypatch.setattr(place.broker._exchange, "publish", lambda message: 1 / 0)
    site.writer.write(b"\x30\3\0\1a\x30\x17\0\x15fh/v1/pond7/heartbeat")
    assert await site.closed() == []
    assert await other.so_far() == []
    assert "fault of the broker" in caplog.text
