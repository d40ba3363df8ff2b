"""A monitor: a tool that reads the broker's figures and perhaps one site's topics, and can do nothing else."""

import asyncio

import pytest

from hub.protocol.packets import Will

HEARTBEAT = "fh/v1/pond7/heartbeat"
STATE = "fh/v1/pond7/feeders/f1/state"
TOPICS = (HEARTBEAT, STATE, "fh/v1/pond7/feeders/f1/events", "fh/v1/pond7/replies/h1")


async def test_a_monitor_of_a_site_hears_all_that_is_said_there_by_desktop_and_hub(place):
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, b"retained", retain=True)
    monitor = await place.client("monitor-pond7")
    assert await monitor.subscribe("fh/v1/pond7/#") == (1,)
    assert await monitor.messages() == [(HEARTBEAT, b"retained", 1, True)]
    hub = await place.client("hub")
    for topic in TOPICS:
        await site.publish(topic)
    for topic in ("fh/v1/pond7/commands", "fh/v1/pond7/feeders/f1/commands"):
        await hub.publish(topic)
    heard = [topic for topic, *_ in await monitor.messages()]
    assert heard == [*TOPICS, "fh/v1/pond7/commands", "fh/v1/pond7/feeders/f1/commands"]


async def test_a_monitor_hears_nothing_of_other_sites(place):
    monitor = await place.client("monitor-pond7")
    filters = ("fh/v1/pond8/#", "fh/v1/+/heartbeat", "fh/v1/#", "fh/#", "#", "fh/v1/pond77/#", "$share/g/fh/v1/pond7/#")
    assert await monitor.subscribe(*filters) == (0x80,) * len(filters)
    site = await place.client("pond8")
    await site.publish("fh/v1/pond8/heartbeat", retain=True)
    assert await monitor.messages() == []


async def test_a_monitor_without_a_site_hears_the_broker_only(place):
    monitor = await place.client("monitor")
    assert await monitor.subscribe("fh/v1/pond7/#", HEARTBEAT, "$SYS/broker/uptime") == (0x80, 0x80, 1)


@pytest.mark.parametrize("topic", [*TOPICS, "fh/v1/pond7/commands", "$SYS/broker/uptime", "elsewhere"])
async def test_a_monitor_publishes_nothing(place, topic):
    hub = await place.hub("fh/v1/#")
    monitor = await place.client("monitor-pond7")
    await monitor.publish(topic)
    await monitor.publish(topic, retain=True)
    assert await hub.messages() == []
    assert place.broker.counters["retained"] == 0
    assert [refusal.reason for refusal in place.refusals] == ["foreign-publish"] * 2


@pytest.mark.parametrize("wish", [{"clean_session": False}, {"will": Will(HEARTBEAT, b"gone", qos=1, retain=True)}])
async def test_a_monitor_keeps_no_session_and_leaves_no_will(place, wish):
    peer = await place.socket()
    assert (await peer.connect("monitor-pond7", **wish)).code == 0x02
    assert [refusal.reason for refusal in place.refusals] == ["monitor-with-will-or-session"]


async def test_several_tools_may_use_one_monitor_at_a_time(place):
    tools = [await place.client("monitor-pond7", client_id=name) for name in ("monitor-pond7", "monitor-pond7.2", "")]
    for tool in tools:
        assert await tool.so_far() == []


async def test_a_monitor_takes_nobody_elses_client_id(place):
    for client_id in ("pond7", "pond7.tool", "hub", "hub-1", "monitor", "monitor-pond8", "monitor-pond7-2"):
        peer = await place.socket()
        assert (await peer.connect("monitor-pond7", client_id=client_id)).code == 0x02


async def test_mosquitto_sub_reads_one_site_and_is_refused_another(place, needs_program):
    program = needs_program("mosquitto_sub")
    site = await place.client("pond7")
    await site.publish(STATE, b"running", retain=True)
    login = ("-h", "127.0.0.1", "-p", str(place.broker.port), "-u", "monitor-pond7", "-P", "right")
    pipe = asyncio.subprocess.PIPE

    async def run(*arguments):
        reader = await asyncio.create_subprocess_exec(program, *login, *arguments, stdout=pipe, stderr=pipe)
        return await asyncio.wait_for(reader.communicate(), 10)

    assert await run("-v", "-C", "1", "-t", "fh/v1/pond7/#") == (f"{STATE} running\n".encode(), b"")
    said, complaint = await run("-v", "-C", "1", "-t", "fh/v1/pond8/#")
    assert said == b""
    assert b"denied" in complaint
