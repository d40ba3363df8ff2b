"""Logins against the real broker: wrong ones become slow, cost others nothing, and leave nothing behind."""

import asyncio
from collections.abc import Callable

import pytest

from broker import throttle
from broker.server import SHUTDOWN_S
from tests.broker.conftest import SECRET, WAIT_S, Peer, Place

STRANGER = "127.0.0.2"


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():
            await asyncio.sleep(0.005)


async def login(place: Place, user: str, password: bytes = b"wrong", source: str = STRANGER, **fields: str) -> int:
    """The code that the broker answers with."""
    peer = await place.socket(source)
    return (await peer.connect(user, password, **fields)).code


def delayed(place: Place) -> int:
    """How many logins had to wait for their turn until now."""
    return place.broker.counters.get("logins_delayed", 0)


async def flood(place: Place, count: int, source: str = STRANGER) -> None:
    """A wrong login, and then as many at once."""
    assert await login(place, "nobody", source=source) == 5
    codes = await asyncio.gather(*(login(place, f"pond{number}", source=source) for number in range(count)))
    assert set(codes) == {3}


@pytest.fixture
async def strict(start_broker, monkeypatch) -> Place:
    """A broker where a network's first pause outlasts any test, and a name's is half a second."""
    monkeypatch.setattr(throttle, "FIRST_PAUSE_S", 60.0)
    return await start_broker(connect_timeout_s=1.0)


async def test_a_wrong_password_delays_the_next_try_which_is_then_looked_at(place, monkeypatch):
    monkeypatch.setattr(throttle, "FIRST_PAUSE_S", 1.5)
    assert await login(place, "pond7") == 5
    assert delayed(place) == 0
    assert await login(place, "pond7", SECRET) == 0
    assert delayed(place) == 1


async def test_a_flood_is_refused_without_a_look_at_the_passwords(strict, monkeypatch):
    looked_at = []
    authenticate = strict.broker._guard._authenticate

    async def look(shown):
        looked_at.append(shown)
        return await authenticate(shown)

    monkeypatch.setattr(strict.broker._guard, "_authenticate", look)
    await flood(strict, 50)
    assert len(looked_at) == 1
    assert strict.broker.counters["refused_bad-credentials"] == 1
    assert strict.broker.counters["refused_login-throttled"] == 50
    assert await login(strict, "pond9", SECRET) == 3  # nor at a right one, from there


async def test_a_burst_from_one_address_does_not_delay_another(strict):
    await flood(strict, 20)
    before = delayed(strict)
    assert await login(strict, "pond9", SECRET, source="127.0.0.1") == 0
    assert delayed(strict) == before


async def test_who_fails_as_pond7_does_not_delay_pond7_nor_its_neighbours(strict):
    neighbours = ("pond7", "pond8", "pond9")
    for user in neighbours:
        assert await login(strict, user, SECRET, source="127.0.0.1") == 0
    for number in range(2, 6):
        await login(strict, "pond7", source=f"127.0.0.{number}")
    await flood(strict, 5, source="127.0.0.1")
    before = delayed(strict)
    for user in neighbours:
        assert await login(strict, user, SECRET, source="127.0.0.1") == 0
    assert delayed(strict) == before


async def test_who_fails_as_pond7_under_its_own_roof_delays_it_and_cannot_keep_it_out(strict):
    assert await login(strict, "pond7", SECRET, source="127.0.0.1") == 0
    for _ in range(5):
        assert await login(strict, "pond7", source="127.0.0.1") == 5
    assert await login(strict, "pond7", SECRET, source="127.0.0.1") == 0
    assert delayed(strict) > 0


async def test_neither_a_flood_nor_a_login_that_waits_stalls_a_connected_client(strict):
    client = await strict.client("pond7")
    flooding = asyncio.create_task(flood(strict, 200))
    while not flooding.done():
        assert await client.so_far() == []  # a ping and its answer
    await flooding
    waiting = asyncio.create_task(login(strict, "nobody", source="127.0.0.3"))
    await strict.until("logins_waiting")
    assert await client.so_far() == []
    assert not waiting.done()
    assert await waiting == 5


