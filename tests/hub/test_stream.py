"""The live stream across processes: nothing lost, nothing twice, the slow let go, and all let go at the stop."""

import asyncio

import pytest

import hub.stream
from hub.store import Store
from hub.stream import LISTENER_BACKLOG, STREAM_KEY, Entry, LiveStream, StreamEnded, is_entry_id
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
    stream: LiveStream, store: Store, other_store: Store
) -> None:
    first = str(await store.redis.xadd(STREAM_KEY, {"kind": "x", "site": SITE, "data": '{"n": -1}'}))
    last: str | None = first
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
    start = str(await store.redis.xadd(STREAM_KEY, {"kind": "x", "site": SITE, "data": '{"n": -1}'}))
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


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        *((text, True) for text in ("0-0", "1700000000000-12")),
        *((text, False) for text in ("", "1", "1-", "a-1", "+", "$", "1-1-1", "-1-1", "9" * 50 + "-1")),
        *((text, False) for text in ("9" * 20 + "-1", f"1-{2**64}", "١-١")),
    ],
)
def test_an_entry_id_is_two_numbers_with_a_dash(text: str, valid: bool) -> None:
    assert is_entry_id(text) is valid


async def test_the_highest_entry_id_is_one_for_redis_too(store: Store) -> None:
    highest = f"{2**64 - 2}-{2**64 - 2}"
    assert is_entry_id(highest)
    assert await store.call("XRANGE", STREAM_KEY, f"({highest}", "+") == []
