"""Liveness, clause by clause: the key is the truth, and no late word knocks out the living or raises the dead."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from hub.errors import DesktopOffline, LivenessUnknown
from hub.liveness import ENDED_SESSIONS_KEPT_S, EPOCH_KEY, AliveSession, Arrival, Beat, Liveness, LivenessKeys
from hub.protocol.times import utc_now
from hub.store import Store, StoreUnreachable
from tests.hub.conftest import NOW, SHORT_TTL_S, SITE, TTL_S, heartbeat, is_settled, until


async def beat(keys: LivenessKeys, session: str = "s1", seq: int = 1, site: str = SITE) -> Beat:
    return await keys.beat(site, heartbeat(session, seq), 0.0)


async def live(keys: LivenessKeys, site: str = SITE) -> Liveness:
    return (await keys.read([site]))[0]


async def session_alive(keys: LivenessKeys) -> str | None:
    now = await live(keys)
    assert now.alive is (now.session is not None)
    return now.session


def gone(keys: LivenessKeys) -> Callable[[], Awaitable[bool]]:
    async def is_gone() -> bool:
        return (await live(keys)).alive is False

    return is_gone


async def expire(store: Store, site: str = SITE) -> None:
    """What Redis does when the time to live is over."""
    await store.redis.delete(f"fh:{{{site}}}:alive")


# --- the key -----------------------------------------------------------------------------------------------------


async def test_a_heartbeat_makes_its_site_alive_and_tells_everything_of_it(keys: LivenessKeys) -> None:
    before = utc_now()
    said = heartbeat("s1", 7, agent="CrystalOPC 3.2", plc={"connected": False})
    assert await keys.beat(SITE, said, clock_skew_s=-1.5) is Beat.STARTED
    now = await live(keys)
    assert (now.alive, now.session, now.journal_id, now.agent) == (True, "s1", "journal-1", "CrystalOPC 3.2")
    assert (now.plc_connected, now.clock_skew_s) == (False, -1.5)
    assert now.since is not None
    assert now.since == now.last_seen_at
    assert abs(now.since - before) < timedelta(seconds=2)
    assert now.expires_in_s is not None
    assert 0 <= now.expires_in_s <= TTL_S
    assert await keys.require_alive(SITE) == AliveSession("s1", "journal-1", 7)


async def test_a_heartbeat_that_says_nothing_of_its_plc_leaves_that_unknown(keys: LivenessKeys) -> None:
    await beat(keys)
    assert (await live(keys)).plc_connected is None


async def test_without_renewal_the_site_is_not_alive_after_one_ttl(keys: LivenessKeys) -> None:
    keys.ttl_s = SHORT_TTL_S
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await beat(keys)
    await until(gone(keys))
    assert loop.time() - began_s >= SHORT_TTL_S * 0.9
    with pytest.raises(DesktopOffline) as offline:
        await keys.require_alive(SITE)
    assert offline.value.last_seen_at == (await live(keys)).last_seen_at is not None


async def test_each_heartbeat_renews_the_key(store: Store, keys: LivenessKeys) -> None:
    await beat(keys, seq=1)
    since = (await live(keys)).since
    await store.redis.pexpire(f"fh:{{{SITE}}}:alive", 1000)
    assert await beat(keys, seq=2) is Beat.RENEWED
    now = await live(keys)
    assert now.expires_in_s is not None
    assert now.expires_in_s > 20
    assert now.since == since


async def test_a_heartbeat_that_waited_counts_only_for_what_is_left_of_its_time(keys: LivenessKeys) -> None:
    await keys.beat(SITE, heartbeat(), 0, waited_s=20)
    assert 0 < ((await live(keys)).expires_in_s or 0) <= 10


async def test_a_heartbeat_that_waited_takes_nobodys_place_who_came_after_it(keys: LivenessKeys) -> None:
    await beat(keys, "new", 1)
    assert await keys.beat(SITE, heartbeat("old", 1), 0, waited_s=5) is Beat.STALE
    assert await session_alive(keys) == "new"
    assert await beat(keys, "new", 2) is Beat.RENEWED


async def test_a_heartbeat_that_another_process_was_a_moment_faster_than_takes_nobodys_place(
    keys: LivenessKeys,
) -> None:
    await beat(keys, "new", 1)
    assert await keys.beat(SITE, heartbeat("old", 1), 0, waited_s=0.05) is Beat.STALE
    assert await session_alive(keys) == "new"


async def test_a_clock_that_is_put_back_keeps_nobody_out(store: Store, keys: LivenessKeys) -> None:
    await beat(keys, "old", 1)
    await store.redis.hincrby(f"fh:{{{SITE}}}:seen", "began_ms", 10_000)
    assert await keys.beat(SITE, heartbeat("new", 1), 0, waited_s=0.05) is Beat.REPLACED


async def test_sessions_that_waited_together_come_in_the_order_of_their_arrival(keys: LivenessKeys) -> None:
    assert await keys.beat(SITE, heartbeat("old", 1), 0, waited_s=9) is Beat.STARTED
    assert await keys.beat(SITE, heartbeat("new", 1), 0, waited_s=5) is Beat.REPLACED
    assert await session_alive(keys) == "new"


async def test_a_site_that_never_spoke_is_not_alive_and_was_never_seen(keys: LivenessKeys) -> None:
    assert await live(keys) == Liveness(SITE, alive=False)
    with pytest.raises(DesktopOffline) as offline:
        await keys.require_alive(SITE)
    assert offline.value.last_seen_at is None


async def test_when_a_site_was_last_seen_is_remembered_where_redis_does_not_know_it(keys: LivenessKeys) -> None:
    await beat(keys, "s1", site="pond9")
    seen_at = (await live(keys, "pond9")).last_seen_at
    await keys.remember({SITE: NOW, "pond9": NOW})
    assert (await live(keys)).last_seen_at == NOW
    assert (await live(keys, "pond9")).last_seen_at == seen_at
    assert await keys.beat(SITE, heartbeat("s1", 1), 0, waited_s=5) is Beat.STARTED
    await keys.remember({})


async def test_sites_are_read_in_the_order_asked_and_apart_from_each_other(keys: LivenessKeys) -> None:
    await beat(keys, "s1", site="pond7")
    await beat(keys, "s1", site="pond9")
    found = await keys.read(["pond9", "pond8", "pond7"])
    assert [(one.site, one.alive) for one in found] == [("pond9", True), ("pond8", False), ("pond7", True)]
    await keys.end("pond7", "s1")
    assert [one.alive for one in await keys.read(["pond7", "pond9"])] == [False, True]
    assert await keys.read([]) == []


async def test_a_forgotten_site_begins_anew(keys: LivenessKeys) -> None:
    await beat(keys, "s1", 5)
    await keys.end(SITE, "s1")
    await keys.forget(SITE)
    assert await live(keys) == Liveness(SITE, alive=False)
    assert await beat(keys, "s1", 1) is Beat.STARTED


# --- sessions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [0, 6, 7])
async def test_a_heartbeat_whose_seq_is_not_higher_renews_nothing(store: Store, keys: LivenessKeys, seq: int) -> None:
    await beat(keys, seq=7)
    await store.redis.pexpire(f"fh:{{{SITE}}}:alive", 1000)
    assert await beat(keys, seq=seq) is Beat.COUNTED
    assert ((await live(keys)).expires_in_s or 9) <= 1
    assert (await keys.require_alive(SITE)).seq == 7


async def test_a_replayed_heartbeat_does_not_raise_a_session_whose_key_has_expired(
    store: Store, keys: LivenessKeys
) -> None:
    await beat(keys, seq=7)
    await expire(store)
    assert await beat(keys, seq=7) is Beat.STALE
    assert await session_alive(keys) is None
    assert await beat(keys, seq=8) is Beat.STARTED
    assert await session_alive(keys) == "s1"


async def test_a_will_ends_its_session_at_once_and_for_good(keys: LivenessKeys) -> None:
    await beat(keys, seq=1)
    seen_at = (await live(keys)).last_seen_at
    assert await keys.end(SITE, "s1") == seen_at
    assert await session_alive(keys) is None
    assert await beat(keys, seq=2) is Beat.ENDED
    assert await session_alive(keys) is None
    assert await keys.end(SITE, "s1") is None


async def test_a_will_that_comes_before_the_first_heartbeat_ends_its_session_all_the_same(keys: LivenessKeys) -> None:
    assert await keys.end(SITE, "s1") is None
    assert await beat(keys, "s1") is Beat.ENDED
    assert await session_alive(keys) is None


async def test_late_will_of_an_old_session_leaves_the_new_one_alive(keys: LivenessKeys) -> None:
    await beat(keys, "s1")
    await beat(keys, "s2")
    assert await keys.end(SITE, "s1") is None
    assert await session_alive(keys) == "s2"


async def test_late_heartbeat_of_an_old_session_changes_nothing(keys: LivenessKeys) -> None:
    await beat(keys, "s1", 1)
    assert await beat(keys, "s2", 1) is Beat.REPLACED
    assert await beat(keys, "s1", 2) is Beat.ENDED
    assert await session_alive(keys) == "s2"
    assert await beat(keys, "s2", 2) is Beat.RENEWED


async def test_a_replaced_session_stays_ended_when_the_newer_one_is_gone(keys: LivenessKeys) -> None:
    await beat(keys, "s1", 1)
    await beat(keys, "s2", 1)
    await keys.end(SITE, "s2")
    assert await beat(keys, "s1", 2) is Beat.ENDED
    assert await session_alive(keys) is None


async def test_a_session_that_expired_before_the_next_one_began_has_ended_too(store: Store, keys: LivenessKeys) -> None:
    await beat(keys, "s1", 1)
    await expire(store)
    assert await beat(keys, "s2", 1) is Beat.STARTED
    await expire(store)
    assert await beat(keys, "s1", 2) is Beat.ENDED
    assert await beat(keys, "s2", 2) is Beat.STARTED


async def test_a_new_session_counts_its_seq_from_the_beginning(keys: LivenessKeys) -> None:
    await beat(keys, "s1", 900)
    assert await beat(keys, "s2", 0) is Beat.REPLACED
    assert await beat(keys, "s2", 1) is Beat.RENEWED


async def test_a_new_session_is_alive_since_it_began_and_inherits_no_facts(store: Store, keys: LivenessKeys) -> None:
    await keys.beat(SITE, heartbeat("s1", plc={"connected": True}), 0)
    await store.redis.hset(f"fh:{{{SITE}}}:alive", "since_ms", "1000")
    await beat(keys, "s2")
    now = await live(keys)
    assert now.plc_connected is None
    assert now.since is not None
    assert now.since == now.last_seen_at


async def test_ended_sessions_are_remembered_for_a_day_and_no_longer(store: Store, keys: LivenessKeys) -> None:
    ended = f"fh:{{{SITE}}}:ended"
    await keys.end(SITE, "s1")
    (seconds, _) = await store.redis.time()
    ms = seconds * 1000
    await store.redis.zadd(ended, {"s1": ms - (ENDED_SESSIONS_KEPT_S - 60) * 1000})
    await keys.end(SITE, "s2")
    assert await beat(keys, "s1", 2) is Beat.ENDED
    assert await store.redis.ttl(ended) > ENDED_SESSIONS_KEPT_S - 60
    await store.redis.zadd(ended, {"s1": ms - (ENDED_SESSIONS_KEPT_S + 60) * 1000})
    await keys.end(SITE, "s3")
    assert await store.redis.zscore(ended, "s1") is None
    assert await store.redis.zscore(ended, "s2") is not None


async def test_a_desktop_that_flaps_for_ever_does_not_fill_the_memory(store: Store, keys: LivenessKeys) -> None:
    await asyncio.gather(*(beat(keys, f"s{n}") for n in range(1500)))
    assert 900 < await store.redis.zcard(f"fh:{{{SITE}}}:ended") <= 1000


# --- several processes -------------------------------------------------------------------------------------------


async def test_two_processes_that_hear_the_same_heartbeat_start_one_session(
    keys: LivenessKeys, other_store: Store
) -> None:
    other = LivenessKeys(other_store, TTL_S)
    for n in range(20):
        session = f"s{n}"
        beats = await asyncio.gather(beat(keys, session), beat(other, session), beat(keys, session))
        first = Beat.REPLACED if n else Beat.STARTED
        assert sorted(beats) == sorted([first, Beat.COUNTED, Beat.COUNTED])


async def test_two_processes_that_hear_the_same_will_end_one_session(keys: LivenessKeys, other_store: Store) -> None:
    other = LivenessKeys(other_store, TTL_S)
    for n in range(20):
        await beat(keys, f"s{n}")
        ends = await asyncio.gather(keys.end(SITE, f"s{n}"), other.end(SITE, f"s{n}"))
        assert sorted(end is not None for end in ends) == [False, True]


async def test_of_sessions_that_come_at_once_to_two_processes_one_stays_and_both_see_it(
    keys: LivenessKeys, other_store: Store
) -> None:
    other = LivenessKeys(other_store, TTL_S)
    names = [f"s{n}" for n in range(20)]
    beats = await asyncio.gather(*(beat((keys, other)[n % 2], name) for n, name in enumerate(names)))
    assert sorted(beats) == sorted([Beat.STARTED] + [Beat.REPLACED] * 19)
    (holder,) = {await session_alive(keys), await session_alive(other)}
    assert holder in names
    again = await asyncio.gather(*(beat(keys, name, 2) for name in names))
    assert [name for name, outcome in zip(names, again, strict=True) if outcome is Beat.RENEWED] == [holder]
    assert again.count(Beat.ENDED) == 19


SESSIONS = st.sampled_from(["s1", "s2", "s3"])
WORDS = st.one_of(
    st.tuples(st.just("beat"), SESSIONS, st.integers(0, 4)),
    st.tuples(st.just("end"), SESSIONS, st.just(0)),
    st.tuples(st.just("expire"), st.just(""), st.just(0)),
)


class Model:
    """The clauses, said once more in plain Python."""

    def __init__(self) -> None:
        self.alive: str | None = None
        self.last: str | None = None
        self.seq: dict[str, int] = {}
        self.ended: set[str] = set()

    def beat(self, session: str, seq: int) -> Beat:
        if session in self.ended:
            return Beat.ENDED
        if session == self.last and seq <= self.seq[session]:
            return Beat.COUNTED if session == self.alive else Beat.STALE
        before, self.alive = self.alive, session
        self.ended |= {self.last} - {session, None}  # type: ignore[operator]  # None is taken out
        self.last, self.seq[session] = session, seq
        return Beat.RENEWED if before == session else Beat.REPLACED if before else Beat.STARTED

    def end(self, session: str) -> bool:
        self.ended.add(session)
        was_alive = self.alive == session
        self.alive = None if was_alive else self.alive
        return was_alive


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.tuples(WORDS, st.booleans()), max_size=25))
async def test_whatever_comes_in_whatever_order_to_whichever_process_the_clauses_hold(
    store: Store, other_store: Store, words: list[tuple[tuple[str, str, int], bool]]
) -> None:
    await store.redis.flushall()
    processes = [LivenessKeys(store, TTL_S), LivenessKeys(other_store, TTL_S)]
    await processes[0].begin_epoch(recovering=False)
    model = Model()
    for (word, session, seq), which in words:
        keys = processes[which]
        if word == "beat":
            assert await beat(keys, session, seq) is model.beat(session, seq)
        elif word == "end":
            assert (await keys.end(SITE, session) is not None) is model.end(session)
        else:
            await expire(store)
            model.alive = None
        assert await session_alive(processes[not which]) == model.alive


# --- asked by many -----------------------------------------------------------------------------------------------


async def test_who_asks_while_an_answer_is_on_its_way_gets_a_newer_one(
    store: Store, keys: LivenessKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer of Redis is kept back; meanwhile the desktop comes, and the second asks."""
    answered, go_on = asyncio.Event(), asyncio.Event()
    calls = store.calls

    async def slow(*commands: tuple[Any, ...]) -> list[Any]:
        replies = await calls(*commands)
        answered.set()
        await go_on.wait()
        return replies

    monkeypatch.setattr(store, "calls", slow)
    first = asyncio.create_task(keys.require_alive(SITE))
    await answered.wait()
    await beat(keys)
    second = asyncio.create_task(keys.require_alive(SITE))
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(DesktopOffline):
        await first
    assert (await second).session == "s1"