async def test_refused_logins_leave_nothing_behind(strict):
    await flood(strict, 20)
    await until(lambda: strict.broker.counters["connections"] == 0)
    assert strict.broker.counters["sessions"] == 0
    assert not strict.broker._guard._connected


async def test_who_shows_no_name_guesses_at_none_and_is_not_delayed(place):
    for _ in range(20):
        peer = await place.socket()
        assert (await peer.connect(None, None, client_id="x")).code == 5
    assert await login(place, "pond7", SECRET, source="127.0.0.1") == 0
    assert delayed(place) == 0


async def test_a_database_that_is_down_is_nobodys_failure(place, monkeypatch):
    async def broken(shown):
        raise OSError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(place.broker._guard, "_authenticate", broken)
        for _ in range(20):
            assert await login(place, "pond7", SECRET) == 3
    assert place.refusals[-1].detail == "OSError: the database is away"
    assert await login(place, "pond7", SECRET) == 0
    assert delayed(place) == 0


async def test_a_login_that_waits_does_not_hold_the_broker_when_it_stops(start_broker, monkeypatch, caplog):
    monkeypatch.setattr(throttle, "FIRST_PAUSE_S", 20.0)
    place = await start_broker(connect_timeout_s=50.0)
    assert await login(place, "pond7") == 5
    peer = await place.socket(STRANGER)
    waiting = asyncio.create_task(peer.connect("pond7", b"wrong"))
    await place.until("logins_waiting")
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await place.broker.shutdown()
    assert loop.time() - began_s < SHUTDOWN_S
    assert caplog.records == []
    with pytest.raises((EOFError, ConnectionError)):
        await waiting


# --- connections of one user --------------------------------------------------------------------------------------


async def hand(place: Place, name: str) -> Peer:
    return await place.client("pond7", client_id=f"pond7.{name}")


async def test_a_user_has_so_many_connections_and_no_more(start_broker):
    place = await start_broker(max_connections_per_user=3)
    await place.client("pond7")
    tools = [await hand(place, "1"), await hand(place, "2")]
    assert await login(place, "pond7", SECRET, client_id="pond7.3") == 3
    assert await login(place, "pond7", SECRET, client_id="") == 3
    assert place.broker.counters["refused_too-many-connections-of-user"] == 2
    assert (place.refusals[0].identity, place.refusals[0].client_id) == ("pond7", "pond7.3")
    assert place.broker.counters["sessions"] == 3
    await place.client("pond8")  # each user for itself
    tools[0].drop()
    await until(lambda: place.broker.counters["connections"] == 3)
    await hand(place, "3")


async def test_at_the_limit_a_client_still_takes_its_dead_connection_over(start_broker):
    place = await start_broker(max_connections_per_user=2)
    first, other = await hand(place, "1"), await hand(place, "2")
    for _ in range(5):
        again = await hand(place, "1")
        assert await first.closed() == []
        first = again
    assert await other.so_far() == []
    assert await login(place, "pond7", SECRET, client_id="pond7.3") == 3


async def test_a_desktop_is_let_in_whatever_tools_its_site_has(start_broker):
    place = await start_broker(max_connections_per_user=2)
    tools = [await hand(place, "1"), await hand(place, "2")]
    desktop = await place.client("pond7")
    again = await place.client("pond7")
    assert await desktop.closed() == []
    for peer in (again, *tools):
        assert await peer.so_far() == []


async def test_the_hub_has_as_many_connections_as_it_wants(start_broker):
    place = await start_broker(max_connections_per_user=1)
    for number in range(5):
        await place.client("hub", client_id=f"hub-{number}")


async def test_who_is_refused_later_holds_no_place(start_broker):
    place = await start_broker(max_connections_per_user=1)
    for _ in range(5):
        assert await login(place, "pond7", SECRET, client_id="pond8.1") == 2
        peer = await hand(place, "1")
        peer.drop()
        await until(lambda: place.broker.counters["connections"] == 0)
    assert not place.broker._guard._connected


async def test_an_open_broker_delays_and_limits_nobody(open_place):
    for number in range(30):
        assert await login(open_place, "anyone", client_id=f"client{number}") == 0
    assert delayed(open_place) == 0
