"""The table of docs/mqtt.md: each statement of the standard, where it stands in the code, and the cases that prove it.

`python -m tests.protocol.mqtt.table` writes it anew, from `clauses.toml`, from the comments in the code that name a
clause, and from the cases.
"""

import ast
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.protocol.mqtt.steps import read_cases

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2]
DOCUMENT: Final = ROOT / "docs" / "mqtt.md"
CODE: Final = (ROOT / "hub" / "protocol" / "packets.py", *sorted((ROOT / "broker").glob("*.py")))
BEGIN: Final = "<!-- written by `python -m tests.protocol.mqtt.table` -->\n"
NAMED: Final = 2
"""Families of cases that a row names; of the others it says how many cases."""
_CLAUSES = re.compile(r"MQTT-(\d+\.\d+\.\d+)-(\d+)((?:, -\d+)*)")


@dataclass(slots=True)
class Clause:
    """A statement of the standard.

    code: `module.function`. cases: how many of each file and family. untested: why there are none.
    """

    says: str
    code: list[str] = field(default_factory=list)
    cases: Counter[tuple[str, str]] = field(default_factory=Counter)
    untested: str = ""


def read_clauses() -> dict[str, Clause]:
    """Every statement by its identifier, in the order of the standard. Raises KeyError for one that is not in it."""
    tables = tomllib.loads((HERE / "clauses.toml").read_text("utf-8"))
    clauses = {clause: Clause(says) for clause, says in tables["says"].items()}
    for clause, why in tables["untested"].items():
        clauses[clause].untested = why
    for clause, code in stated_in_code().items():
        clauses[clause].code += code
    for case in read_cases():
        for clause in case.clauses:
            if not clause.startswith("section "):
                clauses[clause].cases[case.file, case.family] += 1
    return clauses


def named_in(text: str) -> Iterator[tuple[str, int]]:
    """The clauses that a text names (`MQTT-3.8.4-1, -3` are two), each with the number of its line."""
    for found in _CLAUSES.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        for number in (found[2], *re.findall(r"\d+", found[3])):
            yield f"MQTT-{found[1]}-{number}", line


def stated_in_code() -> dict[str, list[str]]:
    """Where comments and messages of the code name each clause."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in CODE:
        text = path.read_text("utf-8")
        functions = dict(functions_of(ast.parse(text).body))
        for clause, line in named_in(text):
            inside = [name for name, lines in functions.items() if line in lines]
            place = ".".join([path.stem, *inside[-1:]])
            if place not in places[clause]:
                places[clause].append(place)
    return dict(places)


def functions_of(body: Iterable[ast.stmt], outer: str = "") -> Iterator[tuple[str, range]]:
    """Functions and classes with their lines, an outer one before those inside it."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield outer + node.name, range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if isinstance(node, ast.ClassDef):
                yield from functions_of(node.body, f"{outer}{node.name}.")


def table() -> str:
    """The table as Markdown."""
    lines = ["| clause | what it asks for | in the code | cases |\n", "|---|---|---|---|\n"]
    for name, clause in read_clauses().items():
        code = ", ".join(f"`{place}`" for place in clause.code)
        lines.append(f"| {name.removeprefix('MQTT-')} | {clause.says} | {code or '—'} | {_proof(clause)} |\n")
    return "".join(lines)


def _proof(clause: Clause) -> str:
    if clause.untested:
        return f"none: {clause.untested}"
    most = clause.cases.most_common(NAMED)
    named = [f"`{file}`: {family}" + (f" (×{count})" if count > 1 else "") for (file, family), count in most]
    others = clause.cases.total() - sum(count for _, count in most)
    return "; ".join(named) + (f"; and {others} more" if others else "")


def main() -> None:
    """Write it into the document."""
    head, _, _ = DOCUMENT.read_text("utf-8").partition(BEGIN)
    DOCUMENT.write_text(head + BEGIN + "\n" + table(), "utf-8")


if __name__ == "__main__":
    main()
