"""The audit's rows: only ever added, in the transaction of their change, and found in the order of time."""

from datetime import timedelta

import pytest
from sqlalchemy import delete, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select
from ulid import ULID

from hub.audit import By, Trail, list_entries, record, recorded, sites_open_to
from hub.command_states import CommandState
from hub.database import Database
from hub.errors import AlreadyExists
from hub.feeders import take_state
from hub.models import AuditEntry, Command, Site
from hub.rights import Caller, Role
from hub.settlement import take_reply
from hub.sites import delete_site
from tests.hub.conftest import CONFIG, FEEDER, NOW, SITE, config_order, order, placed, reply, state

pytestmark = pytest.mark.both_databases

ANNA = By("person:anna", "01J00000000000000000000000", "192.0.2.7")
ROOT = Caller("1", "token:root", {None: frozenset({Role.ADMIN})})


def actions(session: Session, **wanted: object) -> list[str]:
    found = list_entries(session, None, limit=100, **wanted)  # type: ignore[arg-type]  # by name
    return [entry.row.action for entry in found]


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_entry SET actor = 'token:somebody-else'", "UPDATE audit_entry SET at = at"]
)
def test_no_entry_can_be_changed(session: Session, statement: str) -> None:
    record(session, ANNA, "create_site")
    with pytest.raises(DBAPIError, match="append only"):
        session.connection().execute(text(statement))


async def test_an_entry_is_there_if_and_only_if_its_change_is(database: Database) -> None:
    def works(session: Session, trail: Trail) -> None:
        session.get_one(Site, SITE).name = "Pond"
        trail.note(before={"name": "pond7"}, after={"name": "Pond"})

    def refuses(session: Session, trail: Trail) -> None:
        trail.note(after={"name": "x"})
        raise AlreadyExists("no")

    def breaks(session: Session, trail: Trail) -> None:
        session.add(AuditEntry(id="x" * 26, at=NOW, actor="x", action="x"))
        session.flush()
        raise LookupError("mine")

    await database.write(recorded(ANNA, "patch_site", SITE, works))
    for work, error in ((refuses, AlreadyExists), (breaks, LookupError)):
        with pytest.raises(error):
            await database.write(recorded(ANNA, "patch_site", SITE, work))
    [entry] = await database.read(lambda session: list_entries(session, None, limit=10))
    row = entry.row
    assert (row.actor, row.caller_id, row.address) == ("person:anna", ANNA.caller_id, "192.0.2.7")
    assert (row.site_id, row.target, row.before, row.after) == (SITE, "", {"name": "pond7"}, {"name": "Pond"})
    assert entry.outcome is None


def test_a_change_that_notes_nothing_leaves_an_entry_all_the_same(session: Session) -> None:
    assert recorded(ANNA, "rotate_credentials", SITE, lambda _session, _trail: "secret")(session) == "secret"
    [entry] = list_entries(session, None, limit=10)
    assert (entry.row.action, entry.row.site_id, entry.row.after) == ("rotate_credentials", SITE, None)


def test_what_is_too_long_for_an_entry_is_cut(session: Session) -> None:
    record(session, By("x" * 300, None, "y" * 300), "log_in", target="z\0" * 300, outcome="refused")
    [entry] = list_entries(session, None, limit=10)
    assert (len(entry.row.actor), len(entry.row.address), entry.row.target) == (100, 64, "z" * 100)


