"""The benchmark itself: that it runs from end to end, and says so when an answer is wrong."""

import json
from pathlib import Path

import pytest

from benchmarks.broker.cases import BESIDE_IDLE, DOORS, MOSQUITTO, OURS
from benchmarks.broker.targets import CONNECTIONS, FLOWS, REQUESTS, targets
from benchmarks.changes.cases import BARE, EXTERNAL, PRODUCT, RAW, REFUSED
from benchmarks.changes.change import changes, config, is_confirmed
from benchmarks.changes.layers import REST, layer_of
from benchmarks.load import Measured
from benchmarks.report import Median, medians
from benchmarks.rounds import Round
from benchmarks.targets import Target
from tests.benchmarks.conftest import run_module


def measured(tmp_path: Path, part: str, *arguments: str) -> dict:
    """The figures of one part, measured as shortly as can be."""
    figures = tmp_path / "figures.json"
    quickly = ("--seconds", "0.2", "--rounds", "1", "--json", str(figures))
    ended = run_module("benchmarks", part, *quickly, *arguments, tmp_path=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "something was left behind"
    return json.loads(figures.read_text())[part]


def test_every_case_of_a_change_runs_end_to_end_without_an_error(tmp_path: Path, needs_program):
    needs_program("mosquitto")
    needs_program("redis-server")
    found = measured(tmp_path, "changes", "--feeders", "16", "--concurrency", "1,16")
    assert [(one["what"], one["case"]) for one in found["medians"]] == [
        (what, case) for what in ("1 at once", "16 at once") for case in (BARE, RAW, PRODUCT, EXTERNAL, REFUSED)
    ]
    assert all(one["per_second"] > 0 and one["errors"] == 0 for one in found["medians"])
    assert [one["must"] for one in found["targets"]] == [0.1, 0.08, 0.5]


def test_every_case_of_the_broker_runs_end_to_end_without_an_error(tmp_path: Path, needs_program):
    needs_program("mosquitto")
    found = measured(tmp_path, "broker", "--clients", "20")
    assert [(one["what"], one["case"]) for one in found["medians"]] == [
        *((what, case) for what in FLOWS for case in (MOSQUITTO, OURS, BESIDE_IDLE)),
        *((CONNECTIONS, door.case) for door in DOORS),
        (REQUESTS, MOSQUITTO),
        (REQUESTS, OURS),
    ]
    assert all(one["per_second"] > 0 and one["errors"] == 0 for one in found["medians"])
    assert all(one["measured"] is not None for one in found["targets"])


def test_what_farms_say_is_measured_end_to_end_without_an_error(tmp_path: Path, needs_program):
    needs_program("mosquitto")
    needs_program("redis-server")
    found = measured(tmp_path, "ingest", "--farms", "20")
    assert [one["what"] for one in found["medians"]] == ["heartbeats", "events"]
    assert all(one["per_second"] > 0 and one["errors"] == 0 for one in found["medians"])
    assert [one["must"] for one in found["targets"]] == [12_000, 5_000]


def test_what_event_streams_cost_is_measured_end_to_end_without_an_error(tmp_path: Path):
    found = measured(tmp_path, "streams", "--listeners", "5")
    assert [(one["what"], one["case"]) for one in found["medians"]] == [
        ("PUT config", "nobody listens"),
        ("PUT config", "5 streams"),
        ("reply to event", "5 streams"),
    ]
    assert all(one["per_second"] > 0 and one["errors"] == 0 for one in found["medians"])
    assert [(one["must"], one["measured"] is None) for one in found["targets"]] == [(50, False), (2, False)]


def a_round(number: int, case: str, count: int, **fields) -> Round:
    figures = {"p50_ms": None, "p99_ms": None, "cpu_share": 0.1, "errors": 0, "first_error": None} | fields
    return Round(number, "what", case, Measured(count=count, seconds=1.0, **figures), server_cpu_s=None)


def test_medians_are_those_of_the_rounds_without_the_warm_up():
    found = medians([a_round(n, "case", count) for n, count in enumerate((1, 500, 100, 300))])
    assert [(one.per_second, one.p50_ms, one.server_cpu_us) for one in found] == [(300, None, None)]


@pytest.mark.parametrize(("share", "doubtful"), [(None, False), (0.5, False), (0.95, True)])
def test_a_figure_is_a_lower_bound_if_its_generator_was_busy(share, doubtful):
    [found] = medians([a_round(1, "case", 100, cpu_share=share)])
    assert found.is_lower_bound is doubtful


@pytest.mark.parametrize(
    ("figure", "at_most", "verdict"),
    [
        (0.4, False, "MISSED"),
        (0.5, False, "must met"),
        (1.0, False, "aim met"),
        (None, False, "not measured"),
        (0.4, True, "aim met"),
        (1.0, True, "must met"),
    ],
)
def test_a_target_says_how_far_it_is_met(figure, at_most, verdict):
    must, aim = (1.0, 0.5) if at_most else (0.5, 1.0)
    assert Target("title", figure, must, aim, at_most=at_most).verdict == verdict


def test_targets_are_ratios_of_the_same_thing():
    def of(what: str, case: str, per_second: float) -> Median:
        return Median(what, case, per_second, None, None, None, 9.5, 0.1, errors=0)

    speeds = {MOSQUITTO: 100.0, OURS: 60.0, BESIDE_IDLE: 54.0}
    found = [of(what, case, speed) for what in (*FLOWS, CONNECTIONS, REQUESTS) for case, speed in speeds.items()]
    assert [one.measured for one in targets(found)] == [0.6, 0.6, 0.9, 0.9, 60.0, 9.5, 0.6]


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
    assert layer_of([*frames, "Session.flush (sqlalchemy/orm/session.py:1)"]).startswith("rows")
    assert layer_of(["thread (1): MainThread", "Runner.run (asyncio/runners.py:1)"]) == REST
