"""The live stream across processes: nothing lost, nothing twice, the slow let go, and all let go at the stop."""

import asyncio

import pytest
import redis.exceptions

import hub.stream
from hub.store import Store
from hub.stream import (
    EPOCH_KEY,
    GAP,
    LISTENER_BACKLOG,
    LISTENER_BACKLOG_BYTES,
    STREAM_KEY,
    Entry,
    Listener,
    LiveStream,
    StreamEnded,
    place_of,
)
from tests.hub.conftest import SITE, Overheard, until


async def numbers(stream: LiveStream, after: str | None, count: int) -> tuple[list[int], str | None]:
    """The next so many entries' numbers, and the last id."""
    found, last = [], after
    async with asyncio.timeout(5):
        async for entry in stream.follow(after):
            found.append(entry.data["n"])
            last = entry.id
            if len(found) == count:
                break
    return found, last


async def now_in(stream: LiveStream) -> str:
    """The id of the newest entry."""
    return str((await stream.look()).newest)


async def told_after(stream: LiveStream, after: str, count: int) -> list[Entry]:
    """The next so many entries, gaps among them."""
    found: list[Entry] = []
    async with asyncio.timeout(5):
        async for entry in stream.follow(after):
            found.append(entry)
            if len(found) == count:
                break
    return found


def in_short(entries: list[Entry]) -> list[object]:
    """Of entries their numbers, of gaps their reasons."""
    return [entry.data["reason"] if entry.kind == GAP else entry.data["n"] for entry in entries]


async def stored(store: Store, count: int) -> None:
    async def enough() -> bool:
        return int(await store.redis.xlen(STREAM_KEY)) >= count

    await until(enough)


async def test_what_one_process_publishes_another_hears_in_order(stream: LiveStream, other_store: Store) -> None:
    async with LiveStream(other_store, 1000) as other, Overheard(other) as there, Overheard(stream) as here:
        for n in range(100):
            stream.publish("state", SITE, {"n": n})
        for heard in (there, here):
            assert [told["n"] for told in await heard.hear("state", 100)] == list(range(100))
            assert {entry.site for entry in heard.entries} == {SITE}


async def test_who_comes_without_an_id_hears_only_what_comes_from_then_on(stream: LiveStream, store: Store) -> None:
    stream.publish("state", SITE, {"n": 0})
    await stored(store, 1)
    async with Overheard(stream) as heard:
        stream.publish("state", SITE, {"n": 1})
        await heard.hear("state")
        await heard.settled()
        assert [told["n"] for told in heard.told("state")] == [1]


