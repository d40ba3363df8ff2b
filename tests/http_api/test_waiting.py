"""Changes that wait for their site, what cannot be known until a person closes it, and who has confirmed a stop."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.end_to_end.desktop import Order, ScriptedDesktop, applied, silent
from tests.end_to_end.events import EventStream
from tests.end_to_end.hub_process import until
from tests.http_api.conftest import Scene, problem

QUEUE = "/feeders/f1/config?queue_for=60"


def put(scene: Scene, meal_g: float, query: str = "?queue_for=60", feeder: str = "f1") -> str:
    """A change that waits; its id."""
    config = scene.site.get(f"/feeders/{feeder}/config") | {"meal_g": meal_g}
    answer = scene.site.api.put(scene.site.path(f"/feeders/{feeder}/config{query}"), json=config)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "pending"
    command_id: str = answer.json()["command_id"]
    assert answer.headers["Location"] == f"/api/v1/commands/{command_id}"
    return command_id


def come_back(scene: Scene) -> None:
    scene.desktop.leave()
    scene.desktop.connect()


def test_a_change_waits_for_a_site_that_is_away_and_is_made_when_it_is_back(scene: Scene) -> None:
    scene.send_away()
    command_id = put(scene, 300)
    feeder = scene.site.get("/feeders/f1")
    assert (feeder["pending_command_id"], feeder["drift"]) == (command_id, ["meal_g"])
    assert scene.desktop.orders == []
    come_back(scene)
    command = scene.site.settled(command_id)
    assert command["state"] == "applied"
    assert [step["state"] for step in command["story"]] == ["pending", "sent", "applied"]
    assert scene.site.get("/feeders/f1/config")["meal_g"] == 300
    heard = [name for name in scene.desktop.heard if name in ("ping", "report", "set_config")]
    assert heard[-3:] == ["ping", "report", "set_config"]


def test_the_latest_of_those_that_wait_wins_and_one_for_each_feeder(scene: Scene) -> None:
    scene.send_away()
    first, other, second = put(scene, 300), put(scene, 320, feeder="f2"), put(scene, 310)
    assert scene.site.command(first)["state"] == "superseded"
    assert scene.site.command(second)["replaces"] == first
    come_back(scene)
    for command_id in (other, second):
        assert scene.site.settled(command_id)["state"] == "applied"
    made = {(order.feeder, order.args["config"]["meal_g"]) for order in scene.desktop.orders}
    assert made == {("f1", 310), ("f2", 320)}


def test_a_change_whose_time_is_over_before_its_site_is_back_was_never_sent(scene: Scene) -> None:
    scene.send_away()
    command_id = put(scene, 300, "?queue_for=0.3")
    command = scene.site.settled(command_id)
    assert (command["state"], [step["state"] for step in command["story"]]) == ("expired", ["pending", "expired"])
    come_back(scene)
    until(lambda: scene.desktop.heard.count("report"))
    assert scene.site.get("/feeders/f1")["pending_command_id"] is None
    assert scene.desktop.orders == []


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "NaN", "inf", "9999999"])
def test_a_time_to_wait_that_makes_no_sense_is_told(scene: Scene, seconds: str) -> None:
    answer = scene.site.api.put(scene.site.path(f"/feeders/f1/config?queue_for={seconds}"), json={})
    assert [fault["field"] for fault in problem(answer, 422, "invalid")["faults"]] == ["query.queue_for"]


def test_a_change_that_may_wait_goes_at_once_to_a_site_that_is_there(scene: Scene) -> None:
    answer = scene.site.api.patch(scene.site.path(QUEUE), json={"meal_g": 300})
    assert (answer.status_code, answer.json()["meal_g"]) == (200, 300)


def test_two_changes_of_a_feeder_are_made_one_after_the_other_and_both_callers_hear_of_theirs(scene: Scene) -> None:
    scene.desktop.answer = silent
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(scene.site.put_config, meal_g=300)
        held = scene.desktop.ordered("set_config")
        second = pool.submit(scene.site.put_config, meal_g=310)
        until(lambda: scene.site.get("/feeders/f1")["pending_command_id"] != held.id)
        assert scene.desktop.ordered("set_config").id == held.id
        scene.desktop.answer = applied
        applied(scene.desktop, held)
        assert (first.result().status_code, first.result().json()["meal_g"]) == (200, 300)
        assert (second.result().status_code, second.result().json()["meal_g"]) == (200, 310)


def test_a_change_whose_place_a_newer_one_took_is_told_so(scene: Scene) -> None:
    scene.desktop.answer = silent
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(scene.site.put_config, meal_g=300)
        held = scene.desktop.ordered("set_config")
        second = pool.submit(scene.site.put_config, meal_g=310)
        until(lambda: scene.site.get("/feeders/f1")["pending_command_id"] != held.id)
        third = pool.submit(scene.site.put_config, meal_g=320)
        body = problem(second.result(), 409, "not-executed")
        assert body["code"] == "superseded"
        scene.desktop.answer = applied
        applied(scene.desktop, held)
        assert [answer.result().status_code for answer in (first, third)] == [200, 200]


# --- what cannot be known ----------------------------------------------------------------------------------------


def forgotten(scene: Scene) -> str:
    """A dose whose outcome the desktop does not know any more; its id."""
    scene.desktop.answer = silent
    command_id: str = scene.site.feed("f1", 10, scene.site.name, Prefer="wait=1").json()["command_id"]
    scene.desktop.outcomes[command_id] = {"status": "forgotten"}
    return str(scene.site.in_state(command_id, "unresolved", within_s=20)["id"])


def test_what_cannot_be_known_stays_visible_until_a_person_closes_it(scene: Scene) -> None:
    command_id = forgotten(scene)
    site, path = scene.site, scene.site.path("/commands?unresolved=true")
    assert site.get()["unresolved"] == 1
    assert [item["id"] for item in site.api.get(path).json()["items"]] == [command_id]
    with EventStream(scene.farm.hub, query=f"?site={site.name}") as stream:
        closed = site.api.post(f"/commands/{command_id}/close", json={"remark": "The silo says it was fed."})
        stream.wait_for("command", id=command_id, state="unresolved", closed_at=closed.json()["closed"]["at"])
    assert closed.status_code == 200
    assert closed.json()["closed"]["remark"] == "The silo says it was fed."
    assert closed.json()["state"] == "unresolved"
    assert site.get()["unresolved"] == 0
    assert site.api.get(path).json()["items"] == []
    listed = next(item for item in site.api.get("/sites?limit=500").json()["items"] if item["site"] == site.name)
    assert listed["unresolved"] == 0
    again = site.api.post(f"/commands/{command_id}/close", json={"remark": "The silo says it was fed."})
    assert again.json() == closed.json()
    other = site.api.post(f"/commands/{command_id}/close", json={"remark": "It was not."})
    assert closed.json()["closed"]["at"] in problem(other, 409, "not-unresolved")["detail"]
    assert site.api.get(f"/commands/{command_id}").json() == closed.json()


def test_only_what_is_unresolved_can_be_closed_and_with_a_remark(scene: Scene) -> None:
    done = scene.site.feed("f1", 10, scene.site.name).json()["id"]
    close = f"/commands/{done}/close"
    problem(scene.site.api.post(close, json={"remark": "x"}), 409, "not-unresolved")
    for blank in ("", " ", "\n\u2003\t"):
        problem(scene.site.api.post(close, json={"remark": blank}), 422, "invalid")
    problem(scene.site.api.post(f"/commands/{'0' * 26}/close", json={"remark": "x"}), 404, "not-found")


# --- who has confirmed a stop ------------------------------------------------------------------------------------


def test_a_stop_tells_which_feeders_were_asked_and_which_have_confirmed_it(scene: Scene) -> None:
    assert scene.site.get()["stop"] is None

    def one_is_lost(desktop: ScriptedDesktop, order: Order) -> None:
        feeders = {"f1": {"confirmed": True}, "f2": {"confirmed": False, "code": "plc_lost"}}
        desktop.reply(order, "failed", code="plc_lost", feeders=feeders)

    scene.desktop.answer = one_is_lost
    scene.site.order("stop_all", Prefer="wait=1")
    stop = until(lambda: (found := scene.site.get()["stop"]) and found["feeders"]["f1"]["confirmed"] and found)
    assert stop["feeders"] == {
        "f1": {"asked": True, "confirmed": True, "code": None},
        "f2": {"asked": True, "confirmed": False, "code": "plc_lost"},
    }
    scene.desktop.answer = applied
    stop = until(lambda: (found := scene.site.get()["stop"])["feeders"]["f2"]["confirmed"] and found, 20)
    assert scene.site.order("release").status_code == 200
    assert scene.site.get()["stop"] is None


def test_a_stop_of_a_site_that_is_away_has_asked_nobody_yet(scene: Scene) -> None:
    scene.desktop.leave()
    stop_id = scene.site.order("stop_all").json()["command_id"]
    stop = scene.site.get()["stop"]
    assert stop["command_id"] == stop_id
    assert stop["feeders"] == {key: {"asked": False, "confirmed": False, "code": None} for key in scene.site.feeders}
    scene.desktop.connect()
    until(lambda: all(feeder["confirmed"] for feeder in scene.site.get()["stop"]["feeders"].values()))
