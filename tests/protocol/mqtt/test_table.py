"""docs/mqtt.md is about this broker: every statement of the standard has its proof, and no name in it is made up."""

from collections import Counter

from tests.protocol.mqtt.steps import read_cases
from tests.protocol.mqtt.table import DOCUMENT, ROOT, named_in, read_clauses, stated_in_code, table


def test_the_document_has_the_table_that_code_and_cases_make() -> None:
    written = DOCUMENT.read_text("utf-8")
    assert written.endswith(table()), "run `python -m tests.protocol.mqtt.table`"


def test_every_statement_has_cases_or_a_reason_why_not() -> None:
    clauses = read_clauses()
    assert len(clauses) == 141
    assert [name for name, clause in clauses.items() if bool(clause.cases) == bool(clause.untested)] == []


def test_every_statement_with_cases_stands_somewhere_in_the_code() -> None:
    assert [name for name, clause in read_clauses().items() if clause.cases and not clause.code] == []


def test_the_code_names_only_statements_that_there_are() -> None:
    clauses = read_clauses()
    assert stated_in_code().keys() - clauses.keys() == set()
    folders = ("hub", "broker", "device_sim", "tests", "benchmarks", "docs")
    files = [path for folder in folders for kind in ("*.py", "*.md") for path in (ROOT / folder).rglob(kind)]
    named = {clause for path in files for clause, _ in named_in(path.read_text("utf-8"))}
    assert named - clauses.keys() == set()


def test_no_two_cases_of_a_file_have_one_name() -> None:
    names = Counter((case.file, case.name) for case in read_cases())
    assert [name for name, count in names.items() if count > 1] == []


def test_a_case_without_a_statement_names_a_section() -> None:
    assert [case.name for case in read_cases() if not case.clauses] == []
