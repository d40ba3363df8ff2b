"""Hubs to test with: real processes on free ports, each with a data directory of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import HubProcess

HEARTBEAT_S = 0.4
TTL_S = 1.5

StartFarm = Callable[..., Farm]


@contextmanager
def running_farm(
    directory: Path, *flags: str, heartbeat_s: float = HEARTBEAT_S, mqtt_port: int | None = None, **settings: object
) -> Iterator[Farm]:
    """A hub with these settings. `mqtt_port`: of an external broker; None for the embedded one."""
    hub = HubProcess(directory / "data", *flags, **settings)
    try:
        hub.start()
        with hub.api() as api:
            farm = Farm(hub, api, directory, heartbeat_s, lambda: mqtt_port or hub.mqtt_port)
            try:
                yield farm
            finally:
                farm.send_away()
    finally:
        hub.discard()


@pytest.fixture
def start_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFarm]:
    """`start_farm(**settings)`: a hub of the test's own, with a short time to live."""
    with ExitStack() as stack:

        def start(*flags: str, **settings: object) -> Farm:
            short = {"liveness__ttl_s": TTL_S, "commands__timeout_s": 1.5}
            directory = tmp_path_factory.mktemp("hub")
            return stack.enter_context(running_farm(directory, *flags, **(short | settings)))  # type: ignore[arg-type]  # flags and settings by name

        yield start
