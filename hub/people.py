"""People and what they are where: rows, no passwords in the clear."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select
from ulid import ULID

from hub.errors import AlreadyExists, Fault, InvalidOrder, NotFound
from hub.models import Person, PersonRole, Site
from hub.rights import Caller, Role

MOST_ROLES: Final = 1000
_LOGIN: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}\Z")


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """A role at a site; `site` None: at every one, and where it is about none."""

    site: str | None
    role: Role


def check_login(login: str) -> None:
    if not _LOGIN.match(login):
        message = "A login has 1 to 64 of a-z 0-9 . _ @ + -, beginning with a letter or digit."
        raise InvalidOrder(message, [Fault("login", message)])


def add_person(
    session: Session, login: str, name: str, password_hash: str, grants: Iterable[Grant], now: datetime
) -> Person:
    """Raises InvalidOrder, AlreadyExists, or NotFound for a site that is not there."""
    check_login(login)
    row = Person(id=str(ULID()), login=login, name=name, password_hash=password_hash, created_at=now)
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        raise AlreadyExists(f"There is somebody with the login {login} already.") from error
    set_roles(session, row.id, grants)
    return row


def list_people(session: Session, after: str | None, limit: int) -> list[tuple[Person, list[Grant]]]:
    """People by login, those after the given one."""
    query = select(Person).order_by(Person.login).limit(limit)
    if after is not None:
        query = query.where(Person.login > after)
    people = list(session.exec(query))
    grants = _grants_of(session, [person.id for person in people])
    return [(person, grants[person.id]) for person in people]


def get_person(session: Session, person_id: str) -> Person:
    """Raises NotFound."""
    row = session.get(Person, person_id)
    if row is None:
        raise NotFound(f"There is no person {person_id}.")
    return row


def person_with_login(session: Session, login: str) -> Person | None:
    return session.exec(select(Person).where(Person.login == login)).first()


def delete_person(session: Session, person_id: str) -> Person:
    """With roles and logins; what was done in this name stays. Raises NotFound."""
    row = get_person(session, person_id)
    session.delete(row)
    return row


def set_roles(session: Session, person_id: str, grants: Iterable[Grant]) -> None:
    """These and no others. Raises NotFound for a site that is not there."""
    wanted = set(grants)
    for site in {grant.site for grant in wanted} - {None}:
        if session.get(Site, site) is None:
            raise NotFound(f"There is no site {site}.")
    session.connection().execute(delete(PersonRole).where(col(PersonRole.person_id) == person_id))
    session.add_all(PersonRole(person_id=person_id, role=grant.role, site_id=grant.site) for grant in wanted)


def grants_of(session: Session, person_id: str) -> list[Grant]:
    return _grants_of(session, [person_id])[person_id]


def caller_for(session: Session, person: Person, login_id: str) -> Caller:
    """The person, with the roles as they are now."""
    roles: dict[str | None, set[Role]] = {}
    for grant in grants_of(session, person.id):
        roles.setdefault(grant.site, set()).add(grant.role)
    by_site = {site: frozenset(here) for site, here in roles.items()}
    return Caller(person.id, f"person:{person.login}", by_site, login_id)


def _grants_of(session: Session, person_ids: list[str]) -> dict[str, list[Grant]]:
    """In the order of their sites, the hub-wide ones first."""
    found: dict[str, list[Grant]] = {person_id: [] for person_id in person_ids}
    for row in session.exec(select(PersonRole).where(col(PersonRole.person_id).in_(person_ids))):
        found[row.person_id].append(Grant(row.site_id, Role(row.role)))
    return {
        person: sorted(grants, key=lambda grant: (grant.site or "", grant.role)) for person, grants in found.items()
    }
