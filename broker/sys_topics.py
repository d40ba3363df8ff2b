"""`$SYS/broker/...`: the broker's figures under the names that mosquitto gives them, for tools that read those.

What they say follows from the broker's counters and the time; `SysTopics` has no I/O, `SysClock` publishes it.
"""

import asyncio
from collections.abc import Callable, Mapping
from importlib.metadata import version
from math import exp
from typing import Final

from hub.protocol.packets import Publish

PREFIX: Final = "$SYS/broker/"
SYS: Final = "$SYS"
"""Whose these messages are among the retained ones; no user is called so."""

_TOTALS: Final[dict[str, tuple[str, ...]]] = {
    "bytes/received": ("bytes_received",),
    "bytes/sent": ("bytes_sent",),
    "clients/active": ("clients_connected",),  # its older name
    "clients/connected": ("clients_connected",),
    "clients/disconnected": ("clients_away",),
    "clients/expired": (),
    "clients/inactive": ("clients_away",),  # its older name
    "clients/total": ("sessions",),
    "messages/received": ("packets_received",),
    "messages/sent": ("packets_sent",),
    "messages/stored": ("messages_queued", "retained"),  # its older name
    "publish/bytes/received": ("payload_bytes_received",),
    "publish/bytes/sent": ("payload_bytes_sent",),
    "publish/messages/dropped": ("dropped_qos_0", "dropped_queue_full"),
    "publish/messages/received": ("messages_received",),
    "publish/messages/sent": ("messages_sent",),
    "retained messages/count": ("retained",),
    "shared_subscriptions/count": (),
    "store/messages/bytes": ("queued_bytes", "retained_bytes"),
    "store/messages/count": ("messages_queued", "retained"),
    "subscriptions/count": ("subscriptions",),
}
"""Topics, and the counters whose sum they tell. What mosquitto calls messages is a packet of any kind."""

_LOADS: Final[dict[str, tuple[str, ...]]] = {
    "load/bytes/received": ("bytes_received",),
    "load/bytes/sent": ("bytes_sent",),
    "load/connections": ("connects",),
    "load/messages/received": ("packets_received",),
    "load/messages/sent": ("packets_sent",),
    "load/publish/dropped": ("dropped_qos_0", "dropped_queue_full"),
    "load/publish/received": ("messages_received",),
    "load/publish/sent": ("messages_sent",),
    "load/sockets": ("sockets",),
}
"""Topics of averages, and the counters whose growth in a minute they tell."""

_SPANS_S: Final = {"1min": 60.0, "5min": 300.0, "15min": 900.0}


class SysTopics:
    """What the topics say, and what that needs from one update to the next: averages and the highest so far.

    An average follows the growth of its counter like a system's load average: after a span without change it has
    gone 63 % of the way.
    """

    def __init__(self, broker_version: str, now_s: float) -> None:
        """`now_s`: any clock that never goes back, in seconds."""
        self._version = broker_version
        self._started_at_s = self._updated_at_s = now_s
        self._before: dict[str, int] = dict.fromkeys(_LOADS, 0)
        self._averages = {f"{topic}/{span}": 0.0 for topic in _LOADS for span in _SPANS_S}
        self._most_clients = 0
        self._said: dict[str, str] = {}

    def update(self, counters: Mapping[str, int], now_s: float) -> list[tuple[str, bytes]]:
        """Topics and payloads of those that say something else than at the last update; at the first one all.

        `counters`: as `EmbeddedBroker.counters` has them; one that is missing is 0.
        """
        counted = {**counters, "clients_away": counters.get("sessions", 0) - counters.get("clients_connected", 0)}
        self._average(counted, now_s)
        self._most_clients = max(self._most_clients, counted.get("clients_connected", 0))
        says = {
            "version": self._version,
            "uptime": f"{int(now_s - self._started_at_s)} seconds",
            "clients/maximum": str(self._most_clients),
            **{topic: str(_sum(counted, names)) for topic, names in _TOTALS.items()},
            **{topic: f"{average:.2f}" for topic, average in self._averages.items()},
        }
        changed = [(PREFIX + topic, text.encode()) for topic, text in says.items() if self._said.get(topic) != text]
        self._said = says
        return changed

    def _average(self, counted: Mapping[str, int], now_s: float) -> None:
        elapsed_s = now_s - self._updated_at_s
        if elapsed_s <= 0:
            return
        self._updated_at_s = now_s
        for topic, names in _LOADS.items():
            now = _sum(counted, names)
            per_minute = (now - self._before[topic]) * 60.0 / elapsed_s
            self._before[topic] = now
            for span, span_s in _SPANS_S.items():
                key = f"{topic}/{span}"
                self._averages[key] = per_minute + exp(-elapsed_s / span_s) * (self._averages[key] - per_minute)


def _sum(counted: Mapping[str, int], names: tuple[str, ...]) -> int:
    return sum(counted.get(name, 0) for name in names)


class SysClock:
    """Publishes the topics, retained and with QoS 0, at `start` and then every `interval_s` until `stop`."""

    def __init__(
        self, interval_s: float, counters: Callable[[], Mapping[str, int]], publish: Callable[[Publish], object]
    ) -> None:
        """`interval_s`: 0 for never."""
        self._interval_s = interval_s
        self._counters = counters
        self._publish = publish
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._interval_s:
            loop = asyncio.get_running_loop()
            self._tick(loop, SysTopics(f"feeder-hub version {version('feeder-hub')}", loop.time()))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop, topics: SysTopics) -> None:
        self._timer = loop.call_later(self._interval_s, self._tick, loop, topics)
        for topic, payload in topics.update(self._counters(), loop.time()):
            self._publish(Publish(topic, payload, retain=True))
