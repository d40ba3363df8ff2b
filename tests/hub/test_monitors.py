"""Monitors: who they are, and that a removed one is cut off."""

import asyncio

import pytest
from sqlmodel import Session

from hub.database import Database
from hub.errors import AlreadyExists, InvalidOrder, NotFound
from hub.monitors import MonitorLogins, add_monitor, list_monitors, monitor_of, remove_monitor
from hub.protocol.topics import Identity
from hub.sites import add_site, delete_site
from tests.hub.conftest import NOW, SITE


def test_a_monitors_secret_is_its_own_and_kept_as_a_hash_only(session: Session) -> None:
    made, other = add_monitor(session, "anna", SITE, NOW), add_monitor(session, "grafana", None, NOW)
    assert (made.username, made.site, other.site) == ("monitor-anna", SITE, None)
    row = monitor_of(session, "monitor-anna", made.secret.encode())
    assert row is not None
    assert (row.name, row.site_id) == ("anna", SITE)
    assert made.secret not in str(row.model_dump())
    for user, secret in (("monitor-anna", other.secret), ("monitor-nobody", made.secret), ("monitor-anna", "")):
        assert monitor_of(session, user, secret.encode()) is None


def test_monitors_are_listed_by_name(session: Session) -> None:
    for name in ("zoe", "anna"):
        add_monitor(session, name, None, NOW)
    assert [monitor.name for monitor in list_monitors(session)] == ["anna", "zoe"]


def test_a_monitor_and_a_site_of_one_name_are_two_mqtt_users(session: Session) -> None:
    made = add_monitor(session, "bay", None, NOW)
    add_site(session, "bay", ["f1"], "UTC", NOW)
    assert made.username == "monitor-bay"
    for name in ("monitor", "monitor-bay", "monitor-bay-2"):
        with pytest.raises(InvalidOrder):
            add_site(session, name, ["f1"], "UTC", NOW)


@pytest.mark.parametrize("name", ["", "Anna", "a.b", "a b", "-a", "a\n", "a" * 64])
def test_a_monitor_with_a_wrong_name_is_refused(session: Session, name: str) -> None:
    with pytest.raises(InvalidOrder):
        add_monitor(session, name, None, NOW)


def test_a_monitor_is_added_once_and_for_a_site_that_is_there(session: Session) -> None:
    add_monitor(session, "anna", None, NOW)
    with pytest.raises(AlreadyExists):
        add_monitor(session, "anna", SITE, NOW)
    with pytest.raises(NotFound):
        add_monitor(session, "zoe", "nowhere", NOW)


def test_a_removed_monitor_is_nobody(session: Session) -> None:
    made = add_monitor(session, "anna", None, NOW)
    remove_monitor(session, "anna")
    session.flush()
    assert monitor_of(session, made.username, made.secret.encode()) is None
    with pytest.raises(NotFound):
        remove_monitor(session, "anna")


def test_a_sites_monitors_go_with_it(session: Session) -> None:
    for name, site in (("anna", SITE), ("zoe", "pond8"), ("grafana", None)):
        add_monitor(session, name, site, NOW)
    session.flush()
    delete_site(session, SITE)
    session.flush()
    session.expire_all()
    assert [monitor.name for monitor in list_monitors(session)] == ["grafana", "zoe"]


# --- logins ------------------------------------------------------------------------------------------------------


async def test_a_monitor_is_let_in_as_the_one_that_it_is(database: Database) -> None:
    made = await database.write(lambda session: add_monitor(session, "anna", SITE, NOW))
    logins = MonitorLogins(database)
    assert await logins.identify(made.username, made.secret.encode()) == Identity("monitor", "monitor-anna", SITE)
    assert await logins.identify(made.username, b"wrong") is None


async def test_a_monitor_is_cut_off_when_it_is_removed_or_made_anew_and_no_other_is(database: Database) -> None:
    cut_off: asyncio.Queue[str] = asyncio.Queue()
    logins = MonitorLogins(database)
    for name in ("anna", "ben", "zoe"):
        made = await database.write(lambda session, name=name: add_monitor(session, name, SITE, NOW))  # type: ignore[misc]  # mypy does not infer a lambda with a default
        assert await logins.identify(made.username, made.secret.encode())
    async with logins.watched(cut_off.put):
        await database.write(lambda session: remove_monitor(session, "anna"))
        assert await asyncio.wait_for(cut_off.get(), 5) == "monitor-anna"

        def make_anew(session: Session) -> None:
            remove_monitor(session, "ben")
            session.flush()
            add_monitor(session, "ben", None, NOW)

        await database.write(make_anew)
        assert await asyncio.wait_for(cut_off.get(), 5) == "monitor-ben"
        await database.write(lambda session: delete_site(session, SITE))
        assert await asyncio.wait_for(cut_off.get(), 5) == "monitor-zoe"
    assert cut_off.empty()


async def test_a_database_that_fails_ends_no_watch(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off: asyncio.Queue[str] = asyncio.Queue()
    logins = MonitorLogins(database)
    made = await database.write(lambda session: add_monitor(session, "anna", None, NOW))
    assert await logins.identify(made.username, made.secret.encode())
    failed = asyncio.Event()
    read = database.read

    async def fail_once(work: object) -> object:
        monkeypatch.setattr(database, "read", read)
        failed.set()
        raise ConnectionError("for a test")

    monkeypatch.setattr(database, "read", fail_once)
    async with logins.watched(cut_off.put):
        await asyncio.wait_for(failed.wait(), 5)
        await database.write(lambda session: remove_monitor(session, "anna"))
        assert await asyncio.wait_for(cut_off.get(), 5) == "monitor-anna"
