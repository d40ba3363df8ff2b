"""Events and sums as JSON that stays small, and as CSV that a spreadsheet opens without harm."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from ulid import ULID

from http_api.csv_rows import csv_rows
from tests.end_to_end.hub_process import until
from tests.http_api.conftest import Scene, faulty_fields, problem

CSV = {"Accept": "text/csv"}


def told(scene: Scene, count: int, **fields: object) -> None:
    before = len(walked(scene))
    for n in range(count):
        event = {"id": str(ULID()), "seq": before + n + 1, "kind": "meal", "dispensed_g": 5.5, "planned_g": 5}
        at = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="milliseconds")
        scene.desktop.publish("feeders/f1/events", event | {"at": at} | fields)
    until(lambda: len(walked(scene)) == before + count)


def walked(scene: Scene) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = scene.site.api.get(scene.site.path("/feeders/f1/events"), params={"limit": 500, **cursor}).json()
        items += page["items"]
        if page["next"] is None:
            return items
        cursor = {"cursor": page["next"]}


def read(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Vary"] == "Accept"
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_events_as_csv_are_all_of_them_whatever_a_page_may_have(scene: Scene) -> None:
    told(scene, 503)
    path = scene.site.path("/feeders/f1/events")
    answer = scene.site.api.get(path, headers=CSV)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{scene.site.name}-f1-events.csv"'
    rows = read(answer)
    assert [row["id"] for row in rows] == [item["id"] for item in walked(scene)]
    assert rows[0]["dispensed_g"] == "5.5"
    assert rows[0]["reason"] == ""
    after = scene.site.api.get(path, headers=CSV, params={"cursor": rows[9]["id"]})
    assert [row["id"] for row in read(after)] == [row["id"] for row in rows[10:]]
    head = scene.site.api.head(path, headers=CSV)
    assert (head.status_code, head.headers["Content-Type"], head.content) == (200, "text/csv; charset=utf-8", b"")


@pytest.mark.parametrize("reason", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '"; =1', "a,b\nc"])
def test_no_reason_that_a_farm_tells_is_a_formula_in_a_spreadsheet(scene: Scene, reason: str) -> None:
    told(scene, 1, reason=reason)
    [row] = read(scene.site.api.get(scene.site.path("/feeders/f1/events"), headers=CSV))
    assert row["reason"].lstrip("'") == reason
    assert not row["reason"].startswith(("=", "+", "-", "@", "\t"))


def test_numbers_are_numbers_also_below_zero() -> None:
    assert csv_rows([[-1.5, None, "-1.5"]]) == "-1.5,,'-1.5\r\n"


def test_sums_are_json_and_csv_in_each_resolution(scene: Scene) -> None:
    told(scene, 3)
    path = scene.site.path("/feeders/f1/daily")
    for resolution in ("day", "week", "month"):
        query = {"resolution": resolution}
        items = scene.site.api.get(path, params=query).raise_for_status().json()["items"]
        assert sum(item["days"] for item in items) == 30
        assert sum(item["meals"] for item in items) == 3
        rows = read(scene.site.api.get(path, params=query, headers=CSV))
        assert [(row["date"], row["days"], row["meals"]) for row in rows] == [
            (item["date"], str(item["days"]), str(item["meals"])) for item in items
        ]
    assert faulty_fields(scene.site.api.get(path, params={"resolution": "hour"})) == {"query.resolution"}


def test_a_year_of_one_feeder_is_small(scene: Scene) -> None:
    path = scene.site.path("/feeders/f1/daily")
    for headers in ({}, CSV):
        answer = scene.site.api.get(path, params={"from": "2025-01-01", "to": "2025-12-31"}, headers=headers)
        assert len(answer.raise_for_status().content) < 200_000


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("text/html, */*", "application/json"),
        ("application/json, text/csv;q=0.5", "application/json"),
        ("text/csv, application/json;q=0.5", "text/csv; charset=utf-8"),
        ("text/csv;q=0", "application/json"),
        ("text/csv;q=x", "application/json"),
    ],
)
def test_csv_is_for_who_asks_for_it(scene: Scene, accept: str, kind: str) -> None:
    for path in ("/feeders/f1/daily", "/feeders/f1/events"):
        answer = scene.site.api.get(scene.site.path(path), headers={"Accept": accept})
        assert answer.headers["Content-Type"] == kind
    problem(scene.site.api.get(scene.site.path("/feeders/f9/events"), headers=CSV), 404, "not-found")
