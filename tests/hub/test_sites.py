"""Sites are added once."""

import asyncio

import pytest
from sqlalchemy import text
from sqlmodel import Session

from hub.errors import AlreadyExists
from hub.sites import NewSite, add_site
from tests.hub.conftest import NOW, until


def add(session: Session) -> NewSite:
    return add_site(session, "pond9", ["f1"], "UTC", NOW)


@pytest.mark.both_databases
async def test_a_site_that_is_there_is_not_added_again_and_the_transaction_goes_on(database):
    outcomes = await asyncio.gather(*(database.write(add) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NewSite, AlreadyExists, AlreadyExists]


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
async def test_of_two_processes_that_add_one_site_at_the_same_moment_the_second_is_told_that_it_is_there(database):
    async def the_second_waits_for_the_first():
        blocked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return await database.read(lambda session: session.connection().execute(blocked).scalar_one())

    with Session(database._write_engine) as first:
        add(first)
        second = asyncio.create_task(asyncio.to_thread(database.write_now, add))
        await until(the_second_waits_for_the_first)
        first.commit()
    with pytest.raises(AlreadyExists):
        await second
