"""How fast each user is listened to: the rules, and that one site's flood costs nobody else anything."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import link as link_module
from broker import pace as pace_module
from broker.pace import LEAST_WAIT_S, MOST_SHARES, Pace, Paces, Share
from broker.session import Limits
from hub.protocol.packets import (
    Connack,
    Connect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
    Will,
)
from hub.protocol.topics import Identity, Topics
from tests.broker.conftest import WAIT_S

SHARE = Share(messages=10, payload_bytes=1000)


def events(site: str) -> str:
    return f"fh/v1/{site}/feeders/f1/events"


# --- the rules ---------------------------------------------------------------------------------------------------


def pace_of(messages_per_s: int = 0, share: Share = SHARE) -> tuple[Paces, Pace]:
    paces = Paces(messages_per_s, Topics().owner_of, share)
    return paces, paces.of("pond7")


def test_a_seconds_worth_may_come_at_once_and_no_more_after_a_long_silence():
    _, pace = pace_of(100)
    pace.reckon(1000.0)
    pace.take(99)
    assert not pace.holds_back(a_message=False)
    pace.take(1)
    assert pace.holds_back(a_message=False)
    pace.reckon(5000.0)
    pace.take(100)
    assert pace.holds_back(a_message=False)


@given(st.integers(1, 10_000), st.lists(st.tuples(st.floats(0, 3), st.integers(1, 300)), max_size=50))
def test_who_waits_as_long_as_told_sends_at_its_rate(rate, chunks):
    _, pace = pace_of(rate)
    now_s, sent = 0.0, 0
    for pause_s, messages in chunks:
        now_s += pause_s
        pace.reckon(now_s)
        for _ in range(messages):
            if pace.holds_back(a_message=True):
                waits_s = pace.wait_s(now_s, a_message=True)
                assert waits_s >= LEAST_WAIT_S
                now_s += waits_s
                pace.reckon(now_s)
            pace.take(1)
            sent += 1
    assert sent <= rate + now_s * rate + 1


def test_without_a_limit_nobody_waits():
    _, pace = pace_of(0)
    pace.reckon(1.0)
    pace.take(1_000_000)
    assert not pace.holds_back(a_message=True)
    assert pace.wait_s(2.0, a_message=True) == 0


@pytest.mark.parametrize("payload", [b"", b"x" * 100])
def test_a_user_whose_share_is_with_the_hub_waits_until_more_than_half_of_it_is_free(payload):
    paces, pace = pace_of(share=Share(messages=1000, payload_bytes=1000) if payload else SHARE)
    message, called = Publish(events("pond7"), payload), Counter()
    paces.count([message] * 10)
    assert pace.holds_back(a_message=True)
    assert not pace.holds_back(a_message=False)  # a ping, say
    assert pace.wait_s(0.0, a_message=True) == pace_module.HUB_WAIT_S
    assert not paces.of("pond8").holds_back(a_message=True)
    pace.when_caught_up(lambda: called.update(["once"]))
    paces.discount([message] * 5)
    assert not called
    paces.discount([message])
    assert called == {"once": 1}
    assert not pace.holds_back(a_message=True)
    assert pace.wait_s(0.1, a_message=True) == 0


def test_while_the_hub_is_away_one_message_a_second_joins_whoever_asks_until_five_shares():
    paces, pace = pace_of()
    message, joined, now_s = Publish(events("pond7"), b""), 0, 0.0
    paces.count([message] * SHARE.messages)
    while now_s < 100:
        for _connection in range(7):
            if not pace.wait_s(now_s, a_message=True):
                paces.count([message])
                joined += 1
        now_s += 0.25
        assert joined <= now_s / pace_module.HUB_WAIT_S
    assert SHARE.messages + joined == MOST_SHARES * SHARE.messages


def test_when_the_hub_has_all_that_it_can_hold_nobody_adds_to_it_and_all_go_on_when_it_has_less(monkeypatch):
    monkeypatch.setattr(pace_module, "EVERYBODY", Share(messages=30, payload_bytes=10_000))
    paces = Paces(0, Topics().owner_of, SHARE)
    for site in ("pond1", "pond2", "pond3"):
        paces.count([Publish(events(site), b"")] * 10)
    newcomer, called = paces.of("pond4"), Counter()
    assert [bool(newcomer.wait_s(second, a_message=True)) for second in range(100)] == [True] * 100
    newcomer.when_caught_up(lambda: called.update(["newcomer"]))
    paces.discount([Publish(events("pond1"), b"")] * 10)
    assert not called
    paces.discount([Publish(events("pond2"), b"")] * 6)
    assert called
    assert newcomer.wait_s(100.0, a_message=True) == 0


def test_what_is_nobodys_is_counted_for_nobody():
    paces, _ = pace_of()
    paces.count([Publish("$SYS/broker/uptime", b"x")] * 20)
    paces.discount([Publish("other/pond7/heartbeat", b"x")] * 20)
    assert not paces.of("$SYS").with_hub.messages
    assert not paces.of("pond7").with_hub.messages


# --- a broker with the hub inside ------------------------------------------------------------------------------


class SlowHub:
    """Hears everything, and is done with a message when the test says so."""

    def __init__(self, broker):
        self.waiting = []
        self.heard = Counter()
        self._link = broker.link(Identity("hub", "hub"), "hub", (("fh/v1/+/heartbeat", 0), (events("+"), 1)))
        self._changed = asyncio.Event()

    def _receive(self, message):
        self.waiting.append(message)
        self.heard[message.topic.split("/")[2]] += 1
        self._changed.set()

    @asynccontextmanager
    async def running(self):
        async with self._link.running(self._receive):
            yield self

    async def until(self, condition):
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def be_done(self):
        waiting, self.waiting = self.waiting, []
        for message in waiting:
            message.acknowledge()

    async def be_done_with(self, site, messages):
        async with asyncio.timeout(WAIT_S):
            while self.heard[site] < messages or self.waiting:
                self.be_done()
                await asyncio.sleep(0)


@pytest.fixture
async def slow_hub(place):
    async with SlowHub(place.broker).running() as hub:
        yield hub


def flood(qos: int, messages: int) -> list[Publish]:
    return [Publish(events("pond7"), b"not JSON", qos, packet_id=n + 1 if qos else 0) for n in range(messages)]


@pytest.mark.parametrize("qos", [0, 1])
async def test_one_sites_flood_over_many_connections_has_its_share_with_the_hub_and_others_come_through(
    place, slow_hub, monkeypatch, qos
):
    monkeypatch.setattr(pace_module, "HUB_WAIT_S", 60.0)
    hands = [await place.client("pond7", client_id=f"pond7.{n}") for n in range(5)]
    for hand in hands:
        hand.send(*flood(qos, 200))
    neighbour = await place.client("pond8")
    await neighbour.publish("fh/v1/pond8/heartbeat", b"{}")
    await slow_hub.until(lambda: slow_hub.heard["pond8"] == 1)
    await place.until("slowed_down", len(hands))
    assert slow_hub.heard["pond7"] == Share().messages
    await slow_hub.be_done_with("pond7", 1000)
    for hand in hands:
        answers = await hand.so_far()
        assert len(answers) <= 200
        assert all(isinstance(answer, Puback) for answer in answers)
    assert slow_hub.heard == {"pond7": 1000, "pond8": 1}


async def test_a_hub_that_is_away_for_long_slows_its_sites_down_and_cuts_nobody_off(place, slow_hub, monkeypatch):
    monkeypatch.setattr(pace_module, "HUB_WAIT_S", 0.1)
    site = await place.client("pond7", keep_alive=1)
    site.send(*flood(1, Share().messages + 5))
    await slow_hub.until(lambda: slow_hub.heard["pond7"] == Share().messages + 5)
    assert len(slow_hub.waiting) == Share().messages + 5
    await site.so_far()


async def test_a_site_that_is_held_back_is_taken_over_at_once(place, slow_hub, monkeypatch):
    monkeypatch.setattr(pace_module, "HUB_WAIT_S", 60.0)
    site = await place.client("pond7")
    site.send(*flood(0, 500))
    await place.until("slowed_down")
    again = await place.client("pond7")
    assert await again.so_far() == []
    await place.until_none("connections_unauthenticated")
    await place.until("ended_taken-over")


async def test_messages_that_a_full_place_of_the_hub_drops_are_not_counted_for_ever(start_broker, monkeypatch):
    monkeypatch.setattr(link_module, "LIMITS", Limits(in_flight=5, queued_messages=20))
    place = await start_broker()
    async with SlowHub(place.broker).running() as hub:
        for site in ("pond7", "pond8", "pond9"):
            peer = await place.client(site)
            for _ in range(20):
                await peer.publish(f"fh/v1/{site}/heartbeat", b"{}", qos=0)
        assert place.broker.counters["dropped_qos_0"] == 60 - 25
        while hub.waiting:
            hub.be_done()
            await asyncio.sleep(0)
        for site in ("pond7", "pond8", "pond9"):
            assert place.broker._paces.of(site).with_hub.messages == 0


async def test_a_message_of_an_earlier_run_counts_until_the_hub_is_done_with_it(start_broker, tmp_path, monkeypatch):
    monkeypatch.setattr(pace_module, "HUB_WAIT_S", 60.0)
    store = tmp_path / "broker.db"
    first = await start_broker(store=store)
    async with SlowHub(first.broker).running() as hub:
        site = await first.client("pond7")
        site.send(*flood(1, Share().messages))
        await hub.until(lambda: hub.heard["pond7"] == Share().messages)
        await first.broker.shutdown()
    await first.broker.__aexit__(None, None, None)
    second = await start_broker(store=store)
    async with SlowHub(second.broker).running() as hub:
        await hub.until(lambda: hub.heard["pond7"] == Share().messages)
        site = await second.client("pond7")
        site.send(*flood(0, 1))
        await second.until("slowed_down")
        await hub.be_done_with("pond7", Share().messages + 1)


async def test_all_connections_of_a_user_share_one_rate(start_broker):
    place = await start_broker(max_messages_per_s=200)
    hub = await place.hub(events("pond7"), qos=0)
    hands = [await place.client("pond7", client_id=f"pond7.{n}") for n in range(4)]
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for hand in hands:
        hand.send(*flood(0, 100))
    heard = 0
    async with asyncio.timeout(WAIT_S):
        while heard < 400:
            heard += len(await hub.messages())
    assert loop.time() - began_s > 0.8  # 200 at once, and 200 in the second after that


async def test_connecting_over_and_over_with_a_will_brings_the_hub_no_more_than_the_share(place, slow_hub, monkeypatch):
    monkeypatch.setattr(pace_module, "HUB_WAIT_S", 60.0)
    heartbeat = "fh/v1/pond7/heartbeat"
    will = Will(heartbeat, b"x" * 60_000)
    peers = [await place.socket() for _ in range(60)]
    for peer in peers:
        peer.send(Connect("pond7", will=will, username="pond7", password=b"right"))
    await place.until("slowed_down")
    neighbour = await place.client("pond8")
    await neighbour.publish("fh/v1/pond8/heartbeat", b"{}")
    await slow_hub.until(lambda: slow_hub.heard["pond8"] == 1)
    assert slow_hub.heard["pond7"] <= Share().payload_bytes // 60_000 + 2
    slow_hub.be_done()


# --- the rate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "count"),
    [
        (Pingreq(), 2000),
        (Pubrel(7), 2000),
        (Puback(7), 2000),
        (Unsubscribe(1, tuple(f"fh/v1/pond7/{n}" for n in range(100))), 2),
        (Subscribe(1, tuple((f"elsewhere/{n}", 0) for n in range(100))), 2),
    ],
    ids=lambda each: type(each).__name__ if not isinstance(each, int) else "",
)
async def test_nothing_that_a_client_may_send_comes_for_nothing(start_broker, packet, count):
    place = await start_broker(max_messages_per_s=100)
    site, loop = await place.client("pond7"), asyncio.get_running_loop()
    began_s = loop.time()
    site.send(*[packet] * count, Publish(events("pond7"), b"x", 1, packet_id=9))
    while (answer := await site.receive()) != Puback(9):
        assert type(answer) is not Connack
    assert loop.time() - began_s > 0.8  # a second's worth at once, and another one's in the second after that
    assert place.broker.counters["slowed_down"]


async def test_a_flood_of_pings_gives_others_a_turn_in_between(place):
    """There is no limit here: it is the order of turns that counts."""
    site, neighbour = await place.client("pond7"), await place.client("pond8")
    site.send(*[Pingreq()] * 8000)
    neighbour.send(Pingreq())
    assert await neighbour.receive() == Pingresp()
    assert place.broker.counters["packets_sent"] < 1000
    assert {type(await site.receive()) for _ in range(8000)} == {Pingresp}


async def test_acknowledgements_of_the_hub_wake_nobody_who_waits_for_its_rate(start_broker, monkeypatch):
    place = await start_broker(max_messages_per_s=1)
    asked = Counter()
    wait_s = Pace.wait_s
    monkeypatch.setattr(Pace, "wait_s", lambda *args, **kw: asked.update(["asked"]) or wait_s(*args, **kw))
    async with SlowHub(place.broker).running() as hub:
        site = await place.client("pond7")
        site.send(*flood(0, 500))
        await place.until("slowed_down")
        asked.clear()
        for _ in range(100):
            message = Publish(events("pond7"), b"x")
            place.broker._exchange.publish(message, "pond7")
            await asyncio.sleep(0)
            hub.be_done()
        assert asked["asked"] <= 3


async def test_a_client_that_is_gone_while_it_is_held_back_is_gone_within_its_keep_alive(place, slow_hub, monkeypatch):
    monkeypatch.setattr(pace_module, "HUB_WAIT_S", 0.3)  # or it would be heard again with each of its messages
    hub = await place.hub("fh/v1/pond7/heartbeat", client_id="hub-2")
    site = await place.client("pond7", keep_alive=1, will=Will("fh/v1/pond7/heartbeat", b"gone", qos=1))
    site.send(*flood(0, 200))
    await place.until("slowed_down")
    site.drop()
    await place.until("ended_keep-alive")
    assert [payload for _, payload, _, _ in await hub.messages()] == [b"gone"]


async def test_what_waits_for_a_client_comes_before_its_next_message_is_held_back(start_broker, monkeypatch):
    monkeypatch.setattr(pace_module, "HUB_WAIT_S", 60.0)
    place = await start_broker(max_in_flight=1)
    async with SlowHub(place.broker).running():
        hub = await place.hub(client_id="hub-2")
        site = await place.client("pond7")
        await site.subscribe("fh/v1/pond7/commands")
        site.send(*flood(0, Share().messages))
        for payload in (b"first", b"second"):
            await hub.publish("fh/v1/pond7/commands", payload)
        first = await site.receive()
        site.send(Puback(first.packet_id), *flood(0, 1))
        assert (await site.receive()).payload == b"second"
