"""The embedded broker: amqtt's configuration, listeners and plugins, with everything below them our own.

amqtt's `Broker` is cut at `_client_connected`: its sessions, routing and background tasks are never used.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.errors import BrokerError
from amqtt.events import BrokerEvents

from broker.addresses import address_of
from broker.admission import Room
from broker.certificates import TlsFiles
from broker.connection import Bounds, Connection, Traffic
from broker.exchange import Exchange, RetainedLimits
from broker.guard import Authenticate, Client, Guard, Refusal, Rights, TopicLimits
from broker.journal import Journal
from broker.link import EmbeddedLink
from broker.listeners import TCP, TLS, WS, WSS, Channel, Listeners, Terms
from broker.pace import Paces, Share
from broker.plugins import PluginHost
from broker.session import Limits
from broker.sockets import HIGH_WATER_BYTES
from broker.store import Store, open_store
from broker.sys_topics import SYS, SysClock
from broker.throttle import LONGEST_NETWORK_PAUSE_S, LoginThrottle
from hub.protocol.topics import Identity

SHUTDOWN_S: Final = 2.0
"""Seconds within which every connection is closed when the broker stops."""


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What the broker may be told.

    host: address that the ports without TLS are on. tls_host: that of the ports with TLS; None is `host`.
    port, tls_port: TCP ports for MQTT, without TLS and with it. ws_port, wss_port: for MQTT over WebSocket.
        0 is any free one, None is none.
    tls: the certificates for `tls_port` and `wss_port`.
    ws_origins: the pages whose scripts may connect by WebSocket, such as `https://farm.example`; "*" is every page.
        Clients that are no browser name none, or the broker's own address, and may.
    connect_timeout_s: seconds that a client has from its connection to its accepted CONNECT, handshakes included.
    max_connections: network connections at one time. max_connections_per_address: those from one IPv4 address or
        IPv6 /64. max_unauthenticated: those without an accepted CONNECT. More are closed at once.
    max_packet_bytes: the longest packet read. It leaves room for a payload that is too long for the
        contract, so that the hub sees it and can say so.
    max_connections_per_user: client ids of one user, a desktop's tools mostly, that are connected at one time.
    max_login_pause_s: the longest pause of an address whose logins fail, in which no other try is looked at;
        0 where all clients come from one address, as from a proxy.
    store: the file for what survives a restart; None keeps nothing.
    max_messages_per_s: messages taken from one user in a second, over some time and all its connections; one that
        sends more is read more slowly. What counts as one is told in `broker.pace`. 0 for no limit.
    max_messages_with_hub, max_bytes_with_hub: messages of one user, and their payloads, that the hub inside has and is
        not done with; a user with more is read more slowly.
    max_topic_length, max_topic_levels: of a topic or a filter, in characters and in levels between slashes; what is
        longer is refused like a topic that is somebody else's.
    max_in_flight: QoS 1 and 2 messages sent to one client and not yet acknowledged.
    max_queued_messages, max_queued_bytes: what waits for one client beyond those, in messages and payload
        bytes. When it is too much the oldest of QoS 0 go first; then the session is ended, so that the client
        finds none and knows of the gap.
    max_subscriptions: topic filters of one session.
    max_unreleased: QoS 2 messages of one session whose PUBREL has not come.
    max_sessions: of clients that are there and stored ones of those that are away.
    max_retained_messages, max_retained_bytes: retained messages of one user, and their payloads in all.
    max_buffered_bytes: bytes for one client that it does not read or that wait for the disk; past it the
        connection ends.
    high_water_bytes: bytes written for one client that it does not read, past which its writer says `paused`.
    sys_interval_s: seconds between two updates of the topics below `$SYS/`; 0 for none.
    plugins: amqtt's plugins, their configuration by the dotted path of their class; see `PluginHost`.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    tls_host: str | None = None
    tls_port: int | None = None
    ws_port: int | None = None
    wss_port: int | None = None
    tls: TlsFiles | None = None
    ws_origins: tuple[str, ...] = ()
    connect_timeout_s: float = 5.0
    max_connections: int = 10_000
    max_connections_per_address: int = 1_000
    max_unauthenticated: int = 1_000
    max_connections_per_user: int = 10
    max_login_pause_s: float = LONGEST_NETWORK_PAUSE_S
    max_packet_bytes: int = 128 * 1024
    store: Path | None = None
    max_messages_per_s: int = 0
    max_messages_with_hub: int = 100
    max_bytes_with_hub: int = 1024 * 1024
    max_topic_length: int = 512
    max_topic_levels: int = 32
    max_in_flight: int = 20
    max_queued_messages: int = 1_000
    max_queued_bytes: int = 4 * 1024 * 1024
    max_subscriptions: int = 100
    max_unreleased: int = 1_000
    max_sessions: int = 20_000
    max_retained_messages: int = 1_000
    max_retained_bytes: int = 8 * 1024 * 1024
    max_buffered_bytes: int = 4 * 1024 * 1024
    high_water_bytes: int = HIGH_WATER_BYTES
    sys_interval_s: float = 10.0
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def listeners(self) -> dict[str, ListenerConfig]:
        """What amqtt is to listen on."""
        tls_host = self.tls_host or self.host
        wanted = {
            TCP: (ListenerType.TCP, self.host, self.port),
            TLS: (ListenerType.TCP, tls_host, self.tls_port),
            WS: (ListenerType.WS, self.host, self.ws_port),
            WSS: (ListenerType.WS, tls_host, self.wss_port),
        }
        return {
            name: ListenerConfig(kind, f"{host}:{port}")
            for name, (kind, host, port) in wanted.items()
            if port is not None
        }

    def terms(self) -> Terms:
        """What each listener asks of who comes."""
        return Terms(
            room=Room(self.max_connections, self.max_connections_per_address, self.max_unauthenticated),
            tls=self.tls,
            ws_origins=self.ws_origins,
            connect_timeout_s=self.connect_timeout_s,
            high_water_bytes=self.high_water_bytes,
        )


class EmbeddedBroker(PluginHost):
    """An MQTT 3.1.1 broker inside this process, from `async with` to its end.

    authenticate: says whose credentials a client shows.
    rights: who may do what.
    record: called, and must not wait, with everything that is refused.
    Raises TlsFault if the certificates cannot be used.
    """

    def __init__(
        self,
        options: BrokerOptions,
        authenticate: Authenticate,
        rights: Rights,
        record: Callable[[Refusal], None],
    ) -> None:
        super().__init__(BrokerConfig(listeners=options.listeners(), plugins=dict(options.plugins)))
        self._options = options
        self._counts: Counter[str] = Counter()
        self._traffic = Traffic()
        throttle = LoginThrottle(options.connect_timeout_s / 2, options.max_login_pause_s)
        topic_limits = TopicLimits(options.max_topic_length, options.max_topic_levels)
        self._guard = Guard(
            authenticate, rights, record, self._counts, throttle, options.max_connections_per_user, topic_limits
        )
        self._bounds = Bounds(
            packet_bytes=options.max_packet_bytes,
            buffered_bytes=options.max_buffered_bytes,
        )
        share = Share(options.max_messages_with_hub, options.max_bytes_with_hub)
        self._paces = Paces(options.max_messages_per_s, rights.owner_of, share)
        self._exchange = self._new_exchange(None)
        self._sys = SysClock(
            options.sys_interval_s, lambda: self.counters, lambda message: self._exchange.publish(message, SYS)
        )
        self._store: Store | None = None
        self._open = AsyncExitStack()
        self._ports: dict[str, int] = {}
        self._listeners = Listeners(options.terms(), self._guard, self._counts, self._serve)
        self._connections: dict[Connection, asyncio.Task[object]] = {}

    def _new_exchange(self, journal: Journal | None) -> Exchange:
        options = self._options
        limits = Limits(
            in_flight=options.max_in_flight,
            queued_messages=options.max_queued_messages,
            queued_bytes=options.max_queued_bytes,
            unreleased=options.max_unreleased,
            subscriptions=options.max_subscriptions,
        )
        retained = RetainedLimits(options.max_retained_messages, options.max_retained_bytes)
        return Exchange(self._guard, limits, retained, options.max_sessions, self._counts, journal)

    # --- for whoever embeds it ------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The TCP port for MQTT, the real one where 0 was asked for."""
        return self._ports[TCP]

    @property
    def tls_port(self) -> int | None:
        """The TCP port for MQTT over TLS, if there is one."""
        return self._ports.get(TLS)

    @property
    def ws_port(self) -> int | None:
        """The TCP port for MQTT over WebSocket, if there is one."""
        return self._ports.get(WS)

    @property
    def wss_port(self) -> int | None:
        """The TCP port for MQTT over WebSocket over TLS, if there is one."""
        return self._ports.get(WSS)

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened since the start (`connects`, `refused_<reason>`, `ended_<reason>`), and what is."""
        return {
            **self._counts,
            **asdict(self._traffic),
            **self._exchange.gauges(),
            "connections": self._listeners.admission.connections,
            "connections_unauthenticated": self._listeners.admission.unauthenticated,
        }

    def reload_certificates(self) -> None:
        """Read them anew, for connections from now on. Bad ones are logged, and change nothing."""
        if self._listeners.certificates is not None:
            self._listeners.certificates.reload()

    async def disconnect_user(self, name: str) -> bool:
        """End every connection of an MQTT user, its will included; False if there is none."""
        self._guard.users_changed()
        ending = {connection: task for connection, task in self._connections.items() if connection.user == name}
        for connection in ending:
            connection.end("disconnected-by-hub")
        if ending:
            await asyncio.wait(ending.values(), timeout=SHUTDOWN_S)
        return bool(ending)

    async def remove_user(self, name: str) -> bool:
        """The same for a user that is no more: its sessions and its retained messages go too."""
        had_connections = await self.disconnect_user(name)
        self._exchange.forget_user(name)
        self._paces.forget(name)
        return had_connections

    def link(self, identity: Identity, client_id: str, filters: tuple[tuple[str, int], ...]) -> EmbeddedLink:
        """A place inside the broker, with a stored session like any client's; to be had once it is open."""
        client = Client(identity, client_id, "inside")
        if self._store is not None:
            self._store.journal.read_here = client_id
        return EmbeddedLink(self._exchange, self._guard, self._paces, client, filters)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """The broker with what it kept, before it listens (`start`). Raises StoreUnusable."""
        async with AsyncExitStack() as stack:
            if self._options.store is not None:
                self._store = store = await stack.enter_async_context(open_store(self._options.store, self._counts))
                self._exchange = self._new_exchange(store.journal)
                self._exchange.restore(store.state.sessions, store.state.retained, store.state.wills)
            try:
                yield self
            finally:
                await self.shutdown()

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self.opened())
        try:
            await self.start()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    # --- amqtt's life cycle, without its background tasks ---------------------------------------------------

    async def start(self) -> None:
        """Listen. Raises ListenError, and then listens on nothing."""
        self.transitions.start()
        await self.plugins_manager.fire_event(BrokerEvents.PRE_START, wait=True)
        self._listeners.is_open = True
        try:
            await self._start_listeners()
        except OSError:
            self._listeners.is_open = False
            self.transitions.starting_fail()
            for server in self._servers.values():
                server.instance.close()
            raise
        for name, server in self._servers.items():
            self._ports[name] = next(iter(server.instance.sockets)).getsockname()[1]
        self.transitions.starting_success()
        self._sys.start()
        await self.plugins_manager.fire_event(BrokerEvents.POST_START, wait=True)

    async def shutdown(self) -> None:
        """Close every connection, without wills, within `SHUTDOWN_S`: the broker goes, not its clients."""
        if not self.transitions.is_started():
            return
        await self.plugins_manager.fire_event(BrokerEvents.PRE_SHUTDOWN, wait=True)
        self.transitions.shutdown()
        self._sys.stop()
        for server in self._servers.values():
            server.instance.close()
        opening = self._listeners.close()
        if self._store is not None:  # what waits for the disk is still to be acknowledged
            with suppress(TimeoutError):
                await asyncio.wait_for(self._store.flush(), SHUTDOWN_S)
        for connection, task in list(self._connections.items()):
            connection.end("shutdown", gently=True, with_will=False)
            if connection.user is None:  # it may wait for its turn to log in
                task.cancel()
        await self._all_closed(opening)
        await self.plugins_manager.fire_event(BrokerEvents.POST_SHUTDOWN, wait=True)
        await self.plugins_manager.close()
        self.transitions.stopping_success()

    async def _all_closed(self, opening: set[asyncio.Task[None]]) -> None:
        listeners = (asyncio.ensure_future(server.instance.wait_closed()) for server in self._servers.values())
        _, late = await asyncio.wait({*self._connections.values(), *opening, *listeners}, timeout=SHUTDOWN_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _create_server_instance(
        self,
        listener_name: str,
        listener_type: ListenerType,  # noqa: ARG002 - the name says it
        address: str | None,
        port: int,
        ssl_context: ssl.SSLContext | None,  # noqa: ARG002 - as the listeners have it
    ) -> asyncio.Server:
        return await self._listeners.listen(listener_name, None if address is None else address.strip("[]"), port)

    async def _serve(self, listener_name: str, channel: Channel) -> None:
        await self._client_connected(listener_name, channel, channel)

    async def _client_connected(self, listener_name: str, reader: ReaderAdapter, writer: WriterAdapter) -> None:
        """Serve one connection to its end. This is where amqtt's part ends."""
        if not (isinstance(reader, Channel) and isinstance(writer, Channel)):
            raise BrokerError(f"listener {listener_name!r} brings connections that did not come in by this broker")
        task = asyncio.current_task()
        assert task is not None
        connection = Connection(
            reader,
            writer,
            address_of(writer.get_peer_info()),
            self._exchange,
            self._guard,
            self._bounds,
            self._counts,
            self._traffic,
            None if self._store is None else self._store.journal,
            self._paces,
        )
        self._connections[connection] = task
        try:
            await connection.run()
        finally:
            del self._connections[connection]
