"""A database full of demo data: what is in it, that it is the same each time, and that nothing else is overwritten."""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from sqlalchemy import text
from sqlmodel import Session, select
from ulid import ULID

from hub.daily import daily_sums
from hub.database import Database
from hub.demo_data import NotEmpty, Plan, fill
from hub.feeders import config_of, drift, list_all_feeders, list_events, list_revisions
from hub.models import Command, FeederEvent
from hub.presence import list_spans
from hub.protocol.topics import is_ulid
from hub.search import EVERYTHING
from hub.site_pages import list_page
from hub.stories import list_commands, stories

PLAN = Plan(sites=2, feeders=5, days=33, until=date(2026, 4, 3))


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    database.migrate()
    yield database
    database.close()


@pytest.mark.both_databases
def test_it_has_a_meal_an_hour_and_all_else_that_a_year_of_work_leaves(empty: Database) -> None:
    made: list[int] = []
    fill(empty, PLAN, made.append)
    assert sum(made) == PLAN.events == 5 * 33 * 24

    def look(session: Session) -> None:
        sites = list_page(session, None, 9, None, EVERYTHING)
        assert [(one.site.id, one.tags) for one in sites] == [
            ("farm-0001", ["europe", "salmon"]),
            ("farm-0002", ["atlantic", "trout"]),
        ]
        feeders = list_all_feeders(session, None, 99, None, EVERYTHING)
        assert [f"{row.site_id}/{row.id}" for row in feeders] == [
            *(f"farm-0001/f{n}" for n in (1, 2, 3)),
            *(f"farm-0002/f{n}" for n in (1, 2)),
        ]
        assert all(config_of(row.reported_config) is not None and drift(row) == [] for row in feeders)
        events = session.exec(select(FeederEvent)).all()
        assert len(events) == PLAN.events
        assert {event.kind for event in events} == {"meal", "skipped", "jam"}
        for event in events:
            assert is_ulid(event.id)
            assert ULID.from_str(event.id).timestamp == event.at.timestamp()
        days = daily_sums(session, "farm-0002", "f2", date(2026, 3, 3), date(2026, 4, 1), datetime.now(UTC))
        assert all(day.meals + day.skipped + day.jams == 24 for day in days)
        newest = list_events(session, "farm-0001", "f1", None, 2)
        assert [event.seq for event in newest] == [33 * 24, 33 * 24 - 1]
        commands = list_commands(session, "farm-0001", "f1", None, 9)
        assert [len(stories(session, [command.id])[command.id]) for command in commands] == [4, 4]
        assert [revision.version for revision, _ in list_revisions(session, "farm-0001", "f1", None, 9).items] == [2, 1]
        assert [span.ended_at is None for span in list_spans(session, "farm-0001", None, 3)] == [True, False, False]
        assert len(session.exec(select(Command)).all()) == 10

    empty.read_now(look)


def test_the_same_plan_makes_the_same_rows_and_another_seed_others(tmp_path) -> None:
    def rows(seed: int) -> list[tuple[object, ...]]:
        database = Database(f"sqlite:///{tmp_path / str(len(list(tmp_path.iterdir())))}.sqlite")
        database.migrate()
        fill(database, Plan(2, 3, 2, date(2026, 4, 3), seed), lambda _: None)
        everything = text("SELECT * FROM feeder_event ORDER BY site_id, id")
        found = database.read_now(lambda session: [tuple(row) for row in session.connection().execute(everything)])
        database.close()
        return found

    assert rows(1) == rows(1) != rows(2)


@pytest.mark.both_databases
def test_a_database_with_sites_is_left_alone(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(NotEmpty):
        fill(database, PLAN, lambda _: None)
    assert len(database.read_now(lambda session: list_page(session, None, 9, None, EVERYTHING))) == 2
    database.close()


@pytest.mark.parametrize(("sites", "feeders"), [(3, 2), (1, 501)])
def test_a_plan_that_a_hub_could_not_have_is_refused(empty: Database, sites: int, feeders: int) -> None:
    with pytest.raises(NotEmpty):
        fill(empty, Plan(sites, feeders, 1, date(2026, 4, 3)), lambda _: None)
