"""Where the product asks for the time, for an id or for a log: in a simulated world it asks the world."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import structlog

import device_sim.journal
import hub.commands
import hub.conversation
import hub.database
import hub.heartbeats
import hub.ingest
import hub.liveness
import hub.orders
import hub.rejects
import hub.rounds

_ASK_THE_TIME = (hub.commands, hub.conversation, hub.heartbeats, hub.ingest, hub.rejects, hub.rounds)
_COUNT_SECONDS = (hub.conversation, hub.database, hub.heartbeats)
_MAKE_IDS = (hub.conversation, hub.liveness, hub.orders, device_sim.journal)


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
        for module in _ASK_THE_TIME:
            stack.enter_context(patch.object(module, "utc_now", utc_now))
        for module in _COUNT_SECONDS:
            stack.enter_context(patch.object(module, "time", SimpleNamespace(monotonic=monotonic_s)))
        for module in _MAKE_IDS:
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
