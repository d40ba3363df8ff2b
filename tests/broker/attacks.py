"""What a hostile or broken client may send: streams of valid packets, damaged, cut and told wrong lengths. No I/O.

Everything follows from a `random.Random`, so a seed is enough to see the same bytes again.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from hub.protocol.packets import (
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Unsubscribe,
    Will,
    encode,
)

Way = Literal["tcp", "websocket", "tls", "not tls"]
"""How the bytes come: `not tls` is as they are, to a listener that waits for TLS."""
End = Literal["finish", "reset", "stay", "deaf"]
"""What the client does after its last byte: say goodbye and hear out the broker; vanish; wait for an answer to its
CONNECT or for the broker to close; vanish without having read anything."""
HANDSHAKE: Final = (
    b"GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: ZmVlZGVyLWh1Yi1mdXp6IQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
)
_LEVELS: Final = ("a", "b", "c", "", "å", "\ufeff", "x" * 100, "$SYS", "$x")
_WILDCARDS: Final = (*_LEVELS, "+", "+", "#")
_BINARY: Final = 0x2
_LENGTHS: Final = (0, 1, 127, 128, 16_384, 65_535, 200_000, 2_097_152, 268_435_455)
"""Where the number of a length's bytes changes, and what a field, the broker's limit and MQTT allow at most."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One connection, and what is written to it piece by piece."""

    way: Way
    pieces: tuple[bytes, ...]
    end: End


