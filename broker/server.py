"""The embedded broker: amqtt's configuration, listeners and plugins, with everything below them our own.

amqtt's `Broker` is cut at `_client_connected`: its sessions, routing and background tasks are never used.
"""

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.errors import BrokerError
from amqtt.events import BrokerEvents

from broker.connection import Bounds, Connection, Traffic
from broker.exchange import Exchange, RetainedLimits
from broker.guard import Authenticate, Client, Guard, Refusal, Rights, TopicLimits
from broker.journal import Journal
from broker.link import EmbeddedLink
from broker.plugins import PluginHost
from broker.session import Limits
from broker.sockets import HIGH_WATER_BYTES, Reader, Socket, Writer
from broker.store import Store, open_store
from broker.sys_topics import SYS, SysClock
from broker.throttle import LONGEST_NETWORK_PAUSE_S, LoginThrottle
from broker.websocket import ANY_ORIGIN, NotOpened, WebSocket
from hub.protocol.topics import Identity

_log = logging.getLogger(__name__)

SHUTDOWN_S: Final = 2.0
"""Seconds within which every connection is closed when the broker stops."""
_BACKLOG: Final = 1024
_MQTT, _WEBSOCKET = "default", "websocket"


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What the broker may be told.

    host: address to listen on. port: TCP port for MQTT, 0 for any free one.
    ws_port: TCP port for MQTT over WebSocket, 0 for any free one, None for none.
    connect_timeout_s: seconds that a client has from its connection to its accepted CONNECT.
    max_packet_bytes: the longest packet read. It leaves room for a payload that is too long for the
        contract, so that the hub sees it and can say so.
    max_connections: network connections at one time; more are closed at once.
    max_connections_per_user: client ids of one user, a desktop's tools mostly, that are connected at one time.
    max_login_pause_s: the longest pause of an address whose logins fail, in which no other try is looked at;
        0 where all clients come from one address, as from a proxy.
    store: the file for what survives a restart; None keeps nothing.
    max_messages_per_s: PUBLISH packets taken from one connection, over some time; one that sends more is read
        more slowly. 0 for no limit.
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
    ws_port: int | None = None
    connect_timeout_s: float = 5.0
    max_packet_bytes: int = 128 * 1024
    max_connections: int = 10_000
    max_connections_per_user: int = 10
    max_login_pause_s: float = LONGEST_NETWORK_PAUSE_S
    store: Path | None = None
    max_messages_per_s: int = 0
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


class ListenError(OSError):
    """An address cannot be listened on. `listener` is "mqtt" or "websocket"; `errno` is the system's."""

    def __init__(self, error: OSError, listener: str, host: str, port: int) -> None:
        super().__init__(error.errno, f"cannot listen on {host}:{port} for {listener}: {error.strerror or error}")
        self.listener = listener
        self.host = host
        self.port = port


