"""The ways in: TCP and TLS, and WebSocket over either. Who comes in is handed on as an open channel.

A socket is let in or closed in the moment in which it is accepted. Then one coroutine takes it, under one time limit
that ends with its accepted CONNECT, through the handshakes of what its listener speaks above TCP.
"""

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from broker.addresses import address_of, network_of
from broker.admission import Admission, NoRoom, Room
from broker.certificates import Certificates, TlsFiles
from broker.guard import Guard, Refusal
from broker.sockets import CLOSING_S, Layer, NotOpened, Socket
from broker.tls import Tls
from broker.websocket import WebSocket

_log = logging.getLogger(__name__)

TCP: Final = "default"  # amqtt wants one listener of that name
TLS: Final = "tls"
WS: Final = "ws"
WSS: Final = "wss"

Channel = Socket | Layer
Serve = Callable[[str, Channel], Awaitable[None]]
"""Serves a client to its end; is given the listener's name and the open channel."""
_BACKLOG: Final = 1024
_MOST_OPEN_FILES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms one comes in.

    tls: the certificates; None if no listener needs them.
    ws_origins: the pages whose scripts may connect, see `WebSocket`.
    connect_timeout_s: seconds from the accepted socket to the accepted CONNECT.
    high_water_bytes: see `Socket`.
    """

    room: Room
    tls: TlsFiles | None
    ws_origins: tuple[str, ...]
    connect_timeout_s: float
    high_water_bytes: int


class ListenError(OSError):
    """An address cannot be listened on. `errno` is the system's; `option` is the port's name in `BrokerOptions`."""

    def __init__(self, error: OSError, option: str, host: str, port: int) -> None:
        super().__init__(error.errno, error.strerror or str(error))
        self.option = option
        self.host = host
        self.port = port


class Listeners:
    """All of a broker's. `is_open` decides whether who comes is let in. Raises TlsFault."""

    def __init__(self, terms: Terms, guard: Guard, counters: Counter[str], serve: Serve) -> None:
        self.is_open = False
        self.admission = Admission(terms.room)
        self.certificates = None if terms.tls is None else Certificates(terms.tls, counters)
        self._terms = terms
        self._guard = guard
        self._counters = counters
        self._serve_channel = serve
        self._loop = asyncio.get_running_loop()
        self._opening: dict[Socket, asyncio.Task[None]] = {}

    async def listen(self, name: str, host: str | None, port: int) -> asyncio.Server:
        """Raises ListenError."""
        opened = partial(self._opened, name)
        try:
            return await self._loop.create_server(  # for TCP [MQTT-7.1.1-1]
                partial(Socket, opened, self._terms.high_water_bytes),
                host,
                port,
                backlog=_BACKLOG,
                reuse_address=True,
            )
        except OSError as error:
            raise ListenError(error, "port" if name == TCP else f"{name}_port", host or "*", port) from error

    def close(self) -> set[asyncio.Task[None]]:
        """Let nobody in any more, drop those who are about to come in, and return what is to be awaited for them."""
        self.is_open = False
        for socket in self._opening:
            socket.abort()
        return set(self._opening.values())

    def _opened(self, name: str, socket: Socket) -> None:
        self._counters["sockets"] += 1
        network = network_of(address_of(socket.get_peer_info()))
        try:
            if not self.is_open:
                raise NoRoom("shutting-down")
            deadline_s = self._loop.time() + self._terms.connect_timeout_s
            socket.entry = self.admission.enter(network, deadline_s, partial(self._put_out, socket))
        except NoRoom as refused:
            self._put_out(socket, refused.reason)
        else:
            self._opening[socket] = self._loop.create_task(self._serve(name, socket))

    async def _serve(self, name: str, socket: Socket) -> None:
        try:
            channel = await self._open(name, socket)
            if channel is not None:
                del self._opening[socket]
                await self._serve_channel(name, channel)
        except Exception:  # noqa: BLE001 - it is logged, and costs this connection only
            _log.exception("the connection from %s broke on a fault of the broker", address_of(socket.get_peer_info()))
        finally:
            socket.abort()  # it is closed, but for a fault or a cancellation
            self._opening.pop(socket, None)
            socket.entry.leave()

    async def _open(self, name: str, socket: Socket) -> Channel | None:
        """The socket under all that its listener speaks; None, and closed, if its peer fails a handshake."""
        channel: Channel = socket
        try:
            for layer in self._layers(name):
                async with asyncio.timeout_at(socket.entry.deadline_s):
                    channel = layer(channel)
                    await channel.open()
        except NotOpened as error:
            self._refuse(socket, error.reason, str(error))
        except TimeoutError:
            self._refuse(socket, "connect-timeout")
        except (OSError, EOFError):
            self._counters["ended_lost"] += 1
        else:
            return channel
        channel.finish()
        self._loop.call_later(CLOSING_S, socket.abort)
        await socket.close()
        return None

    def _layers(self, name: str) -> Iterator[Callable[[Channel], Layer]]:
        if name in (TLS, WSS):
            assert self.certificates is not None
            context = self.certificates.current()
            yield lambda below: Tls(below, context)
        if name in (WS, WSS):
            yield lambda below: WebSocket(below, self._terms.ws_origins)

    def _put_out(self, socket: Socket, reason: str) -> None:
        self._refuse(socket, reason)
        socket.abort()

    def _refuse(self, socket: Socket, reason: str, detail: str | None = None) -> None:
        address = address_of(socket.get_peer_info())
        self._guard.refuse(Refusal("connection", None, None, None, reason, address, detail))


def allow_many_connections() -> None:
    """Each connection needs an open file; take as many as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
    with suppress(ValueError, OSError):  # then it is what it was, and `max_connections` is the lower
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