async def test_many_that_ask_at_once_cost_one_look_and_each_hears_of_its_own_site(
    store: Store, keys: LivenessKeys
) -> None:
    await beat(keys, site="pond1")
    before = (await store.redis.info("commandstats"))["cmdstat_hmget"]["calls"]
    sites = [f"pond{n % 4}" for n in range(100)]
    found = await asyncio.gather(*(keys.require_alive(site) for site in sites), return_exceptions=True)
    assert (await store.redis.info("commandstats"))["cmdstat_hmget"]["calls"] - before == 4
    for site, outcome in zip(sites, found, strict=True):
        if site == "pond1":
            assert outcome == AliveSession("s1", "journal-1", 1)
        else:
            assert isinstance(outcome, DesktopOffline)
            assert site in str(outcome)


async def test_while_some_are_unknown_who_is_alive_can_be_ordered_to(store: Store) -> None:
    keys = LivenessKeys(store, TTL_S)
    await beat(keys)
    found = await asyncio.gather(keys.require_alive(SITE), keys.require_alive("pond8"), return_exceptions=True)
    assert isinstance(found[0], AliveSession)
    assert isinstance(found[1], LivenessUnknown)


# --- not known ---------------------------------------------------------------------------------------------------


async def test_while_redis_is_away_nothing_is_known_and_nobody_is_declared_offline(no_store: Store) -> None:
    keys = LivenessKeys(no_store, TTL_S)
    assert await keys.read([SITE, "pond8"]) == [Liveness(SITE, None), Liveness("pond8", None)]
    with pytest.raises(LivenessUnknown):
        await keys.require_alive(SITE)
    with pytest.raises(StoreUnreachable):
        await beat(keys)
    with pytest.raises(StoreUnreachable):
        await keys.end(SITE, "s1")


