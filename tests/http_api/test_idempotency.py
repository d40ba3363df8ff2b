"""Idempotency-Key: the same request again is never a second command."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.end_to_end.conftest import running_farm
from tests.end_to_end.desktop import Order, ScriptedDesktop, applied, rejected, silent
from tests.http_api.conftest import Scene, problem


def test_a_repeat_while_the_first_is_under_way_waits_for_the_same_end(scene: Scene) -> None:
    scene.desktop.answer = silent
    key = scene.site.name
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(scene.site.feed, "f1", 10, key) for _ in range(4)]
        order = scene.desktop.ordered("feed")
        accepted = scene.site.feed("f1", 10, key, Prefer="respond-async")
        assert (accepted.status_code, accepted.json()["command_id"]) == (202, order.id)
        scene.desktop.reply(order, "applied", dispensed_g=9.9)
        told = [answer.result() for answer in answers]
    assert {(answer.status_code, answer.json()["id"]) for answer in told} == {(200, order.id)}
    assert scene.published() == ["feed"]


def test_a_repeat_after_the_end_tells_the_end_whatever_the_site_is_now(scene: Scene) -> None:
    headers = {"Idempotency-Key": scene.site.name, "If-Match": "*"}
    first = scene.site.put_config(headers=headers, meal_g=260)
    assert scene.site.put_config(meal_g=270).status_code == 200
    scene.look_away()
    for make in (lambda: None, lambda: scene.site.order("stop_all"), scene.send_away):
        make()
        again = scene.site.put_config(headers=headers, meal_g=260)
        assert (again.status_code, again.json()) == (200, first.json())
        assert again.headers["Command-Id"] == first.headers["Command-Id"]
        assert again.headers["ETag"] == first.headers["ETag"]
    assert "set_config" not in scene.published()


def test_a_repeat_with_the_if_match_that_the_change_itself_outdated_is_no_conflict(scene: Scene) -> None:
    tag = scene.site.api.get(scene.site.path("/feeders/f1/config")).headers["ETag"]
    headers = {"Idempotency-Key": scene.site.name, "If-Match": tag}
    assert scene.site.put_config(headers=headers, meal_g=260).status_code == 200
    assert scene.site.put_config(headers=headers, meal_g=260).status_code == 200
    assert scene.published() == ["set_config"]


def test_a_refusal_by_the_desktop_is_the_answer_again(scene: Scene) -> None:
    scene.desktop.answer = rejected("busy")
    first = problem(scene.site.feed("f1", 10, scene.site.name), 422, "rejected-by-desktop")
    scene.desktop.answer = applied
    assert problem(scene.site.feed("f1", 10, scene.site.name), 422, "rejected-by-desktop") == first
    assert scene.published() == ["feed"]


def at_work(desktop: ScriptedDesktop, order: Order) -> None:
    """The command is heard and never answered; asked for it, its journal says that it runs."""
    desktop.outcomes[order.id] = {"status": "running"}


def test_an_unknown_outcome_is_told_as_it_is_now(scene: Scene) -> None:
    scene.desktop.answer = at_work
    headers = {"Idempotency-Key": scene.site.name}
    problem(scene.site.put_config(headers=headers), 504, "outcome-unknown")
    problem(scene.site.put_config(headers=headers), 504, "outcome-unknown")
    order = scene.desktop.ordered("set_config")
    scene.desktop.reply(order, "applied", **scene.desktop.result_of(order))
    scene.site.settled(order.id)
    assert scene.site.put_config(headers=headers).status_code == 200
    assert scene.published() == ["set_config"]


def test_a_refusal_before_sending_is_not_kept(scene: Scene) -> None:
    scene.send_away()
    problem(scene.site.feed("f1", 10, scene.site.name), 409, "desktop-offline")
    scene.desktop.leave()
    scene.desktop.connect()
    scene.farm.wait_known(scene.site)
    assert scene.site.feed("f1", 10, scene.site.name).status_code == 200


def test_a_mistake_is_not_kept(scene: Scene) -> None:
    problem(scene.site.feed("f1", -1, scene.site.name), 422, "invalid")
    assert scene.site.feed("f1", 10, scene.site.name).status_code == 200


@pytest.mark.parametrize("other", ["grams", "feeder", "name", "site", "method"])
def test_a_key_belongs_to_one_request(scene: Scene, other: str) -> None:
    site, key = scene.site, {"Idempotency-Key": scene.site.name}
    assert site.feed("f1", 10, site.name).status_code == 200
    scene.look_away()
    match other:
        case "grams":
            answer = site.feed("f1", 11, site.name)
        case "feeder":
            answer = site.feed("f2", 10, site.name)
        case "name":
            answer = site.api.post(site.path("/feeders/f1/commands"), json={"name": "pause"}, headers=key)
        case "site":
            answer = site.order("stop_all", **key)
        case _:
            answer = site.put_config(headers=key)
    problem(answer, 409, "idempotency-key-reused")
    assert scene.published() == []


def test_the_same_request_may_be_written_differently(scene: Scene) -> None:
    path, key = scene.site.path("/feeders/f1/commands"), {"Idempotency-Key": scene.site.name}
    bodies = (b'{"name":"feed","args":{"grams":10}}', b'{ "args": {"grams": 10},\n "name": "feed" }')
    ids = {scene.site.api.post(path, content=body, headers=key).json()["id"] for body in bodies}
    assert len(ids) == 1


def test_two_tokens_have_keys_of_their_own_though_nobody_named_them(scene: Scene) -> None:
    ids = set()
    for _ in range(2):
        with scene.farm.hub.api(scene.farm.hub.new_token("operator", scene.site.name)) as api:
            body = {"name": "pause"}
            path = scene.site.path("/feeders/f1/commands")
            answer = api.post(path, json=body, headers={"Idempotency-Key": scene.site.name})
            assert answer.status_code == 200
            ids.add(answer.json()["id"])
    assert len(ids) == 2


def test_a_key_outlives_the_hub(tmp_path: Path) -> None:
    with running_farm(tmp_path, commands__timeout_s=5, liveness__ttl_s=5) as farm:
        site = farm.new_site()
        desktop = farm.desktop(site)
        first = site.feed("f1", 10, "dose")
        assert first.status_code == 200
        farm.hub.kill()
        desktop.wait_cut_off()
        farm.hub.start()
        desktop.connect()
        farm.wait_known(site)
        again = site.feed("f1", 10, "dose")
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
        assert [order.name for order in desktop.orders] == ["feed"]
        problem(site.feed("f1", 11, "dose"), 409, "idempotency-key-reused")
