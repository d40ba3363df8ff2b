"""The desktop's connection: `DesktopRules` on paho-mqtt, in one thread, until a signal ends it.

Each connection is a client of its own, with a session and a last will of its own, so nothing of an old one is
ever sent again. paho's loop is turned by hand: no rule ever runs at the same time as another.
"""

import logging
import random
import signal
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from device_sim.outbox import Outgoing
from device_sim.rules import DesktopRules
from hub.protocol.messages import Offline, encode
from hub.protocol.times import utc_now

log = logging.getLogger("feeder-sim")

SHORTEST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
ANSWER_TIMEOUT_S: Final = 10.0
"""How long the broker may take to answer CONNECT and SUBSCRIBE."""
FAREWELL_TIMEOUT_S: Final = 1.0
REFUSED_LOGIN: Final = frozenset({"Bad user name or password", "Not authorized", "Client identifier not valid"})


class Exit(IntEnum):
    """What the process ends with."""

    BY_SIGNAL = 0
    LOGIN_REFUSED = 3
    CANNOT_CONNECT = 4


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are there."""

    host: str
    port: int
    username: str
    secret: str
    tls: ssl.SSLContext | None = None

    @classmethod
    def at(cls, url: str, username: str, secret: str, ca_file: Path | None = None) -> "Broker":
        """From `mqtt://host[:port]` or `mqtts://host[:port]`. Raises ValueError, OSError (CA file)."""
        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise ValueError(f"{url!r} is no broker's address: write mqtt://host:port or mqtts://host:port")
        if parts.username or parts.password or parts.path.strip("/"):
            raise ValueError("the address takes a host and a port only; the secret comes from its file")
        if parts.scheme == "mqtt":
            return cls(parts.hostname, parts.port or 1883, username, secret)
        return cls(parts.hostname, parts.port or 8883, username, secret, ssl.create_default_context(cafile=ca_file))


def sleepless_clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system has such a clock."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Desktop:
    """Runs the rules over connections to one broker, one after the other."""

    def __init__(self, rules: DesktopRules, broker: Broker, *, tick_s: float = 0.2, once: bool = False) -> None:
        self._rules = rules
        self._broker = broker
        self._tick_s = tick_s
        self._once = once
        self._leave_asked = False
        self._interruptible = False
        self._was_logged_in = False

    def run(self) -> Exit:
        """Connect, and connect again with growing pauses, until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)
        self._rules.start(utc_now())
        pause_s = SHORTEST_PAUSE_S
        try:
            while not self._leaving():
                connection = _Connection(self._rules, self._broker)
                was_up = self._live_through(connection)
                self._rules.lost()
                if self._leaving():
                    break
                if connection.login_refused and not self._was_logged_in:
                    return Exit.LOGIN_REFUSED
                if self._once:
                    return Exit.CANNOT_CONNECT
                pause_s = SHORTEST_PAUSE_S if was_up else min(pause_s * 2, LONGEST_PAUSE_S)
                self._wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, guards nothing
        except _Leave:
            pass
        log.info("left")
        return Exit.BY_SIGNAL

    def _live_through(self, connection: "_Connection") -> bool:
        """One connection from its beginning to its end. Whether its session came to life."""
        where = f"{self._broker.host}:{self._broker.port}"
        try:
            self._open(connection)
            gives_up_at_s = time.monotonic() + ANSWER_TIMEOUT_S
            while not self._leaving() and connection.turn(self._tick_s):
                if not connection.subscribed and time.monotonic() > gives_up_at_s:
                    log.warning("%s does not answer", where)
                    break
                connection.publish(self._rules.tick(utc_now()))
        except OSError as error:
            log.warning("no connection to %s: %s", where, error)
        finally:
            self._was_logged_in |= connection.logged_in
            if self._leaving() and connection.subscribed:
                connection.say_goodbye(self._rules.leave())
            connection.close()
        if connection.subscribed and not self._leaving():
            log.warning("the connection to %s is lost", where)
        return connection.subscribed

    def _wait(self, seconds: float) -> None:
        """The feeders feed on while there is no connection."""
        ends_at_s = time.monotonic() + seconds
        while not self._leaving() and (left_s := ends_at_s - time.monotonic()) > 0:
            # One tick at the most, so that a signal is noticed soon and the feeders feed on.
            time.sleep(min(left_s, self._tick_s))
            self._rules.tick(utc_now())

    def _open(self, connection: "_Connection") -> None:
        self._interruptible = True
        try:
            connection.connect()
        finally:
            self._interruptible = False

    def _leaving(self) -> bool:
        # A bare flag: a lock, as in threading.Event, could be held by the very code that the signal interrupts.
        return self._leave_asked

    def _leave(self, _number: int, _frame: FrameType | None) -> None:
        self._leave_asked = True
        if self._interruptible:
            raise _Leave


