"""The benchmark itself: that it runs from end to end, and says so when an answer is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.changes.change import changes, config, is_confirmed
from benchmarks.changes.layers import REST, layer_of

ROOT = Path(__file__).parent.parent.parent


def test_every_case_runs_end_to_end_without_an_error(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--seconds", "0.2", "--rounds", "1", "--feeders", "4", "--json", figures],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    measured = json.loads(figures.read_text())
    assert [(one["concurrency"], one["case"]) for one in measured["medians"]] == [
        (concurrency, case) for concurrency in (1, 16, 64) for case in ("bare PUT", "raw MQTT", "PUT config")
    ]
    assert all(one["per_second"] > 0 and one["errors"] == 0 for one in measured["medians"])
    assert len(measured["ratios"]) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "something was left behind"


def test_workers_never_share_a_feeder_while_there_are_enough() -> None:
    workers = [changes(n, 16, 64) for n in range(16)]
    for _ in range(200):
        assert len({next(worker)[0] for worker in workers}) == 16


def test_each_change_of_a_feeder_differs_from_the_one_before() -> None:
    worker = changes(0, 1, 64)
    meals: dict[int, int] = {}
    for feeder, meal_g in (next(worker) for _ in range(200_000)):
        assert 100 <= meal_g <= 999
        assert meals.get(feeder) != meal_g
        meals[feeder] = meal_g


def test_an_answer_with_another_config_is_no_confirmation() -> None:
    assert is_confirmed(250, config(250))
    assert is_confirmed(250, b'{"enabled":true,"meal_g":250.0}')
    assert not is_confirmed(250, config(251))


def test_a_sample_belongs_to_the_innermost_layer_that_says_anything() -> None:
    frames = ["thread (1): MainThread", "run_asgi (uvicorn/protocols/http/httptools_impl.py:1)"]
    assert layer_of([*frames, "loads (json/__init__.py:1)"]).startswith("HTTP: uvicorn")
    assert layer_of([*frames, "Session.flush (sqlalchemy/orm/session.py:1)"]).startswith("SQLAlchemy")
    assert layer_of(["thread (1): MainThread", "Runner.run (asyncio/runners.py:1)"]) == REST
