"""Closing what cannot be known: the first person's word stands."""

import pytest
from sqlmodel import Session

from hub import settlement
from hub.command_states import CommandState
from hub.errors import NotUnresolved
from hub.models import Command
from hub.stories import close
from tests.hub.conftest import after, order, placed


@pytest.fixture
def unresolved(session: Session) -> Command:
    command = placed(session, order("pause"))
    for state in (CommandState.UNKNOWN, CommandState.UNRESOLVED):
        settlement.advance(session, command.id, state, "test", after(20))
    return command


@pytest.mark.parametrize("again", [("ben", "Fed."), ("anna", "Not fed.")])
def test_the_first_close_stands_and_says_who_and_when(
    session: Session, unresolved: Command, again: tuple[str, str]
) -> None:
    close(session, unresolved.id, "anna", "Fed.", after(30))
    with pytest.raises(NotUnresolved, match=r"anna closed it at 2026-03-01T12:00:30.000Z: Fed\."):
        close(session, unresolved.id, *again, after(40))
    row = session.get_one(Command, unresolved.id)
    assert (row.closed_by, row.remark, row.closed_at) == ("anna", "Fed.", after(30))


def test_the_same_person_with_the_same_remark_changes_nothing(session: Session, unresolved: Command) -> None:
    close(session, unresolved.id, "anna", "Fed.", after(30))
    assert close(session, unresolved.id, "anna", "Fed.", after(40)).closed_at == after(30)
