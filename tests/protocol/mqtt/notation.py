"""Bytes as text, for cases that a person can read. No I/O.

A text is words, with a comment behind `#`:

    10 003c               hexadecimal
    "a/b"                 a string as MQTT writes it: two bytes of length, then UTF-8
    'hi'                  the UTF-8 alone. In both, escapes are those of JSON.
    30 [ ... ]            the first byte of a packet, the remaining length, as short as possible, what is inside
    ( ... )               two bytes of length, then what is inside
    61*100                a word or a bracket a hundred times
    $m                    a packet id that the broker chooses: what came first is meant from then on;
                          `$n!m` is one that differs from $m
    |                     what follows is sent by itself (a segment, or a WebSocket frame)
    PUBLISH:1rd           the first byte of a packet by its name, with the flags that the standard asks for;
                          a PUBLISH may say its QoS, r for RETAIN, d for DUP
"""

import json
import re
from dataclasses import dataclass
from itertools import chain
from typing import Final

FIRST_BYTES: Final = {
    "CONNECT": 0x10,
    "CONNACK": 0x20,
    "PUBLISH": 0x30,
    "PUBACK": 0x40,
    "PUBREC": 0x50,
    "PUBREL": 0x62,
    "PUBCOMP": 0x70,
    "SUBSCRIBE": 0x82,
    "SUBACK": 0x90,
    "UNSUBSCRIBE": 0xA2,
    "UNSUBACK": 0xB0,
    "PINGREQ": 0xC0,
    "PINGRESP": 0xD0,
    "DISCONNECT": 0xE0,
}
_WORD: Final = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<string> "(?:[^"\\\n]|\\.)*" ) | (?P<bare> '(?:[^'\\\n]|\\.)*' )
    | (?P<open> [\[(] ) | (?P<shut> [\])] ) | \*(?P<times> \d+ ) | (?P<cut> \| )
    | (?P<id> \$[a-z]\d?(?:![a-z]\d?)? )
    | (?P<name> [A-Z]+(?::[0-3]?r?d?)? )
    | (?P<hex> (?:[0-9a-f]{2})+ )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class PacketId:
    """Two bytes that the broker chose, known by a name; `unlike` names another one that it must differ from."""

    name: str
    unlike: str


class Cut:
    """The end of a piece that is sent by itself."""


Bytes = tuple[bytes | PacketId | Cut, ...]


class NotationError(ValueError):
    """A case that does not say what it means."""


def read_bytes(text: str) -> Bytes:
    """What the words stand for. Raises NotationError."""
    opened: list[tuple[str, list[Bytes]]] = []  # the brackets that are open, each with what came before it
    items: list[Bytes] = []  # words and closed brackets, each of which may be repeated
    at = 0
    while at < len(text):
        word = _WORD.match(text, at)
        if word is None:
            raise NotationError(f"not understood: {text[at:]}")
        at = word.end()
        match word.lastgroup, word[0]:
            case "open", bracket:
                opened.append((bracket, items))
                items = []
            case "shut", bracket:
                if not opened or opened[-1][0] + bracket not in ("[]", "()"):
                    raise NotationError(f"{bracket} shuts nothing")
                inside = _joined(items)
                items = opened.pop()[1]
                if bracket == ")":
                    items.append((_u16(size(inside)), *inside))
                else:  # the first byte of the packet is part of it
                    first = items.pop() if items else ()
                    items.append((*first, _remaining_length(size(inside)), *inside))
            case "times", _:
                if not items:
                    raise NotationError("nothing to repeat")
                items[-1] = _repeated(_joined(items[-1:]), int(word["times"]))
            case str() as kind, said:
                items.append((_READERS[kind](said),))
    if opened:
        raise NotationError(f"{opened[-1][0]} is never shut")
    return _joined(items)


def _repeated(what: Bytes, times: int) -> Bytes:
    if len(what) == 1 and isinstance(what[0], bytes):
        return (what[0] * times,)
    return what * times


def _joined(items: list[Bytes]) -> Bytes:
    """One after the other, with no more parts than needed."""
    parts: list[bytes | PacketId | Cut] = []
    run: list[bytes] = []
    for part in chain.from_iterable(items):
        if isinstance(part, bytes):
            run.append(part)
        else:
            parts += [b"".join(run), part]
            run.clear()
    parts.append(b"".join(run))
    return tuple(part for part in parts if part != b"")


def size(what: Bytes) -> int:
    """How many bytes it is on the wire."""
    return sum(len(part) if isinstance(part, bytes) else 2 * isinstance(part, PacketId) for part in what)


def _remaining_length(length: int) -> bytes:
    digits = bytearray()
    while length > 127:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*digits, length))


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _string(said: str) -> bytes:
    text: str = json.loads(said)
    return _u16(len(text.encode())) + text.encode()


def _bare(said: str) -> bytes:
    text: str = json.loads(f'"{said[1:-1]}"')
    return text.encode()


def _packet_id(said: str) -> PacketId:
    name, _, unlike = said[1:].partition("!")
    return PacketId(name, unlike)


def _first_byte(said: str) -> bytes:
    name, _, flags = said.partition(":")
    if name not in FIRST_BYTES:
        raise NotationError(f"no packet is called {name}")
    qos = int(flags[:1]) if flags[:1].isdigit() else 0
    return bytes((FIRST_BYTES[name] | qos << 1 | ("r" in flags) | ("d" in flags) << 3,))


_READERS: Final = {
    "string": _string,
    "bare": _bare,
    "hex": bytes.fromhex,
    "cut": lambda _: Cut(),
    "id": _packet_id,
    "name": _first_byte,
}
