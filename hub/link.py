"""The link to an MQTT broker: paho in a thread of its own, its messages handed to the event loop.

Messages are acknowledged by whoever took them in (`manual_ack`), after they are stored; the session at the broker is a
stored one, so what comes while this process restarts is kept for it.
"""

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from hub.errors import HubError
from hub.protocol.link import Message, NotConnected, Receive

KEEP_ALIVE_S: Final = 20
LONGEST_RECONNECT_PAUSE_S: Final = 5
_GRANTED_BELOW: Final = 0x80

log = structlog.get_logger()


class BadBrokerUrl(HubError):
    """The address of the broker cannot be understood; says what is expected."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and who we are there."""

    host: str
    port: int
    tls: bool
    username: str
    password: str

    @classmethod
    def parse(cls, url: str, username: str, password: str) -> Self:
        """`mqtt://[user:password@]host[:1883]` or `mqtts://…[:8883]`; user and password given here are the default."""
        expected = "mqtt.url must look like mqtt://host:1883 or mqtts://user:password@host:8883"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BadBrokerUrl(f"{expected}: {error}") from error
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
            raise BadBrokerUrl(expected)
        tls = parts.scheme == "mqtts"
        return cls(
            parts.hostname,
            port or (8883 if tls else 1883),
            tls,
            unquote(parts.username) if parts.username else username,
            unquote(parts.password) if parts.password else password,
        )


class PahoLink:
    """`async with link.running(receive)`: connects in the background, and again whenever the connection is lost."""

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        topic_filters: tuple[tuple[str, int], ...],
        *,
        stored_session: bool = True,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.last_fault: str | None = None
        self._address = address
        self._filters = topic_filters
        self._receive: Receive | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived: deque[MQTTMessage] = deque()
        self._arrived_at_s: deque[float] = deque()
        self._connected = False
        self._first = asyncio.Event()
        client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=not stored_session, manual_ack=True)
        client.connect_timeout = connect_timeout_s
        client.username_pw_set(address.username, address.password)
        if address.tls:
            client.tls_set_context(ssl.create_default_context())
        client.reconnect_delay_set(min_delay=1, max_delay=LONGEST_RECONNECT_PAUSE_S)
        client.max_inflight_messages_set(65535)
        client.on_socket_open = _without_delay
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.on_message = self._on_message
        self._client = client

    @asynccontextmanager
    async def running(self, receive: Receive) -> AsyncIterator[Self]:
        """Connected as far as the broker can be reached; `receive` is called for each message."""
        self._loop = loop = asyncio.get_running_loop()
        self._receive = receive
        self._client.connect_async(self._address.host, self._address.port, keepalive=KEEP_ALIVE_S)
        self._client.loop_start()
        try:
            yield self
        finally:
            self._client.disconnect()
            await loop.run_in_executor(None, self._client.loop_stop)

    @property
    def connected(self) -> bool:
        return self._connected

    async def wait_connected(self, timeout_s: float) -> bool:
        """Whether the broker has accepted us and granted every subscription within that time."""
        try:
            await asyncio.wait_for(self._first.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def publish(self, topic: str, payload: bytes) -> None:
        if not self._connected:
            raise NotConnected
        if self._client.publish(topic, payload, qos=1).rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise NotConnected

    # --- in paho's thread --------------------------------------------------------------------------------------

    def _on_connect(
        self,
        client: Client,
        _data: Any,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.last_fault = f"login refused: {reason}"
            log.error("the MQTT broker refuses the hub", host=self._address.host, reason=str(reason))
            return
        if self._filters:
            client.subscribe(list(self._filters))
        else:
            self._is_connected()

    def _on_subscribe(
        self,
        _client: Client,
        _data: Any,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        refused = [
            topic_filter
            for (topic_filter, _qos), reason in zip(self._filters, reasons, strict=True)
            if reason.value >= _GRANTED_BELOW
        ]
        if refused:
            self.last_fault = f"subscription refused: {', '.join(refused)}"
            log.error("the MQTT broker does not let the hub subscribe; check its rights there", filters=refused)
            return
        self._is_connected()

    def _is_connected(self) -> None:
        self._connected = True
        log.info("connected to the MQTT broker", host=self._address.host, port=self._address.port)
        self._call_in_loop(self._first.set)

    def _on_disconnect(
        self,
        _client: Client,
        _data: Any,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if self._connected and reason.is_failure:
            log.warning("connection to the MQTT broker lost", host=self._address.host, reason=str(reason))
        self._connected = False

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self.last_fault = "it cannot be reached"
        log.warning("the MQTT broker cannot be reached", host=self._address.host, port=self._address.port)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        # One wake-up of the event loop for all that come while it is busy.
        self._arrived_at_s.append(time.monotonic())
        self._arrived.append(message)
        if len(self._arrived) == 1:
            self._call_in_loop(self._hand_over)

    def _call_in_loop(self, callback: Any) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    # --- in the event loop -------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        assert self._receive is not None
        while self._arrived:
            message, arrived_at_s = self._arrived[0], self._arrived_at_s.popleft()
            mid, qos = message.mid, message.qos

            def acknowledge(mid: int = mid, qos: int = qos) -> None:
                self._client.ack(mid, qos)

            try:
                self._receive(Message(message.topic, bytes(message.payload), message.retain, arrived_at_s, acknowledge))
            except Exception:
                log.exception("a message could not be handed over", topic=message.topic)
            self._arrived.popleft()


def _without_delay(_client: Client, _data: Any, sock: Any) -> None:
    """Nagle's algorithm would hold small packets back for 40 ms."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
