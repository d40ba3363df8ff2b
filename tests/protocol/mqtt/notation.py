"""Raw-packet cases as text: what a line of a case means, and which bytes it stands for. No I/O.

A case is a table in one of the files in `cases/`: a name, the clauses of the standard that it proves, and steps,
one a line. The first word of a step names a connection; a name that has none, or whose connection has ended,
opens one.

    a > BYTES             send, in one piece
    a >> BYTES            send, each byte by itself
    a texts BYTES         send, as a text frame of a WebSocket
    a < BYTES             these come next
    a <* BYTES            these packets come next, in any order; each on a line of its own, indented
    a < nothing           nothing comes: the next is the answer to a PINGREQ
    a < close             the broker ends the connection; `a < close after 1.5 s`: not before that time
    a vanishes            the connection ends without a DISCONNECT, and the broker has noticed
    a breaks              the same, by a reset

and for what is not the matter of a case, in short:

    a connects            a CONNECT of client id "a", clean session, no keep-alive; CONNACK 00 00
    a connects stored     the same with CleanSession 0
    a resumes             the same with CleanSession 0; CONNACK 01 00
    a subscribes "x" 1    a SUBSCRIBE for one filter; the SUBACK grants what was asked for
    a publishes 1r "x" 'hi'   a PUBLISH with QoS and RETAIN, and all that follows until the broker has the message
    a leaves              DISCONNECT; the broker ends the connection

BYTES are words, with a comment behind `#`. An indented line goes on with the one before it.

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

A case with `each`, a list of tables, is as many cases: `{word}` in its name, clauses and steps is replaced.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final

CASES: Final = Path(__file__).parent / "cases"

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
SHORTHANDS: Final = (
    (r"(\w+) connects", r'\1 > CONNECT [ "MQTT" 04 02 0000 "\1" ]', r"\1 < CONNACK [ 00 00 ]"),
    (r"(\w+) connects stored", r'\1 > CONNECT [ "MQTT" 04 00 0000 "\1" ]', r"\1 < CONNACK [ 00 00 ]"),
    (r"(\w+) resumes", r'\1 > CONNECT [ "MQTT" 04 00 0000 "\1" ]', r"\1 < CONNACK [ 01 00 ]"),
    (r"(\w+) subscribes (\".*\") ([012])", r"\1 > SUBSCRIBE [ 7fff \2 0\3 ]", r"\1 < SUBACK [ 7fff 0\3 ]"),
    (r"(\w+) publishes 0(r?) (\".*\")((?: '.*')?)", r"\1 > PUBLISH:0\2 [ \3\4 ]", r"\1 < nothing"),
    (
        r"(\w+) publishes 1(r?) (\".*\")((?: '.*')?)",
        r"\1 > PUBLISH:1\2 [ \3 7ffe\4 ]",
        r"\1 < PUBACK [ 7ffe ]",
    ),
    (
        r"(\w+) publishes 2(r?) (\".*\")((?: '.*')?)",
        r"\1 > PUBLISH:2\2 [ \3 7ffe\4 ]",
        r"\1 < PUBREC [ 7ffe ]",
        r"\1 > PUBREL [ 7ffe ]",
        r"\1 < PUBCOMP [ 7ffe ]",
    ),
    (r"(\w+) leaves", r"\1 > DISCONNECT []", r"\1 < close"),
)
_STEP: Final = re.compile(r"(?P<who>\w+)\s+(?P<verb>>>?|<\*?|texts|vanishes|breaks)\s*(?P<what>.*)", re.DOTALL)
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


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done or comes. `line` is how the case says it, `any_of` the packets of a `<*`."""

    line: str
    who: str
    verb: str
    what: Bytes = ()
    any_of: tuple[Bytes, ...] = ()
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """One case, ready to be played.

    clauses: identifiers of the standard's statements (`MQTT-3.1.0-1`), or `section N.N` where a rule has none.
    broker: options of the broker that it is played against, where those of the open broker will not do.
    websocket: whether it is played over WebSocket, not over TCP.
    """

    file: str
    name: str
    clauses: tuple[str, ...]
    steps: tuple[Step, ...]
    broker: dict[str, Any]
    websocket: bool


class NotationError(ValueError):
    """A case that does not say what it means."""


def read_cases(folder: Path = CASES) -> Iterator[Case]:
    """All cases, in the order of their files. Raises NotationError."""
    for path in sorted(folder.glob("*.toml")):
        table = tomllib.loads(path.read_text("utf-8"))
        for case in table["case"]:
            for row in case.get("each", [{}]):
                name = _filled(case["name"], row)
                try:
                    steps = tuple(read_steps(_filled(case["steps"], row)))
                except NotationError as error:
                    raise NotationError(f"{path.name}: {name}: {error}") from error
                clauses = tuple(_filled(clause, row) for clause in case["clauses"])
                yield Case(path.stem, name, clauses, steps, table.get("broker", {}), table.get("websocket", False))


def _filled(text: str, row: dict[str, Any]) -> str:
    return re.sub(r"\{(\w+)\}", lambda word: str(row[word[1]]), text)


def read_steps(text: str) -> Iterator[Step]:
    """The steps that the text asks for. Raises NotationError."""
    for line in re.split(r"\n(?=\S)", text.strip("\n")):
        for plain in _in_full(line):
            step = _STEP.fullmatch(plain)
            if step is None:
                raise NotationError(f"no step: {plain}")
            yield _step(line, **step.groupdict())


def _in_full(line: str) -> tuple[str, ...]:
    for pattern, *steps in SHORTHANDS:
        said = re.fullmatch(rf"{pattern}(?:\s+#.*)?", line.rstrip())
        if said:
            return tuple(said.expand(step) for step in steps)
    return (line,)


def _step(line: str, who: str, verb: str, what: str) -> Step:
    ending = re.match(r"(nothing|close)(?: after ([\d.]+) s)?\s*(?:#.*)?$", what) if verb == "<" else None
    if ending:
        return Step(line, who, ending[1], after_s=float(ending[2] or 0))
    if verb == "<*":
        return Step(line, who, verb, any_of=tuple(filter(None, map(read_bytes, what.splitlines()))))
    return Step(line, who, verb, read_bytes(what))


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
                items[-1] *= int(word["times"])
            case str() as kind, said:
                items.append((_READERS[kind](said),))
    if opened:
        raise NotationError(f"{opened[-1][0]} is never shut")
    return _joined(items)


def _joined(items: list[Bytes]) -> Bytes:
    """One after the other, with no more parts than needed."""
    parts: list[bytes | PacketId | Cut] = []
    for are_bytes, group in groupby(chain.from_iterable(items), lambda part: isinstance(part, bytes)):
        parts += [b"".join(group)] if are_bytes else group
    return tuple(parts)


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
