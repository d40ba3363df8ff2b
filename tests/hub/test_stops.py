"""The latched stop as people see it: which feeders were asked, and which have confirmed it."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlmodel import Session

from hub import settlement
from hub.models import Command, Site
from hub.stops import FeederStop, latch_of
from tests.hub.conftest import SITE, after, order, placed, reply

pytestmark = pytest.mark.both_databases

LOST = {"confirmed": False, "code": "plc_lost"}
CONFIRMED = {"confirmed": True}
Told = tuple[str, dict[str, Any]]


def stopped(session: Session, *answers: Told) -> Command:
    """A stop, with what its desktop answers to it, second by second."""
    stop = placed(session, order("stop_all", None), to=None)
    answer(session, stop, answers)
    return stop


def answer(session: Session, stop: Command, answers: Sequence[Told], at_s: float = 1) -> None:
    for n, (status, fields) in enumerate(answers):
        settlement.take_reply(session, SITE, reply(stop.id, status, **fields), after(at_s + n))


def of_feeders(session: Session) -> dict[str, FeederStop]:
    session.flush()
    session.expire_all()
    latch = latch_of(session, session.get_one(Site, SITE))
    assert latch is not None
    return dict(latch.feeders)


ANSWERS: list[Told] = [
    ("received", {}),
    ("failed", {"code": "plc_lost"}),
    ("rejected", {"code": "unknown_command"}),
    ("rejected", {"code": "stale_epoch"}),
]


@pytest.mark.parametrize("answered", ANSWERS, ids=lambda told: told[1].get("code", told[0]))
@pytest.mark.parametrize("late", [False, True])
def test_an_answer_that_names_no_feeder_proves_that_its_desktop_was_asked(
    session: Session, answered: Told, late: bool
) -> None:
    stop = stopped(session)
    assert not of_feeders(session)["f1"].asked
    if late:
        settlement.mark_overdue(session, stop.deadline_at)
    answer(session, stop, [answered], 60)
    settlement.mark_overdue(session, after(120))
    assert of_feeders(session)["f1"] == FeederStop(asked=True, confirmed=False, code=None)


def test_a_stop_that_nobody_answers_has_asked_nobody(session: Session) -> None:
    stop = stopped(session)
    settlement.mark_overdue(session, stop.deadline_at)
    assert of_feeders(session)["f1"] == FeederStop(asked=False, confirmed=False, code=None)


def test_a_feeder_that_was_named_as_confirmed_stays_so_after_an_answer_that_names_none(session: Session) -> None:
    stopped(session, ("failed", {"feeders": {"f1": CONFIRMED, "f2": LOST}}), ("failed", {"code": "busy"}))
    assert of_feeders(session) == {
        "f1": FeederStop(asked=True, confirmed=True, code=None),
        "f2": FeederStop(asked=True, confirmed=False, code="plc_lost"),
    }


def test_a_stop_told_again_that_some_plc_did_not_confirm_meanwhile_is_confirmed_in_the_end(session: Session) -> None:
    both = {"f1": CONFIRMED, "f2": CONFIRMED}
    stopped(
        session,
        ("applied", {"feeders": both}),
        ("failed", {"feeders": both | {"f1": LOST}}),
        ("applied", {"feeders": both}),
    )
    assert of_feeders(session)["f1"] == FeederStop(asked=True, confirmed=True, code=None)
