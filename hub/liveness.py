"""Liveness: one Redis key per site, with a time to live that each heartbeat renews. There = alive, gone = not alive.

The rules stand in two scripts that Redis runs in one step, so that any number of hub processes, late wills and late
heartbeats come to the same truth:

- a heartbeat renews only if its session has not ended and its `seq` is higher than the last one seen of it;
- a new session replaces an older one, which thereby has ended for good (remembered for 24 h); new is who arrived later:
  a heartbeat that had to wait (Redis or the database was away) takes nobody's place who came after it;
- a will or a shutdown ends its session for good, and deletes the key only if the key is that session's.

Redis that came back empty knows nothing of the living. Its epoch key is missing then; whoever notices writes a new one
and, for one time to live, a `recovering` key beside it: while that is there, a missing liveness key means *unknown*. So
does whoever reaches Redis again after a time without it: keys ran out then that nobody could renew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from ulid import ULID

from hub.errors import DesktopOffline, LivenessUnknown
from hub.protocol.messages import Heartbeat
from hub.store import Store, StoreUnreachable
from hub.together import Together

ENDED_SESSIONS_KEPT_S: Final = 24 * 3600
ENDED_SESSIONS_KEPT: Final = 1000
ROUNDED_MS: Final = 2
"""Times of arrival that differ by no more than that may be the same: they are reckoned from two roundings."""
EPOCH_KEY: Final = "{fh}:epoch"
RECOVERING_KEY: Final = "{fh}:recovering"

_REMEMBER_ENDED: Final = f"""
local function remember_ended(key, session, now_ms)
  redis.call('ZADD', key, now_ms, session)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms - {ENDED_SESSIONS_KEPT_S * 1000})
  redis.call('ZREMRANGEBYRANK', key, 0, -{ENDED_SESSIONS_KEPT + 1})
  redis.call('PEXPIRE', key, {ENDED_SESSIONS_KEPT_S * 1000})
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: alive, ended, seen. ARGV: session, seq, ttl_ms, waited_ms, then the facts (field, value, ...).
# `ttl_ms` is what is left of it: a heartbeat that waited for longer proves nothing any more.
# `began_ms` in what was seen: when the first heartbeat of that session that counted had arrived.
_HEARTBEAT: Final = (
    _REMEMBER_ENDED
    + f"local rounded_ms = {ROUNDED_MS}"
    + """
local session, seq, waited_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local arrived_ms = now_ms - waited_ms
if redis.call('ZSCORE', KEYS[2], session) then return 'ended' end
if tonumber(ARGV[3]) <= 0 then return 'stale' end
local seen = redis.call('HMGET', KEYS[3], 'session', 'seq', 'began_ms')
local holder = redis.call('HGET', KEYS[1], 'session')
if seen[1] == session and tonumber(seen[2]) >= seq then return holder == session and 'counted' or 'stale' end
local others_began_ms = seen[1] ~= session and tonumber(seen[3] or 0) or 0
local is_past = others_began_ms <= now_ms -- or the clock was put back meanwhile: that keeps nobody out
if is_past and others_began_ms > arrived_ms + rounded_ms then return 'stale' end
local outcome = 'renewed'
if holder ~= session then
  outcome = holder and 'replaced' or 'started'
  for _, older in ipairs({holder or session, seen[1] or session}) do
    if older ~= session then remember_ended(KEYS[2], older, now_ms) end
  end
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'since_ms', now_ms)
end
redis.call('HSET', KEYS[1], 'session', session, 'seq', ARGV[2], 'last_seen_ms', now_ms, unpack(ARGV, 5))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if seen[1] ~= session then redis.call('HSET', KEYS[3], 'began_ms', arrived_ms) end
redis.call('HSET', KEYS[3], 'session', session, 'seq', ARGV[2], 'last_seen_ms', now_ms)
return outcome
"""
)

# KEYS: alive, ended. ARGV: session.
_END: Final = (
    _REMEMBER_ENDED
    + """
remember_ended(KEYS[2], ARGV[1], now_ms)
local last_seen_ms = redis.call('HGET', KEYS[1], 'last_seen_ms')
if redis.call('HGET', KEYS[1], 'session') ~= ARGV[1] then return nil end
redis.call('DEL', KEYS[1])
return last_seen_ms
"""
)


