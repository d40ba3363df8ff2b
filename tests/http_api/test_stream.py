"""`GET /events`: what happens, to whom it belongs, without loss across a reconnect."""

import pytest

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


@pytest.mark.parametrize("last_id", ["x", "1", "1-", "-1", "1-x", "9" * 41 + "-1", "9" * 20 + "-1"])
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
    assert {event.data["site"] for event in own.seen} == {scene.site.name}
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
