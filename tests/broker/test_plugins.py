"""amqtt's plugins in this broker: they publish and retain, and are told at once what they cannot have."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from amqtt.broker import BrokerContext
from amqtt.errors import BrokerError, PluginError
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin

from broker.server import BrokerOptions, EmbeddedBroker
from hub.protocol.topics import Topics

HEARTBEAT = "fh/v1/pond7/heartbeat"


class Speaker(BasePlugin[BrokerContext]):
    """Hands its context out, and keeps what it was told."""

    @dataclass
    class Config:
        kept: Any = field(default_factory=dict)

    def __init__(self, context: BrokerContext) -> None:
        super().__init__(context)
        self.config.kept |= {"context": context, "told": []}

    async def on_broker_pre_start(self) -> None:
        await self.context.retain_message("fh/v1/pond7/feeders/f1/state", b"from the start", 1)
        self.config.kept["told"].append("pre start")

    async def on_broker_post_start(self) -> None:
        self.config.kept["told"].append("post start")

    async def on_broker_pre_shutdown(self) -> None:
        self.config.kept["told"].append("pre shutdown")

    async def on_broker_post_shutdown(self) -> None:
        self.config.kept["told"].append("post shutdown")

    async def close(self) -> None:
        self.config.kept["told"].append("close")


class Doorman(BaseAuthPlugin):
    """Would let nobody in."""

    async def authenticate(self, **_: object) -> bool:
        return False


class Censor(BaseTopicPlugin):
    """Would let nothing through."""

    async def topic_filtering(self, **_: object) -> bool:
        return False


class Listener(BasePlugin[BrokerContext]):
    """Wants to be told of each client."""

    async def on_broker_client_connected(self, **_: object) -> None:
        raise AssertionError


def path(plugin: type) -> str:
    return f"{__name__}.{plugin.__name__}"


@pytest.fixture
def kept() -> dict[str, Any]:
    return {}


@pytest.fixture
async def place(start_broker, kept):
    return await start_broker(plugins={path(Speaker): {"kept": kept}})


@pytest.mark.parametrize(("qos", "delivered"), [(None, 2), (0, 0), (1, 1), (2, 2)])
async def test_a_plugins_broadcast_reaches_whoever_may_receive_it(place, kept, qos, delivered):
    hub, site, other = await place.hub(HEARTBEAT, qos=2), await place.client("pond7"), await place.client("pond8")
    await site.subscribe(HEARTBEAT, qos=0)
    await other.subscribe("fh/v1/pond8/heartbeat")
    await kept["context"].broadcast_message(HEARTBEAT, b"from a plugin", qos)
    assert await hub.messages() == [(HEARTBEAT, b"from a plugin", delivered, False)]
    assert await site.messages() == [(HEARTBEAT, b"from a plugin", 0, False)]
    assert await other.messages() == []


async def test_what_a_plugin_retains_is_for_those_who_subscribe_later(place, kept):
    early = await place.hub("fh/v1/#")
    assert await early.messages() == [("fh/v1/pond7/feeders/f1/state", b"from the start", 1, True)]
    await kept["context"].retain_message(HEARTBEAT, bytearray(b"kept"), 1)
    assert await early.messages() == []
    late = await place.hub(HEARTBEAT, client_id="hub-2")
    assert await late.messages() == [(HEARTBEAT, b"kept", 1, True)]
    await kept["context"].retain_message(HEARTBEAT, b"")
    later = await place.hub(HEARTBEAT, client_id="hub-3")
    assert await later.messages() == []
    assert place.broker.counters["retained"] == 1


async def test_a_plugins_own_figures_are_for_monitors(place, kept):
    monitor = await place.client("monitor")
    await monitor.subscribe("$SYS/plugin/#")
    await kept["context"].broadcast_message("$SYS/plugin/figure", b"1")
    assert await monitor.messages() == [("$SYS/plugin/figure", b"1", 1, False)]


@pytest.mark.parametrize(
    ("topic", "qos"), [("", 0), ("fh/+/x", 0), ("#", 0), ("a\0b", 0), ("ü" * 40_000, 0), ("a", 3), ("a", -1)]
)
async def test_what_cannot_be_published_is_refused(place, kept, topic, qos):
    for publish in (kept["context"].broadcast_message, kept["context"].retain_message):
        with pytest.raises(ValueError):
            await publish(topic, b"x", qos)


async def test_amqtts_sessions_are_not_handed_out_as_if_there_were_none(place, kept):
    context = kept["context"]
    await place.client("pond7")
    for ask in (
        lambda: list(context.sessions),
        lambda: context.get_session("pond7"),
        lambda: context.subscriptions,
        lambda: context.retained_messages,
    ):
        with pytest.raises(BrokerError, match="may publish and retain"):
            ask()
    with pytest.raises(BrokerError, match="may publish and retain"):
        await context.add_subscription("pond7", "fh/v1/#", 1)


async def test_a_plugin_is_told_of_the_brokers_start_and_end(kept):
    options = BrokerOptions(port=0, plugins={path(Speaker): {"kept": kept}})
    async with EmbeddedBroker(options, nobody, Topics(), print):
        assert kept["told"] == ["pre start", "post start"]
    assert kept["told"] == ["pre start", "post start", "pre shutdown", "post shutdown", "close"]


async def nobody(_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        (path(Doorman), "Doorman would never be asked"),
        (path(Censor), "Censor would never be asked"),
        (path(Listener), "Listener would never be told.*on_broker_client_connected"),
        ("amqtt.plugins.authentication.AnonymousAuthPlugin", "would never be asked"),
        ("amqtt.plugins.logging_amqtt.PacketLoggerPlugin", "would never be told"),
    ],
)
async def test_a_plugin_that_waits_for_what_never_comes_keeps_the_broker_from_starting(plugin, why):
    with pytest.raises(PluginError, match=why):
        EmbeddedBroker(BrokerOptions(port=0, plugins={plugin: {}}), nobody, Topics(), print)