class EmbeddedBroker(PluginHost):
    """An MQTT 3.1.1 broker inside this process, from `async with` to its end.

    authenticate: says whose credentials a client shows.
    rights: who may do what.
    record: called, and must not wait, with everything that is refused.
    """

    def __init__(
        self,
        options: BrokerOptions,
        authenticate: Authenticate,
        rights: Rights,
        record: Callable[[Refusal], None],
    ) -> None:
        listeners = {_MQTT: ListenerConfig(bind=f"{options.host}:{options.port}")}
        if options.ws_port is not None:
            bind = f"{options.host}:{options.ws_port}"
            listeners[_WEBSOCKET] = ListenerConfig(type=ListenerType.WS, bind=bind)
        super().__init__(BrokerConfig(listeners=listeners, plugins=dict(options.plugins)))
        self._options = options
        self._counts: Counter[str] = Counter()
        self._traffic = Traffic()
        throttle = LoginThrottle(options.connect_timeout_s / 2, options.max_login_pause_s)
        topic_limits = TopicLimits(options.max_topic_length, options.max_topic_levels)
        self._guard = Guard(
            authenticate, rights, record, self._counts, throttle, options.max_connections_per_user, topic_limits
        )
        self._bounds = Bounds(
            connect_timeout_s=options.connect_timeout_s,
            packet_bytes=options.max_packet_bytes,
            buffered_bytes=options.max_buffered_bytes,
            messages_per_s=options.max_messages_per_s,
        )
        self._exchange = self._new_exchange(None)
        self._sys = SysClock(
            options.sys_interval_s, lambda: self.counters, lambda message: self._exchange.publish(message, SYS)
        )
        self._store: Store | None = None
        self._open = AsyncExitStack()
        self._ports: dict[str, int] = {}
        self._connections: dict[Connection, asyncio.Task[object]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

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
        return self._ports[_MQTT]

    @property
    def ws_port(self) -> int | None:
        """The TCP port for MQTT over WebSocket, if there is one."""
        return self._ports.get(_WEBSOCKET)

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened since the start (`connects`, `refused_<reason>`, `ended_<reason>`), and what is."""
        now = {**self._exchange.gauges(), "connections": len(self._connections)}
        return {**self._counts, **asdict(self._traffic), **now}

    async def disconnect_user(self, name: str) -> bool:
        """End every connection of an MQTT user, its will included; False if there is none."""
        ending = {task for connection, task in self._connections.items() if connection.user == name}
        for connection in [connection for connection in self._connections if connection.user == name]:
            connection.end("disconnected-by-hub")
        if ending:
            await asyncio.wait(ending, timeout=SHUTDOWN_S)
        return bool(ending)

    async def remove_user(self, name: str) -> bool:
        """The same for a user that is no more: its sessions and its retained messages go too."""
        had_connections = await self.disconnect_user(name)
        self._exchange.forget_user(name)
        return had_connections

    def link(self, identity: Identity, client_id: str, filters: tuple[tuple[str, int], ...]) -> EmbeddedLink:
        """A place inside the broker, with a stored session like any client's; to be had once it is open."""
        return EmbeddedLink(self._exchange, self._guard, Client(identity, client_id, "inside"), filters)

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
        await self.start()
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
        try:
            await self._start_listeners()
        except OSError:
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
        if self._store is not None:  # what waits for the disk is still to be acknowledged
            with suppress(TimeoutError):
                await asyncio.wait_for(self._store.flush(), SHUTDOWN_S)
        for connection, task in list(self._connections.items()):
            connection.end("shutdown", gently=True, with_will=False)
            if connection.user is None:  # it may wait for its turn to log in
                task.cancel()
        await self._all_closed()
        await self.plugins_manager.fire_event(BrokerEvents.POST_SHUTDOWN, wait=True)
        await self.plugins_manager.close()
        self.transitions.stopping_success()

    async def _all_closed(self) -> None:
        listeners = (asyncio.ensure_future(server.instance.wait_closed()) for server in self._servers.values())
        _, late = await asyncio.wait({*self._connections.values(), *listeners}, timeout=SHUTDOWN_S)
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
        ssl_context: ssl.SSLContext | None,
    ) -> asyncio.Server:
        host = None if address is None else address.strip("[]")
        opened = partial(self._opened, listener_name)
        try:
            return await self._loop.create_server(
                partial(Socket, opened, self._options.high_water_bytes),
                host,
                port,
                backlog=_BACKLOG,
                reuse_address=True,
                ssl=ssl_context,
            )
        except OSError as error:
            name = "mqtt" if listener_name == _MQTT else listener_name
            raise ListenError(error, name, host or "*", port) from error

    def _opened(self, listener_name: str, socket: Socket) -> None:
        self._counts["sockets"] += 1
        task = self._loop.create_task(self._serve(listener_name, socket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, listener_name: str, socket: Socket) -> None:
        if listener_name == _MQTT:
            await self._client_connected(listener_name, socket, socket)
            return
        websocket = WebSocket(socket, (ANY_ORIGIN,), self._options.max_packet_bytes)
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                await websocket.open()
        except (NotOpened, TimeoutError, OSError, EOFError):
            socket.finish()
            return
        await self._client_connected(listener_name, websocket, websocket)

    async def _client_connected(self, listener_name: str, reader: ReaderAdapter, writer: WriterAdapter) -> None:
        """Serve one connection to its end. This is where amqtt's part ends."""
        if not (isinstance(reader, Reader) and isinstance(writer, Writer)):
            raise BrokerError(f"listener {listener_name!r} brings adapters that this broker cannot close at once")
        peer = writer.get_peer_info()
        address = "unknown" if peer is None else f"{peer[0]}:{peer[1]}"
        full = len(self._connections) >= self._options.max_connections
        if full or not self.transitions.is_started():
            reason = "too-many-connections" if full else "shutting-down"
            self._guard.refuse(Refusal("connection", None, None, None, reason, address))
            writer.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        connection = Connection(
            reader,
            writer,
            address,
            self._exchange,
            self._guard,
            self._bounds,
            self._counts,
            self._traffic,
            None if self._store is None else self._store.journal,
        )
        self._connections[connection] = task
        try:
            await connection.run()
        except Exception:  # noqa: BLE001 - it is logged, and costs this connection only
            _log.exception("the connection from %s broke on a fault of the broker", address)
        finally:
            del self._connections[connection]
