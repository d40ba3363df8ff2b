"""WebSocket frames (RFC 6455) as a server reads and writes them. No I/O.

MQTT does not care where frames are cut, so what a binary one carries is given out as it comes and none is kept until
it is whole: a frame may be as long as it likes, and costs nothing.
"""

import struct
from typing import Final

BINARY: Final = 0x2
CLOSE: Final = 0x8
_CONTINUATION, _TEXT, _PING, _PONG = 0x0, 0x1, 0x9, 0xA
_CONTROL_BIT: Final = 0x8
_FIN: Final = 0x80
_MASKED: Final = 0x80
_LONGEST_CONTROL: Final = 125
_SHORTEST_PACKET: Final = 2

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
_INVALID_DATA: Final = 1007
_CODES_OF_A_CLOSE: Final = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})  # sections 7.4.1, -2


class BadFrame(Exception):
    """What RFC 6455, or MQTT over it, forbids. `code` is for the closing frame that says so."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame, not masked, as a server sends them."""
    length = len(payload)
    if length <= _LONGEST_CONTROL:
        return bytes((_FIN | opcode, length)) + payload
    if length < 1 << 16:
        return struct.pack("!BBH", _FIN | opcode, 126, length) + payload
    return struct.pack("!BBQ", _FIN | opcode, 127, length) + payload


def closing(code: int) -> bytes:
    """A closing frame."""
    return frame(CLOSE, code.to_bytes(2, "big"))


class Frames:
    """What a client sends, after the handshake."""

    __slots__ = ("_in_message", "_left", "_mask", "_partial", "closed_with", "fault", "idle", "pong")

    def __init__(self) -> None:
        self._partial = b""  # of a header, or of a control frame
        self._left = 0  # bytes to come of a data frame
        self._mask = b""
        self._in_message = False  # after a frame without FIN
        self.pong = b""
        """The answer to the last ping, a whole frame; whoever sends it empties this. Earlier ones may go without."""
        self.idle = 0
        """Frames among the last bytes that carry nothing of a packet, or hardly anything; each is some work."""
        self.closed_with: bytes | None = None
        """What the client's closing frame carried. After it nothing counts."""
        self.fault: BadFrame | None = None
        """What it did wrong. After it nothing counts."""

    @property
    def is_over(self) -> bool:
        return self.closed_with is not None or self.fault is not None

    def receive(self, data: bytes) -> bytes:
        """What binary frames carry among these bytes, wherever they are cut [MQTT-6.0.0-2]."""
        if self._partial:
            data, self._partial = self._partial + data, b""
        self.idle = 0
        payload: list[bytes] = []
        at = 0
        try:
            while at < len(data) and not self.is_over:
                if self._left:
                    piece = data[at : at + self._left]
                    payload.append(_unmasked(piece, self._mask))
                    turned = len(piece) % 4
                    self._mask = self._mask[turned:] + self._mask[:turned]
                    self._left -= len(piece)
                    at += len(piece)
                    continue
                after = self._begin(data, at)
                if after is None:
                    self._partial = data[at:]
                    break
                at = after
        except BadFrame as fault:
            self.fault = fault
        return b"".join(payload)

    def _begin(self, data: bytes, at: int) -> int | None:
        """Take a frame's header, of a control frame all; returns what follows it, None if it is not all there."""
        if len(data) < at + 2:
            return None
        first, second = data[at], data[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        self._check(first, second)
        at += 2
        if length > _LONGEST_CONTROL:
            size = 2 if length == 126 else 8
            if len(data) < at + size:
                return None
            length = int.from_bytes(data[at : at + size], "big")
            at += size
            if length >= 1 << 63:
                raise BadFrame(PROTOCOL_ERROR, "a frame whose length has 64 bits")
        body = at + 4
        if len(data) < (body + length if opcode & _CONTROL_BIT else body):
            return None
        mask = data[at:body]
        if opcode & _CONTROL_BIT or length < _SHORTEST_PACKET:
            self.idle += 1
        if opcode & _CONTROL_BIT:
            self._control(opcode, _unmasked(data[body : body + length], mask))
            return body + length
        self._left, self._mask = length, mask
        self._in_message = not first & _FIN
        return body

    def _check(self, first: int, second: int) -> None:
        opcode, length = first & 0x0F, second & 0x7F
        if first & 0x70:
            raise BadFrame(PROTOCOL_ERROR, "a frame with reserved bits")
        if not second & _MASKED:
            raise BadFrame(PROTOCOL_ERROR, "a frame of a client's that is not masked")
        if opcode == _TEXT:
            raise BadFrame(UNSUPPORTED_DATA, "a frame that is not binary [MQTT-6.0.0-1]")
        if opcode & _CONTROL_BIT:
            if opcode not in (CLOSE, _PING, _PONG) or not first & _FIN or length > _LONGEST_CONTROL:
                raise BadFrame(PROTOCOL_ERROR, "a control frame of no known kind, in pieces, or too long")
        elif opcode != (_CONTINUATION if self._in_message else BINARY):
            raise BadFrame(PROTOCOL_ERROR, f"a data frame of kind {opcode} where none may stand")

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self.pong = frame(_PONG, payload)
        elif opcode == CLOSE:
            _check_closing(payload)
            self.closed_with = payload


def _check_closing(payload: bytes) -> None:
    if payload and (len(payload) < 2 or int.from_bytes(payload[:2], "big") not in _CODES_OF_A_CLOSE):
        raise BadFrame(PROTOCOL_ERROR, "a closing frame without a proper code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError as error:
        raise BadFrame(_INVALID_DATA, "a closing frame whose reason is not UTF-8") from error


def _unmasked(data: bytes, mask: bytes) -> bytes:
    length = len(data)
    repeated = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(length, "little")
