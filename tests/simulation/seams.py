"""Where the product asks for the time, for an id or for a log: in a simulated world it asks the world."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import structlog
from ulid import ULID

import device_sim.journal
from hub.protocol.times import utc_now as real_utc_now


@cache
def _modules_with(name: str, value: object) -> list[ModuleType]:
    """Those of the product that have imported it under its name: one that is new is not forgotten."""
    return [
        module
        for known_as, module in sorted(sys.modules.items())
        if known_as.split(".")[0] in ("hub", "device_sim") and vars(module).get(name) is value
    ]


@contextlib.contextmanager
def seams(
    utc_now: Callable[[], datetime],
    monotonic_s: Callable[[], float],
    new_id: Callable[[], str],
    on_error: Callable[[dict[str, Any]], None],
    kept_commands: int,
) -> Iterator[None]:
    """While the block runs the product lives in the simulated world. What it logs as an error goes to `on_error`."""

    def tell(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        on_error(event)
        raise structlog.DropEvent

    logging_as_it_was = structlog.get_config()
    desktop_log = logging.getLogger("feeder-sim")
    level = desktop_log.level
    with contextlib.ExitStack() as stack:
        for module in _modules_with("utc_now", real_utc_now):
            stack.enter_context(patch.object(module, "utc_now", utc_now))
        for module in _modules_with("time", time):
            stack.enter_context(patch.object(module, "time", SimpleNamespace(monotonic=monotonic_s)))
        for module in _modules_with("ULID", ULID):
            stack.enter_context(patch.object(module, "ULID", new_id))
        stack.enter_context(patch.object(device_sim.journal, "KEPT_COMMANDS", kept_commands))
        structlog.configure(
            processors=[structlog.processors.format_exc_info, tell],
            wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        )
        desktop_log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            structlog.configure(**logging_as_it_was)
            desktop_log.setLevel(level)
