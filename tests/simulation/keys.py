"""Redis as the hub sees it: the commands that it uses, the hub's own Lua scripts, keys that expire in virtual time.

There are no expiry events here: they are best effort, and the hub has to do without.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from lupa.lua51 import LuaRuntime
from redis.exceptions import ConnectionError as RedisConnectionError

from hub.store import Store

_LUA = LuaRuntime(unpack_returned_tuples=True)
_SCRIPTS: dict[str, Any] = {}


@dataclass
class Keys:
    """The keys. `now_ms` is the server's own clock."""

    now_ms: Callable[[], int]
    values: dict[str, Any] = field(default_factory=dict)
    expires_at_ms: dict[str, int] = field(default_factory=dict)
    gone: Callable[[str, Any], None] = lambda _key, _value: None
    """Told of every key that a command deletes, with what it was. Of one that expires nobody is told."""

    def __post_init__(self) -> None:
        self._commands: dict[str, Callable[..., Any]] = {
            name.removeprefix("_do_").upper(): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }
        self._redis = _LUA.table_from({"call": self._call_from_lua})

    def run(self, name: str, *args: Any) -> Any:
        """One command, in one step."""
        return self._commands[name](*args)

    def flush(self) -> None:
        """The server came back empty."""
        self.values.clear()
        self.expires_at_ms.clear()

    def get(self, key: str) -> Any:
        ends_ms = self.expires_at_ms.get(key)
        if ends_ms is not None and ends_ms <= self.now_ms():
            del self.values[key], self.expires_at_ms[key]
        return self.values.get(key)

    def _hash(self, key: str) -> dict[str, str]:
        value: dict[str, str] = self.get(key) or {}
        return value

    # --- strings and hashes ------------------------------------------------------------------------------------

    def _do_get(self, key: str) -> Any:
        return self.get(key)

    def _do_exists(self, key: str) -> int:
        return int(self.get(key) is not None)

    def _do_mget(self, *keys: str) -> list[str | None]:
        return [self.get(key) for key in keys]

    def _do_set(self, key: str, value: str, *options: str) -> str | None:
        if "NX" in options and self.get(key) is not None:
            return None
        self._do_del(key)
        self.values[key] = value
        if "PX" in options:
            self._do_pexpire(key, options[options.index("PX") + 1])
        return "OK"

    def _do_hget(self, key: str, name: str) -> str | None:
        return self._hash(key).get(name)

    def _do_hmget(self, key: str, *names: str) -> list[str | None]:
        found = self._hash(key)
        return [found.get(name) for name in names]

    def _do_hgetall(self, key: str) -> dict[str, str]:
        return dict(self._hash(key))

    def _do_hset(self, key: str, *pairs: str) -> int:
        self.get(key)
        self.values.setdefault(key, {}).update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(pairs) // 2

    # --- sorted sets -------------------------------------------------------------------------------------------

    def _do_zadd(self, key: str, score: str, member: str) -> int:
        self.get(key)
        self.values.setdefault(key, {})[member] = float(score)
        return 1

    def _do_zscore(self, key: str, member: str) -> str | None:
        score = (self.get(key) or {}).get(member)
        return None if score is None else str(score)

    def _do_zremrangebyscore(self, key: str, low: str, high: str) -> int:
        members = self.get(key) or {}
        old = [member for member, score in members.items() if float(low) <= score <= float(high)]
        for member in old:
            del members[member]
        return len(old)

    def _do_zremrangebyrank(self, key: str, first: str, last: str) -> int:
        members = self.get(key) or {}
        ranked = sorted(members, key=lambda member: (members[member], member))
        stop = int(last) if int(last) >= 0 else len(ranked) + int(last)
        old = ranked[int(first) : stop + 1] if stop >= 0 else []
        for member in old:
            del members[member]
        return len(old)

    # --- all keys ----------------------------------------------------------------------------------------------

    def _do_del(self, *keys: str) -> int:
        found = [key for key in keys if self.get(key) is not None]
        for key in found:
            value = self.values.pop(key)
            self.expires_at_ms.pop(key, None)
            self.gone(key, value)
        return len(found)

    def _do_unlink(self, *keys: str) -> int:
        return self._do_del(*keys)

    def _do_pexpire(self, key: str, ttl_ms: str) -> int:
        self.expires_at_ms[key] = self.now_ms() + int(ttl_ms)
        return 1

    def _do_pttl(self, key: str) -> int:
        if self.get(key) is None:
            return -2
        return self.expires_at_ms[key] - self.now_ms() if key in self.expires_at_ms else -1

    def _do_time(self) -> list[str]:
        ms = self.now_ms()
        return [str(ms // 1000), str(ms % 1000 * 1000)]

    # --- what only tells people: nothing here depends on it ------------------------------------------------------

    def _do_xadd(self, key: str, *_args: Any) -> str:
        self.values.setdefault(key, "a stream")
        return "0-1"

    def _do_sadd(self, *_args: Any) -> int:
        return 1

    def _do_lpush(self, *_args: Any) -> int:
        return 1

    def _do_ltrim(self, *_args: Any) -> str:
        return "OK"

    def _do_expire(self, *_args: Any) -> int:
        return 1

    # --- scripts -----------------------------------------------------------------------------------------------

    def _do_eval(self, script: str, count: int, *args: Any) -> Any:
        run = _SCRIPTS.get(script)
        if run is None:
            run = _SCRIPTS[script] = _LUA.execute(f"return function(KEYS, ARGV, redis) {script} end")
        texts = [str(arg) for arg in args]
        result = run(_LUA.table_from(texts[:count]), _LUA.table_from(texts[count:]), self._redis)
        return None if result is False else result

    def _call_from_lua(self, name: str, *args: Any) -> Any:
        """Redis gives a script `false` for nil, and takes numbers as their text."""
        reply = self.run(name, *[_text(arg) for arg in args])
        if isinstance(reply, list):
            return _LUA.table_from([False if one is None else one for one in reply])
        return False if reply is None else reply


def _text(arg: Any) -> str:
    return str(int(arg)) if isinstance(arg, float) and arg.is_integer() else str(arg)


class SimulatedStore(Store):
    """A hub process's Redis client. `exchange` carries what is to be run there, and brings its replies back."""

    def __init__(self, exchange: Callable[[Callable[[], list[Any]]], Awaitable[list[Any]]], keys: Keys) -> None:
        super().__init__("redis://nowhere")
        self._over_the_network = exchange
        self._keys = keys

    async def _exchange(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        return await self._over_the_network(lambda: [self._keys.run(*command) for command in commands])


def unreachable() -> RedisConnectionError:
    return RedisConnectionError("simulated: connection lost")
