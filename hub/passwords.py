"""Passwords of people: how they must be, and how they are kept (Argon2id, in a thread: it takes long on purpose)."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from hub.errors import Fault, InvalidOrder

SHORTEST: Final = 10
LONGEST: Final = 256
_HASHER: Final = PasswordHasher()


def check_password(password: str, login: str) -> None:
    """Long enough to guess badly, and not the login; no rules of signs, which make passwords worse.

    Raises InvalidOrder.
    """
    message = None
    if not SHORTEST <= len(password) <= LONGEST:
        message = f"A password has {SHORTEST} to {LONGEST} characters."
    elif login in password.lower() and len(password) < len(login) + SHORTEST:
        message = "The password is little more than the login; choose another one."
    elif len(set(password)) < SHORTEST // 2:
        message = f"A password has at least {SHORTEST // 2} different characters."
    if message is not None:
        raise InvalidOrder(message, [Fault("password", message)])


def hash_password(password: str) -> str:
    """Takes some tens of milliseconds and 64 MiB."""
    return _HASHER.hash(password)


_NOBODYS: Final = hash_password("nobody has this password")


def password_matches(stored: str | None, password: str) -> bool:
    """It takes as long where there is none, so that nobody can find out who has one."""
    try:
        _HASHER.verify(stored or _NOBODYS, password)
    except VerificationError:
        return False
    return stored is not None


class Passwords:
    """`async with Passwords()`: hashing beside the event loop, one at a time: others wait, and memory is bounded."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "passwords")

    async def hash(self, password: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._thread, hash_password, password)

    async def matches(self, stored: str | None, password: str) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._thread, password_matches, stored, password)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