# KEYS: epoch, recovering. ARGV: the new epoch, ttl_ms (0: nobody can be alive).
_BEGIN_EPOCH: Final = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX') and tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
end
"""


class Beat(StrEnum):
    """What a heartbeat did.

    COUNTED: nothing, as it had been counted before, by another hub process it may be; its session is alive.
    STALE: nothing; it proves nothing. ENDED: nothing, as its session has ended for good.
    """

    STARTED = "started"
    REPLACED = "replaced"
    RENEWED = "renewed"
    COUNTED = "counted"
    STALE = "stale"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Liveness:
    """Whether a site's desktop is alive, by the key. `alive` None means that it is not known now."""

    site: str
    alive: bool | None
    session: str | None = None
    journal_id: str | None = None
    since: datetime | None = None
    last_seen_at: datetime | None = None
    expires_in_s: float | None = None
    agent: str | None = None
    plc_connected: bool | None = None
    clock_skew_s: float | None = None


@dataclass(frozen=True, slots=True)
class AliveSession:
    """Whom a command is addressed to: the session that is alive now, its journal, and its newest heartbeat."""

    session: str
    journal_id: str
    seq: int


class Arrival(NamedTuple):
    """A live heartbeat. `waited_s`: how long ago it arrived, where Redis or the database was away in between."""

    site: str
    heartbeat: Heartbeat
    clock_skew_s: float
    waited_s: float = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """settled: whether a session that is not there is gone, and not unknown."""

    alive: AliveSession | None
    last_seen_ms: str | None
    settled: bool


def _alive_key(site: str) -> str:
    return f"fh:{{{site}}}:alive"


def _ended_key(site: str) -> str:
    return f"fh:{{{site}}}:ended"


def _seen_key(site: str) -> str:
    return f"fh:{{{site}}}:seen"


