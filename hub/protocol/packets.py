"""MQTT 3.1.1 control packets: bytes <-> packets, strict, without I/O.

Packets are values: nobody changes one. They are not frozen because making a frozen one takes three times as long.

One codec for both ends of a connection: `encode` makes the bytes of one packet, a `Decoder` is fed whatever
the network gave and returns the packets that are whole. Each check carries the clause of the OASIS standard
(29 October 2014) that asks for it; what breaks one raises `MalformedPacket`, after which the connection must
be closed. Which packets may come when is the business of whoever holds the connection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final, TypeVar

MAX_REMAINING_LENGTH: Final = 268_435_455
"""Bytes after the fixed header of the longest packet that MQTT can express."""
MAX_PACKET_ID: Final = 65_535
FAILURE: Final = 0x80
"""The code in a SUBACK for a filter that was not granted."""

_REMEMBERED_TOPICS: Final = 4096
_LONGEST_REMEMBERED_BYTES: Final = 256
"""Topics come again and again; checking one costs more than finding it among the last few thousand."""
_U16 = Struct("!H")
_ACK = Struct("!BBH")
_P = TypeVar("_P")


class MalformedPacket(Exception):
    """Bytes that MQTT 3.1.1 forbids.

    `clause` is the standard's identifier (`MQTT-x.y.z-n`), or `section N.N` where a rule has none.
    `before` holds the packets that came whole before it in the same feed.
    """

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"{message} [{clause}]")
        self.clause = clause
        self.before: list[Packet] = []


class UnacceptableProtocol(MalformedPacket):
    """A CONNECT of another version of MQTT; a server answers it with CONNACK 0x01."""


class PacketTooLarge(MalformedPacket):
    """The fixed header declares more bytes than the receiver takes."""


@dataclass(slots=True)
class Will:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(slots=True)
class Connect:
    """`keep_alive` in seconds, 0 for none."""

    client_id: str
    clean_session: bool = True
    keep_alive: int = 0
    will: Will | None = None
    username: str | None = None
    password: bytes | None = None


@dataclass(slots=True)
class Connack:
    session_present: bool = False
    code: int = 0


@dataclass(slots=True)
class Publish:
    """`packet_id` is 0 where `qos` is 0."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0


@dataclass(slots=True)
class Puback:
    packet_id: int


@dataclass(slots=True)
class Pubrec:
    packet_id: int


@dataclass(slots=True)
class Pubrel:
    packet_id: int


@dataclass(slots=True)
class Pubcomp:
    packet_id: int


