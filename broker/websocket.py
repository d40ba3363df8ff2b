"""MQTT in the binary frames of a WebSocket (section 6), which need not be cut where packets are."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from websockets.exceptions import InvalidOrigin, PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from broker.sockets import CHUNK_BYTES, Layer, Socket
from hub.protocol.packets import MalformedPacket, PacketTooLarge

ANY_ORIGIN: Final = "*"
_MAX_HEAD_BYTES: Final = 16_384
_HEAD_ENDS: Final = b"\r\n\r\n"
_log = logging.getLogger(__name__)


class NotOpened(Exception):
    """The opening handshake was refused, and the client was told so. `reason` is for counters."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WebSocket(Layer):
    """A WebSocket on a socket, as its server.

    origins: the pages, such as `https://farm.example`, whose scripts may connect; "*" is every page. Clients
        that are no browser send no origin, and may.
    max_bytes: of one message, however many frames it comes in.
    """

    def __init__(self, below: Socket | Layer, origins: Sequence[str], max_bytes: int) -> None:
        super().__init__(below)
        self._protocol = ServerProtocol(
            origins=None if ANY_ORIGIN in origins else [None, *map(Origin, origins)],
            subprotocols=[Subprotocol("mqtt")],  # [MQTT-6.0.0-3, -4]
            max_size=max_bytes,
            logger=_log,
        )
        self._malformed: MalformedPacket | None = None
        self._early = b""

    async def open(self) -> None:
        """The opening handshake. Raises NotOpened, EOFError, OSError."""
        head = b""
        while (end := head.find(_HEAD_ENDS)) < 0:
            if len(head) > _MAX_HEAD_BYTES:
                raise self._not_http("a head without an end")
            data = await self._below.read()
            if not data:
                raise EOFError
            head += data
        end += len(_HEAD_ENDS)
        self._early = head[end:]
        self._protocol.receive_data(head[:end])
        requests = self._protocol.events_received()
        if not requests or not isinstance(requests[0], Request):
            raise self._not_http(str(self._protocol.handshake_exc))
        self._protocol.send_response(self._protocol.accept(requests[0]))
        self._send()
        error = self._protocol.handshake_exc
        if error is not None:
            reason = "foreign-origin" if isinstance(error, InvalidOrigin) else "websocket-handshake"
            raise NotOpened(reason, str(error))

    def _not_http(self, message: str) -> NotOpened:
        self._below.write(self._protocol.reject(HTTPStatus.BAD_REQUEST, "Not a WebSocket handshake.\n").serialize())
        return NotOpened("websocket-handshake", message)

    async def read(self, n: int = CHUNK_BYTES) -> bytes:
        while self._malformed is None:
            data, self._early = self._early or await self._below.read(n), b""
            if not data:
                break
            if data := self._payload(data):  # a frame may be empty, and says nothing
                return data
        if self._malformed is not None:
            raise self._malformed
        return b""

    def _payload(self, data: bytes) -> bytes:
        """What the binary frames among these bytes carry; pings and closings are answered."""
        self._protocol.receive_data(data)
        frames = self._protocol.events_received()
        self._send()
        payload = []
        for frame in frames:
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.TEXT:
                self._malformed = MalformedPacket("MQTT-6.0.0-1", "a WebSocket frame that is not binary")
                break
            if frame.opcode is Opcode.BINARY or frame.opcode is Opcode.CONT:
                payload.append(frame.data)
        else:
            self._malformed = self._fault()
        return b"".join(payload)

    def _fault(self) -> MalformedPacket | None:
        error = self._protocol.parser_exc
        if error is None:
            return None
        kind = PacketTooLarge if isinstance(error, PayloadTooBig) else MalformedPacket
        return kind("section 6", str(error))

    def write(self, data: bytes) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_binary(data)
            self._send()

    def _send(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._below.write(data)
            else:
                self._below.finish()

    def finish(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close()
            self._send()
        elif self._protocol.state is State.CONNECTING:
            self._below.finish()

    async def close(self) -> None:
        self.finish()
        try:
            while self._protocol.state is State.CLOSING and (data := await self._below.read()):
                self._payload(data)  # until the peer has answered our closing
        except OSError:  # how the peer went is told by `read`
            pass
        await self._below.close()
