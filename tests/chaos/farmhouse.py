"""What lies at the farm when its desktop has stopped: the journal, and the PLCs' registers in it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from device_sim.plc import Registers
from tests.chaos.ledger import FeederBooks, Outcome


def journal_of(file: Path) -> dict[str, Outcome]:
    """By command. Nobody else may have the journal open."""
    with closing(sqlite3.connect(file)) as journal:
        return {
            command_id: _outcome(None if outcome is None else json.loads(outcome))
            for command_id, outcome in journal.execute("SELECT id, outcome FROM commands")
        }


def _outcome(told: dict[str, object] | None) -> Outcome:
    if told is None:
        return Outcome(None, None)
    return Outcome(str(told["status"]), told.get("dispensed_g"), told.get("config_version"))  # type: ignore[arg-type]  # as the desktop wrote it


def feeders_of(file: Path) -> dict[str, FeederBooks]:
    with closing(sqlite3.connect(file)) as journal:
        kept = journal.execute("SELECT feeder, registers, config_version FROM feeders").fetchall()
        events = journal.execute("SELECT feeder, event FROM events").fetchall()
    books = {}
    for feeder, registers, version in kept:
        plc = Registers.model_validate_json(registers)
        unthanked = [json.loads(event)["id"] for whose, event in events if whose == feeder]
        books[feeder] = FeederBooks(plc.dispensed_total_g, plc.config.model_dump(mode="json"), version, unthanked)
    return books
