"""MQTT 3.1.1, clause by clause: every case in `cases/`, byte for byte, against a broker of its own."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from broker.open import OPEN_OPTIONS, EverybodyMayDoEverything, let_everybody_in
from broker.server import EmbeddedBroker
from tests.protocol.mqtt.player import Player
from tests.protocol.mqtt.steps import Case, read_cases
from tests.protocol.mqtt.wires import TcpWire, WebSocketWire

CASES: Final = {f"{case.file}: {case.name}": case for case in read_cases()}
KEPT: Final = ("qos", "retained", "session", "will")
"""Files whose cases are about what a broker with a store keeps on disk before it answers."""


async def play(case: Case, store: Path | None) -> None:
    options = replace(OPEN_OPTIONS, port=0, ws_port=0, store=store, **case.broker)
    async with EmbeddedBroker(options, let_everybody_in, EverybodyMayDoEverything(), lambda _: None) as broker:
        wire = partial(WebSocketWire, broker.ws_port) if case.websocket else partial(TcpWire, broker.port)
        await Player(wire).play(case.steps)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_bytes_in_and_bytes_out(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    await play(case, None)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.file in KEPT])
async def test_the_same_bytes_with_a_store(name: str, tmp_path: Path) -> None:
    await play(CASES[name], tmp_path / "broker.db")