def _moment(ms: str | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(int(ms) / 1000, UTC)


class LivenessKeys:
    """The keys of all sites. `ttl_s`: how long one heartbeat counts."""

    def __init__(self, store: Store, ttl_s: float) -> None:
        self._store = store
        self._failures_seen = store.failures
        self._look_ups = Together(self._look_up)
        self.ttl_s = ttl_s

    # --- what arrives ----------------------------------------------------------------------------------------

    async def beat(self, site: str, heartbeat: Heartbeat, clock_skew_s: float, waited_s: float = 0) -> Beat:
        """Take in one live heartbeat. Raises StoreUnreachable."""
        return Beat(await self._store.call(*self._beat(Arrival(site, heartbeat, clock_skew_s, waited_s))))

    async def beats(self, arrivals: Sequence[Arrival]) -> list[Beat | Exception]:
        """Take in live heartbeats in their order, in one exchange; for each what it did, or why it could not."""
        replies = await self._store.attempts([self._beat(arrival) for arrival in arrivals])
        return [reply if isinstance(reply, Exception) else Beat(reply) for reply in replies]

    def _beat(self, arrival: Arrival) -> tuple[Any, ...]:
        """The call to Redis."""
        site, heartbeat, clock_skew_s, waited_s = arrival
        plc = () if heartbeat.plc is None else ("plc_connected", int(heartbeat.plc.connected))
        return (
            *("EVAL", _HEARTBEAT, 3, _alive_key(site), _ended_key(site), _seen_key(site)),
            *(heartbeat.session, heartbeat.seq, round((self.ttl_s - waited_s) * 1000), round(waited_s * 1000)),
            *("journal_id", heartbeat.journal_id, "agent", heartbeat.agent, "clock_skew_s", f"{clock_skew_s:.3f}"),
            *plc,
        )

    async def end(self, site: str, session: str) -> datetime | None:
        """End a session for good; when it was last seen, if it was the one that was alive, else None."""
        return _moment(await self._store.call("EVAL", _END, 2, _alive_key(site), _ended_key(site), session))

    async def remember(self, last_seen: Mapping[str, datetime]) -> None:
        """When sites were last seen, for those of which Redis does not know. Raises StoreUnreachable."""
        for_redis = {_seen_key(site): round(at.timestamp() * 1000) for site, at in last_seen.items()}
        await self._store.calls(*(("HSETNX", key, "last_seen_ms", ms) for key, ms in for_redis.items()))

    async def forget(self, site: str) -> None:
        """Drop everything about a site that is deleted."""
        await self._store.call("DEL", _alive_key(site), _ended_key(site), _seen_key(site))

    # --- what is asked ---------------------------------------------------------------------------------------

    async def require_alive(self, site: str) -> AliveSession:
        """The session to address. Raises DesktopOffline or LivenessUnknown."""
        try:
            found = await self._look_ups.ask(site)
        except StoreUnreachable as error:
            raise LivenessUnknown(
                f"Whether the desktop of site {site} is alive cannot be known now: {error}"
            ) from error
        if found.alive is not None:
            return found.alive
        if not found.settled:
            raise LivenessUnknown(
                f"The liveness store came back empty; for {self.ttl_s:g} s it is not known whether the desktop of site "
                f"{site} is alive. Nothing was sent; try again then."
            )
        raise DesktopOffline(site, _moment(found.last_seen_ms))

    async def _look_up(self, sites: list[str]) -> list[_Found]:
        """The living sessions of some sites, in their order."""
        commands: list[tuple[Any, ...]] = [("MGET", EPOCH_KEY, RECOVERING_KEY)]
        for site in sites:
            commands += [
                ("HMGET", _alive_key(site), "session", "journal_id", "seq"),
                ("HGET", _seen_key(site), "last_seen_ms"),
            ]
        epoch, *replies = await self._look(*commands)
        alive = [
            None if session is None else AliveSession(session, journal_id, int(seq))
            for session, journal_id, seq in replies[::2]
        ]
        settled = None not in alive or await self._is_settled(epoch)
        return [_Found(each, ms, settled) for each, ms in zip(alive, replies[1::2], strict=True)]

    async def read(self, sites: list[str]) -> list[Liveness]:
        """The liveness of some sites, in their order; unknown (and no error) where Redis does not answer."""
        if not sites:
            return []
        commands: list[tuple[Any, ...]] = [("MGET", EPOCH_KEY, RECOVERING_KEY)]
        for site in sites:
            commands += [
                ("HGETALL", _alive_key(site)),
                ("PTTL", _alive_key(site)),
                ("HGET", _seen_key(site), "last_seen_ms"),
            ]
        try:
            epoch, *replies = await self._look(*commands)
            settled = await self._is_settled(epoch)
        except StoreUnreachable:
            return [Liveness(site, None) for site in sites]
        return [
            _liveness(site, replies[3 * n], replies[3 * n + 1], replies[3 * n + 2], settled)
            for n, site in enumerate(sites)
        ]

    async def sessions(self, sites: Sequence[str]) -> dict[str, str]:
        """The sessions of those sites that have a key now. That one is missing may mean several things: see `read`.

        Whoever asks again and again notices here that Redis was away, or came back empty, also while every site has its
        key. Raises StoreUnreachable.
        """
        epoch, *found = await self._look(
            ("MGET", EPOCH_KEY, RECOVERING_KEY), *(("HGET", _alive_key(site), "session") for site in sites)
        )
        await self._is_settled(epoch)
        return {site: session for site, session in zip(sites, found, strict=True) if session is not None}

    @property
    def must_look_anew(self) -> bool:
        """Whether Redis was away since somebody looked: keys may have run out that nobody could renew."""
        return self._store.failures != self._failures_seen

    async def _look(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Replies to calls that only read, and that a key may be missing for want of heartbeats is taken care of."""
        while True:
            failures = self._store.failures
            if self.must_look_anew:
                await self._store.call("SET", RECOVERING_KEY, "1", "PX", round(self.ttl_s * 1000))
                self._failures_seen = failures
            replies = await self._store.calls(*commands)
            if self._store.failures == failures:
                return replies

    async def _is_settled(self, epoch: list[str | None]) -> bool:
        """Whether a missing key means that a desktop is gone. Begins a new epoch where there is none."""
        known, recovering = epoch
        if known is None:
            await self.begin_epoch(recovering=True)
            return False
        return recovering is None

    async def begin_epoch(self, *, recovering: bool) -> None:
        """Write the epoch key where it is missing; `recovering` False: it is certain that nobody is alive."""
        ttl_ms = round(self.ttl_s * 1000) if recovering else 0
        await self._store.call("EVAL", _BEGIN_EPOCH, 2, EPOCH_KEY, RECOVERING_KEY, str(ULID()), ttl_ms)


def _liveness(site: str, facts: dict[str, str], pttl_ms: int, last_seen_ms: str | None, settled: bool) -> Liveness:
    if not facts:
        return Liveness(site, False if settled else None, last_seen_at=_moment(last_seen_ms))
    plc = facts.get("plc_connected")
    return Liveness(
        site,
        alive=True,
        session=facts["session"],
        journal_id=facts["journal_id"],
        since=_moment(facts["since_ms"]),
        last_seen_at=_moment(facts["last_seen_ms"]),
        expires_in_s=max(0, pttl_ms) / 1000,
        agent=facts["agent"],
        plc_connected=None if plc is None else plc == "1",
        clock_skew_s=float(facts["clock_skew_s"]),
    )
