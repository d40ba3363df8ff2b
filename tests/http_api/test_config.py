"""Configs over HTTP: ETag and If-Match, merge patches, what was changed on the farm, revisions."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from ulid import ULID

from tests.end_to_end.desktop import CONFIG, applied, now, rejected, silent
from tests.end_to_end.hub_process import until
from tests.http_api.conftest import Scene, faulty_fields, problem


def get_config(scene: Scene, **headers: str) -> httpx.Response:
    return scene.site.api.get(scene.site.path("/feeders/f1/config"), headers=headers)


def patch(scene: Scene, changed: Any, **headers: str) -> httpx.Response:
    return scene.site.api.patch(scene.site.path("/feeders/f1/config"), json=changed, headers=headers)


@contextmanager
def in_background(work: Any, *arguments: Any, **more: Any) -> Iterator[Any]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work, *arguments, **more)


# --- ETags ----------------------------------------------------------------------------------------------------------


def test_the_etag_of_a_change_is_the_etag_of_the_config_read_afterwards(scene: Scene) -> None:
    before = get_config(scene).headers["ETag"]
    changed = scene.site.put_config(meal_g=301)
    after = get_config(scene)
    assert after.headers["ETag"] == changed.headers["ETag"] != before
    assert after.json() == changed.json()


def test_a_config_that_the_caller_has_is_not_sent_again(scene: Scene) -> None:
    tag = get_config(scene).headers["ETag"]
    for known in (tag, f'"old", {tag}', f"W/{tag}", "*"):
        answer = get_config(scene, **{"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag), known
    assert get_config(scene, **{"If-None-Match": '"old"'}).status_code == 200


def test_of_two_changes_upon_the_same_config_one_is_made(scene: Scene) -> None:
    tag = get_config(scene).headers["ETag"]
    first = scene.site.put_config(headers={"If-Match": tag}, meal_g=310)
    assert first.status_code == 200
    second = scene.site.put_config(headers={"If-Match": tag}, meal_g=320)
    assert problem(second, 412, "config-changed")
    assert second.headers["ETag"] == first.headers["ETag"]
    assert scene.published() == ["set_config"]


def test_of_many_changes_at_once_upon_the_same_config_one_is_made(scene: Scene) -> None:
    tag = get_config(scene).headers["ETag"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: scene.site.put_config(headers={"If-Match": tag}, meal_g=300 + n).status_code, range(8))
        )
    assert sorted(answers) == [200, *[412] * 7]
    assert scene.published() == ["set_config"]


def test_while_a_change_is_on_its_way_no_other_is_made_upon_the_config_before_it(scene: Scene) -> None:
    tag = get_config(scene).headers["ETag"]
    scene.desktop.answer = silent
    with in_background(scene.site.put_config, meal_g=330) as first:
        order = scene.desktop.ordered("set_config")
        problem(scene.site.put_config(headers={"If-Match": tag}, meal_g=340), 412, "config-changed")
        scene.desktop.reply(order, "applied", **scene.desktop.result_of(order))
        new_tag = first.result().headers["ETag"]
    problem(scene.site.put_config(headers={"If-Match": tag}, meal_g=340), 412, "config-changed")
    scene.desktop.answer = applied
    assert scene.site.put_config(headers={"If-Match": new_tag}, meal_g=340).status_code == 200


def test_a_change_that_failed_leaves_config_and_etag_as_they_were(scene: Scene) -> None:
    before = get_config(scene)
    scene.desktop.answer = rejected("not_remote")
    problem(scene.site.put_config(meal_g=350), 422, "rejected-by-desktop")
    after = get_config(scene)
    assert (after.json(), after.headers["ETag"]) == (before.json(), before.headers["ETag"])
    feeder = scene.site.get("/feeders/f1")
    assert (feeder["drift"], feeder["pending_command_id"]) == ([], None)


def test_what_was_changed_on_the_farm_is_shown_and_asks_for_a_new_if_match(scene: Scene) -> None:
    tag = get_config(scene).headers["ETag"]
    feeder = scene.desktop.feeders["f1"]
    feeder.config, feeder.local_rev = CONFIG | {"meal_g": 123.0}, 1
    scene.desktop.tell_states()

    until(lambda: get_config(scene).json()["meal_g"] == 123)
    assert get_config(scene).headers["ETag"] != tag
    problem(scene.site.put_config(headers={"If-Match": tag}), 412, "config-changed")
    newest = scene.site.get("/feeders/f1/config/revisions")["items"][0]
    assert (newest["origin"], newest["local_rev"], newest["config"]["meal_g"]) == ("local", 1, 123)


def test_an_edit_on_the_farm_that_the_hub_has_not_heard_of_is_told_in_the_refusal(scene: Scene) -> None:
    edited = CONFIG | {"meal_g": 124.0}
    until(
        lambda: scene.desktop.reports
    )  # its states were told again; told later they would count more than the refusal
    scene.desktop.answer = rejected("stale", config=edited, config_version=1, local_rev=1)
    refused = scene.site.put_config(meal_g=360)
    assert problem(refused, 412, "config-changed")["config"] == edited
    now = get_config(scene)
    assert (now.json()["meal_g"], now.headers["ETag"]) == (124, refused.headers["ETag"])


def test_versions_only_go_up_also_beyond_what_the_farm_reports(scene: Scene) -> None:
    feeder = scene.desktop.feeders["f1"]
    feeder.config_version = 41
    scene.desktop.tell_states()
    until(lambda: scene.site.get("/feeders/f1")["reported"]["version"] == 41)
    scene.site.put_config()
    assert scene.desktop.ordered("set_config").args["config_version"] == 42


# --- merge patches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "merged"),
    [
        ({"meal_g": 321}, {"meal_g": 321.0}),
        ({"enabled": False}, {"enabled": False}),
        ({"window": {"start": "07:15"}}, {"window": {"start": "07:15", "end": "19:30"}}),
        ({"window": {"start": "22:00", "end": "04:00"}}, {"window": {"start": "22:00", "end": "04:00"}}),
        ({"meal_g": 5, "interval_s": 60}, {"meal_g": 5.0, "interval_s": 60}),
        ({}, {}),
    ],
)
def test_a_patch_changes_what_it_names_and_nothing_else(
    scene: Scene, changed: dict[str, Any], merged: dict[str, Any]
) -> None:
    answer = patch(scene, changed)
    assert answer.status_code == 200
    assert answer.json() == CONFIG | merged
    assert scene.desktop.ordered("set_config").args["config"] == CONFIG | merged


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"meal_g": None}, "meal_g"),
        ({"window": None}, "window"),
        ({"window": {"end": None}}, "window.end"),
        ({"meal_g": 4001}, "body"),
        ({"window": {"end": "06:00"}}, "window"),
        ({"window": {"middle": "12:00"}}, "window.middle"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_patch_whose_merged_config_is_none_is_refused(scene: Scene, changed: dict[str, Any], field: str) -> None:
    assert field in faulty_fields(patch(scene, changed))
    assert scene.published() == []


def test_patches_one_after_the_other_add_up_also_before_the_first_has_come_back(scene: Scene) -> None:
    scene.desktop.answer = silent
    patch(scene, {"meal_g": 200}, Prefer="respond-async")
    first = scene.desktop.ordered("set_config")
    assert patch(scene, {"interval_s": 1800}, Prefer="respond-async").status_code == 202
    scene.desktop.reply(first, "applied", **scene.desktop.result_of(first))  # they never overtake each other
    second = until(lambda: [order for order in scene.desktop.orders if order.name == "set_config"][1:])[0]
    assert (second.args["config"]["meal_g"], second.args["config"]["interval_s"]) == (200, 1800)
    assert second.args["config_version"] > first.args["config_version"]


def test_a_feeder_whose_config_nobody_knows_takes_a_put_and_no_patch(scene: Scene) -> None:
    site = scene.farm.new_site()
    desktop = scene.farm.desktop(site, connected=False)
    untold, desktop.feeders = desktop.feeders, {}
    desktop.connect()
    until(site.alive)
    path = site.path("/feeders/f1/config")
    problem(site.api.get(path), 404, "not-found")
    problem(site.api.patch(path, json={"meal_g": 1}), 409, "config-unknown")
    assert desktop.orders == []
    desktop.feeders = untold
    assert site.put_config().status_code == 200
    assert site.api.get(path).status_code == 200


# --- revisions ------------------------------------------------------------------------------------------------------


def revisions(scene: Scene) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scene.site.get("/feeders/f1/config/revisions")["items"]
    return found


def test_a_revision_says_who_changed_what_from_what_to_what_and_with_which_outcome(scene: Scene) -> None:
    scene.site.put_config(meal_g=200)
    scene.site.put_config(meal_g=210, interval_s=1800)
    newest, older, *_ = revisions(scene)
    assert newest["changes"] == {"meal_g": {"before": 200, "after": 210}, "interval_s": {"before": 3600, "after": 1800}}
    assert (newest["origin"], newest["outcome"]) == ("hub", "applied")
    assert newest["actor"]
    assert older["version"] < newest["version"]
    assert revisions(scene)[-1]["changes"] is None


def test_restoring_an_old_revision_is_a_new_change(scene: Scene) -> None:
    scene.site.put_config(meal_g=200)
    scene.site.put_config(meal_g=210)
    old = next(one for one in revisions(scene) if one["config"]["meal_g"] == 200)
    path = scene.site.path(f"/feeders/f1/config/revisions/{old['revision']}/restore")
    restored = scene.site.api.post(path)
    assert (restored.status_code, restored.json()["meal_g"]) == (200, 200)
    newest = revisions(scene)[0]
    assert newest["version"] > old["version"]
    assert newest["changes"] == {"meal_g": {"before": 210, "after": 200}}
    assert scene.site.get("/feeders/f1/config")["meal_g"] == 200


def test_a_revision_of_another_feeder_or_none_is_not_found(scene: Scene) -> None:
    scene.site.put_config(meal_g=200)
    number = revisions(scene)[0]["revision"]
    for path in (f"/feeders/f2/config/revisions/{number}", "/feeders/f1/config/revisions/none"):
        problem(scene.site.api.post(scene.site.path(f"{path}/restore")), 404, "not-found")


def test_a_day_of_a_feeder_is_told_with_its_sums(scene: Scene) -> None:
    event = {"id": str(ULID()), "seq": 1, "kind": "meal", "at": now(), "planned_g": 250, "dispensed_g": 249.5}
    scene.desktop.publish("feeders/f1/events", event)
    path = scene.site.path("/feeders/f1/daily")
    today = until(lambda: (found := scene.site.api.get(path).json()["items"][-1])["meals"] and found)
    assert (today["planned_g"], today["dispensed_g"]) == (250, 249.5)
    assert len(scene.site.api.get(path).json()["items"]) == 30
    one = scene.site.api.get(f"{path}?from={today['date']}&to={today['date']}").json()["items"]
    assert one == [today]
    problem(scene.site.api.get(f"{path}?from=2026-02-30"), 422, "invalid")
    problem(scene.site.api.get(f"{path}?from=2020-01-01"), 422, "invalid")
    problem(scene.site.api.get(f"{path}?to=0"), 422, "invalid")


@pytest.mark.parametrize("query", ["to=9999-12-31", "to=0001-01-05", "from=0001-01-01&to=0001-01-02"])
def test_a_day_at_the_end_of_all_calendars_is_refused(scene: Scene, query: str) -> None:
    problem(scene.site.api.get(scene.site.path(f"/feeders/f1/daily?{query}")), 422, "invalid")
