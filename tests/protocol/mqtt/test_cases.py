"""MQTT 3.1.1, clause by clause: every case in `cases/`, byte for byte, against a broker of its own."""

import logging
from dataclasses import replace
from functools import partial

import pytest

from broker.open import OPEN_OPTIONS, EverybodyMayDoEverything, let_everybody_in
from broker.server import EmbeddedBroker
from tests.protocol.mqtt.notation import Case, read_cases
from tests.protocol.mqtt.player import Player
from tests.protocol.mqtt.wires import TcpWire, WebSocketWire

CASES = list(read_cases())


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.file}: {case.name}") for case in CASES])
async def test_bytes_in_and_bytes_out(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    options = replace(OPEN_OPTIONS, port=0, ws_port=0, **case.broker)
    async with EmbeddedBroker(options, let_everybody_in, EverybodyMayDoEverything(), lambda _: None) as broker:
        wire = partial(WebSocketWire, broker.ws_port) if case.websocket else partial(TcpWire, broker.port)
        await Player(wire).play(case.steps)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
