"""What a feeder's desktop reports: what counts, what is an edit of the farm's own, and today's grams."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlmodel import Session, select
from ulid import ULID

from hub import settlement
from hub.errors import NotFound
from hub.feeders import (
    dose_duration,
    drift,
    etag,
    grams_today,
    list_feeders,
    list_revisions,
    take_state,
)
from hub.ingest import store_event
from hub.models import ConfigRevision, Feeder, FeederEvent, JsonObject
from hub.protocol.local_days import day_of
from hub.protocol.messages import Event
from hub.sites import rename
from tests.hub.conftest import CONFIG, FEEDER, NOW, SITE, after, config_order, placed, reply, state

pytestmark = pytest.mark.both_databases

OTHER_CONFIG = CONFIG | {"meal_g": 300.0}


def row(session: Session) -> Feeder:
    session.flush()
    return session.get_one(Feeder, (SITE, FEEDER), populate_existing=True)


def local_revisions(session: Session) -> list[int]:
    session.flush()
    return [r.local_rev for r in session.exec(select(ConfigRevision).where(ConfigRevision.origin == "local"))]


# --- state -------------------------------------------------------------------------------------------------------


def test_a_state_tells_everything_of_a_feeder(session: Session) -> None:
    said = state(
        5, config_version=18, local_rev=3, condition="jammed", control="local", silo_g=41250.0, next_meal_at=after(60)
    )
    assert take_state(session, SITE, FEEDER, said, NOW) is not None
    now = row(session)
    assert (now.reported_config, now.reported_version, now.local_rev) == (CONFIG, 18, 3)
    assert (now.condition, now.control, now.silo_g, now.next_meal_at) == ("jammed", "local", 41250.0, after(60))
    assert (now.state_journal_id, now.state_seq, now.state_at) == ("journal-1", 5, NOW)
    assert etag(now) == '"18.3"'


@pytest.mark.parametrize("seq", [0, 4, 5])
def test_a_state_counts_only_if_its_seq_is_newer(session: Session, seq: int) -> None:
    take_state(session, SITE, FEEDER, state(5), NOW)
    assert (
        take_state(session, SITE, FEEDER, state(seq, condition="jammed", config=OTHER_CONFIG, local_rev=9), NOW) is None
    )
    assert (row(session).condition, row(session).reported_config, row(session).state_seq) == ("running", CONFIG, 5)
    assert take_state(session, SITE, FEEDER, state(6, condition="jammed"), NOW) is not None


def test_a_state_from_a_new_journal_counts_even_with_lower_numbers(session: Session) -> None:
    take_state(session, SITE, FEEDER, state(500, config_version=18, local_rev=7), NOW)
    new = state(1, journal_id="journal-2", config=OTHER_CONFIG, config_version=2, local_rev=0)
    assert take_state(session, SITE, FEEDER, new, NOW) is not None
    now = row(session)
    assert (now.reported_config, now.reported_version, now.local_rev) == (OTHER_CONFIG, 2, 0)
    args = placed(session, config_order()).args
    assert (args["config_version"], args["local_rev"]) == (19, 0)


def test_a_state_of_a_feeder_that_is_not_there_is_refused(session: Session) -> None:
    for site, feeder in ((SITE, "f9"), ("nowhere", FEEDER)):
        with pytest.raises(NotFound):
            take_state(session, site, feeder, state(), NOW)


def test_an_edit_made_on_the_farm_is_a_revision_of_its_own_and_is_recorded_once(session: Session) -> None:
    take_state(session, SITE, FEEDER, state(1, local_rev=0), NOW)
    assert local_revisions(session) == []
    for seq in (2, 3):
        take_state(session, SITE, FEEDER, state(seq, config=OTHER_CONFIG, local_rev=1), NOW)
    assert local_revisions(session) == [1]
    ((revision, before),) = list_revisions(session, SITE, FEEDER, None, 10).items
    assert before is None
    assert (revision.config, revision.actor, revision.command_id) == (OTHER_CONFIG, None, None)


def test_an_edit_made_on_the_farm_is_from_when_it_was_told_of_however_wrong_the_farms_clock_is(
    session: Session,
) -> None:
    take_state(session, SITE, FEEDER, state(1), NOW)
    edited = state(2, config=OTHER_CONFIG, local_rev=1, at=datetime(1999, 12, 31, tzinfo=UTC))
    take_state(session, SITE, FEEDER, edited, NOW)
    ((revision, _),) = list_revisions(session, SITE, FEEDER, None, 10).items
    assert revision.at == NOW


def test_an_edit_made_on_the_farm_shows_as_drift_and_is_not_overwritten(session: Session) -> None:
    take_state(session, SITE, FEEDER, state(1), NOW)
    command = placed(session, config_order())
    session.flush()
    take_state(session, SITE, FEEDER, state(2, config_version=command.args["config_version"]), NOW)
    assert drift(row(session)) == []
    take_state(session, SITE, FEEDER, state(3, config=OTHER_CONFIG, config_version=2, local_rev=1), NOW)
    assert drift(row(session)) == ["meal_g"]
    assert row(session).desired_config == CONFIG


def test_what_a_plc_rounds_is_no_drift(session: Session) -> None:
    placed(session, config_order())
    take_state(session, SITE, FEEDER, state(1, config=CONFIG | {"feed_rate_g_per_s": 12.5000004}), NOW)
    assert drift(row(session)) == []


def test_where_nothing_was_ordered_or_reported_there_is_no_drift_and_no_etag(session: Session) -> None:
    assert drift(row(session)) == []
    assert etag(row(session)) is None
    take_state(session, SITE, FEEDER, state(1), NOW)
    assert drift(row(session)) == []


def change(session: Session, config: JsonObject, end: str) -> None:
    command = placed(session, config_order(args=config))
    settlement.take_reply(session, SITE, reply(command.id, end, config=config if end == "applied" else None), NOW)


def test_a_revision_changed_what_held_before_it_and_not_what_came_to_nothing(session: Session) -> None:
    for meal_g, end in ((300.0, "applied"), (600.0, "rejected"), (700.0, "applied")):
        change(session, CONFIG | {"meal_g": meal_g}, end)
    placed(session, config_order(args=CONFIG | {"meal_g": 800.0}))  # it is on its way
    take_state(session, SITE, FEEDER, state(1, config_version=9, local_rev=1), NOW)
    placed(session, config_order())
    found = [
        (revision.config["meal_g"], None if before is None else before["meal_g"])
        for revision, before in list_revisions(session, SITE, FEEDER, None, 10).items
    ]
    assert found == [(250.0, 250.0), (250.0, 700.0), (800.0, 700.0), (700.0, 300.0), (600.0, 300.0), (300.0, None)]


def test_feeders_and_revisions_come_in_pages(session: Session) -> None:
    assert [feeder.id for feeder in list_feeders(session, SITE, None, 1)] == ["f1"]
    assert [feeder.id for feeder in list_feeders(session, SITE, "f1", 9)] == ["f2"]
    for _ in range(5):
        change(session, CONFIG, "applied")
    first = list_revisions(session, SITE, FEEDER, None, 3)
    assert [revision.version for revision, _ in first.items] == [5, 4, 3]
    assert [before for _, before in first.items] == [CONFIG] * 3
    last = list_revisions(session, SITE, FEEDER, first.next, 3)
    assert [revision.version for revision, _ in last.items] == [2, 1]
    assert [before for _, before in last.items] == [CONFIG, None]
    assert last.next is None
    assert list_revisions(session, SITE, FEEDER, None, 5).next is None


def test_a_doses_duration_is_its_grams_over_the_reported_rate_with_room_to_spare(session: Session) -> None:
    take_state(session, SITE, FEEDER, state(1), NOW)
    assert timedelta(seconds=100) < dose_duration(1250, row(session)) < timedelta(seconds=200)


# --- today's grams -----------------------------------------------------------------------------------------------


def fed(session: Session, at: datetime, grams: float | None, kind: str = "meal", feeder: str = FEEDER) -> None:
    event = Event(id=str(ULID()), seq=1, kind=kind, at=at, dispensed_g=grams)
    assert store_event(session, SITE, feeder, event, at)


def today(session: Session, now: datetime) -> dict[str, float]:
    session.flush()
    found = grams_today(session, list_feeders(session, SITE, None, 9), now)
    return {feeder: grams for (_, feeder), grams in found.items()}


def test_todays_grams_are_those_of_meals_and_doses_since_local_midnight(session: Session) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=ZoneInfo("Asia/Jerusalem"))
    fed(session, midnight - timedelta(milliseconds=1), 1000.0)
    fed(session, midnight, 1.0)
    fed(session, midnight + timedelta(hours=10), 2.0, "dose")
    fed(session, midnight + timedelta(hours=10), 4.0, feeder="f2")
    fed(session, midnight + timedelta(hours=10), 1000.0, "sensor")
    fed(session, midnight + timedelta(hours=10), None, "meal")
    assert today(session, midnight + timedelta(hours=12)) == {"f1": 3.0, "f2": 4.0}
    assert today(session, midnight + timedelta(hours=36)) == {"f1": 0.0, "f2": 0.0}


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Asia/Jerusalem", (2026, 3, 27), 23),
        ("Asia/Jerusalem", (2026, 10, 25), 25),
        ("Asia/Jerusalem", (2026, 7, 1), 24),
        ("Europe/Oslo", (2026, 3, 29), 23),
        ("Africa/Cairo", (2026, 4, 24), 23),  # its clock jumps over midnight: the day begins at 01:00
        ("America/Havana", (2026, 11, 1), 25),  # its first hour comes twice
        ("Australia/Lord_Howe", (2026, 4, 5), 24.5),
        ("UTC", (2026, 3, 29), 24),
    ],
)
def test_a_local_day_is_as_long_as_its_clock_makes_it(
    session: Session, zone: str, day: tuple[int, int, int], hours: float
) -> None:
    rename(session, SITE, None, zone)
    noon = datetime(*day, 12, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    begin, end = day_of(noon, ZoneInfo(zone))
    assert end - begin == timedelta(hours=hours)
    for at in (begin - timedelta(milliseconds=1), begin, end - timedelta(milliseconds=1), end):
        fed(session, at, 1.0)
    assert today(session, begin)["f1"] == 2.0
    assert today(session, noon)["f1"] == 2.0
    assert today(session, end)["f1"] == 1.0


def test_every_moment_of_a_day_that_changes_its_clock_belongs_to_that_day() -> None:
    zone = ZoneInfo("Asia/Jerusalem")
    for day in ((2026, 3, 27), (2026, 10, 25)):
        begin = datetime(*day, tzinfo=zone).astimezone(UTC)
        moment = begin
        while moment.astimezone(zone).date() == begin.astimezone(zone).date():
            assert day_of(moment, zone)[0] == begin
            moment += timedelta(minutes=10)


# --- events ------------------------------------------------------------------------------------------------------


def test_an_event_is_stored_once_by_its_id(session: Session) -> None:
    event = Event(id=str(ULID()), seq=4, kind="dose", at=NOW, planned_g=250, dispensed_g=249.6)
    assert store_event(session, SITE, FEEDER, event, after(1))
    assert not store_event(session, SITE, FEEDER, event, after(2))
    assert not store_event(session, SITE, FEEDER, event.model_copy(update={"dispensed_g": 1.0}), after(2))
    (stored,) = session.exec(select(FeederEvent)).all()
    assert (stored.dispensed_g, stored.at, stored.received_at) == (249.6, NOW, after(1))


def test_an_event_of_a_feeder_that_is_not_there_is_refused(session: Session) -> None:
    with pytest.raises(NotFound):
        store_event(session, SITE, "f9", Event(id=str(ULID()), seq=1, kind="meal", at=NOW), NOW)
