"""Calls for whoever runs the hub, and the diagnostics for whoever writes a desktop."""

import asyncio
import json
import re
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import http_api.service
from http_api.problems import problem_of
from hub.database import CommitUnknown, DatabaseAway
from hub.errors import HubError
from tests.end_to_end.desktop import CONFIG, now
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import until
from tests.http_api.conftest import Scene, problem


def get(farm: Farm, path: str) -> httpx.Response:
    return httpx.get(farm.hub.http_url + path)


def test_a_running_hub_is_healthy_and_ready_without_a_token(farm: Farm) -> None:
    assert (get(farm, "/healthz").status_code, get(farm, "/healthz").text) == (200, "ok\n")
    ready = get(farm, "/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "parts": {"database": "ok", "redis": "ok", "mqtt": "ok"}}


def test_metrics_are_prometheus_text_and_count(scene: Scene) -> None:
    def ends() -> float:
        text = get(scene.farm, "/metrics").text
        found = re.search(r'^feeder_hub_command_ends_total{name="pause",state="applied"} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0

    answer = get(scene.farm, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "feeder_hub_broker" in answer.text
    before = ends()
    scene.site.api.post(scene.site.path("/feeders/f1/commands"), json={"name": "pause"}).raise_for_status()
    assert ends() == before + 1


def test_what_is_not_there_outside_the_api_says_so(farm: Farm) -> None:
    problem(get(farm, "/nothing"), 404, "not-found")
    problem(httpx.post(f"{farm.hub.http_url}/healthz"), 405, "method-not-allowed")


def state(scene: Scene, **changed: object) -> bytes:
    said = {
        "seq": 99,
        "journal_id": scene.desktop.journal_id,
        "at": now(),
        "config": CONFIG,
        "config_version": 1,
        "local_rev": 0,
        "condition": "running",
        "control": "remote",
    }
    return json.dumps(said | changed).encode()


@pytest.mark.parametrize(
    ("topic", "case", "reason", "says"),
    [
        ("feeders/f1/state", "not JSON", "not-json", "JSON"),
        ("feeders/f1/state", "not the schema", "not-the-schema", "condition"),
        ("feeders/f1/state", "too large", "too-large", "65536"),
        ("feeders/f1/state", "number as text", "not-the-schema", "seq"),
        ("feeders/f1/state", "time without zone", "not-the-schema", "at"),
        ("feeders/f1/state", "not UTF-8", "not-json", ""),
        ("feeders/f1/state", "empty", "not-json", ""),
        ("feeders/f9/state", "right", "unknown", "f9"),
        ("feeders/f1/events", "not the schema", "not-the-schema", "id"),
        ("heartbeat", "not JSON", "not-json", ""),
        ("heartbeat", "empty", "not-json", ""),
        ("heartbeat", "not the schema", "not-the-schema", "online"),
        ("commands", "right", "forbidden", ""),
        ("elsewhere", "right", "forbidden", ""),
    ],
)
def test_a_bad_message_changes_nothing_and_its_reason_can_be_read(
    scene: Scene, topic: str, case: str, reason: str, says: str
) -> None:
    payloads = {
        "not JSON": b"{online: yes}",
        "not the schema": state(scene, condition="happy"),
        "too large": state(scene, note="x" * 65_536),
        "number as text": state(scene, seq="99"),
        "time without zone": state(scene, at="2026-01-01T00:00:00"),
        "not UTF-8": b"\xff\xfe\x00",
        "empty": b"",
        "right": state(scene),
    }

    def known() -> tuple[object, ...]:
        feeder, live = scene.site.get("/feeders/f1"), scene.site.get("/liveness")
        return feeder["reported"], feeder["condition"], feeder["silo_g"], live["alive"], live["session"]

    before = known()

    scene.desktop.publish(topic, payloads[case])

    rejected = until(lambda: scene.site.get("/diagnostics")["rejected"])
    assert len(rejected) == 1
    assert rejected[0]["reason"] == reason, rejected
    assert says in rejected[0]["detail"]
    assert rejected[0]["topic"] == f"{scene.desktop.root}/{topic}"
    if reason != "forbidden":
        assert rejected[0]["payload"] == payloads[case][:200].decode("utf-8", "replace")
    assert known() == before
    assert scene.site.put_config().status_code == 200, "the desktop works on"


def test_a_good_message_is_no_reject_whatever_else_it_says(scene: Scene) -> None:
    scene.desktop.publish("feeders/f1/state", state(scene, colour="blue", silo_g=1234))
    until(lambda: scene.site.get("/feeders/f1")["silo_g"] == 1234)
    assert scene.site.get("/diagnostics")["rejected"] == []


def test_only_the_last_few_bad_messages_are_kept(scene: Scene) -> None:
    for n in range(30):
        scene.desktop.publish("feeders/f1/state", f"bad {n}".encode())
    until(lambda: (found := scene.site.get("/diagnostics")["rejected"]) and found[0]["payload"] == "bad 29")
    kept = [item["payload"] for item in scene.site.get("/diagnostics")["rejected"]]
    assert kept == [f"bad {n}" for n in range(29, 9, -1)]


def test_a_wrong_clock_is_shown_and_decides_nothing(scene: Scene) -> None:
    said = scene.desktop.heartbeat(1000) | {"sent_at": "2030-01-01T00:00:00.000Z"}
    scene.desktop.publish("heartbeat", said, retain=True)
    until(lambda: scene.site.get("/diagnostics")["clock_skew_s"] > 1_000_000)
    assert scene.site.alive() is True


def test_a_state_that_is_no_news_changes_nothing(scene: Scene) -> None:
    scene.desktop.publish("feeders/f1/state", state(scene, seq=99, silo_g=500))
    until(lambda: scene.site.get("/feeders/f1")["silo_g"] == 500)
    scene.desktop.publish("feeders/f1/state", state(scene, seq=99, silo_g=600))
    scene.desktop.publish("feeders/f1/state", state(scene, seq=98, silo_g=700))
    scene.desktop.publish("feeders/f2/state", state(scene, seq=99, silo_g=1))
    until(lambda: scene.site.get("/feeders/f2")["silo_g"] == 1)
    assert scene.site.get("/feeders/f1")["silo_g"] == 500


def test_many_sessions_in_a_minute_are_two_desktops(scene: Scene) -> None:
    assert scene.site.get("/diagnostics")["two_desktops"] is False
    for _ in range(3):
        scene.desktop.leave()
        scene.desktop.connect()
        scene.farm.wait_known(scene.site)
    until(lambda: scene.site.get("/diagnostics")["two_desktops"])


async def test_readiness_waits_for_a_frozen_database_as_long_as_whoever_asks_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def frozen(_work: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(http_api.service, "DATABASE_ANSWERS_WITHIN_S", 0.01)
    services: Any = SimpleNamespace(database=SimpleNamespace(read=frozen))
    assert await asyncio.wait_for(http_api.service._database(services), 5) == "does not answer"


@pytest.mark.parametrize("error", [DatabaseAway("password of hub"), CommitUnknown("password of hub")])
def test_a_database_that_is_away_is_told_without_what_its_driver_says(error: HubError) -> None:
    answer = problem_of(error)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    told = json.loads(bytes(answer.body))
    assert told["type"].endswith("#database-unreachable")
    assert "password" not in told["detail"]
