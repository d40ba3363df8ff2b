"""The table of a command's states: closed, forward only, and as it is drawn."""

import itertools
import re
from pathlib import Path

import pytest

import hub.command_states
from hub.command_states import MAY_BECOME, SETTLED, CommandState, may_come_before

S = CommandState


def test_the_table_knows_every_state_and_no_other() -> None:
    assert set(MAY_BECOME) == set(CommandState)
    assert set().union(*MAY_BECOME.values()) == set(CommandState) - {S.PENDING}


def test_the_ends_are_those_of_the_contract_and_nothing_follows_them() -> None:
    assert {
        S.APPLIED, S.REJECTED, S.FAILED, S.REFUSED, S.EXPIRED, S.SUPERSEDED, S.NOT_EXECUTED, S.UNRESOLVED,
    } == SETTLED  # fmt: skip
    assert all(not MAY_BECOME[end] for end in SETTLED)
    assert S.UNKNOWN not in SETTLED


@pytest.mark.parametrize("start", CommandState)
def test_no_way_leads_back(start: CommandState) -> None:
    reached: set[CommandState] = set()
    frontier = set(MAY_BECOME[start])
    while frontier:
        reached |= frontier
        frontier = set().union(*(MAY_BECOME[state] for state in frontier)) - reached
    assert start not in reached
    assert start in SETTLED or reached & SETTLED


def test_what_was_never_sent_has_ends_of_its_own() -> None:
    assert MAY_BECOME[S.PENDING] == {S.SENT, S.REFUSED, S.EXPIRED, S.SUPERSEDED}
    for never_sent in (S.REFUSED, S.EXPIRED, S.SUPERSEDED):
        assert may_come_before(never_sent) == {S.PENDING}


def test_a_report_settles_only_what_is_unknown() -> None:
    assert may_come_before(S.NOT_EXECUTED) == may_come_before(S.UNRESOLVED) == {S.UNKNOWN}
    assert MAY_BECOME[S.UNKNOWN] == {S.APPLIED, S.REJECTED, S.FAILED, S.NOT_EXECUTED, S.UNRESOLVED}


def test_the_drawing_names_the_states_that_follow_each_other() -> None:
    drawing = hub.command_states.__doc__ or ""
    assert set(re.findall(r"[a-z_]+", drawing)) >= set(CommandState)
    for line in drawing.splitlines():
        states = [S(word) for word in re.findall(r"[a-z_]+", line) if word in set(CommandState)]
        if "-->" in line and "(never sent)" not in line and line.lstrip().startswith("pending"):
            chain, ends = states[:3], states[3:]
            assert all(after in MAY_BECOME[before] for before, after in itertools.pairwise(chain))
            assert set(ends) <= MAY_BECOME[chain[-1]]
        elif "--> unknown" in line:
            assert set(states[1:]) == MAY_BECOME[S.UNKNOWN]
        elif "(never sent)" in line:
            assert set(states) <= MAY_BECOME[S.PENDING]


def test_the_document_has_the_table_as_it_is() -> None:
    rows = []
    for state, after in MAY_BECOME.items():
        named = " · ".join(f"`{each}`" for each in CommandState if each in after)
        rows.append(f"| `{state}` | {named or 'nothing'} |")
    table = "\n".join(["| from | may become |", "|---|---|", *rows])
    assert table in Path("docs/web-developer.md").read_text()
