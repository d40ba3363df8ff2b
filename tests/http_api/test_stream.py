"""`GET /events`: what happens, to whom it belongs, without loss across a reconnect."""

import http.client
import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
import redis

from http_api.streams import LOOK_EVERY_S, RIGHTS_EVERY_S
from hub.stream import LISTENER_BACKLOG_BYTES, STREAM_KEY
from tests.end_to_end.desktop import applied, in_hand
from tests.end_to_end.events import Event, EventStream
from tests.end_to_end.hub_process import until
from tests.http_api.conftest import Scene, problem


def test_liveness_commands_states_and_events_are_told(scene: Scene) -> None:
    with EventStream(scene.farm.hub, query=f"?site={scene.site.name}") as stream:
        scene.desktop.answer = in_hand
        command = scene.site.put_config(headers={"Prefer": "respond-async"}, meal_g=280).json()["command_id"]
        order = scene.desktop.ordered("set_config")
        stream.wait_for("command", id=command, state="received")
        applied(scene.desktop, order)
        stream.wait_for("command", id=command, state="applied", name="set_config", feeder="f1")
        scene.desktop.tell_states()
        stream.wait_for("state", feeder="f1", config=scene.desktop.feeders["f1"].config)
        session = scene.desktop.session
        scene.desktop.vanish()
        stream.wait_for("liveness", alive=False, session=session, ended_by="will")
        scene.desktop.connect()
        stream.wait_for("liveness", alive=True, session=scene.desktop.session)
        scene.farm.wait_known(scene.site)
    states = [event.data["state"] for event in stream.of("command", id=command)]
    assert states == ["sent", "received", "applied"]
    assert {event.data["site"] for event in stream.seen} == {scene.site.name}


def test_what_was_missed_is_told_exactly_once_and_in_order(scene: Scene) -> None:
    with EventStream(scene.farm.hub) as whole:
        with EventStream(scene.farm.hub) as interrupted:
            scene.site.put_config(meal_g=281)
            scene.site.put_config(meal_g=282)
            interrupted.wait_for("command", state="applied")
        for n in range(5):
            scene.site.put_config(meal_g=283 + n)
        with EventStream(scene.farm.hub, last_id=interrupted.seen[-1].id) as resumed:
            scene.site.put_config(meal_g=290)
            last = scene.site.get("/commands")["items"][0]["id"]
            resumed.wait_for("command", id=last, state="applied")
            end = whole.wait_for("command", id=last, state="applied")

    begin = interrupted.seen[0]  # `whole` was there a little earlier, and may have heard of other sites

    def between(events: list[Event]) -> list[Event]:
        return events[events.index(begin) : events.index(end) + 1]

    assert between([*interrupted.seen, *resumed.seen]) == between(whole.seen)


def test_a_page_that_cannot_send_the_header_names_the_last_event_in_the_query(scene: Scene) -> None:
    with EventStream(scene.farm.hub, query=f"?site={scene.site.name}") as first:
        scene.site.put_config()
        first.wait_for("command", state="applied")
    scene.site.put_config(meal_g=260)
    missed = scene.site.get("/commands")["items"][0]["id"]
    query = f"?site={scene.site.name}&last_event_id={first.seen[-1].id}"
    with EventStream(scene.farm.hub, query=query) as second:
        second.wait_for("command", id=missed, state="applied")


@pytest.mark.parametrize("last_id", ["x", "1", "1-", "-1", "1-x", "A-1-1", "9" * 41 + "-1", "9" * 20 + "-1"])
def test_an_id_that_no_event_had_is_refused(scene: Scene, last_id: str) -> None:
    problem(scene.site.api.get("/events", headers={"Last-Event-ID": last_id}), 422, "invalid")


def test_a_sites_token_hears_its_site_only(scene: Scene) -> None:
    other_site = scene.farm.new_site()
    scene.farm.desktop(other_site)
    token = scene.farm.hub.new_token("viewer", scene.site.name)
    with EventStream(scene.farm.hub) as everything, EventStream(scene.farm.hub, token, last_id="0-1") as own:
        other_site.put_config(meal_g=291)
        everything.wait_for("command", site=other_site.name, state="applied")
        scene.site.put_config(meal_g=292)
        own.wait_for("command", state="applied", site=scene.site.name)
    gap, *rest = own.seen
    assert (gap.kind, gap.data) == ("gap", {"site": None, "reason": "begun_anew"})
    assert {event.data["site"] for event in rest} == {scene.site.name}
    assert len({event.data["site"] for event in everything.seen}) == 2


def test_a_contradiction_is_kept_and_shown(scene: Scene) -> None:
    with EventStream(scene.farm.hub, query=f"?site={scene.site.name}") as stream:
        command = scene.site.put_config().headers["Command-Id"]
        order = scene.desktop.ordered("set_config")
        scene.desktop.reply(order, "failed", code="plc_lost")
        rejected = until(lambda: scene.site.get("/diagnostics")["rejected"])
    assert (rejected[0]["reason"], command in rejected[0]["detail"]) == ("contradiction", True)
    assert scene.site.command(command)["state"] == "applied"
    assert [event.data["state"] for event in stream.of("command", id=command)] == ["sent", "applied"]