def any_attack(random: Random) -> Attack:
    way: Way = random.choices(("tcp", "websocket", "tls", "not tls"), (10, 8, 2, 1))[0]
    stream = mqtt(random)
    if way == "websocket":
        opening = damaged(random, HANDSHAKE) if random.random() < 0.1 else HANDSHAKE
        frames = b"".join(frame(random, piece) for piece in cut(random, stream))
        stream = opening + (damaged(random, frames) if random.random() < 0.3 else frames)
    elif way == "not tls":
        stream = damaged(random, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") + stream
    end: End = random.choice(("finish", "reset", "stay", "deaf"))
    return Attack(way, tuple(cut(random, stream)), end)


def mqtt(random: Random) -> bytes:
    """What a client says, mostly from a CONNECT on that is as it must be."""
    opening, rest = encode(connect(random)), damaged(random, packets(random))
    chance = random.random()
    if chance < 0.7:
        return opening + rest
    return damaged(random, opening) + rest if chance < 0.95 else random.randbytes(random.randrange(2000))


# --- packets --------------------------------------------------------------------------------------------------


def packets(random: Random) -> bytes:
    """Any, whether a server waits for them or not."""
    return b"".join(encode(random.choice(_PACKETS)(random)) for _ in range(random.randrange(20)))


def connect(random: Random) -> Connect:
    will = Will(name(random), payload(random)[:65_535], random.randrange(3), random.random() < 0.5)
    return Connect(
        random.choice(("", f"fuzz-{random.randrange(8)}", f"fuzz-{random.randrange(1 << 30)}")),
        clean_session=random.random() < 0.6,
        keep_alive=random.choice((0, 1, 65_535)),
        will=will if random.random() < 0.4 else None,
        username=random.choice((None, "", "somebody")),
    )


def publish(random: Random) -> Publish:
    qos = random.randrange(3)
    packet_id = random.randrange(1, 9) if qos else 0
    return Publish(name(random), payload(random), qos, random.random() < 0.3, bool(qos), packet_id)


def subscribe(random: Random) -> Subscribe:
    filters = tuple((pattern(random), random.randrange(3)) for _ in range(random.randrange(1, 5)))
    return Subscribe(random.randrange(1, 65_536), filters)


def unsubscribe(random: Random) -> Unsubscribe:
    return Unsubscribe(random.randrange(1, 65_536), tuple(pattern(random) for _ in range(random.randrange(1, 5))))


def acknowledge(random: Random) -> Packet:
    kind: Callable[[int], Packet] = random.choice((Puback, Pubrec, Pubrel, Pubcomp))
    return kind(random.choice((random.randrange(1, 9), random.randrange(1, 65_536))))


_PACKETS: Final[tuple[Callable[[Random], Packet], ...]] = (
    *(publish, publish, publish, publish, subscribe, subscribe, unsubscribe, acknowledge, acknowledge, acknowledge),
    *(lambda _: Pingreq(), lambda _: Pingreq(), lambda _: Disconnect(), connect),
)


def name(random: Random) -> str:
    return "/".join(random.choices(_LEVELS, k=random.randrange(1, 5))) or "a"


def pattern(random: Random) -> str:
    levels = random.choices(_WILDCARDS, k=random.randrange(1, 5))
    if "#" in levels:
        del levels[levels.index("#") + 1 :]
    return "/".join(levels) or "#"


def payload(random: Random) -> bytes:
    return bytes(random.choices((0, random.randrange(100), random.randrange(200_000)), (10, 80, 1))[0])


# --- damage ---------------------------------------------------------------------------------------------------


def damaged(random: Random, data: bytes) -> bytes:
    """Some bytes wrong, most of all near the beginning, where the headers are."""
    stream = bytearray(data)
    for _ in range(random.choice((0, 1, 1, 1, 2, 3, 8))):
        random.choice(_DAMAGES)(random, stream, random.randrange(min(len(stream) + 1, random.choice((40, 1 << 20)))))
    return bytes(stream)


def _flip_a_bit(random: Random, stream: bytearray, at: int) -> None:
    if at < len(stream):
        stream[at] ^= 1 << random.randrange(8)


def _cut_off(_: Random, stream: bytearray, at: int) -> None:
    del stream[at:]


def _lie_about_a_packet(random: Random, stream: bytearray, at: int) -> None:
    length = random.choice(_LENGTHS)
    told = bytearray()
    while length > 127:
        told.append(length & 0x7F | 0x80)
        length >>= 7
    stream[at : at + len(told) + 1] = bytes((*told, length))


def _lie_about_a_field(random: Random, stream: bytearray, at: int) -> None:
    stream[at : at + 2] = random.choice((b"\0\0", b"\0\1", b"\0\xff", b"\xff\xff", random.randbytes(2)))


def _splice(random: Random, stream: bytearray, at: int) -> None:
    other = packets(random)
    stream[at:] = other[random.randrange(len(other) + 1) :]


def _put_in(random: Random, stream: bytearray, at: int) -> None:
    stream[at:at] = random.randbytes(random.randrange(1, 6))


def _take_out(random: Random, stream: bytearray, at: int) -> None:
    del stream[at : at + random.randrange(1, 6)]


def _repeat(random: Random, stream: bytearray, at: int) -> None:
    stream[at:at] = stream[at : at + random.randrange(40)] * random.choice((1, 1, 200))


_DAMAGES: Final = (
    *(_flip_a_bit, _flip_a_bit, _cut_off, _lie_about_a_packet, _lie_about_a_field),
    *(_splice, _put_in, _take_out, _repeat),
)


# --- the way ----------------------------------------------------------------------------------------------------


def cut(random: Random, stream: bytes) -> list[bytes]:
    """In one piece, in some, or in single bytes."""
    most = random.choice((1 << 20, 1000, 50, 1 if len(stream) < 300 else 1000))
    pieces = []
    at = 0
    while at < len(stream):
        end = at + random.randrange(most) + 1
        pieces.append(stream[at:end])
        at = end
    return pieces


def frame(random: Random, piece: bytes) -> bytes:
    """A client's WebSocket frame: mostly binary, whole and masked."""
    usual = random.random() < 0.95
    first = 0x80 | _BINARY if usual else random.randrange(256)
    masked = 0x80 if usual or random.random() < 0.7 else 0
    length = len(piece) if usual or random.random() < 0.7 else random.choice((0, 125, 126, 65_536, 1 << 62))
    if length <= 125:
        header = bytes((first, masked | length))
    elif length < 1 << 16:
        header = struct.pack("!BBH", first, masked | 126, length)
    else:
        header = struct.pack("!BBQ", first, masked | 127, length)
    if not masked:
        return header + piece
    mask = random.randbytes(4)
    key = int.from_bytes((mask * (len(piece) // 4 + 1))[: len(piece)], "big")
    return header + mask + (int.from_bytes(piece, "big") ^ key).to_bytes(len(piece), "big")
