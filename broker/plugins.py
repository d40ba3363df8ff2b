"""amqtt's plugins in this broker: they may publish and retain, and find nothing of amqtt's sessions."""

from typing import Any, Final, NoReturn

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig
from amqtt.errors import BrokerError, PluginError
from amqtt.events import BrokerEvents, Events, MQTTEvents
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin

from broker.exchange import Exchange
from hub.protocol.packets import Publish, is_topic_name

PLUGINS: Final = "$plugins"
"""Whose the plugins' messages are among the retained ones; no user is called so."""

_FIRED: Final[frozenset[Events]] = frozenset(
    {BrokerEvents.PRE_START, BrokerEvents.POST_START, BrokerEvents.PRE_SHUTDOWN, BrokerEvents.POST_SHUTDOWN}
)
_MAX_TOPIC_BYTES: Final = 65_535


class PluginHost(Broker):
    """amqtt's broker with what `BrokerContext` asks of it, as far as there is something to give.

    Raises PluginError for a plugin that waits for what never comes: one that would decide who may log in or do
    what, which is not asked here, or that handles another event than the broker's start and end.
    """

    _exchange: Exchange

    def __init__(self, config: BrokerConfig) -> None:
        super().__init__(config)
        for plugin in self.plugins_manager.plugins:
            _check(plugin)

    async def internal_message_broadcast(self, topic: str, data: bytes, qos: int | None = None) -> None:
        """Publish, to whom the rights let receive it. `qos` None: with the QoS of each subscription."""
        self._exchange.publish(_message(topic, data, qos, retain=False), PLUGINS)

    async def retain_message(  # type: ignore[override]  # a message without a topic is none
        self, _: None, topic_name: str, data: bytes | bytearray, qos: int | None = None
    ) -> None:
        """Keep it for whoever subscribes from now on, without publishing it; an empty one clears the topic."""
        self._exchange.retain(_message(topic_name, data, qos, retain=True), PLUGINS)

    @property
    def sessions(self) -> NoReturn:
        raise _nothing_to_give("sessions")

    @property
    def subscriptions(self) -> NoReturn:
        raise _nothing_to_give("subscriptions")

    @property
    def retained_messages(self) -> NoReturn:
        raise _nothing_to_give("retained messages")


def _message(topic: str, data: bytes | bytearray, qos: int | None, *, retain: bool) -> Publish:
    if not is_topic_name(topic) or len(topic.encode()) > _MAX_TOPIC_BYTES:
        raise ValueError(f"{topic!r} is no topic name")
    if qos not in (None, 0, 1, 2):
        raise ValueError(f"QoS {qos!r} is not 0, 1 or 2")
    return Publish(topic, bytes(data), 2 if qos is None else qos, retain)


def _nothing_to_give(what: str) -> BrokerError:
    return BrokerError(f"this broker's {what} are not amqtt's; a plugin may publish and retain")


def _check(plugin: BasePlugin[Any]) -> None:
    name = type(plugin).__name__
    if isinstance(plugin, BaseAuthPlugin | BaseTopicPlugin):
        raise PluginError(f"{name} would never be asked: who may log in and do what is not decided by plugins here")
    events: list[Events] = [*BrokerEvents, *MQTTEvents]
    unheard = [f"on_{event}" for event in events if event not in _FIRED and getattr(plugin, f"on_{event}", None)]
    if unheard:
        raise PluginError(f"{name} would never be told: this broker does not call {', '.join(unheard)}")