# --- gaps, rights and bounds ---------------------------------------------------------------------------------------


@contextmanager
def redis_of(scene: Scene) -> Iterator["redis.Redis"]:
    """The hub's own."""
    path = scene.farm.hub.data_dir / "valkey.sock"
    with closing(redis.Redis(unix_socket_path=str(path), decode_responses=True)) as client:
        yield client


def tell(client: "redis.Redis", scene: Scene, count: int, text: str = "") -> None:
    """So many events of the site, as another hub process would tell them."""
    with client.pipeline(transaction=False) as pipeline:
        for n in range(count):
            data = json.dumps({"site": scene.site.name, "n": n, "text": text})
            pipeline.xadd(STREAM_KEY, {"kind": "event", "site": scene.site.name, "data": data})
        pipeline.execute()


def test_who_is_cut_off_before_anything_happened_misses_nothing_either(scene: Scene) -> None:
    with EventStream(scene.farm.hub, query=f"?site={scene.site.name}") as first:
        assert first.seen == []
    assert first.last_id is not None
    scene.site.put_config(meal_g=270)
    with EventStream(scene.farm.hub, query=f"?site={scene.site.name}", last_id=first.last_id) as second:
        second.wait_for("command", state="applied")
        assert [event.data["state"] for event in second.of("command")] == ["sent", "applied"]
        assert second.of("gap") == []


def test_an_emptied_redis_is_told_to_who_is_there_and_to_who_comes_back(scene: Scene) -> None:
    with EventStream(scene.farm.hub) as stream, redis_of(scene) as client:
        client.delete(STREAM_KEY)
        stream.wait_for("gap", site=None, reason="begun_anew")
        scene.site.put_config(meal_g=271)
        stream.wait_for("command", state="applied", site=scene.site.name)
    with EventStream(scene.farm.hub, last_id=stream.first_id) as again:
        again.wait_for("command", state="applied", site=scene.site.name)
        assert [gap.data["reason"] for gap in again.of("gap")] == ["begun_anew"]


def test_one_caller_has_so_many_streams_and_another_one_has_its_own(scene: Scene) -> None:
    most, token = 20, scene.farm.hub.new_token("viewer", scene.site.name)
    with ExitStack() as open_streams, scene.farm.hub.api(token) as api:
        streams = [open_streams.enter_context(EventStream(scene.farm.hub, token)) for _ in range(most)]
        refused = api.get("/events")
        problem(refused, 429, "too-many-streams")
        assert int(refused.headers["Retry-After"]) > 0
        open_streams.enter_context(EventStream(scene.farm.hub))
        streams[0].close()
        until(lambda: _is_let_in(scene, token))


def _is_let_in(scene: Scene, token: str) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", scene.farm.hub.http_port, timeout=5)) as connection:
        connection.request("GET", "/api/v1/events", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status == 200


def test_a_head_tells_of_the_stream_and_opens_none(scene: Scene) -> None:
    answer = scene.site.api.head("/events")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_a_stream_ends_when_its_caller_sees_other_sites_than_before(scene: Scene) -> None:
    other = scene.farm.new_site()
    token = scene.farm.hub.new_token("viewer", scene.site.name)
    with EventStream(scene.farm.hub, token) as stream:
        with closing(sqlite3.connect(scene.farm.hub.data_dir / "feeder-hub.sqlite", timeout=10)) as rows, rows:
            rows.execute("UPDATE token SET site_id = ? WHERE site_id = ?", (other.name, scene.site.name))
        assert stream.ended.wait(RIGHTS_EVERY_S + LOOK_EVERY_S + 2)
    with EventStream(scene.farm.hub, token, last_id=stream.last_id) as again:
        scene.site.put_config(meal_g=272)
        scene.farm.desktop(other)
        again.wait_for("liveness", site=other.name)
        assert {event.data["site"] for event in again.seen} == {other.name}


def test_who_reads_nothing_is_cut_off_and_slows_nobody(scene: Scene) -> None:
    text = "x" * 16_384
    count = 40 * LISTENER_BACKLOG_BYTES // len(text)
    with (
        closing(socket.socket()) as slow,
        EventStream(scene.farm.hub, query=f"?site={scene.site.name}") as quick,
        redis_of(scene) as client,
    ):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", scene.farm.hub.http_port))
        slow.settimeout(10)
        slow.sendall(
            f"GET /api/v1/events HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {scene.farm.hub.token}\r\n\r\n".encode()
        )
        begun = slow.recv(4096)
        while b"retry:" not in begun:
            begun += slow.recv(4096)
        for n in range(0, count, 50):
            tell(client, scene, 50, text)
            until(lambda n=n: len(quick.of("event")) >= n + 50)
        assert scene.site.put_config(meal_g=273).status_code == 200
        assert not ends_in_order(slow)
        client.delete(STREAM_KEY)


def ends_in_order(connection: socket.socket) -> bool:
    """Read it to its end: whether that is the one of a whole answer."""
    last = b""
    try:
        while some := connection.recv(65_536):
            last = (last + some)[-5:]
    except ConnectionResetError:
        return False
    return last == b"0\r\n\r\n"
