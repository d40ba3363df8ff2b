"""MQTT over WebSocket: section 6 of the standard. The opening is the library's, what follows is `frames`."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from broker.frames import BINARY, CLOSE, NORMAL, UNSUPPORTED_DATA, Frames, closing, frame
from broker.sockets import CHUNK_BYTES, Layer, NotOpened, Socket
from hub.protocol.packets import MalformedPacket

ANY_ORIGIN: Final = "*"
_MAX_HEAD_BYTES: Final = 16_384
_FEW_IDLE_FRAMES: Final = 10
_IDLE_FRAMES_PER_S: Final = 1_000
"""Pings and empty frames that are read in a second, when many come at once: the broker paces packets, not these."""
_HEAD_ENDS: Final = b"\r\n\r\n"
_TO_ASCII: Final = bytes(range(128)) + b"?" * 128
"""The library breaks on other bytes, which nothing that matters here is written in."""
_log = logging.getLogger(__name__)


class WebSocket(Layer):
    """A WebSocket on a socket, as its server.

    origins: the pages, such as `https://farm.example`, whose scripts may connect; "*" is every page. Clients that
        are no browser send no origin, or like paho the broker's own address, and may.
    """

    def __init__(self, below: Socket | Layer, origins: Sequence[str]) -> None:
        super().__init__(below)
        self._origins = origins
        self._frames = Frames()
        self._is_open = False
        self._said_goodbye = False
        self._early = b""  # frames that came with the request

    async def open(self) -> None:
        head = b""
        while (end := head.find(_HEAD_ENDS)) < 0:
            if len(head) > _MAX_HEAD_BYTES:
                raise self._refuse(ServerProtocol(logger=_log), HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            data = await self._below.read()
            if not data:
                raise EOFError
            head += data
        end += len(_HEAD_ENDS)
        self._early = head[end:]
        self._answer(head[:end].translate(_TO_ASCII))
        self._is_open = True

    def _answer(self, head: bytes) -> None:
        protocol = ServerProtocol(subprotocols=[Subprotocol("mqtt")], logger=_log)  # [MQTT-6.0.0-3, -4]
        protocol.receive_data(head)
        request = next(iter(protocol.events_received()), None)
        if not isinstance(request, Request):
            raise self._refuse(protocol, HTTPStatus.BAD_REQUEST)
        if not all(self._may_connect(origin, request.headers) for origin in request.headers.get_all("Origin")):
            raise self._refuse(protocol, HTTPStatus.FORBIDDEN, "foreign-origin")
        protocol.send_response(protocol.accept(request))
        self._below.write(b"".join(protocol.data_to_send()))
        if protocol.handshake_exc is not None:
            raise NotOpened("websocket-handshake", str(protocol.handshake_exc))

    def _may_connect(self, origin: str, headers: Headers) -> bool:
        host = origin.partition("://")[2]
        own = host != "" and headers.get_all("Host") == [host]
        return own or ANY_ORIGIN in self._origins or origin in self._origins

    def _refuse(self, protocol: ServerProtocol, status: HTTPStatus, reason: str = "websocket-handshake") -> NotOpened:
        self._below.write(protocol.reject(status, f"{status.phrase}\n").serialize())
        return NotOpened(reason, status.phrase)

    async def read(self, n: int = CHUNK_BYTES) -> bytes:
        while not self._frames.is_over:
            data, self._early = self._early or await self._below.read(n), b""
            if not data:
                return b""
            payload = self._receive(data)
            if self._frames.idle > _FEW_IDLE_FRAMES:
                await asyncio.sleep(self._frames.idle / _IDLE_FRAMES_PER_S)
            if payload:  # a frame may be empty, and says nothing
                return payload
        if self._frames.fault is not None:
            clause = "MQTT-6.0.0-1" if self._frames.fault.code == UNSUPPORTED_DATA else "section 6"
            raise MalformedPacket(clause, str(self._frames.fault))
        return b""

    def _receive(self, data: bytes) -> bytes:
        payload = self._frames.receive(data)
        if self._frames.pong and not self._below.paused:  # or else with what is written when it reads again
            self.write(b"")
        if self._frames.closed_with is not None:
            self.finish()
        return payload

    def write(self, data: bytes) -> None:
        if self._is_open and not self._said_goodbye:
            pong, self._frames.pong = self._frames.pong, b""
            self._below.write(pong + frame(BINARY, data) if data else pong)

    def finish(self) -> None:
        frames = self._frames
        if self._is_open and not self._said_goodbye:
            self._said_goodbye = True
            if frames.closed_with is not None:
                self._below.write(frame(CLOSE, frames.closed_with[:2]))
            else:
                self._below.write(closing(NORMAL if frames.fault is None else frames.fault.code))
        if frames.is_over or not self._is_open:
            self._below.finish()

    async def close(self) -> None:
        self.finish()
        with suppress(OSError):  # how the peer went is told by `read`
            while not self._frames.is_over and (data := await self._below.read()):
                self._receive(data)  # until it has said goodbye too
        await self._below.close()
