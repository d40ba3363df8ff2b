"""Bad input: each kind has its clear answer and changes nothing."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.end_to_end.desktop import CONFIG
from tests.end_to_end.farm import Farm
from tests.http_api.conftest import Scene, faulty_fields, problem

JSON = {"Content-Type": "application/json"}
WRONG_SITES = ("", "Pond", "-a", "a" * 64, "a b", "møre", "a/b", "+", "a\n", "hub", "hub-2", "admin")
WRONG_FEEDERS: tuple[object, ...] = (0, -1, 501, [], ["f1", "f1"], 1.5, True, "3", None)
WRONG_TIME_ZONES = ("", "Mars/Olympus", "../etc/passwd", "/etc/localtime", 5)
WEIRD_IDS = ("..", "%2e%2e", "F1", "%00", "f1%00", "f1%2Ff2", "x" * 300, "%F0%9F%90%9F", "f1'--", "%ff%fe", "f1%0a")
WRONG_QUERIES = ("limit=0", "limit=501", "limit=x", "page=2", "cursor=" + "9" * 101)
NO_OBJECTS = {
    "empty": b"",
    "cut": b"{",
    "null": b"null",
    "list": b"[]",
    "text": b'"text"',
    "number": b"5",
    "bytes": b"\xff\xfe",
    "no value": b'{"meal_g": }',
    "quotes": b"{'meal_g': 1}",
    "surrogate": b'{"name":"\\ud800"}',
    "deep": b'{"meal_g":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
}


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in CONFIG.items() if name != field}


@pytest.mark.parametrize("body", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_a_body_that_is_no_json_object_is_refused(scene: Scene, body: bytes) -> None:
    for method in ("PUT", "PATCH"):
        answer = scene.site.api.request(method, scene.site.path("/feeders/f1/config"), content=body, headers=JSON)
        problem(answer, 422, "invalid")
    for path in ("/feeders/f1/commands", "/commands"):
        problem(scene.site.api.post(scene.site.path(path), content=body, headers=JSON), 422, "invalid")
    problem(scene.site.api.post("/sites", content=body, headers=JSON), 422, "invalid")
    assert scene.published() == []


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"meal_g": "250"}, "meal_g"),
        ({"meal_g": True}, "meal_g"),
        ({"meal_g": None}, "meal_g"),
        ({"interval_s": 3600.5}, "interval_s"),
        ({"enabled": 1}, "enabled"),
        ({"enabled": "yes"}, "enabled"),
        ({"window": "06:00-19:30"}, "window"),
        ({"window": {"start": "06:00"}}, "window.end"),
        ({"window": {"start": "6:00", "end": "19:30"}}, "window.start"),
        ({"window": {"start": "06:00", "end": "25:00"}}, "window.end"),
        ({"window": {"start": "06:00", "end": "06:00"}}, "window"),
        ({"window": {"start": "06:00", "end": "19:30", "middle": "12:00"}}, "window.middle"),
        ({"meal_grams": 250}, "meal_grams"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(scene: Scene, changed: dict[str, Any], field: str) -> None:
    answer = scene.site.put_config(**changed)
    assert field in faulty_fields(answer)
    assert scene.published() == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_what_is_no_finite_number_is_refused(scene: Scene, number: str) -> None:
    config = json.dumps(CONFIG | {"meal_g": 77.5}).replace("77.5", number)
    for method, body in (("PUT", config), ("PATCH", f'{{"meal_g": {number}}}')):
        path = scene.site.path("/feeders/f1/config")
        assert "meal_g" in faulty_fields(scene.site.api.request(method, path, content=body, headers=JSON))
    dose = f'{{"name": "feed", "args": {{"grams": {number}}}}}'
    answer = scene.site.api.post(
        scene.site.path("/feeders/f1/commands"), content=dose, headers=JSON | {"Idempotency-Key": scene.site.name}
    )
    assert "args.grams" in faulty_fields(answer)
    assert scene.published() == []


@pytest.mark.parametrize("field", sorted(CONFIG))
def test_a_missing_field_is_named(scene: Scene, field: str) -> None:
    answer = scene.site.api.put(scene.site.path("/feeders/f1/config"), json=without(field))
    assert faulty_fields(answer) == {field}


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        *(("meal_g", 0, 1), ("meal_g", 20_001, 20_000), ("interval_s", 59, 60), ("interval_s", 86_401, 86_400)),
        *(("daily_limit_g", 0.5, 1), ("daily_limit_g", 500_001, 500_000), ("feed_rate_g_per_s", 0.09, 0.1)),
        *(("feed_rate_g_per_s", 501, 500), ("silo_low_g", -1, 0), ("silo_low_g", 10_000_001, 10_000_000)),
    ],
)
def test_a_broken_limit_is_named(scene: Scene, field: str, value: float, limit: float) -> None:
    changed: dict[str, Any] = {field: value}
    faults = problem(scene.site.put_config(**changed), 422, "invalid")["faults"]
    assert [(fault["field"], fault["limit"]) for fault in faults] == [(field, limit)]
    assert scene.published() == []


def test_every_field_at_fault_is_named_at_once(scene: Scene) -> None:
    answer = scene.site.put_config(meal_g=-1, interval_s="x", feed_rate_g_per_s=0, unknown=1)
    assert faulty_fields(answer) == {"meal_g", "interval_s", "feed_rate_g_per_s", "unknown"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "explode"}, "name"),
        ({"name": "set_config", "args": {"config": CONFIG}}, "name"),
        ({"name": "stop_all"}, "name"),
        ({"name": "feed"}, "args.grams"),
        ({"name": "feed", "args": {"grams": 10, "twice": True}}, "args.twice"),
        ({"name": "feed", "args": {"grams": -1}}, "args.grams"),
        ({"name": "pause", "args": {"until": "noon"}}, "args.until"),
        ({"name": "pause", "args": []}, "args"),
        ({"name": "pause", "more": 1}, "more"),
    ],
)
def test_a_wrong_command_names_what_is_wrong(scene: Scene, body: dict[str, Any], field: str) -> None:
    path = scene.site.path("/feeders/f1/commands")
    answer = scene.site.api.post(path, json=body, headers={"Idempotency-Key": f"{scene.site.name}"})
    assert field in faulty_fields(answer)
    assert scene.published() == []


@pytest.mark.parametrize("body", [{"name": "feed"}, {"name": "ack_events"}, {"name": "ping", "args": {"seq": 1}}, {}])
def test_a_wrong_command_for_a_site_is_refused(scene: Scene, body: dict[str, Any]) -> None:
    problem(scene.site.api.post(scene.site.path("/commands"), json=body), 422, "invalid")
    assert scene.published() == []


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 1024):
        yield b" " * 1024


def test_a_body_over_64_kib_is_refused_declared_or_not(scene: Scene) -> None:
    path = scene.site.path("/feeders/f1/config")
    problem(scene.site.api.put(path, content=b" " * (64 * 1024 + 1), headers=JSON), 413, "body-too-large")
    problem(scene.site.api.put(path, content=chunks(128 * 1024), headers=JSON), 413, "body-too-large")
    padded = json.dumps(CONFIG).encode().ljust(64 * 1024)
    assert scene.site.api.put(path, content=padded, headers=JSON).status_code == 200
    assert scene.published() == ["set_config"]


@pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 201, "a,b\tc"])
def test_a_key_that_is_none_is_refused(scene: Scene, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    request = scene.site.api.build_request("PUT", scene.site.path("/feeders/f1/config"), json=CONFIG)
    request.headers = httpx.Headers([*request.headers.raw, *headers])
    problem(scene.site.api.send(request), 422, "invalid")
    assert scene.published() == []


@pytest.mark.parametrize("query", WRONG_QUERIES)
def test_a_wrong_query_is_refused(scene: Scene, query: str) -> None:
    for path in ("/sites", scene.site.path("/commands"), scene.site.path("/presence")):
        assert faulty_fields(scene.site.api.get(f"{path}?{query}")) == {"query." + query.split("=")[0]}


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "9" * 30])
def test_a_cursor_that_no_page_gave_is_refused(scene: Scene, cursor: str) -> None:
    for path in ("/presence", "/feeders/f1/config/revisions"):
        problem(scene.site.api.get(scene.site.path(path), params={"cursor": cursor}), 422, "invalid")


def test_a_call_without_query_parameters_knows_none(scene: Scene) -> None:
    assert faulty_fields(scene.site.api.get(scene.site.path("?verbose=1"))) == {"query.verbose"}
    assert faulty_fields(scene.site.api.put(scene.site.path("/feeders/f1/config?force=1"), json=CONFIG))
    assert scene.published() == []


def test_an_unknown_path_or_method_says_so(scene: Scene) -> None:
    api = scene.site.api
    for path in ("/", "/nothing", scene.site.path("/nothing"), scene.site.path("/"), "/sites/"):
        problem(api.get(path), 404, "not-found")
    for method, path, known in (
        ("DELETE", "/sites", {"GET", "HEAD", "POST"}),
        ("POST", scene.site.path("/feeders/f1/config"), {"GET", "HEAD", "PUT", "PATCH"}),
        ("PUT", scene.site.path("/liveness"), {"GET", "HEAD"}),
        ("PUT", "/events", {"GET", "HEAD"}),
    ):
        answer = api.request(method, path)
        problem(answer, 405, "method-not-allowed")
        assert {name.strip() for name in answer.headers["Allow"].split(",")} == known


@pytest.mark.parametrize("weird", [*WEIRD_IDS, "%20", "+", "*", "%25"])
def test_a_weird_id_is_not_found_and_breaks_nothing(scene: Scene, weird: str) -> None:
    headers = {"Authorization": f"Bearer {scene.farm.hub.token}", **JSON}
    body = json.dumps(CONFIG)
    feeder = f"/api/v1/sites/{scene.site.name}/feeders/{weird}"
    with closing(http.client.HTTPConnection("127.0.0.1", scene.farm.hub.http_port, timeout=10)) as connection:
        for method, path in (
            ("GET", f"/api/v1/sites/{weird}"),
            ("GET", f"/api/v1/sites/{weird}/feeders"),
            ("GET", feeder),
            ("GET", f"{feeder}/config"),
            ("PUT", f"{feeder}/config"),
            ("PUT", f"/api/v1/sites/{weird}/feeders/f1/config"),
            ("GET", f"/api/v1/commands/{weird}"),
        ):
            connection.request(method, path, body if method == "PUT" else None, headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
            assert (answer.status, told["status"]) == (404, 404), (method, path, told)
    assert scene.published() == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "site"),
        *(({"site": site}, "site") for site in WRONG_SITES),
        *(({"site": "weird", "feeders": feeders}, "feeders") for feeders in WRONG_FEEDERS),
        ({"site": "weird", "feeders": ["F1"]}, "feeder"),
        *(({"site": "weird", "time_zone": zone}, "time_zone") for zone in WRONG_TIME_ZONES),
        ({"site": "weird", "name": ""}, "name"),
        ({"site": "weird", "secret": "mine"}, "secret"),
    ],
)
def test_a_wrong_site_is_not_made(farm: Farm, body: dict[str, Any], field: str) -> None:
    found = faulty_fields(farm.api.post("/sites", json=body))
    assert any(name.startswith(field) for name in found), found
    problem(farm.api.get("/sites/weird"), 404, "not-found")


def test_a_site_is_made_once(scene: Scene) -> None:
    problem(scene.site.api.post("/sites", json={"site": scene.site.name}), 409, "already-exists")
    assert scene.site.put_config().status_code == 200, "its desktop is still let in"


@pytest.mark.parametrize("number", ["999999999999999999", "9999999999", "2147483648"])
def test_a_number_that_no_row_has_is_no_cursor_and_no_revision(scene: Scene, number: str) -> None:
    for path in ("/feeders/f1/config/revisions", "/presence"):
        problem(scene.site.api.get(scene.site.path(path), params={"cursor": number}), 422, "invalid")
    restore = scene.site.path(f"/feeders/f1/config/revisions/{number}/restore")
    problem(scene.site.api.post(restore), 404, "not-found")
