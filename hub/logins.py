"""Logins: what lets a person's browser in until it ends, and whether anybody's key still does."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, update
from sqlmodel import Session, col, select
from ulid import ULID

from hub.accounts import new_secret, token_caller, token_hash
from hub.errors import NotFound
from hub.models import Login, Person, Token
from hub.people import caller_for
from hub.rights import Caller

LASTS: Final = timedelta(days=30)
"""After its last use; who works with it every month stays logged in."""
USED_WITHIN: Final = timedelta(minutes=1)
"""How exactly it is known when a key was last used."""
MOST_LOGINS: Final = 20
"""Of one person; the one that was not used for longest makes room for a new one."""


def open_login(session: Session, person_id: str, address: str, agent: str, now: datetime) -> tuple[str, Login]:
    """A new login and its secret, which is kept nowhere."""
    session.connection().execute(delete(Login).where(col(Login.expires_at) <= now))
    others = logins_of(session, person_id)
    for surplus in others[MOST_LOGINS - 1 :]:
        session.delete(surplus)
    secret = new_secret()
    row = Login(
        id=str(ULID()),
        person_id=person_id,
        sha256=token_hash(secret),
        created_at=now,
        expires_at=now + LASTS,
        last_used_at=now,
        address=address[:64],
        agent=agent[:200],
    )
    session.add(row)
    return secret, row


def login_caller(session: Session, secret: str, now: datetime) -> Caller | None:
    """Whose login it is, with the roles as they are now; None: nobody's, or not any more."""
    found = session.exec(
        select(Login, Person)
        .join(Person, col(Person.id) == col(Login.person_id))
        .where(Login.sha256 == token_hash(secret), Login.expires_at > now)
    ).first()
    return None if found is None else caller_for(session, found[1], found[0].id)


def logins_of(session: Session, person_id: str) -> list[Login]:
    """The one that was used last comes first."""
    return list(
        session.exec(select(Login).where(Login.person_id == person_id).order_by(col(Login.last_used_at).desc()))
    )


def end_login(session: Session, person_id: str, login_id: str) -> Login:
    """Raises NotFound."""
    row = session.get(Login, login_id)
    if row is None or row.person_id != person_id:
        raise NotFound(f"There is no login {login_id}.")
    session.delete(row)
    return row


def end_logins(session: Session, person_id: str, but: str | None = None) -> None:
    """All of a person's logins, but this one."""
    ended = delete(Login).where(col(Login.person_id) == person_id)
    session.connection().execute(ended if but is None else ended.where(col(Login.id) != but))


def current(session: Session, caller: Caller, now: datetime) -> Caller | None:
    """The same caller with the rights of now; None: the token or login has ended."""
    if caller.login_id is None:
        token = session.get(Token, caller.id)
        return None if token is None else token_caller(token, now)
    login = session.get(Login, caller.login_id)
    person = None if login is None or login.expires_at <= now else session.get(Person, login.person_id)
    return None if person is None else caller_for(session, person, caller.login_id)


def note_use(session: Session, caller: Caller, now: datetime) -> None:
    """The caller's key was used; a login lasts on from now."""
    before = now - USED_WITHIN
    if caller.login_id is None:
        never_or_before = col(Token.last_used_at).is_(None) | (col(Token.last_used_at) <= before)
        used = update(Token).where(col(Token.id) == caller.id, never_or_before).values(last_used_at=now)
    else:
        is_it = (col(Login.id) == caller.login_id, col(Login.last_used_at) <= before)
        used = update(Login).where(*is_it).values(last_used_at=now, expires_at=now + LASTS)
    session.connection().execute(used)
