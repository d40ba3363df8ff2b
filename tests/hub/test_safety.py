"""The safety limits of doses at the hub: what breaks one is refused, told with what is left, and never sent."""

from datetime import datetime, timedelta

import pytest
from sqlmodel import Session, select
from ulid import ULID

from hub import settlement
from hub.errors import InvalidOrder
from hub.feeders import take_state
from hub.ingest import store_event
from hub.models import Command
from hub.orders import Key, place
from hub.protocol.limits import LIMITS
from hub.protocol.messages import Event
from hub.safety import Dose, Fed, faults_of_dose, fed_today_g
from tests.hub.conftest import CONFIG, DESK, FEEDER, NOW, SITE, TO, after, order, placed, reply, state

pytestmark = pytest.mark.dose_pause

PAUSE_S = LIMITS["dose_pause_s"].minimum
LIMIT_G = 1000.0


@pytest.fixture
def farm(session: Session) -> Session:
    """A feeder whose farm has told that 1000 g a day are the limit."""
    config = CONFIG | {"daily_limit_g": LIMIT_G}
    assert take_state(session, SITE, FEEDER, state(config=config, config_version=7), NOW) is not None
    return session


def dose(session: Session, grams: float, at: datetime = NOW, **how: object) -> Command:
    return placed(session, order("feed", args={"grams": grams}, **how), at)


def refused(session: Session, grams: float, at: datetime) -> InvalidOrder:
    session.flush()
    before = len(session.exec(select(Command)).all())
    with pytest.raises(InvalidOrder) as raised:
        dose(session, grams, at)
    assert len(session.exec(select(Command)).all()) == before
    return raised.value


def told(session: Session, kind: str, grams: float, at: datetime, command_id: str | None = None) -> None:
    event = {"id": str(ULID()), "seq": 1, "kind": kind, "at": at, "dispensed_g": grams, "command_id": command_id}
    assert store_event(session, SITE, FEEDER, Event.model_validate(event), at)


def answer(session: Session, command: Command, status: str, at: datetime, **said: object) -> None:
    session.flush()
    settlement.take_reply(session, SITE, reply(command.id, status, **said), at)


# --- the rules ---------------------------------------------------------------------------------------------------


def test_a_dose_that_was_told_of_counts_once_and_one_that_was_not_with_what_is_known_of_it() -> None:
    doses = [Dose("a", NOW, 100, 90.0), Dose("b", NOW, 200, None), Dose("c", NOW, 300, 250.0)]
    events = [Fed("a", 95.0), Fed(None, 50.0)]
    assert fed_today_g(events, doses) == 95 + 50 + 200 + 250


def test_a_breach_says_its_limit_the_value_and_what_is_left_today() -> None:
    [fault] = faults_of_dose(300, 1000, 800, None)
    assert (fault.field, fault.limit, fault.value, fault.left_today_g) == ("args.grams", 1000, 300, 200)
    [fault] = faults_of_dose(300, 1000, 0, PAUSE_S / 2)
    assert (fault.field, fault.limit, fault.value) == ("dose_pause_s", PAUSE_S, PAUSE_S / 2)
    assert len(faults_of_dose(300, 1000, 800, 0)) == 2
    assert faults_of_dose(200, 1000, 800, PAUSE_S) == []


# --- upon rows ---------------------------------------------------------------------------------------------------


def test_meals_and_doses_of_today_count_against_the_daily_limit(farm: Session) -> None:
    told(farm, "meal", 500, NOW - timedelta(hours=1))
    told(farm, "skipped", 400, NOW - timedelta(hours=1))
    dose(farm, 400)
    error = refused(farm, 200, after(60))
    assert [(fault.limit, fault.value, fault.left_today_g) for fault in error.faults] == [(LIMIT_G, 200, 100)]
    dose(farm, 100, after(60))


def test_what_was_fed_yesterday_by_the_sites_clock_does_not_count(farm: Session) -> None:
    told(farm, "meal", 900, datetime.fromisoformat("2026-02-28T21:59:00Z"))  # 23:59 in Jerusalem
    dose(farm, 900)
    refused(farm, 900, after(60))


@pytest.mark.parametrize(("end", "left_g"), [("rejected", 1000), ("applied", 400), ("failed", 1000)])
def test_a_dose_counts_as_long_as_it_may_have_been_fed(farm: Session, end: str, left_g: float) -> None:
    command = dose(farm, 600)
    answer(farm, command, end, after(1))
    error = refused(farm, 1001, after(60))
    assert error.faults[0].left_today_g == left_g


def test_a_dose_that_failed_counts_with_what_was_fed_until_then(farm: Session) -> None:
    answer(farm, dose(farm, 600), "failed", after(1), code="jammed", dispensed_g=150.0)
    assert refused(farm, 1001, after(60)).faults[0].left_today_g == 850


def test_a_dose_that_was_not_executed_does_not_count_and_one_that_is_unknown_does(farm: Session) -> None:
    command = dose(farm, 600)
    farm.flush()
    settlement.mark_overdue(farm, command.deadline_at)
    assert refused(farm, 600, after(120)).faults[0].left_today_g == 400
    outcome = reply(command.id, "applied").model_dump() | {"status": "not_seen"}
    settlement.take_outcome(farm, SITE, "journal-1", settlement.Outcome.model_validate(outcome), after(130))
    dose(farm, 600, after(140))


def test_a_dose_with_its_event_counts_once(farm: Session) -> None:
    command = dose(farm, 600)
    answer(farm, command, "applied", after(1), dispensed_g=590.0)
    told(farm, "dose", 590, after(2), command.id)
    assert refused(farm, 500, after(60)).faults[0].left_today_g == 410


def test_what_a_clock_that_is_ahead_dates_later_than_today_does_not_use_up_the_limit(farm: Session) -> None:
    told(farm, "meal", 1000, after(24 * 3600))
    dose(farm, 1000)


def test_between_two_doses_of_a_feeder_there_is_a_pause_also_over_midnight(farm: Session) -> None:
    late = datetime.fromisoformat("2026-02-28T21:59:58Z")
    dose(farm, 10, late)
    error = refused(farm, 10, late + timedelta(seconds=PAUSE_S - 0.5))
    assert [fault.field for fault in error.faults] == ["dose_pause_s"]
    dose(farm, 10, late + timedelta(seconds=PAUSE_S))


def test_another_feeder_has_limits_of_its_own(farm: Session) -> None:
    dose(farm, 1000)
    placed(farm, order("feed", "f2", args={"grams": 1000.0}))


def test_a_dose_that_comes_again_with_its_key_is_the_same_dose(farm: Session) -> None:
    key = Key("someone", "key-1", "body-1")
    first = dose(farm, 1000, key=key)
    farm.flush()
    again = place(farm, order("feed", args={"grams": 1000.0}, key=key), TO, DESK, after(1))
    assert (again.command.id, again.is_new) == (first.id, False)


def test_where_the_farms_config_is_not_known_the_desktop_holds_the_daily_limit(session: Session) -> None:
    dose(session, 20_000)
    refused(session, 20_000, after(1))
    dose(session, 20_000, after(PAUSE_S))


@pytest.mark.both_databases
def test_a_dose_over_the_limit_of_one_dose_is_told_with_its_value_and_what_is_left_today(farm: Session) -> None:
    dose(farm, 400)
    (fault,) = refused(farm, 30_000, after(60)).faults
    assert (fault.field, fault.limit, fault.value, fault.left_today_g) == ("args.grams", 20_000, 30_000, 600)
