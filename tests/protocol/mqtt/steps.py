"""Raw-packet cases as text: who sends what, and what must come back. No I/O.

A case is a table in one of the files in `cases/`: a name, the clauses of the standard that it proves, and steps,
one a line; an indented line goes on with the one before it. The first word of a step names a connection; a name that
has none, or whose connection has ended, opens one. How BYTES are written says `notation`.

    a > BYTES             send, in one piece
    a >> BYTES            send, each byte by itself
    a texts BYTES         send, as a text frame of a WebSocket
    a fragments BYTES     send, as one message of a WebSocket in several fragments
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

A case with `each`, a list of tables, is as many cases: `{word}` in its name, clauses and steps is replaced.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.protocol.mqtt.notation import Bytes, NotationError, read_bytes

CASES: Final = Path(__file__).parent / "cases"

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
_STEP: Final = re.compile(
    r"(?P<who>\w+)\s+(?P<verb>>>?|<\*?|texts|fragments|vanishes|breaks)\s*(?P<what>.*)", re.DOTALL
)


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

    family: its name with `…` where the cases of one `each` differ.
    clauses: identifiers of the standard's statements (`MQTT-3.1.0-1`), or `section N.N` where a rule has none.
    broker: options of the broker that it is played against, where those of the open broker will not do.
    websocket: whether it is played over WebSocket, not over TCP.
    """

    file: str
    name: str
    family: str
    clauses: tuple[str, ...]
    steps: tuple[Step, ...]
    broker: dict[str, Any]
    websocket: bool


def read_cases(folder: Path = CASES) -> Iterator[Case]:
    """All cases, in the order of their files. Raises NotationError."""
    for path in sorted(folder.glob("*.toml")):
        table = tomllib.loads(path.read_text("utf-8"))
        for case in table["case"]:
            family = re.sub(r"\{\w+\}", "…", case["name"])
            for row in case.get("each", [{}]):
                name = _filled(case["name"], row)
                try:
                    steps = tuple(read_steps(_filled(case["steps"], row)))
                except NotationError as error:
                    raise NotationError(f"{path.name}: {name}: {error}") from error
                clauses = tuple(_filled(clause, row) for clause in case["clauses"])
                options, websocket = table.get("broker", {}), table.get("websocket", False)
                yield Case(path.stem, name, family, clauses, steps, options, websocket)


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
