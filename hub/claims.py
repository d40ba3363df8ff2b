"""Claim codes: what somebody types on the farm, once, to fetch the site's credentials without a login.

A code has 80 random bits, counts for ten minutes, and is kept as its hash. Whoever guesses is slowed for all addresses
together, so that not even many of them get anywhere.
"""

import hashlib
import ipaddress
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session, col, select

from hub.errors import NoSuchCode, TooManyTries
from hub.models import ClaimCode
from hub.site_secrets import NewSecret, rotate_secret
from hub.sites import get_site
from hub.store import Store

COUNTS_FOR: Final = timedelta(minutes=10)
TRIES_OF_ALL: Final = 60
TRIES_OF_ADDRESS: Final = 10
WITHIN_S: Final = 60
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's: nothing in it looks like anything else in it."""
_CHARACTERS: Final = 16
_GROUP: Final = 4
_MISREAD: Final = str.maketrans("OIL", "011", "- \t\r\n")


@dataclass(frozen=True, slots=True)
class NewCode:
    """Shown once; only its hash is kept."""

    code: str
    expires_at: datetime


def make_code(session: Session, site: str, overlap_s: int, by: str, now: datetime) -> NewCode:
    """In place of the one that the site may have. overlap_s: of the rotation that it will cause. Raises NotFound."""
    get_site(session, site)
    text = "".join(secrets.choice(_ALPHABET) for _ in range(_CHARACTERS))
    code = "-".join(text[n : n + _GROUP] for n in range(0, _CHARACTERS, _GROUP))
    row = ClaimCode(site_id=site, sha256=_hash(code), overlap_s=overlap_s, created_by=by, expires_at=now + COUNTS_FOR)
    session.merge(row)
    return NewCode(code, row.expires_at)


def claim(session: Session, code: str, now: datetime) -> tuple[str, NewSecret]:
    """The site that the code is for, with a new secret; the code is used up with that. Raises NoSuchCode.

    A wrong one, one that was used and one that is too old all take the same way to the same end.
    """
    query = select(ClaimCode).where(ClaimCode.sha256 == _hash(code), col(ClaimCode.expires_at) > now)
    row = session.exec(query.with_for_update()).first()
    if row is None:
        raise NoSuchCode
    session.delete(row)
    return row.site_id, rotate_secret(session, row.site_id, now, timedelta(seconds=row.overlap_s))


def _hash(code: str) -> str:
    """Of what was meant: capitals, groups and letters that look like digits do not matter."""
    return hashlib.sha256(code.upper().translate(_MISREAD).encode()).hexdigest()


# --- how often it may be tried ------------------------------------------------------------------------------------

# A try counts before it is known whether it is right: many at once would all go through otherwise. What is refused is
# not counted, so there are never more keys than TRIES_OF_ALL. Answers 0, or the milliseconds until the next try.
_TRY: Final = """
for n, key in ipairs(KEYS) do
  if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[n]) then
    return math.max(redis.call('PTTL', key), 1)
  end
end
for _, key in ipairs(KEYS) do
  if redis.call('INCR', key) == 1 then redis.call('PEXPIRE', key, ARGV[3]) end
end
return 0
"""


class ClaimThrottle:
    """Counted in Redis, for all hub processes together."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def admit(self, address: str) -> None:
        """Count a try from an IP address. Raises TooManyTries, or StoreUnreachable."""
        keys = f"{{fh}}:claims:{_network(address)}", "{fh}:claims"
        limits = TRIES_OF_ADDRESS, TRIES_OF_ALL, WITHIN_S * 1000
        wait_ms = int(await self._store.call("EVAL", _TRY, 2, *keys, *limits))
        if wait_ms:
            raise TooManyTries("Too many codes were tried.", -(-wait_ms // 1000))


def _network(address: str) -> str:
    """An IPv6 host has a whole /64 to itself."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # a socket without an address
        return "none"
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip), 64), strict=False))
