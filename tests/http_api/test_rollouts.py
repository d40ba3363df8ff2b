"""Rollouts by HTTP: previewed, started, watched on the stream and by `feeder-hub rollout`, stopped by people."""

from typing import Any

import httpx

from tests.end_to_end.desktop import in_hand, rejected
from tests.end_to_end.events import EventStream
from tests.end_to_end.hub_process import feeder_hub, until
from tests.http_api.conftest import Scene, faulty_fields, problem


def order(scene: Scene, **how: Any) -> dict[str, Any]:
    change = {"config": {"meal_g": 321}}
    return {"selection": {"sites": [scene.site.name]}, "change": change, "per_minute": 6000} | how


def settled(api: httpx.Client, rollout: str) -> dict[str, Any]:
    return until(lambda: (found := api.get(f"/rollouts/{rollout}").json())["settled_at"] and found, 10)


def test_a_rollout_changes_every_feeder_and_is_told_on_the_stream(scene: Scene) -> None:
    api = scene.site.api
    preview = api.post("/rollout-previews", json=order(scene)).raise_for_status().json()
    assert (preview["changed"], preview["refused"]) == (2, 0)
    assert preview["items"][0]["changes"] == {"meal_g": {"before": 250.0, "after": 321.0}}
    assert scene.published() == []
    with EventStream(scene.farm.hub, query=f"?site={scene.site.name}") as stream:
        made = api.post("/rollouts", json=order(scene))
        assert made.status_code == 201
        rollout = made.json()["id"]
        assert made.headers["Location"].endswith(f"/rollouts/{rollout}")
        stream.wait_for("rollout", id=rollout, state="finished", settled=True)
    assert settled(api, rollout)["counts"]["applied"] == 2
    items = api.get(f"/rollouts/{rollout}/feeders", params={"limit": 1}).json()
    assert items["items"][0]["canary"] is True
    rest = api.get(f"/rollouts/{rollout}/feeders", params={"cursor": items["next"], "state": "applied"}).json()
    assert [item["feeder"] for item in rest["items"]] == ["f2"]
    assert api.get(f"/commands/{rest['items'][0]['command_id']}").json()["state"] == "applied"
    assert scene.site.get("/feeders/f2/config")["meal_g"] == 321
    assert rollout in [item["id"] for item in api.get("/rollouts").json()["items"]]
    watched = feeder_hub("rollout", "watch", rollout, "--data-dir", scene.farm.hub.data_dir)
    assert watched.returncode == 0, watched.stderr
    assert "2 applied" in watched.stdout
    assert rollout in [item["id"] for item in scene.farm.hub.cli_json("rollout", "list")["items"]]


def test_what_the_desktop_rejects_aborts_it_and_says_why(scene: Scene) -> None:
    scene.desktop.answer = rejected("remote_disabled")
    rollout = scene.site.api.post("/rollouts", json=order(scene)).json()["id"]
    assert settled(scene.site.api, rollout)["state"] == "aborted"
    first, second = scene.site.api.get(f"/rollouts/{rollout}/feeders").json()["items"]
    assert (first["state"], first["refusal"]["code"], second["state"]) == ("refused", "remote_disabled", "skipped")
    watched = feeder_hub("rollout", "watch", rollout, "--data-dir", scene.farm.hub.data_dir)
    assert watched.returncode == 4


def test_people_pause_resume_and_cancel_it(scene: Scene) -> None:
    api = scene.site.api
    scene.desktop.answer = in_hand
    rollout = api.post("/rollouts", json=order(scene)).json()["id"]
    scene.desktop.ordered("set_config")
    assert api.post(f"/rollouts/{rollout}/pause").json()["state"] == "paused"
    assert api.post(f"/rollouts/{rollout}/resume").json()["state"] == "running"
    cancelled = api.post(f"/rollouts/{rollout}/cancel").json()
    assert (cancelled["state"], cancelled["counts"]["skipped"]) == ("cancelled", 1)
    problem(api.post(f"/rollouts/{rollout}/resume"), 409, "rollout-ended")
    assert scene.published().count("set_config") == 1


def test_what_is_refused_is_told_before_anything_is_sent(scene: Scene) -> None:
    api = scene.site.api
    too_much = order(scene, change={"config": {"meal_g": 5000, "daily_limit_g": 10}})
    refusal = api.post("/rollout-previews", json=too_much).json()["items"][0]["refusal"]
    assert refusal["type"].endswith("#invalid")
    assert refusal["faults"]
    missing = order(scene, selection={"sites": ["no-such-site"], "feeders": [f"{scene.site.name}/f9"]})
    told = api.post("/rollout-previews", json=missing).json()
    assert [item["refusal"]["type"].rpartition("#")[2] for item in told["items"]] == ["not-found", "not-found"]
    problem(api.post("/rollouts", json=missing), 404, "not-found")
    problem(api.post("/rollouts", json=order(scene, selection={})), 422, "invalid")
    assert faulty_fields(api.post("/rollouts", json=order(scene, change={"config": {}}))) == {"change.config"}
    assert scene.published() == []


def test_a_neighbour_sees_nothing_of_it_and_a_viewer_starts_none(scene: Scene) -> None:
    farm = scene.farm
    rollout = scene.site.api.post("/rollouts", json=order(scene)).json()["id"]
    settled(scene.site.api, rollout)
    with farm.hub.api(farm.hub.new_token("admin", farm.new_site().name)) as neighbour:
        for path in ("", "/feeders"):
            problem(neighbour.get(f"/rollouts/{rollout}{path}"), 404, "not-found")
        for verb in ("pause", "resume", "cancel"):
            problem(neighbour.post(f"/rollouts/{rollout}/{verb}"), 404, "not-found")
        assert neighbour.get("/rollouts").json()["items"] == []
        problem(neighbour.post("/rollouts", json=order(scene)), 404, "not-found")
    with farm.hub.api(farm.hub.new_token("viewer", scene.site.name)) as viewer:
        assert viewer.get(f"/rollouts/{rollout}").json()["counts"]["applied"] == 2
        problem(viewer.post("/rollouts", json=order(scene)), 403, "not-allowed")
        problem(viewer.post(f"/rollouts/{rollout}/cancel"), 403, "not-allowed")


def test_the_same_key_starts_one_rollout(scene: Scene) -> None:
    key = {"Idempotency-Key": f"rollout-{scene.site.name}"}
    first = scene.site.api.post("/rollouts", json=order(scene), headers=key).json()
    assert scene.site.api.post("/rollouts", json=order(scene), headers=key).json()["id"] == first["id"]
    other = order(scene, canaries=0)
    problem(scene.site.api.post("/rollouts", json=other, headers=key), 409, "idempotency-key-reused")