def test_a_commands_entry_tells_the_config_before_and_after_and_its_outcome_as_it_is_now(session: Session) -> None:
    take_state(session, SITE, FEEDER, state(config=CONFIG), NOW)
    command = placed(session, config_order(args=CONFIG | {"meal_g": 300}, caller_id="1" * 26, address="192.0.2.7"))
    [entry] = list_entries(session, None, limit=10)
    assert entry.row.id == entry.row.command_id == command.id
    assert (entry.row.actor, entry.row.caller_id, entry.row.address) == ("anna", "1" * 26, "192.0.2.7")
    assert (entry.row.action, entry.row.site_id, entry.row.target) == ("set_config", SITE, FEEDER)
    assert entry.row.before == CONFIG
    assert entry.row.after == CONFIG | {"meal_g": 300}
    assert entry.outcome == CommandState.SENT
    take_reply(session, SITE, reply(command.id, "rejected", code="busy"), NOW)
    assert list_entries(session, None, limit=10)[0].outcome == CommandState.REJECTED
    session.connection().execute(delete(Command).where(col(Command.id) == command.id))
    [entry] = list_entries(session, None, limit=10)
    assert (entry.row.command_id, entry.outcome) == (command.id, None)


def test_an_order_that_came_before_and_a_question_leave_no_entry(session: Session) -> None:
    for name in ("ping", "report"):
        placed(session, order(name, None))
    assert actions(session) == []
    placed(session, order("stop_all", None))
    assert actions(session) == ["stop_all"]


def test_the_story_of_a_deleted_site_stays(session: Session) -> None:
    placed(session, order("pause"))
    delete_site(session, SITE)
    session.flush()
    assert actions(session) == ["pause"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["log_in", "set_config", "set_config", "create_site", "set_config"]),
        ({"action": "set_config"}, ["set_config"] * 3),
        ({"action": "create_site"}, ["create_site"]),
        ({"action": "nothing"}, []),
        ({"actor": "person:anna"}, ["set_config", "create_site"]),
        ({"actor": "person:anna", "action": "create_site"}, ["create_site"]),
    ],
)
def test_entries_are_found_the_newest_first_by_actor_and_action(
    session: Session, wanted: dict[str, str], found: list[str]
) -> None:
    ben = By("person:ben")
    for by, action, site in (
        (ben, "set_config", SITE),
        (ANNA, "create_site", "pond8"),
        (ANNA, "set_config", SITE),
        (ben, "set_config", "pond8"),
        (ben, "log_in", None),
    ):
        record_at(session, by, action, site)
    assert actions(session, **wanted) == found
    here = [name for name in found if name != "log_in"]
    theirs = {SITE: "", "pond8": "", "no-such-site": ""}
    assert [entry.row.action for entry in list_entries(session, theirs, limit=10, **wanted)] == here  # type: ignore[arg-type]  # by name
    for sites, expected in ((None, found), (theirs, here)):
        paged, before = [], None
        while page := list_entries(session, sites, before=before, limit=2, **wanted):  # type: ignore[arg-type]  # by name
            paged += [entry.row.action for entry in page]
            before = page[-1].row.id
        assert paged == expected


def record_at(session: Session, by: By, action: str, site: str | None) -> None:
    """Ids of one millisecond have no order."""
    number = len(session.exec(select(AuditEntry.id)).all())
    made = NOW + timedelta(seconds=number)
    row = AuditEntry(id=str(ULID.from_datetime(made)), at=made, actor=by.actor, action=action, site_id=site)
    session.add(row)
    session.flush()


def test_who_administers_a_site_reads_what_was_since_it_is_there(session: Session) -> None:
    assert sites_open_to(session, ROOT) is None
    roles = {SITE: frozenset({Role.ADMIN}), "pond8": frozenset({Role.OPERATOR}), "gone": frozenset({Role.ADMIN})}
    theirs = sites_open_to(session, Caller("2", "person:ben", roles))
    assert theirs is not None
    assert set(theirs) == {SITE}
    record_at(session, ANNA, "create_site", SITE)
    for id_, action in ((str(ULID.from_datetime(NOW - timedelta(milliseconds=1))), "of-another"),):
        session.add(AuditEntry(id=id_, at=NOW, actor="x", action=action, site_id=SITE))
    session.flush()
    assert [entry.row.action for entry in list_entries(session, theirs, limit=10)] == ["create_site"]
