"""What a change answers: the HTTP contract's table, row by row, against a real hub."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.end_to_end.desktop import (
    CONFIG,
    Answer,
    Order,
    ScriptedDesktop,
    applied,
    applied_twice,
    failed,
    in_hand,
    rejected,
    silent,
)
from tests.end_to_end.hub_process import until
from tests.http_api.conftest import Scene, problem

Given = Callable[[Scene], None]
Request = Callable[[Scene], httpx.Response]
CONFIG_ON_FARM = CONFIG | {"meal_g": 111.0}


def alive(_scene: Scene) -> None:
    pass


def away(scene: Scene) -> None:
    scene.send_away()


def stopped(scene: Scene) -> None:
    assert scene.site.order("stop_all").status_code == 200
    scene.look_away()


def desktop_is(answer: Answer) -> Given:
    def given(scene: Scene) -> None:
        scene.desktop.answer = answer

    return given


def in_flight(scene: Scene) -> None:
    scene.desktop.answer = silent
    assert put(headers={"Prefer": "respond-async"})(scene).status_code == 202
    scene.desktop.ordered("set_config")
    scene.look_away()


def config_is(**changed: Any) -> Given:
    def given(scene: Scene) -> None:
        assert scene.site.put_config(**changed).status_code == 200
        scene.look_away()

    return given


def fed_just_now(scene: Scene) -> None:
    assert scene.site.feed("f1", 10, "just-now").status_code == 200
    scene.look_away()


def put(feeder: str = "f1", headers: dict[str, str] | None = None, **changed: Any) -> Request:
    return lambda scene: scene.site.put_config(feeder, headers=headers, **changed)


def put_upon_current(scene: Scene) -> httpx.Response:
    current = scene.site.api.get(scene.site.path("/feeders/f1/config")).headers["ETag"]
    return scene.site.put_config(headers={"If-Match": current})


def patch(**changed: Any) -> Request:
    return lambda scene: scene.site.api.patch(scene.site.path("/feeders/f1/config"), json=changed)


def feed(grams: Any = 10, **headers: str) -> Request:
    return lambda scene: scene.site.feed("f1", grams, scene.site.name, **headers)


def feed_without_key(scene: Scene) -> httpx.Response:
    body = {"name": "feed", "args": {"grams": 10}}
    return scene.site.api.post(scene.site.path("/feeders/f1/commands"), json=body)


def feeder_command(name: str, feeder: str = "f1") -> Request:
    return lambda scene: scene.site.api.post(scene.site.path(f"/feeders/{feeder}/commands"), json={"name": name})


def site_command(name: str, **headers: str) -> Request:
    return lambda scene: scene.site.order(name, **headers)


def after_another_body(scene: Scene) -> httpx.Response:
    assert scene.site.put_config(headers={"Idempotency-Key": scene.site.name}, meal_g=200).status_code == 200
    scene.look_away()
    return scene.site.put_config(headers={"Idempotency-Key": scene.site.name}, meal_g=201)


def after_the_same(scene: Scene) -> httpx.Response:
    assert scene.site.put_config(headers={"Idempotency-Key": scene.site.name}).status_code == 200
    scene.look_away()
    return scene.site.put_config(headers={"Idempotency-Key": scene.site.name})


@dataclass(frozen=True)
class Row:
    """One row of the table. problem None: it is no problem. published: the commands that went out."""

    case: str
    given: Given
    request: Request
    status: int
    problem: str | None = None
    published: list[str] = field(default_factory=list)
    tells: dict[str, Any] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


DAILY_LIMIT_FAULT = {
    "field": "args.grams",
    "message": "101 g are more than is left of today's 100 g: 100 g",
    "limit": 100.0,
    "value": 101.0,
    "left_today_g": 100.0,
}
ASYNC = {"Prefer": "respond-async"}
SET = ["set_config"]
ROWS = (
    Row("put applied", alive, put(meal_g=300), 200, published=SET, tells={"meal_g": 300}, headers=("ETag",)),
    Row("patch applied", alive, patch(meal_g=301), 200, published=SET, tells={"meal_g": 301}, headers=("ETag",)),
    Row("answered twice", desktop_is(applied_twice), put(), 200, published=SET, headers=("ETag",)),
    Row("dose applied", alive, feed(), 200, published=["feed"], tells={"state": "applied", "name": "feed"}),
    Row("pause applied", alive, feeder_command("pause"), 200, published=["pause"], tells={"state": "applied"}),
    Row("resume applied", alive, feeder_command("resume"), 200, published=["resume"]),
    Row("calibrate applied", alive, feeder_command("calibrate"), 200, published=["calibrate"]),
    Row("respond-async", alive, put(headers=ASYNC), 202, published=SET, headers=("Location",)),
    Row("respond-async, silent", desktop_is(silent), put(headers=ASYNC), 202, published=SET, headers=("Location",)),
    Row(
        "in hand when the wait ends",
        desktop_is(in_hand),
        feed(Prefer="wait=1"),
        202,
        published=["feed"],
        tells={"state": "received"},
        headers=("Location",),
    ),
    Row("dose without key", alive, feed_without_key, 428, "idempotency-key-required"),
    Row("away", away, put(), 409, "desktop-offline"),
    Row("away, asynchronous", away, put(headers=ASYNC), 409, "desktop-offline"),
    Row("away, dose", away, feed(), 409, "desktop-offline"),
    Row("away, release", away, site_command("release"), 409, "desktop-offline"),
    Row("away, ping", away, site_command("ping"), 409, "desktop-offline"),
    Row("away, no such feeder", away, put("f9"), 404, "not-found"),
    Row("no such feeder", alive, put("f9"), 404, "not-found"),
    Row("no such feeder, command", alive, feeder_command("pause", "f9"), 404, "not-found"),
    Row("If-Match names the current", alive, put_upon_current, 200, published=SET, headers=("ETag",)),
    Row("If-Match names any", alive, put(headers={"If-Match": "*"}), 200, published=SET),
    Row("If-Match names another", alive, put(headers={"If-Match": '"9.9"'}), 412, "config-changed", headers=("ETag",)),
    Row("If-Match, another change is on its way", in_flight, put_upon_current, 412, "config-changed"),
    Row("over a limit", alive, put(meal_g=20_001), 422, "invalid"),
    Row("patched over a limit", alive, patch(interval_s=59), 422, "invalid"),
    Row("dose over its limit", alive, feed(20_001), 422, "invalid"),
    Row(
        "dose over what is left today",
        config_is(daily_limit_g=100.0, meal_g=50.0),
        feed(101),
        422,
        "invalid",
        tells={"faults": [DAILY_LIMIT_FAULT]},
    ),
    Row("dose too soon after another", fed_just_now, feed(10), 422, "invalid"),
    Row("dose of a wrong type", alive, feed("10"), 422, "invalid"),
    Row("two fields that do not fit together", alive, put(meal_g=500, daily_limit_g=400), 422, "invalid"),
    Row(
        "refused by the desktop",
        desktop_is(rejected("not_remote", detail="the switch is on local")),
        put(),
        422,
        "rejected-by-desktop",
        SET,
        {"code": "not_remote"},
    ),
    Row(
        "changed on the farm meanwhile",
        desktop_is(rejected("stale", config=CONFIG_ON_FARM, config_version=1, local_rev=1)),
        put(),
        412,
        "config-changed",
        SET,
        {"config": CONFIG_ON_FARM},
        ("ETag",),
    ),
    Row("the PLC did not take it", desktop_is(failed("plc_lost")), put(), 502, "plc-failed", SET, {"code": "plc_lost"}),
    Row("no answer", desktop_is(silent), put(), 504, "outcome-unknown", SET, headers=("Location",)),
    Row("no answer, dose", desktop_is(silent), feed(Prefer="wait=1"), 504, "outcome-unknown", ["feed"]),
    Row("stopped, config", stopped, put(), 409, "stopped"),
    Row("stopped, dose", stopped, feed(), 409, "stopped"),
    Row("stopped, release", stopped, site_command("release"), 200, published=["release"]),
    Row("stopped, stop again", stopped, site_command("stop_all"), 200, published=["stop_all"]),
    Row("release of what is not stopped", alive, site_command("release"), 422, "invalid"),
    Row("stop", alive, site_command("stop_all"), 200, published=["stop_all"], tells={"state": "applied"}),
    Row("key again, same body", alive, after_the_same, 200, headers=("ETag",)),
    Row("key again, another body", alive, after_another_body, 409, "idempotency-key-reused"),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_a_change_answers_as_the_contract_has_it(row: Row, scene: Scene) -> None:
    row.given(scene)

    answer = row.request(scene)

    if row.problem is None:
        assert answer.status_code == row.status, answer.text
        body = answer.json()
    else:
        body = problem(answer, row.status, row.problem)
        assert ("command_id" in body) == bool(row.published)
    assert row.tells.items() <= body.items()
    assert set(row.headers) <= {name.title().replace("Etag", "ETag") for name in answer.headers}
    scene.desktop.answer = applied
    assert scene.published() == row.published


def test_a_stop_goes_out_to_a_site_that_is_away(scene: Scene) -> None:
    scene.send_away()

    answer = scene.site.order("stop_all", Prefer="respond-async")

    assert answer.status_code == 202
    assert scene.desktop.ordered("stop_all").message.get("session") is None
    assert scene.site.get()["stopped"] is True


def test_a_refusal_says_when_the_desktop_was_last_seen(scene: Scene) -> None:
    scene.send_away()
    assert problem(scene.site.put_config(), 409, "desktop-offline")["last_seen_at"] is not None
    never = scene.farm.new_site()
    assert problem(never.put_config(), 409, "desktop-offline")["last_seen_at"] is None


def test_an_accepted_change_can_be_followed_to_its_end(scene: Scene) -> None:
    scene.desktop.answer = silent
    accepted = scene.site.put_config(headers=ASYNC, meal_g=400)
    order = scene.desktop.ordered("set_config")
    where = accepted.headers["Location"].removeprefix("/api/v1")
    assert scene.site.api.get(where).json()["state"] == "sent"

    scene.desktop.reply(order, "received")
    scene.site.in_state(order.id, "received")
    scene.desktop.reply(order, "applied", **scene.desktop.result_of(order))

    command = scene.site.settled(order.id)
    assert command["state"] == "applied"
    assert [step["state"] for step in command["story"]] == ["pending", "sent", "received", "applied"]
    assert [step["at"] for step in command["story"]] == sorted(step["at"] for step in command["story"])


def test_a_command_that_was_applied_is_answered_as_it_can_be_read_afterwards(scene: Scene) -> None:
    answer = scene.site.order("ping")
    assert answer.status_code == 200
    assert answer.json() == scene.site.command(answer.headers["Command-Id"])
    assert [step["state"] for step in answer.json()["story"]] == ["pending", "sent", "applied"]


def test_a_late_reply_settles_what_was_unknown(scene: Scene) -> None:
    scene.desktop.answer = silent
    unknown = problem(scene.site.put_config(meal_g=500), 504, "outcome-unknown")
    scene.site.in_state(unknown["command_id"], "unknown")
    order = scene.desktop.ordered("set_config")

    scene.desktop.reply(order, "applied", **scene.desktop.result_of(order))

    assert scene.site.settled(order.id)["state"] == "applied"
    assert scene.site.get("/feeders/f1/config")["meal_g"] == 500


def test_a_config_read_back_differently_is_no_success(scene: Scene) -> None:
    def misread(desktop: ScriptedDesktop, order: Order) -> None:
        desktop.reply(
            order, "applied", **(desktop.result_of(order) | {"config": order.args["config"] | {"meal_g": 299}})
        )

    scene.desktop.answer = misread
    assert problem(scene.site.put_config(meal_g=300), 502, "plc-failed")["code"] == "read_back_differs"


def test_a_reply_of_another_site_counts_nothing(scene: Scene) -> None:
    other_site = scene.farm.new_site()
    other = scene.farm.desktop(other_site)
    scene.desktop.answer = silent
    accepted = scene.site.put_config(headers=ASYNC)
    order = scene.desktop.ordered("set_config")

    reply_to = order.message["reply_to"].replace(f"/{scene.site.name}/", f"/{other_site.name}/")
    other.publish(reply_to.removeprefix(other.root + "/"), {"id": order.id, "status": "applied"})

    until(lambda: other_site.get("/diagnostics")["rejected"])
    assert scene.site.command(accepted.json()["command_id"])["state"] in ("sent", "unknown")
