"""The journal itself; what the rules make of it is in test_rules."""

from pathlib import Path

import pytest

from device_sim import journal as journal_module
from device_sim.journal import Journal, JournalUnusable
from hub.protocol.messages import Outcome


def test_a_journal_keeps_its_name(tmp_path: Path) -> None:
    first = Journal(tmp_path / "a.sqlite")
    first.close()
    again = Journal(tmp_path / "a.sqlite")
    assert again.journal_id == first.journal_id
    again.close()


def test_a_journal_in_use_is_refused_with_a_reason(tmp_path: Path) -> None:
    first = Journal(tmp_path / "a.sqlite")
    with pytest.raises(JournalUnusable, match="locked"):
        Journal(tmp_path / "a.sqlite")
    first.close()


def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.sqlite"
    file.write_text("a shopping list, and a long one: " * 100)
    with pytest.raises(JournalUnusable, match="not a database"):
        Journal(file)
    assert file.read_text().startswith("a shopping list")


def test_commands_older_than_the_journal_remembers_are_forgotten_and_not_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "KEPT_COMMANDS", 2)
    ids = [f"01JB{number:022}" for number in range(5)]
    first = Journal(tmp_path / "a.sqlite")
    for command_id in ids:
        first.finish(Outcome(id=command_id, status="applied"))
    first.close()
    again = Journal(tmp_path / "a.sqlite")
    assert [again.find(command_id) is not None for command_id in ids] == [False, False, False, True, True]
    assert [again.is_forgotten(command_id) for command_id in ids] == [True, True, True, False, False]
    again.close()


def test_the_first_outcome_of_a_command_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.sqlite")
    command_id = "01JB" + "0" * 22
    journal.finish(Outcome(id=command_id, status="not_seen"))
    journal.finish(Outcome(id=command_id, status="applied"))
    entry = journal.find(command_id)
    assert entry is not None
    assert entry.outcome is not None
    assert entry.outcome.status == "not_seen"
    journal.close()
