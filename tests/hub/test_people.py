"""People, their passwords, their roles and their logins."""

from datetime import timedelta

import pytest
from sqlmodel import Session, select

from hub import logins, people, sites
from hub.errors import AlreadyExists, InvalidOrder, NotFound
from hub.logins import LASTS, MOST_LOGINS, USED_WITHIN
from hub.models import Login, Person, PersonRole
from hub.passwords import check_password, hash_password, password_matches
from hub.people import Grant
from hub.rights import Right, Role
from tests.hub.conftest import NOW, SITE, after

pytestmark = pytest.mark.both_databases
HASH = hash_password("correct horse battery")


def anna(session: Session, *grants: Grant) -> Person:
    row = people.add_person(session, "anna", "Anna Berg", HASH, grants, NOW)
    session.flush()
    return row


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("short", "10 to 256"),
        ("x" * 257, "10 to 256"),
        ("anna12345678", "more than the login"),
        ("aaaaaaaaaaaa", "5 different"),
    ],
)
def test_a_password_that_is_easily_guessed_is_refused(password: str, says: str) -> None:
    with pytest.raises(InvalidOrder, match=says) as refused:
        check_password(password, "anna")
    assert refused.value.faults[0].field == "password"
    check_password("correct horse battery", "anna")


def test_a_password_is_kept_so_that_it_cannot_be_read_and_only_itself_matches() -> None:
    assert HASH.startswith("$argon2id$")
    assert password_matches(HASH, "correct horse battery")
    assert not password_matches(HASH, "correct horse batterx")
    assert not password_matches(None, "nobody has this password")


@pytest.mark.parametrize("login", ["", "Anna", "an na", "-anna", "a" * 65, "anna\n", "ännä"])
def test_a_login_has_a_form_that_everybody_can_type(session: Session, login: str) -> None:
    with pytest.raises(InvalidOrder):
        people.add_person(session, login, "x", HASH, [], NOW)


def test_a_login_is_given_once(session: Session) -> None:
    anna(session)
    with pytest.raises(AlreadyExists):
        people.add_person(session, "anna", "Another", HASH, [], NOW)


def test_roles_are_replaced_as_a_whole_and_go_with_their_site(session: Session) -> None:
    person = anna(session, Grant(None, Role.VIEWER), Grant(SITE, Role.OPERATOR), Grant("pond8", Role.ADMIN))
    people.set_roles(session, person.id, [Grant("pond8", Role.TECHNICIAN), Grant(None, Role.VIEWER)])
    session.flush()
    assert people.grants_of(session, person.id) == [Grant(None, Role.VIEWER), Grant("pond8", Role.TECHNICIAN)]
    sites.delete_site(session, "pond8")
    session.flush()
    session.expire_all()
    assert people.grants_of(session, person.id) == [Grant(None, Role.VIEWER)]


def test_a_role_at_a_site_that_is_not_there_is_refused(session: Session) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        anna(session, Grant("nowhere", Role.VIEWER))


def test_a_login_lets_in_with_the_roles_of_now_until_it_ends(session: Session) -> None:
    person = anna(session, Grant(SITE, Role.OPERATOR))
    secret, login = logins.open_login(session, person.id, "192.0.2.1", "Firefox", NOW)
    session.flush()
    assert secret not in str(login.model_dump())
    caller = logins.login_caller(session, secret, NOW)
    assert caller is not None
    assert (caller.actor, caller.login_id) == ("person:anna", login.id)
    assert caller.may(Right.OPERATE, SITE)
    people.set_roles(session, person.id, [Grant(SITE, Role.VIEWER)])
    session.flush()
    now_is = logins.current(session, caller, NOW)
    assert now_is is not None
    assert not now_is.may(Right.OPERATE, SITE)
    assert logins.login_caller(session, login.sha256, NOW) is None
    logins.end_login(session, person.id, login.id)
    session.flush()
    assert logins.login_caller(session, secret, NOW) is None
    assert logins.current(session, caller, NOW) is None


def test_a_login_lasts_from_its_last_use(session: Session) -> None:
    person = anna(session)
    secret, _ = logins.open_login(session, person.id, "", "", NOW)
    session.flush()
    later = NOW + LASTS - timedelta(hours=1)
    caller = logins.login_caller(session, secret, later)
    assert caller is not None
    logins.note_use(session, caller, later)
    session.expire_all()
    assert logins.login_caller(session, secret, NOW + LASTS) is not None
    assert logins.login_caller(session, secret, later + LASTS) is None


def test_a_use_is_noted_once_a_minute(session: Session) -> None:
    person = anna(session)
    secret, login = logins.open_login(session, person.id, "", "", NOW)
    session.flush()
    caller = logins.login_caller(session, secret, NOW)
    assert caller is not None
    for seconds, noted in ((1, NOW), (USED_WITHIN.seconds + 1, after(USED_WITHIN.seconds + 1))):
        logins.note_use(session, caller, after(seconds))
        session.expire_all()
        assert session.get_one(Login, login.id).last_used_at == noted


def test_somebody_elses_login_cannot_be_ended(session: Session) -> None:
    person = anna(session)
    other = people.add_person(session, "ben", "Ben", HASH, [], NOW)
    _, login = logins.open_login(session, other.id, "", "", NOW)
    session.flush()
    with pytest.raises(NotFound):
        logins.end_login(session, person.id, login.id)


def test_a_person_has_so_many_logins_and_the_one_not_used_for_longest_goes(session: Session) -> None:
    person = anna(session)
    made = []
    for n in range(MOST_LOGINS + 2):
        made.append(logins.open_login(session, person.id, "", "", after(n))[1].id)
        session.flush()
    assert [login.id for login in logins.logins_of(session, person.id)] == made[:1:-1]


def test_who_is_taken_away_takes_roles_and_logins_along(session: Session) -> None:
    person = anna(session, Grant(None, Role.ADMIN))
    secret, _ = logins.open_login(session, person.id, "", "", NOW)
    session.flush()
    people.delete_person(session, person.id)
    session.flush()
    session.expire_all()
    assert logins.login_caller(session, secret, NOW) is None
    for rows in (PersonRole, Login):
        assert session.exec(select(rows)).all() == []
