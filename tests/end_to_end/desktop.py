"""A desktop that does what a test tells it, over paho in the test's own process."""

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from ulid import ULID

from tests.end_to_end.hub_process import until

CONFIG: dict[str, Any] = {
    "enabled": True,
    "meal_g": 250.0,
    "interval_s": 3600,
    "window": {"start": "06:00", "end": "19:30"},
    "daily_limit_g": 4000.0,
    "feed_rate_g_per_s": 12.5,
    "silo_low_g": 5000.0,
}
HOUSEKEEPING = ("ping", "report", "ack_events")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Order:
    """A command as it came. `feeder` None: for the whole site."""

    feeder: str | None
    retained: bool
    message: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.message["id"])

    @property
    def name(self) -> str:
        return str(self.message["name"])

    @property
    def args(self) -> dict[str, Any]:
        return dict(self.message["args"])


@dataclass
class Feeder:
    config: dict[str, Any] = field(default_factory=lambda: dict(CONFIG))
    config_version: int = 1
    local_rev: int = 0
    state_seq: int = 0


class NotLetIn(Exception):
    """The broker does not accept the connection or grant the subscriptions."""


Answer = Callable[["ScriptedDesktop", Order], None]


class ScriptedDesktop:
    """One site's desktop. `beating` False: it is connected and says nothing, so it is not alive.

    answer: what it does with a command. orders: those that it got; heard: the names of all, `ping` and so on included.
    outcomes: what its journal says in a report, by command id (else `not_seen`).
    """

    def __init__(self, port: int, site: str, secret: str, feeders: list[str], *, heartbeat_s: float = 0.5) -> None:
        self.site = site
        self.answer: Answer = applied
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.orders: list[Order] = []
        self.heard: list[str] = []
        self.reports: list[list[str]] = []
        self.feeders = {name: Feeder() for name in feeders}
        self.journal_id = str(ULID())
        self.session = ""
        self.root = f"fh/v1/{site}"
        self.secret = secret
        self._port, self._heartbeat_s = port, heartbeat_s
        self._seq = 0
        self._client: mqtt.Client | None = None
        self._leaving = threading.Event()
        self._beats: threading.Thread | None = None

    @property
    def client(self) -> mqtt.Client:
        assert self._client is not None
        return self._client

    # --- the session --------------------------------------------------------------------------------------------

    def connect(self, *, beating: bool = True, within_s: float = 5.0) -> Self:
        """A new session: connected and subscribed, and (beating) with its first heartbeat sent. Raises NotLetIn."""
        self.session, self._seq = str(ULID()), 0
        self._leaving = threading.Event()
        subscribed = threading.Event()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, self.site, clean_session=True, reconnect_on_failure=False)
        client.username_pw_set(self.site, self.secret)
        client.will_set(f"{self.root}/heartbeat", self._offline(), qos=1, retain=True)
        client.on_socket_open = _without_delay
        client.on_connect = lambda client, *_: client.subscribe(
            [(f"{self.root}/commands", 1), (f"{self.root}/feeders/+/commands", 1)]
        )
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = self._on_message
        client.connect("127.0.0.1", self._port, keepalive=5)
        self._client = client
        client.loop_start()
        if not subscribed.wait(within_s):
            self._finish()
            raise NotLetIn
        if beating:
            self.beat()
            self.tell_states()
            self._beats = threading.Thread(target=self._beat_on, args=(self._leaving,))
            self._beats.start()
        return self

    def is_let_in(self) -> bool:
        """Try to connect; for a broker that does not know the site yet, or is not there."""
        try:
            self.connect(within_s=1)
        except (NotLetIn, OSError):
            return False
        return True

    def fall_silent(self) -> None:
        """No more heartbeats, over a connection that stays."""
        self._leaving.set()
        if self._beats is not None:
            self._beats.join()
            self._beats = None

    def leave(self) -> None:
        """End the session on purpose."""
        if self._client is not None and self.client.is_connected():
            farewell = {"online": False, "session": self.session, "reason": "shutdown"}
            self.publish("heartbeat", farewell, retain=True).wait_for_publish(2)
            self.client.disconnect()
        self._finish()

    def vanish(self) -> None:
        """Cut the connection; the broker publishes the last will."""
        opened = self.client.socket()
        assert isinstance(opened, socket.socket)
        opened.shutdown(socket.SHUT_RDWR)
        self._finish()

    def wait_cut_off(self) -> None:
        """Wait until the broker has ended the connection."""
        until(lambda: not self.client.is_connected())
        self._finish()

    def _finish(self) -> None:
        self.fall_silent()
        if self._client is not None:
            self._client.loop_stop()
            if (opened := self._client.socket()) is not None:
                opened.close()
            self._client = None

    def _beat_on(self, leaving: threading.Event) -> None:
        while not leaving.wait(self._heartbeat_s):
            self.beat()

    def beat(self) -> None:
        self._seq += 1
        self.publish("heartbeat", self.heartbeat(self._seq), retain=True)

    def heartbeat(self, seq: int) -> dict[str, Any]:
        return {
            "online": True,
            "session": self.session,
            "seq": seq,
            "sent_at": now(),
            "interval_s": self._heartbeat_s,
            "agent": "scripted",
            "journal_id": self.journal_id,
            "plc": {"connected": True},
        }

    def _offline(self) -> bytes:
        return json.dumps({"online": False, "session": self.session}).encode()

    # --- what it says -------------------------------------------------------------------------------------------

    def publish(self, topic: str, said: dict[str, Any] | bytes, *, retain: bool = False) -> mqtt.MQTTMessageInfo:
        payload = said if isinstance(said, bytes) else json.dumps(said).encode()
        return self.client.publish(f"{self.root}/{topic}", payload, qos=1, retain=retain)

    def tell_states(self) -> None:
        for name, feeder in self.feeders.items():
            feeder.state_seq += 1
            state = {
                "seq": feeder.state_seq,
                "journal_id": self.journal_id,
                "at": now(),
                "config": feeder.config,
                "config_version": feeder.config_version,
                "local_rev": feeder.local_rev,
                "condition": "running",
                "control": "remote",
                "silo_g": 40000,
            }
            self.publish(f"feeders/{name}/state", state, retain=True)

    def reply(self, order: Order, status: str, **said: Any) -> mqtt.MQTTMessageInfo:
        payload = json.dumps({"id": order.id, "status": status, "at": now(), **said}).encode()
        return self.client.publish(order.message["reply_to"], payload, qos=1)

    # --- what it hears ------------------------------------------------------------------------------------------

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        levels = message.topic.removeprefix(self.root + "/").split("/")
        order = Order(levels[1] if levels[0] == "feeders" else None, message.retain, json.loads(message.payload))
        self.heard.append(order.name)
        if order.name == "report":
            self.reports.append(order.args["commands"])
            self.tell_states()
            outcomes = [
                {"id": asked, **self.outcomes.get(asked, {"status": "not_seen"})} for asked in order.args["commands"]
            ]
            self.reply(order, "applied", outcomes=outcomes)
        elif order.name in HOUSEKEEPING:
            self.reply(order, "applied")
        else:
            self.orders.append(order)
            self.answer(self, order)

    def ordered(self, name: str, within_s: float = 5.0) -> Order:
        """The newest command of that name, awaited."""
        return until(lambda: [order for order in self.orders if order.name == name], within_s)[-1]

    def result_of(self, order: Order) -> dict[str, Any]:
        """Do it, and what a reply says of it."""
        if order.name == "set_config" and order.feeder in self.feeders:
            feeder = self.feeders[order.feeder]
            feeder.config, feeder.config_version = order.args["config"], order.args["config_version"]
            return {"config": feeder.config, "config_version": feeder.config_version, "local_rev": feeder.local_rev}
        if order.name == "feed":
            return {"dispensed_g": order.args["grams"]}
        if order.name in ("stop_all", "release"):
            return {"feeders": {name: {"confirmed": True} for name in self.feeders}}
        return {}


def _without_delay(_client: mqtt.Client, _data: Any, opened: Any) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# --- answers --------------------------------------------------------------------------------------------------------


def applied(desktop: ScriptedDesktop, order: Order) -> None:
    desktop.reply(order, "applied", **desktop.result_of(order))


def applied_twice(desktop: ScriptedDesktop, order: Order) -> None:
    result = desktop.result_of(order)
    for _ in range(2):
        desktop.reply(order, "applied", **result)


def silent(_desktop: ScriptedDesktop, _order: Order) -> None:
    """The command is heard, and never answered."""


def in_hand(desktop: ScriptedDesktop, order: Order) -> None:
    desktop.reply(order, "received")


def rejected(code: str, **said: Any) -> Answer:
    def answer(desktop: ScriptedDesktop, order: Order) -> None:
        desktop.reply(order, "rejected", code=code, **said)

    return answer


def failed(code: str, **said: Any) -> Answer:
    def answer(desktop: ScriptedDesktop, order: Order) -> None:
        desktop.reply(order, "failed", code=code, **said)

    return answer
