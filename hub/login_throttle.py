"""How often somebody may try to log in, counted in Redis for all hub processes together."""

from dataclasses import dataclass
from typing import Final

from hub.errors import TooManyTries
from hub.store import Store


@dataclass(frozen=True, slots=True)
class Limit:
    tries: int
    within_s: int


OF_BOTH: Final = Limit(5, 60)
"""Of one login from one address."""
OF_LOGIN: Final = Limit(30, 300)
"""Of one login from everywhere: who is logged in stays so, so that an attacker keeps nobody from their farm."""
OF_ADDRESS: Final = Limit(30, 300)
"""Of one address, whatever login it tries."""

# A try counts before it is known whether it is right: many at once would all go through otherwise. Answers 0, or the
# milliseconds until the next one.
_TRY: Final = """
for n, key in ipairs(KEYS) do
  if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[2 * n - 1]) then
    return math.max(redis.call('PTTL', key), 1)
  end
end
for n, key in ipairs(KEYS) do
  if redis.call('INCR', key) == 1 then redis.call('PEXPIRE', key, ARGV[2 * n]) end
end
return 0
"""


class LoginThrottle:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def admit(self, login: str, address: str) -> None:
        """Count a try. Raises TooManyTries, or StoreUnreachable."""
        limits = OF_BOTH, OF_LOGIN, OF_ADDRESS
        counts = [text for limit in limits for text in (limit.tries, limit.within_s * 1000)]
        wait_ms = int(await self._store.call("EVAL", _TRY, 3, *_keys(login, address), *counts))
        if wait_ms:
            raise TooManyTries("Too many logins were tried.", -(-wait_ms // 1000))

    async def succeeded(self, login: str, address: str) -> None:
        """It was right: it does not count against the login, nor against others at this address."""
        both, _, of_address = _keys(login, address)
        await self._store.calls(("DEL", both), ("DECR", of_address))


def _keys(login: str, address: str) -> tuple[str, str, str]:
    return f"fh:{{login}}:both:{address}:{login}", f"fh:{{login}}:login:{login}", f"fh:{{login}}:address:{address}"
