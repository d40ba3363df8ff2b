"""Bugs to plant into the hub, one by one: the simulation is worth what it finds of them."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

from hub import liveness, orders, settlement
from hub.command_states import MAY_BECOME, CommandState
from hub.commands import Commands
from hub.models import COMMAND, Command
from hub.orders import Order

Bug = Callable[[], AbstractContextManager[Any]]


def no_compare_and_delete() -> AbstractContextManager[Any]:
    """Every last will deletes the key, also the late one of a session that has been replaced."""
    compare = "if redis.call('HGET', KEYS[1], 'session') ~= ARGV[1] then return nil end\n"
    assert compare in liveness._END
    return patch.object(liveness, "_END", liveness._END.replace(compare, ""))


def a_dose_sent_again() -> AbstractContextManager[Any]:
    """A dose that was not answered in time is ordered once more."""
    real = Commands.mark_overdue

    async def mark_overdue(self: Commands, only: str | None = None) -> list[Command]:
        overdue = await real(self, only)
        for command in overdue:
            if command.name == "feed":
                with contextlib.suppress(Exception):
                    await self.send(Order(command.site_id, command.feeder_id, "feed", "hub", command.args), 0)
        return overdue

    return patch.object(Commands, "mark_overdue", mark_overdue)


@contextlib.contextmanager
def a_backward_transition() -> Iterator[None]:
    """A late `received` takes back that a command has ended, or that its outcome is unknown."""
    later = (CommandState.UNKNOWN, CommandState.APPLIED, CommandState.REJECTED, CommandState.FAILED)
    backward = {state: MAY_BECOME[state] | {CommandState.RECEIVED} for state in later}
    with patch.dict(MAY_BECOME, backward):
        read, known = settlement._advances(*COMMAND.c), settlement._advances(COMMAND.c.id)
        with patch.dict(settlement._ADVANCE, read), patch.dict(settlement._ADVANCE_SENT, known):
            yield


def orders_while_stopped() -> AbstractContextManager[Any]:
    """The hub takes orders though the stop is latched."""
    return patch.object(orders, "REFUSED_WHILE_STOPPED", frozenset())


def a_stop_that_is_not_repeated() -> AbstractContextManager[Any]:
    """A site that is back is not told of the stop that it missed."""
    return patch.object(Commands, "send_again", lambda _self, _stop: None)


BUGS: Final[dict[str, tuple[Bug, str]]] = {
    "no compare-and-delete": (no_compare_and_delete, "is held to be dead, and nobody has said so"),
    "a dose sent again": (a_dose_sent_again, "a dose acts twice"),
    "a backward transition": (a_backward_transition, "received"),
    "orders while stopped": (orders_while_stopped, "although the stop is latched"),
    "a stop that is not repeated": (a_stop_that_is_not_repeated, "stop"),
}
"""Each with a part of what the judge says of it."""