async def test_the_stream_is_read_while_somebody_listens(
    stream: LiveStream, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read = [], store.redis.xread

    async def counted(*how: object) -> object:
        reads.append(how)
        return await read(*how)

    monkeypatch.setattr(store.redis, "xread", counted)
    for n in range(3):
        stream.publish("state", SITE, {"n": n})
    await stored(store, 3)
    assert not reads
    for n in (3, 4):  # the second comes when the first has gone
        async with Overheard(stream) as heard:
            stream.publish("state", SITE, {"n": n})
            await heard.hear("state")
            assert [told["n"] for told in heard.told("state")] == [n]
    assert reads


async def test_who_comes_back_with_its_last_id_misses_nothing_and_hears_nothing_twice(
    stream: LiveStream, other_store: Store
) -> None:
    last: str | None = await now_in(stream)
    heard: list[int] = []

    async def publish() -> None:
        for n in range(300):
            stream.publish("state", SITE, {"n": n})
            await asyncio.sleep(0)

    publishing = asyncio.create_task(publish())
    async with LiveStream(other_store, 1000) as other:
        while len(heard) < 300:  # by turns at two processes, cut off every few entries
            some, last = await numbers((stream, other)[len(heard) % 2], last, min(7, 300 - len(heard)))
            heard += some
    await publishing
    assert heard == list(range(300))


async def test_a_listener_that_falls_behind_is_let_go_with_what_fits_and_comes_back_for_the_rest(
    stream: LiveStream, store: Store, other_store: Store
) -> None:
    count = LISTENER_BACKLOG + 500
    start = await now_in(stream)
    listener = stream.follow(start)
    waiting = asyncio.ensure_future(anext(listener))
    await asyncio.sleep(0.05)
    for n in range(count):
        stream.publish("state", SITE, {"n": n})
    heard: list[Entry] = [await asyncio.wait_for(waiting, 5)]
    async with LiveStream(other_store, 10_000) as other:
        assert (await numbers(other, start, count))[0] == list(range(count))  # it stalls until all have come
    await stored(store, count + 1)
    await asyncio.sleep(0.1)
    try:
        while True:
            heard.append(await asyncio.wait_for(anext(listener), 1))
    except StreamEnded:
        pass
    assert len(heard) <= LISTENER_BACKLOG + 2
    rest, _ = await numbers(stream, heard[-1].id, count - len(heard))
    assert [entry.data["n"] for entry in heard] + rest == list(range(count))


async def test_at_the_stop_every_listener_is_let_go(store: Store) -> None:
    async with LiveStream(store, 1000) as stream:
        listeners = [asyncio.ensure_future(anext(stream.follow())) for _ in range(5)]
        await asyncio.sleep(0.05)
        stream.end_listeners()
        for ended in await asyncio.wait_for(asyncio.gather(*listeners, return_exceptions=True), 1):
            assert isinstance(ended, StreamEnded)


async def test_at_the_stop_listeners_are_let_go_though_redis_is_away(no_store: Store) -> None:
    async with LiveStream(no_store, 1000) as stream:
        listener = asyncio.ensure_future(anext(stream.follow()))
        await asyncio.sleep(0.05)
        stream.end_listeners()
        with pytest.raises(StreamEnded):
            await asyncio.wait_for(listener, 1)


async def test_it_stops_at_once_however_busy_it_is(store: Store) -> None:
    for n in range(20):
        stream = LiveStream(store, 1000)
        async with asyncio.timeout(5):
            async with stream:
                for _ in range(n % 4):
                    stream.publish("state", SITE, {"n": n})
                await asyncio.sleep(n * 0.0005)


async def test_a_redis_that_came_back_empty_is_followed_on(
    stream: LiveStream, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.stream, "_PAUSE_AFTER_FAULT_S", 0.02)
    async with Overheard(stream) as heard:
        stream.publish("state", SITE, {"n": 1})
        await heard.hear("state")
        await store.redis.flushall()
        await store.redis.client_kill_filter(_type="normal", skipme=True)
        stream.publish("state", SITE, {"n": 2})
        await heard.hear("state", 2)
        await heard.settled()
        assert [told["n"] for told in heard.told("state")] == [1, 2]


async def test_what_is_published_while_a_process_loses_its_connection_reaches_its_listeners(
    stream: LiveStream, other_store: Store
) -> None:
    async with Overheard(stream) as heard:
        await other_store.redis.client_kill_filter(_type="normal", skipme=True)
        for n in range(20):
            await other_store.redis.xadd(STREAM_KEY, {"kind": "state", "site": SITE, "data": f'{{"n": {n}}}'})
        assert [told["n"] for told in await heard.hear("state", 20)] == list(range(20))


async def test_redis_keeps_about_as_many_entries_as_it_is_told(store: Store) -> None:
    async with LiveStream(store, keep_events=100) as stream:
        for n in range(1000):
            stream.publish("state", SITE, {"n": n})
        await store.call("PING")
        assert 100 <= await store.redis.xlen(STREAM_KEY) <= 300


# --- what is missed is told ----------------------------------------------------------------------------------------


async def test_who_was_away_for_longer_than_is_kept_is_told_and_given_the_rest(store: Store) -> None:
    async with LiveStream(store, keep_events=100) as stream:
        start = await now_in(stream)
        for n in range(1000):
            stream.publish("state", SITE, {"n": n})
        await store.call("PING")
        kept = [int(fields["data"].partition('"n":')[2][:-1]) for _, fields in await store.redis.xrange(STREAM_KEY)]
        assert kept[0] > 0
        told = await told_after(stream, start, len(kept) + 1)
    assert in_short(told) == ["not_kept", *kept]


async def test_the_oldest_that_is_kept_is_a_place_without_a_gap(store: Store) -> None:
    async with LiveStream(store, keep_events=100) as stream:
        for n in range(1000):
            stream.publish("state", SITE, {"n": n})
        await store.call("PING")
        (first_id, _), *kept = await store.redis.xrange(STREAM_KEY)
        epoch = (await stream.look()).epoch
        told = await told_after(stream, f"{epoch}-{first_id}", len(kept))
    assert [entry.kind for entry in told] == ["state"] * len(kept)


async def test_who_comes_back_to_an_emptied_redis_is_told_and_given_what_the_new_one_has(
    stream: LiveStream, store: Store
) -> None:
    stream.publish("state", SITE, {"n": 1})
    last = await now_in(stream)
    await store.redis.flushall()
    stream.publish("state", SITE, {"n": 2})
    told = await told_after(stream, last, 2)
    assert in_short(told) == ["begun_anew", 2]
    assert {entry.place.epoch for entry in told} == {(await stream.look()).epoch} != {last.partition("-")[0]}
    assert in_short(await told_after(stream, told[0].id, 1)) == [2]


@pytest.mark.parametrize("last", ["0-0", "1795380780917-0", "abc-1795380780917-0", f"abc-{2**64 - 2}-0"])
async def test_an_id_of_no_epoch_or_another_one_is_a_gap(stream: LiveStream, last: str) -> None:
    stream.publish("state", SITE, {"n": 1})
    assert in_short(await told_after(stream, last, 2)) == ["begun_anew", 1]


async def test_whoever_listens_while_redis_is_emptied_is_told_once(
    stream: LiveStream, store: Store, other_store: Store
) -> None:
    async with LiveStream(other_store, 1000) as other, Overheard(stream) as here, Overheard(other) as there:
        stream.publish("state", SITE, {"n": 1})
        await there.hear("state")
        await here.hear("state")
        await store.redis.flushall()
        other.publish("state", SITE, {"n": 2})
        for heard in (here, there):
            await heard.hear("state", 2)
            await heard.settled()
            assert in_short(heard.entries) == [1, "begun_anew", 2]


async def test_a_redis_whose_stream_is_older_than_what_was_heard_begins_a_new_epoch(
    stream: LiveStream, store: Store
) -> None:
    async with Overheard(stream) as heard:
        stream.publish("state", SITE, {"n": 1})
        await heard.hear("state")
        before = await now_in(stream)
        newest = await store.redis.xrevrange(STREAM_KEY, count=1)
        rest = await store.redis.xrange(STREAM_KEY, max=f"({newest[0][0]}")
        async with store.redis.pipeline() as restored:
            restored.delete(STREAM_KEY)
            for entry_id, fields in rest:
                restored.xadd(STREAM_KEY, fields, id=entry_id)
            await restored.execute()
        [gap] = await heard.hear(GAP)
        assert gap["reason"] == "begun_anew"
        stream.publish("state", SITE, {"n": 2})
        await heard.hear("state", 2)
        assert (await now_in(stream)).partition("-")[0] != before.partition("-")[0]


async def test_a_stream_without_its_epoch_begins_anew(stream: LiveStream, store: Store) -> None:
    async with Overheard(stream) as heard:
        stream.publish("state", SITE, {"n": 1})
        await heard.hear("state")
        await store.redis.delete(EPOCH_KEY)
        stream.publish("state", SITE, {"n": 2})
        await heard.hear("state", 2)
        assert in_short(heard.entries) == [1, "begun_anew", 2]


async def test_what_could_not_be_told_is_a_gap_for_everybody_once_redis_answers(
    stream: LiveStream, store: Store, other_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.stream, "_PAUSE_AFTER_FAULT_S", 0.02)
    async with LiveStream(other_store, 1000) as other, Overheard(other) as heard:

        async def away(*_: object) -> None:
            raise redis.exceptions.ConnectionError("away")

        with monkeypatch.context() as cut:
            cut.setattr(store, "_pipeline", away)
            stream.publish("state", SITE, {"n": 1})
            await store.attempts([("PING",)])
        stream.publish("state", SITE, {"n": 2})
        [gap] = await heard.hear(GAP)
        assert gap == {"site": None, "reason": "lost"}
        assert [told["n"] for told in await heard.hear("state")] == [2]


async def test_a_process_that_was_killed_may_have_lost_something_and_one_that_stopped_has_not(
    stream: LiveStream, other_store: Store
) -> None:
    async with Overheard(stream) as heard:
        for _ in range(3):
            async with LiveStream(other_store, 1000, "h2") as other:
                other.publish("state", SITE, {"n": 1})
        await heard.settled()
        assert heard.told(GAP) == []
        killed = LiveStream(other_store, 1000, "h2")
        killed.publish("state", SITE, {"n": 2})
        async with LiveStream(other_store, 1000, "h2"):
            assert [gap["reason"] for gap in await heard.hear(GAP)] == ["lost"]


async def test_a_listener_is_let_go_when_too_many_bytes_wait_for_it(stream: LiveStream) -> None:
    listener = stream.listen()
    try:
        while not stream.is_reading:
            await listener.take()
        assert await listener_is_ready(listener) == []
        big = "x" * (LISTENER_BACKLOG_BYTES // 10)
        for n in range(12):
            stream.publish("state", SITE, {"n": n, "text": big})

        async def is_ended() -> bool:
            return listener.ended

        await until(is_ended)
        waiting = await listener.take()
        assert [entry.data["n"] for entry in waiting] == list(range(len(waiting)))
        assert len(waiting) < 12
        with pytest.raises(StreamEnded):
            await listener.take()
    finally:
        stream.leave(listener)


async def listener_is_ready(listener: Listener) -> list[Entry]:
    """It has found its place, and only hears what is new."""
    listener.wake()
    return await listener.take()


async def test_a_long_absence_is_given_page_by_page_while_more_comes(stream: LiveStream, store: Store) -> None:
    start = await now_in(stream)
    for n in range(2300):
        stream.publish("state", SITE, {"n": n})
    await stored(store, 2301)
    listener = stream.listen(place_of(start))
    taken: list[Entry] = []
    try:
        async with asyncio.timeout(5):
            while len(taken) < 2400:
                some = await listener.take()
                assert len(some) <= hub.stream._READ_COUNT or len(taken) >= 2000
                taken += some
                if len(taken) == 1000:
                    for n in range(2300, 2400):
                        stream.publish("state", SITE, {"n": n})
    finally:
        stream.leave(listener)
    assert in_short(taken) == list(range(2400))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        *((text, True) for text in ("0-0", "1700000000000-12", "6a7f-1700000000000-12")),
        *(
            (text, False)
            for text in ("", "1", "1-", "a-1", "+", "$", "a-1-", "-1-1", "A-1-1", "9" * 50 + "-1", "é-1-1")
        ),
        *((text, False) for text in ("9" * 20 + "-1", f"1-{2**64}", "١-١", "a-b-1-1", "a" * 33 + "-1-1", "a-1-1\n")),
    ],
)
def test_an_entry_id_is_an_epoch_and_two_numbers(text: str, valid: bool) -> None:
    assert (place_of(text) is not None) is valid


async def test_the_highest_entry_id_is_one_for_redis_too(store: Store) -> None:
    highest = place_of(f"a-{2**64 - 2}-{2**64 - 2}")
    assert highest is not None
    assert await store.call("XRANGE", STREAM_KEY, f"({highest.entry_id}", "+") == []
