"""Sites' MQTT secrets."""

import asyncio

import pytest
from sqlalchemy import text
from sqlmodel import Session

from hub import sites
from hub.accounts import mqtt_password_matches
from hub.errors import AlreadyExists
from hub.sites import NewSite, add_site, rotate_secret, secret_matches
from tests.hub.conftest import NOW, SITE, until


def test_a_sites_own_secret_matches_and_nothing_else_does(session):
    secret = rotate_secret(session, SITE).encode()
    assert secret_matches(session, SITE, secret)
    assert not secret_matches(session, SITE, secret + b"x")
    assert not secret_matches(session, SITE, b"")
    assert not secret_matches(session, "pond8", secret)
    assert not secret_matches(session, "nowhere", secret)


@pytest.mark.parametrize("site", [SITE, "nowhere", "", "x" * 65_535])
def test_a_site_that_does_not_exist_costs_the_same_hash_so_that_nobody_learns_which_do(session, monkeypatch, site):
    rounds = []

    def matches(stored: str, secret: bytes) -> bool:
        rounds.append(stored.split("$")[2])
        return mqtt_password_matches(stored, secret)

    monkeypatch.setattr(sites, "mqtt_password_matches", matches)
    assert not secret_matches(session, site, b"a guess")
    assert rounds == ["101"]


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