class _Leave(BaseException):
    """A signal came while a connection was being opened, which may block for long."""


class _Connection:
    """One MQTT connection, with the session that belongs to it."""

    def __init__(self, rules: DesktopRules, broker: Broker) -> None:
        self.logged_in = False
        self.login_refused = False
        self.subscribed = False
        self._rules = rules
        self._broker = broker
        self._awaited_subscription: int | None = None
        self._unacknowledged: set[int] = set()
        self._keep_alive_s = max(5, round(rules.presence.interval_s))
        self._client = self._new_client(rules.open_session())

    def _new_client(self, will: Offline) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._rules.site,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.username_pw_set(self._broker.username, self._broker.secret)
        if self._broker.tls is not None:
            client.tls_set_context(self._broker.tls)
        client.will_set(self._rules.topics.heartbeat(self._rules.site), encode(will), qos=1, retain=True)
        client.max_inflight_messages_set(1000)
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = lambda _client, _data, packet_id, *_: self._unacknowledged.discard(packet_id)
        return client

    def connect(self) -> None:
        """Open the socket and send CONNECT. Raises OSError; the answer comes in `turn`."""
        self._client.connect(self._broker.host, self._broker.port, keepalive=self._keep_alive_s)

    def turn(self, seconds: float) -> bool:
        """Wait so long for something to happen, and handle it. False when the connection has ended."""
        return self._client.loop(seconds) == MQTTErrorCode.MQTT_ERR_SUCCESS and not self.login_refused

    def publish(self, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            sent = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
            self._unacknowledged.add(sent.mid)

    def say_goodbye(self, messages: list[Outgoing]) -> None:
        """Publish the last words and disconnect, so that the last will is not needed."""
        self._unacknowledged.clear()
        self.publish(messages)
        gives_up_at_s = time.monotonic() + FAREWELL_TIMEOUT_S
        while self._unacknowledged and time.monotonic() < gives_up_at_s and self.turn(0.05):
            pass
        self._client.disconnect()

    def close(self) -> None:
        """Cut the connection, if it is still there; then the broker publishes the last will."""
        open_socket = self._client.socket()
        if open_socket is not None:
            open_socket.close()

    # --- what the broker says -------------------------------------------------------------------------------

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self.login_refused = str(reason) in REFUSED_LOGIN
            log.error("the broker refuses %s: %s", self._broker.username, reason)
            return
        self.logged_in = True
        filters = [(topic_filter, 1) for topic_filter in self._rules.topics.desktop_filters(self._rules.site)]
        _, self._awaited_subscription = client.subscribe(filters)

    def _on_subscribe(self, client: mqtt.Client, _data: Any, packet_id: int, granted: Any, _properties: Any) -> None:
        if packet_id != self._awaited_subscription:
            return
        if any(code.is_failure for code in granted):
            log.error(
                "the broker does not let us subscribe to our own commands: %s",
                [str(code) for code in granted],
            )
            client.disconnect()
            return
        self.subscribed = True
        log.info(
            "connected to %s:%d, session %s",
            self._broker.host,
            self._broker.port,
            self._rules.presence.session,
        )
        self.publish(self._rules.subscribed(utc_now()))

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.publish(self._rules.receive(message.topic, bytes(message.payload), message.retain, utc_now()))


def _send_at_once(_client: mqtt.Client, _data: Any, opened: Any) -> None:
    """Small messages must not wait for one another (Nagle's algorithm costs up to 40 ms here)."""
    if isinstance(opened, socket.socket):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
