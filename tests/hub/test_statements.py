"""Statements: the same values and the same errors as by way of SQLAlchemy, on both databases."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from hub.database import Database, DatabaseAway
from hub.models import COMMAND_STEP, FEEDER, Feeder
from hub.statements import Statement, row_type
from tests.hub.conftest import CONFIG, NOW, SITE

_IS_F1 = (FEEDER.c.site_id == SITE) & (FEEDER.c.id == bindparam("feeder"))
FIND = Statement(select(FEEDER).where(_IS_F1))
CHANGE = Statement(
    update(FEEDER)
    .where(_IS_F1)
    .values(
        condition="running",
        **{name: bindparam(name) for name in ("reported_config", "silo_g", "state_at", "state_seq", "desired_config")},
    )
    .returning(FEEDER.c.condition, FEEDER.c.silo_g)
)
STEP = Statement(insert(COMMAND_STEP))


@pytest.mark.both_databases
def test_values_come_back_as_the_object_mapper_has_them(session: Session) -> None:
    moment = datetime(2026, 3, 1, 8, 30, 0, 123000, tzinfo=timezone(timedelta(hours=2)))
    config = CONFIG | {"enabled": False, "note": "Fütterung \u2028"}
    values = {"reported_config": config, "silo_g": 12.5, "state_at": moment, "state_seq": 2**40, "desired_config": None}
    assert CHANGE.run(session, feeder="f1", **values) == [("running", 12.5)]
    row = FIND.first(session, feeder="f1")
    session.expire_all()
    feeder = session.get_one(Feeder, (SITE, "f1"))
    assert row is not None
    for name in FEEDER.c.keys():  # noqa: SIM118 - a collection of columns is no mapping
        assert getattr(row, name) == getattr(feeder, name), name
    assert row.state_at == moment
    assert row.state_at.tzinfo is UTC
    assert row.reported_config == config


def test_times_in_sqlite_are_the_texts_that_sqlalchemy_writes_there(session: Session) -> None:
    texts = ("2026-03-01 06:30:00.123000", "2026-03-01 06:30:00.000000", "0099-12-31 23:59:59.999999")
    for stored in texts:
        moment = datetime.fromisoformat(stored).replace(tzinfo=UTC)
        CHANGE.run(session, feeder="f1", **dict.fromkeys(("reported_config", "silo_g", "state_seq", "desired_config")),
                   state_at=moment.astimezone(timezone(timedelta(hours=5, minutes=30))))  # fmt: skip
        assert session.execute(text("SELECT state_at FROM feeder WHERE id = 'f1'")).scalar() == stored
        row = FIND.first(session, feeder="f1")
        assert row is not None
        assert row.state_at == moment
    of_sqlalchemy = sqlite.DATETIME().bind_processor(sqlite.dialect())
    assert of_sqlalchemy is not None
    assert [of_sqlalchemy(datetime.fromisoformat(stored)) for stored in texts] == list(texts)


@pytest.mark.both_databases
def test_a_moment_without_a_zone_is_not_stored(session: Session) -> None:
    with pytest.raises(ValueError, match="without a time zone"):
        STEP.run(session, command_id="01ARZ3NDEKTSV4RRFFQ69G5FAV", state="sent", at=NOW.replace(tzinfo=None), cause="")


@pytest.mark.both_databases
def test_what_is_not_there_is_no_row(session: Session) -> None:
    assert FIND.first(session, feeder="f9") is None
    assert FIND.run(session, feeder="f9") == []


@pytest.mark.both_databases
def test_a_value_that_is_missing_is_an_error(session: Session) -> None:
    with pytest.raises(KeyError):
        FIND.first(session)


@pytest.mark.both_databases
def test_the_drivers_error_is_sqlalchemys(session: Session) -> None:
    with pytest.raises(IntegrityError):  # there is no such command
        STEP.run(session, command_id="01ARZ3NDEKTSV4RRFFQ69G5FAV", state="sent", at=NOW, cause="a test")


def test_a_row_has_what_it_is_given_and_else_none() -> None:
    row = row_type("Pair", ["one", "two"])(one=1)
    assert (row.one, row.two) == (1, None)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
async def test_a_connection_that_is_lost_is_replaced(dialect: str, database: Database) -> None:
    def lose(session: Session) -> None:
        session.connection().execute(text("SELECT set_config('application_name', 'lost', false)"))
        with Session(database._read_engine) as other:
            other.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lost'")
            )
        FIND.first(session, feeder="f1")

    with pytest.raises(DatabaseAway):
        await database.write(lose)
    found = await database.write(lambda session: FIND.first(session, feeder="f1"))
    assert found is not None
    assert found.id == "f1"


@pytest.mark.both_databases
def test_a_value_without_a_type_is_refused_before_it_is_stored_in_the_drivers_own_form(session: Session) -> None:
    step = {"command_id": "x", "at": bindparam("now"), "cause": ""}
    several = insert(COMMAND_STEP).values([step | {"state": "pending"}, step | {"state": "sent"}])
    with pytest.raises(TypeError, match="of what type now is"):
        Statement(several).run(session, now=NOW)