async def test_a_redis_that_came_back_empty_knows_nothing_for_one_ttl_and_then_everything(store: Store) -> None:
    keys = LivenessKeys(store, SHORT_TTL_S)
    began_s = asyncio.get_running_loop().time()
    assert (await live(keys)).alive is None
    with pytest.raises(LivenessUnknown):
        await keys.require_alive(SITE)
    await until(lambda: is_settled(keys))
    assert asyncio.get_running_loop().time() - began_s >= SHORT_TTL_S * 0.9
    with pytest.raises(DesktopOffline):
        await keys.require_alive(SITE)


async def test_asking_first_with_a_change_begins_the_epoch_too(store: Store) -> None:
    keys = LivenessKeys(store, SHORT_TTL_S)
    with pytest.raises(LivenessUnknown):
        await keys.require_alive(SITE)
    await until(lambda: is_settled(keys))


async def test_who_is_heard_while_the_others_are_unknown_is_alive(store: Store) -> None:
    keys = LivenessKeys(store, TTL_S)
    await beat(keys)
    assert [one.alive for one in await keys.read([SITE, "pond8"])] == [True, None]
    assert (await keys.require_alive(SITE)).session == "s1"


async def test_the_living_are_unknown_and_not_offline_when_redis_loses_everything(
    store: Store, keys: LivenessKeys
) -> None:
    await beat(keys)
    await store.redis.flushall()
    assert (await live(keys)).alive is None
    assert await beat(keys, seq=2) is Beat.STARTED
    assert (await live(keys)).alive is True


