"""The desktop developer's document says what the code says."""

from pathlib import Path

from hub.protocol.codes import MEANING, Code
from hub.protocol.limits import LIMITS
from hub.protocol.messages import ARGUMENTS

TEXT = (Path(__file__).parents[2] / "docs" / "desktop-developer.md").read_text()


def test_every_code_stands_in_the_document_with_its_meaning() -> None:
    assert [code for code in Code if f"| `{code}` | {MEANING[code]} |" not in TEXT] == []


def test_every_limit_stands_in_the_document_as_it_is() -> None:
    rows = [
        f"| {limit.unit} | {limit.minimum:.15g} | {limit.maximum:.15g} | {limit.tolerance:.15g} | {limit.meaning}"
        for limit in LIMITS.values()
    ]
    assert [row for row in rows if row not in TEXT] == []


def test_every_command_stands_in_the_document() -> None:
    assert [name for name in ARGUMENTS if f"`{name}`" not in TEXT] == []
