"""Tokens, and the secrets of machines.

Machine secrets are long random texts, so a fast hash keeps them: SHA-256 for tokens, and for MQTT secrets the form that
mosquitto reads as well (`$7$`, PBKDF2-SHA512), so that one stored hash serves the embedded broker and the export.
"""

import base64
import hashlib
import hmac
import secrets
from datetime import datetime
from typing import Final

from sqlmodel import Session, select
from ulid import ULID

from hub.errors import Fault, InvalidOrder, NotFound
from hub.models import Site, Token
from hub.rights import Caller, Role

_PBKDF2_ROUNDS: Final = 101
"""What mosquitto_passwd takes too; the secret's 256 random bits need no stretching."""
MAX_NAME: Final = 64


def new_secret() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def mqtt_password_hash(secret: str) -> str:
    """The secret's hash as it stands in mosquitto's password file: `$7$rounds$salt$hash`."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, _PBKDF2_ROUNDS)
    return f"$7${_PBKDF2_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def mqtt_password_matches(stored: str, secret: bytes) -> bool:
    """Compared in constant time."""
    _, _, rounds, salt, digest = stored.split("$")
    given = hashlib.pbkdf2_hmac("sha512", secret, base64.b64decode(salt), int(rounds))
    return hmac.compare_digest(given, base64.b64decode(digest))


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def add_token(
    session: Session, role: Role, site: str | None, name: str, now: datetime, expires_at: datetime | None = None
) -> str:
    """Store a new token and return it; only its hash is kept. Raises NotFound or InvalidOrder."""
    if site is not None and session.get(Site, site) is None:
        raise NotFound(f"There is no site {site}.")
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        message = f"A token's name has 1 to {MAX_NAME} printable characters."
        raise InvalidOrder(message, [Fault("name", message)])
    token = f"fh_{new_secret()}"
    row = Token(
        id=str(ULID()),
        name=name,
        sha256=token_hash(token),
        role=role,
        site_id=site,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    return token


def caller_of(session: Session, token: str, now: datetime) -> Caller | None:
    """Whose token it is; None: nobody's, or not any more."""
    row = session.exec(select(Token).where(Token.sha256 == token_hash(token))).first()
    return None if row is None else token_caller(row, now)


def token_caller(row: Token, now: datetime) -> Caller | None:
    """None: it has expired."""
    if row.expires_at is not None and row.expires_at <= now:
        return None
    return Caller(row.id, f"token:{row.name}", {row.site_id: frozenset({Role(row.role)})})


def list_tokens(session: Session, after: str | None = None) -> list[Token]:
    """Every token (those after the given id), the oldest first."""
    return list(session.exec(select(Token).where(Token.id > (after or "")).order_by(Token.id)))


def get_token_row(session: Session, token: str) -> Token:
    """Of a token that is there."""
    return session.exec(select(Token).where(Token.sha256 == token_hash(token))).one()


def revoke_token(session: Session, token_id: str) -> Token:
    """The token lets nobody in any more. Raises NotFound."""
    row = session.get(Token, token_id)
    if row is None:
        raise NotFound(f"There is no token {token_id}; `feeder-hub token list` has their ids.")
    session.delete(row)
    return row


def has_tokens(session: Session) -> bool:
    return session.exec(select(Token.id).limit(1)).first() is not None