async def test_a_key_that_ran_out_while_redis_could_not_be_reached_declares_nobody_offline(
    store: Store, other_store: Store, keys: LivenessKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.ttl_s = SHORT_TTL_S
    await beat(keys)

    async def cut_off() -> None:
        raise RedisConnectionError("the line is cut")

    monkeypatch.setattr(store.redis.connection_pool, "get_connection", cut_off)
    with pytest.raises(StoreUnreachable):
        await beat(keys, seq=2)
    monkeypatch.undo()
    await asyncio.sleep(SHORT_TTL_S)
    other = LivenessKeys(other_store, SHORT_TTL_S)
    assert (await live(keys)).alive is None
    assert (await live(other)).alive is None, "whichever process is asked"
    with pytest.raises(LivenessUnknown):
        await keys.require_alive(SITE)
    await until(gone(keys))
    assert (await live(other)).alive is False


async def test_two_processes_that_find_redis_empty_begin_one_epoch(store: Store, other_store: Store) -> None:
    one, other = LivenessKeys(store, TTL_S), LivenessKeys(other_store, TTL_S)
    for _ in range(10):
        await store.redis.flushall()
        found = await asyncio.gather(live(one), live(other), live(one), live(other))
        assert [now.alive for now in found] == [None] * 4
        epoch = await store.redis.get(EPOCH_KEY)
        assert (await live(other)).alive is None
        assert await store.redis.get(EPOCH_KEY) == epoch


async def test_a_second_process_that_starts_leaves_the_known_known(keys: LivenessKeys, other_store: Store) -> None:
    second = LivenessKeys(other_store, TTL_S)
    await second.begin_epoch(recovering=True)
    assert (await live(second)).alive is False
    assert (await live(keys)).alive is False


async def test_a_process_whose_own_broker_just_started_knows_that_nobody_is_there(store: Store) -> None:
    keys = LivenessKeys(store, TTL_S)
    await keys.begin_epoch(recovering=False)
    await until(lambda: is_settled(keys), within_s=1)


# --- the store ---------------------------------------------------------------------------------------------------


async def test_calls_of_one_turn_travel_together_and_are_answered_in_their_order(store: Store) -> None:
    before = (await store.redis.info("stats"))["total_commands_processed"]
    replies = await asyncio.gather(*(store.call("ECHO", str(n)) for n in range(1000)))
    assert replies == [str(n) for n in range(1000)]
    assert (await store.redis.info("stats"))["total_commands_processed"] - before >= 1000
    assert (await store.redis.info("clients"))["connected_clients"] <= 5


async def test_calls_of_later_turns_come_later(store: Store) -> None:
    calls = []
    for n in range(200):
        calls.append(store.call("RPUSH", "list", str(n)))
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert await store.redis.lrange("list", 0, -1) == [str(n) for n in range(200)]


async def test_a_wrong_call_fails_alone(store: Store) -> None:
    await store.call("SET", "text", "x")
    results = await asyncio.gather(
        store.call("ECHO", "a"), store.call("LPUSH", "text", "x"), store.call("ECHO", "b"), return_exceptions=True
    )
    assert results[0] == "a"
    assert results[2] == "b"
    assert isinstance(results[1], Exception)
    assert not isinstance(results[1], StoreUnreachable)


async def test_of_several_attempts_each_has_its_reply_or_its_error(store: Store) -> None:
    await store.call("SET", "text", "x")
    first, second, third = await store.attempts([("ECHO", "a"), ("LPUSH", "text", "x"), ("ECHO", "b")])
    assert (first, third) == ("a", "b")
    assert isinstance(second, ResponseError)


async def test_a_call_that_cannot_be_sent_fails_and_the_next_one_goes_on(store: Store) -> None:
    with pytest.raises(TypeError):
        await store.call("ECHO", object())
    assert await store.call("ECHO", "a") == "a"


async def test_scripts_that_redis_has_forgotten_are_sent_again_in_their_order(store: Store) -> None:
    push = "return redis.call('RPUSH', KEYS[1], ARGV[1])"
    await store.call("EVAL", push, 1, "list", "0")
    await store.redis.script_flush()
    assert await store.calls(*(("EVAL", push, 1, "list", str(n)) for n in (1, 2, 3))) == [2, 3, 4]
    assert await store.redis.lrange("list", 0, -1) == ["0", "1", "2", "3"]


async def test_heartbeats_together_do_what_each_would_do_alone(keys: LivenessKeys) -> None:
    beats = await keys.beats(
        [
            Arrival(SITE, heartbeat("s1", 1), 0),
            Arrival(SITE, heartbeat("s1", 2), 0),
            Arrival(SITE, heartbeat("s1", 2), 0),
            Arrival("pond8", heartbeat("s9", 1), 0),
            Arrival(SITE, heartbeat("s2", 1), 0),
            Arrival(SITE, heartbeat("s1", 3), 0),
            Arrival(SITE, heartbeat("s2", 2), 0, waited_s=TTL_S),
        ]
    )
    assert beats == [Beat.STARTED, Beat.RENEWED, Beat.COUNTED, Beat.STARTED, Beat.REPLACED, Beat.ENDED, Beat.STALE]


async def test_of_the_living_the_sessions_are_told_and_the_others_are_left_out(keys: LivenessKeys) -> None:
    await beat(keys, "s1")
    await beat(keys, "s9", site="pond9")
    await keys.end("pond9", "s9")
    assert await keys.sessions([SITE, "pond8", "pond9"]) == {SITE: "s1"}


async def test_a_caller_that_gave_up_leaves_the_others_alone(store: Store) -> None:
    calls = [store.call("ECHO", str(n)) for n in range(10)]
    calls[3].cancel()
    assert await asyncio.gather(*calls[:3], *calls[4:]) == [str(n) for n in range(10) if n != 3]


async def test_a_lost_connection_is_made_again_by_the_next_call(store: Store, other_store: Store) -> None:
    await store.call("PING")
    await other_store.redis.client_kill_filter(_type="normal", skipme=True)

    async def answers() -> bool:
        try:
            return bool(await store.call("PING"))
        except StoreUnreachable:
            return False

    await until(answers)