@dataclass(slots=True)
class Subscribe:
    """`filters`: pairs of a topic filter and the QoS asked for."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class Suback:
    """`codes`: for each filter the QoS granted, or `FAILURE`."""

    packet_id: int
    codes: tuple[int, ...]


@dataclass(slots=True)
class Unsubscribe:
    packet_id: int
    filters: tuple[str, ...]


@dataclass(slots=True)
class Unsuback:
    packet_id: int


@dataclass(slots=True)
class Pingreq:
    pass


@dataclass(slots=True)
class Pingresp:
    pass


@dataclass(slots=True)
class Disconnect:
    pass


Packet = (
    Connect | Connack | Publish | Puback | Pubrec | Pubrel | Pubcomp
    | Subscribe | Suback | Unsubscribe | Unsuback | Pingreq | Pingresp | Disconnect
)  # fmt: skip


def is_topic_name(text: str) -> bool:
    """Whether it may be published on: not empty, no wildcards, no NUL [MQTT-4.7.1-1] [MQTT-4.7.3-1, -2]."""
    return bool(text) and "+" not in text and "#" not in text and "\0" not in text


def is_topic_filter(text: str) -> bool:
    """Whether it may be subscribed to: not empty, no NUL [MQTT-4.7.3-1, -2]; wildcards fill whole levels, '#' only
    the last [MQTT-4.7.1-2, -3].
    """
    if not text or "\0" in text:
        return False
    if "#" not in text and "+" not in text:
        return True
    *levels, last = text.split("/")
    return all(_is_filter_level(level) for level in levels) and (last == "#" or _is_filter_level(last))


def _is_filter_level(level: str) -> bool:
    return level == "+" or not ("+" in level or "#" in level)


# --- packets to bytes ---------------------------------------------------------------------------------------


def encode(packet: Packet) -> bytes:
    """The bytes of one packet. Raises ValueError where the packet cannot be expressed."""
    return _ENCODERS[type(packet)](packet)


def _framed(first: int, body: bytes) -> bytes:
    length = len(body)
    if length < 128:
        return bytes((first, length)) + body
    if length > MAX_REMAINING_LENGTH:
        raise ValueError(f"a packet of {length} bytes is longer than MQTT can express")
    header = bytearray((first,))
    while length > 127:
        header.append(length & 0x7F | 0x80)
        length >>= 7
    header.append(length)
    return bytes(header) + body


def _field(content: str | bytes) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    if len(data) > 0xFFFF or (isinstance(content, str) and "\0" in content):
        raise ValueError("a field is longer than 65,535 bytes or holds NUL")
    return _U16.pack(len(data)) + data


def _id(packet_id: int) -> bytes:
    if not 0 < packet_id <= MAX_PACKET_ID:
        raise ValueError(f"packet id {packet_id} is not in 1..65535")
    return _U16.pack(packet_id)


def _encode_connect(packet: Connect) -> bytes:
    flags = packet.clean_session << 1
    payload = _field(packet.client_id)
    if packet.will is not None:
        if not is_topic_name(packet.will.topic):
            raise ValueError(f"{packet.will.topic!r} is no topic name")
        flags |= 0x04 | packet.will.qos << 3 | packet.will.retain << 5
        payload += _field(packet.will.topic) + _field(packet.will.payload)
    if packet.username is not None:
        flags |= 0x80
        payload += _field(packet.username)
    if packet.password is not None:
        if packet.username is None:
            raise ValueError("a password needs a user name")
        flags |= 0x40
        payload += _field(packet.password)
    return _framed(0x10, b"\0\4MQTT\4" + bytes((flags,)) + _U16.pack(packet.keep_alive) + payload)


def _encode_publish(packet: Publish) -> bytes:
    topic = packet.topic
    field = _known_topic_field(topic) if len(topic) <= _LONGEST_REMEMBERED_BYTES else _topic_field(topic)
    first = 0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain
    if not packet.qos:
        return _framed(first, field + packet.payload)
    return _framed(first, field + _id(packet.packet_id) + packet.payload)


def _topic_field(topic: str) -> bytes:
    if not is_topic_name(topic):
        raise ValueError(f"{topic!r} is no topic name")
    return _field(topic)


_known_topic_field = lru_cache(_REMEMBERED_TOPICS)(_topic_field)


def _encode_subscribe(packet: Subscribe) -> bytes:
    filters = b"".join(_field(topic_filter) + bytes((qos,)) for topic_filter, qos in packet.filters)
    return _framed(0x82, _id(packet.packet_id) + filters)


def _encode_unsubscribe(packet: Unsubscribe) -> bytes:
    return _framed(0xA2, _id(packet.packet_id) + b"".join(map(_field, packet.filters)))


def _encode_suback(packet: Suback) -> bytes:
    return _framed(0x90, _id(packet.packet_id) + bytes(packet.codes))


def _encode_ack(first: int) -> Callable[[Puback | Pubrec | Pubrel | Pubcomp | Unsuback], bytes]:
    def encode_ack(packet: Puback | Pubrec | Pubrel | Pubcomp | Unsuback) -> bytes:
        if not 0 < packet.packet_id <= MAX_PACKET_ID:
            raise ValueError(f"packet id {packet.packet_id} is not in 1..65535")
        return _ACK.pack(first, 2, packet.packet_id)

    return encode_ack


_ENCODERS: Final[dict[type, Callable[..., bytes]]] = {
    Connect: _encode_connect,
    Connack: lambda packet: bytes((0x20, 2, packet.session_present, packet.code)),
    Publish: _encode_publish,
    Puback: _encode_ack(0x40),
    Pubrec: _encode_ack(0x50),
    Pubrel: _encode_ack(0x62),
    Pubcomp: _encode_ack(0x70),
    Subscribe: _encode_subscribe,
    Suback: _encode_suback,
    Unsubscribe: _encode_unsubscribe,
    Unsuback: _encode_ack(0xB0),
    Pingreq: lambda _: b"\xc0\0",
    Pingresp: lambda _: b"\xd0\0",
    Disconnect: lambda _: b"\xe0\0",
}


# --- bytes to packets ---------------------------------------------------------------------------------------


class Decoder:
    """Takes bytes as the network cuts them and returns whole packets.

    Keeps no more than one unfinished packet, of at most `max_packet_bytes` with its header; a packet that
    declares more is refused as soon as its length is read. After `MalformedPacket` it must not be fed again.
    """

    def __init__(self, max_packet_bytes: int = MAX_REMAINING_LENGTH + 5) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._partial = bytearray()
        self._wanted = 0  # bytes that the partial packet needs before it is worth looking again

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that these bytes complete, in order. Raises MalformedPacket with those `before` it."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                return []
            data = bytes(self._partial)
            self._partial.clear()
        packets: list[Packet] = []
        at, available = 0, len(data)
        try:
            while at < available:
                first = data[at]
                decode = _DECODERS.get(first)
                if decode is None:
                    raise _unknown_first_byte(first)
                length, start = _remaining_length(data, at + 1, available)
                end = start + length
                if end - at > self._max_packet_bytes:
                    raise PacketTooLarge("section 2.2.3", f"a packet of {end - at} bytes")
                if end > available or length < 0:
                    self._partial += data[at:]
                    self._wanted = end - at if length >= 0 else 0
                    break
                packets.append(decode(data, start, end))
                at = end
        except MalformedPacket as malformed:
            malformed.before = packets
            raise
        return packets


def _remaining_length(data: bytes, at: int, available: int) -> tuple[int, int]:
    """The remaining length and where the rest begins; (-1, ...) if its bytes are not all there yet."""
    length = shift = 0
    while at < available:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, at
        shift += 7
        if shift > 21:  # section 2.2.3: the maximum number of bytes in the Remaining Length field is four
            raise MalformedPacket("section 2.2.3", "the remaining length has more than four bytes")
    return -1, at


def _unknown_first_byte(first: int) -> MalformedPacket:
    if first >> 4 == 3:
        if first & 0x06 == 0x06:
            return MalformedPacket("MQTT-3.3.1-4", "a PUBLISH with QoS 3")
        return MalformedPacket("MQTT-3.3.1-2", "DUP on a PUBLISH with QoS 0")
    if first >> 4 in (0, 15):
        return MalformedPacket("section 2.2.1", f"packet type {first >> 4} is reserved")
    clause = {6: "MQTT-3.6.1-1", 8: "MQTT-3.8.1-1", 10: "MQTT-3.10.1-1", 14: "MQTT-3.14.1-1"}
    return MalformedPacket(clause.get(first >> 4, "MQTT-2.2.2-2"), f"reserved flags in 0x{first:02x}")


def _take_field(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """A field with a two-byte length before it, so of at most 65,535 [MQTT-4.7.3-3], and where the next begins."""
    if at + 2 > end:
        raise MalformedPacket("section 1.5.3", "a field is cut short")
    start = at + 2
    stop = start + (data[at] << 8 | data[at + 1])
    if stop > end:
        raise MalformedPacket("section 1.5.3", "a field is cut short")
    return data[start:stop], stop


def _text(field: bytes) -> str:
    try:
        text = field.decode()  # refuses surrogates and overlong forms too, and keeps U+FEFF [MQTT-1.5.3-3]
    except UnicodeDecodeError as error:
        raise MalformedPacket("MQTT-1.5.3-1", f"ill-formed UTF-8: {error.reason}") from error
    if "\0" in text:
        raise MalformedPacket("MQTT-1.5.3-2", "U+0000 in a string")
    return text


def _take_topic(data: bytes, at: int, end: int) -> tuple[str, int]:
    field, at = _take_field(data, at, end)
    return (_known_topic(field) if len(field) <= _LONGEST_REMEMBERED_BYTES else _topic(field)), at


def _topic(field: bytes) -> str:
    topic = _text(field)
    if not topic:
        raise MalformedPacket("MQTT-4.7.3-1", "an empty topic name")
    if "+" in topic or "#" in topic:  # in a PUBLISH also [MQTT-3.3.2-2]
        raise MalformedPacket("MQTT-4.7.1-1", "wildcards in a topic name")
    return topic


_known_topic = lru_cache(_REMEMBERED_TOPICS)(_topic)


def _take_filter(data: bytes, at: int, end: int, clause: str) -> tuple[str, int]:
    field, at = _take_field(data, at, end)
    try:
        topic_filter = _text(field)
    except MalformedPacket as error:
        raise MalformedPacket(clause, str(error)) from error
    if not topic_filter:
        raise MalformedPacket("MQTT-4.7.3-1", "an empty topic filter")
    if not is_topic_filter(topic_filter):
        hash_in_place = "#" not in topic_filter.removesuffix("/#")
        clause = "MQTT-4.7.1-3" if hash_in_place else "MQTT-4.7.1-2"
        raise MalformedPacket(clause, f"{topic_filter!r} is no topic filter")
    return topic_filter, at


def _take_id(data: bytes, at: int, end: int, clause: str = "MQTT-2.3.1-1") -> int:
    if at + 2 > end:
        raise MalformedPacket(clause, "the packet id is missing")
    packet_id = data[at] << 8 | data[at + 1]
    if not packet_id:
        raise MalformedPacket(clause, "packet id 0")
    return packet_id


def _decode_connect(data: bytes, at: int, end: int) -> Connect:
    name, at = _take_field(data, at, end)
    if at + 4 > end:
        raise MalformedPacket("MQTT-3.1.4-1", "a CONNECT is cut short")
    level, flags, keep_alive = data[at], data[at + 1], data[at + 2] << 8 | data[at + 3]
    at += 4
    if (name, level) == (b"MQIsdp", 3) or (name == b"MQTT" and level != 4):
        raise UnacceptableProtocol("MQTT-3.1.2-2", f"protocol {name.decode()} level {level}")
    if name != b"MQTT":
        raise MalformedPacket("MQTT-3.1.2-1", "the protocol name is not MQTT")
    if flags & 0x01:
        raise MalformedPacket("MQTT-3.1.2-3", "the reserved connect flag is set")
    will_qos, will_retain = flags >> 3 & 3, bool(flags & 0x20)
    if will_qos == 3:
        raise MalformedPacket("MQTT-3.1.2-14", "will QoS 3")
    if not flags & 0x04 and will_qos:
        raise MalformedPacket("MQTT-3.1.2-13", "will QoS without a will")
    if not flags & 0x04 and will_retain:
        raise MalformedPacket("MQTT-3.1.2-15", "will retain without a will")
    if flags & 0x40 and not flags & 0x80:
        raise MalformedPacket("MQTT-3.1.2-22", "a password without a user name")
    # In this order [MQTT-3.1.3-1]; a field that a flag promises and that is not there is cut short.
    field, at = _take_field(data, at, end)  # [MQTT-3.1.3-3]
    client_id = _text(field)  # [MQTT-3.1.3-4]
    will = username = password = None
    if flags & 0x04:  # [MQTT-3.1.2-9] [MQTT-3.1.3-10]
        will_topic, at = _take_topic(data, at, end)
        payload, at = _take_field(data, at, end)
        will = Will(will_topic, payload, will_qos, will_retain)
    if flags & 0x80:  # [MQTT-3.1.2-19] [MQTT-3.1.3-11]
        field, at = _take_field(data, at, end)
        username = _text(field)
    if flags & 0x40:  # [MQTT-3.1.2-21]
        password, at = _take_field(data, at, end)
    if at != end:  # or a field that no flag promises [MQTT-3.1.2-11, -18, -20]
        raise MalformedPacket("MQTT-3.1.4-1", "bytes after the last field of a CONNECT")
    return Connect(client_id, bool(flags & 0x02), keep_alive, will, username, password)


def _decode_connack(data: bytes, at: int, end: int) -> Connack:
    if end - at != 2 or data[at] > 1 or data[at + 1] > 5:
        raise MalformedPacket("section 3.2.2", "a CONNACK holds a flag and a code up to 5")
    if data[at] and data[at + 1]:
        raise MalformedPacket("MQTT-3.2.2-4", "session present in a refusal")
    return Connack(bool(data[at]), data[at + 1])


def _decode_publish(qos: int, retain: bool, dup: bool) -> Callable[[bytes, int, int], Publish]:
    def decode_publish(data: bytes, at: int, end: int) -> Publish:
        topic, at = _take_topic(data, at, end)  # [MQTT-3.3.2-1]
        if not qos:  # [MQTT-2.3.1-5]
            return Publish(topic, data[at:end], 0, retain)
        return Publish(topic, data[at + 2 : end], qos, retain, dup, _take_id(data, at, end))

    return decode_publish


def _decode_ack(make: Callable[[int], _P]) -> Callable[[bytes, int, int], _P]:
    def decode_ack(data: bytes, at: int, end: int) -> _P:
        if end - at != 2:
            raise MalformedPacket("section 2.2.3", "an acknowledgement has exactly two bytes")
        return make(_take_id(data, at, end, "section 2.3.1"))  # that of a PUBLISH or UNSUBSCRIBE, which is not 0

    return decode_ack


def _decode_subscribe(data: bytes, at: int, end: int) -> Subscribe:
    packet_id = _take_id(data, at, end)
    at += 2
    filters: list[tuple[str, int]] = []
    while at < end:
        topic_filter, at = _take_filter(data, at, end, "MQTT-3.8.3-1")
        if at == end or data[at] > 2:
            raise MalformedPacket("MQTT-3.8.3-4", "the requested QoS is missing or not 0, 1 or 2")
        filters.append((topic_filter, data[at]))
        at += 1
    if not filters:
        raise MalformedPacket("MQTT-3.8.3-3", "a SUBSCRIBE without a filter")
    return Subscribe(packet_id, tuple(filters))


def _decode_suback(data: bytes, at: int, end: int) -> Suback:
    packet_id = _take_id(data, at, end, "section 2.3.1")
    codes = tuple(data[at + 2 : end])
    if not codes or not all(code in (0, 1, 2, FAILURE) for code in codes):
        raise MalformedPacket("MQTT-3.9.3-2", "a SUBACK has codes of 0, 1, 2 or 0x80")
    return Suback(packet_id, codes)


def _decode_unsubscribe(data: bytes, at: int, end: int) -> Unsubscribe:
    packet_id = _take_id(data, at, end)
    at += 2
    filters: list[str] = []
    while at < end:
        topic_filter, at = _take_filter(data, at, end, "MQTT-3.10.3-1")
        filters.append(topic_filter)
    if not filters:
        raise MalformedPacket("MQTT-3.10.3-2", "an UNSUBSCRIBE without a filter")
    return Unsubscribe(packet_id, tuple(filters))


def _decode_empty(packet: _P) -> Callable[[bytes, int, int], _P]:
    def decode_empty(_: bytes, at: int, end: int) -> _P:
        if at != end:
            raise MalformedPacket("section 2.2.3", "bytes in a packet that has none")
        return packet

    return decode_empty


# By the whole first byte: type and flags are right together or not at all [MQTT-2.2.2-1].
# They are those of the standard, and no others are needed [MQTT-7.0.0-2].
_DECODERS: Final[dict[int, Callable[[bytes, int, int], Packet]]] = {
    0x10: _decode_connect,
    0x20: _decode_connack,
    **{
        0x30 | dup << 3 | qos << 1 | retain: _decode_publish(qos, bool(retain), bool(dup))
        for qos in (0, 1, 2) for retain in (0, 1) for dup in (0, 1) if qos or not dup
    },
    0x40: _decode_ack(Puback),
    0x50: _decode_ack(Pubrec),
    0x62: _decode_ack(Pubrel),
    0x70: _decode_ack(Pubcomp),
    0x82: _decode_subscribe,
    0x90: _decode_suback,
    0xA2: _decode_unsubscribe,
    0xB0: _decode_ack(Unsuback),
    0xC0: _decode_empty(Pingreq()),
    0xD0: _decode_empty(Pingresp()),
    0xE0: _decode_empty(Disconnect()),
}  # fmt: skip
