"""Starting and stopping: cleanly, by force, twice, with taken ports and wrong settings."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from alembic import command as alembic_command

from hub.database import Database
from hub.sqlite import sqlite_url
from hub.tables import alembic_config
from tests.end_to_end.conftest import StartFarm
from tests.end_to_end.events import EventStream
from tests.end_to_end.hub_process import (
    HubProcess,
    children_of,
    environment,
    feeder_hub,
    feeder_hub_json,
    is_running,
    until,
)

STOPS_WITHIN_S = 5.0


@pytest.fixture
def demo(start_farm: StartFarm) -> HubProcess:
    hub = start_farm("--demo", liveness__ttl_s=5).hub
    with hub.api() as api:
        until(lambda: api.get("/sites/demo/liveness").json()["alive"], 10)
    return hub


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_ctrl_c_stops_everything_within_five_seconds(demo: HubProcess) -> None:
    children = children_of(demo.child.pid)
    assert len(children) == 2, children
    with ExitStack() as stack:
        streams = [stack.enter_context(EventStream(demo)) for _ in range(3)]
        idle = stack.enter_context(httpx.Client(base_url=demo.http_url))
        assert idle.get("/healthz").status_code == 200
        half = stack.enter_context(socket.create_connection(("127.0.0.1", demo.mqtt_port)))
        half.sendall(b"\x10")

        ended = demo.stop()

        for stream in streams:
            assert stream.ended.wait(1)
    assert ended.code == 0, demo.log
    assert ended.after_s < STOPS_WITHIN_S
    assert not [line for pid, line in children.items() if is_running(pid)]
    assert "Traceback" not in demo.log
    assert "error" not in demo.log


def test_a_sigterm_amid_a_change_keeps_its_row_and_ends_in_time(start_farm: StartFarm) -> None:
    farm = start_farm(commands__timeout_s=30, liveness__ttl_s=5)
    site = farm.new_site()
    desktop = farm.desktop(site)
    desktop.answer = lambda _desktop, _order: None
    command = site.put_config(headers={"Prefer": "respond-async"}).json()["command_id"]
    ended = farm.hub.child.stop(signal.SIGTERM)
    assert (ended.code, ended.after_s < STOPS_WITHIN_S) == (0, True)
    desktop.wait_cut_off()
    farm.hub.start()
    assert site.command(command)["state"] == "sent"


def test_a_terminal_that_is_closed_ends_the_hub_cleanly(demo: HubProcess) -> None:
    children = children_of(demo.child.pid)
    ended = demo.child.stop(signal.SIGHUP)
    assert (ended.code, ended.after_s < STOPS_WITHIN_S) == (0, True)
    assert not [line for pid, line in children.items() if is_running(pid)]


WITH_A_MISTAKE = """
import asyncio, sys
import hub.rounds, main

async def mistaken(self):
    await asyncio.sleep(0.5)
    raise LookupError("by mistake")

hub.rounds.Rounds.go_round = mistaken
main.main()
"""


def test_a_hub_of_which_a_part_has_died_ends_and_says_so_to_whoever_starts_it_anew(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITH_A_MISTAKE, "serve", "--data-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, "--http-port", "0", "--mqtt-port", "0"],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "The hub cannot go on: rounds died of LookupError('by mistake')."


def test_a_killed_hub_leaves_no_orphan_and_the_next_goes_on_with_its_data(demo: HubProcess) -> None:
    children = children_of(demo.child.pid)
    assert len(children) == 2, children
    with demo.api() as api:
        changed = api.patch("/sites/demo/feeders/f1/config", json={"meal_g": 345})
        assert changed.status_code == 200

    demo.kill()
    until(lambda: not [line for pid, line in children.items() if is_running(pid)])

    demo.start()
    assert "shown this once" not in demo.hello
    with demo.api() as api:
        until(lambda: api.get("/sites/demo/liveness").json()["alive"], 10)
        assert api.get("/sites/demo/feeders/f1/config").json()["meal_g"] == 345
        assert api.get("/sites/demo/commands").json()["items"][0]["state"] == "applied"
        assert api.patch("/sites/demo/feeders/f2/config", json={"meal_g": 346}).status_code == 200


@pytest.mark.parametrize(
    ("flag", "names"),
    [
        ("--http-port", ("--http-port", "FEEDER_HUB_HTTP__PORT", "http.port")),
        ("--mqtt-port", ("--mqtt-port", "FEEDER_HUB_MQTT__PORT", "mqtt.port")),
    ],
)
def test_a_taken_port_is_told_with_its_setting(tmp_path: Path, taken: int, flag: str, names: tuple[str, ...]) -> None:
    ports = {"--http-port": 0, "--mqtt-port": 0, flag: taken}
    flags = [str(part) for pair in ports.items() for part in pair]
    done = feeder_hub("serve", "--demo", "--data-dir", tmp_path / "data", *flags)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for name in (*names, str(taken)):
        assert name in done.stderr
    assert "Feeder Hub" not in done.stdout, "no token is shown that nobody can use"


@pytest.mark.parametrize(
    ("given", "setting"),
    [({"mqtt__host": "192.0.2.1"}, "mqtt.host"), ({"mqtt__ws_port": "taken"}, "mqtt.ws_port")],
)
def test_an_address_that_cannot_be_listened_on_is_told_with_what_is_wrong_about_it(
    tmp_path: Path, taken: int, given: dict[str, str], setting: str
) -> None:
    given = {name: value.replace("taken", str(taken)) for name, value in given.items()}
    ports = ("--http-port", "0", "--mqtt-port", "0")
    done = feeder_hub("serve", "--data-dir", tmp_path / "data", *ports, **given)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("MQTT cannot listen on ")
    assert setting in done.stderr
    assert "Errno" not in done.stderr


def test_a_misspelt_setting_is_told_with_the_nearest_right_one(tmp_path: Path) -> None:
    done = feeder_hub("serve", "--data-dir", tmp_path / "data", htpp__port=0)
    assert done.returncode == 2
    assert "FEEDER_HUB_HTPP__PORT" in done.stderr
    assert "did you mean FEEDER_HUB_HTTP__PORT?" in done.stderr
    assert not (tmp_path / "data").exists(), "nothing was begun"


def test_a_second_hub_in_one_data_directory_is_refused_and_the_first_runs_on(start_farm: StartFarm) -> None:
    first = start_farm().hub
    second = feeder_hub("serve", "--data-dir", first.data_dir, "--http-port", "0", "--mqtt-port", "0")
    assert second.returncode == 1
    assert str(first.data_dir) in second.stderr
    assert "Traceback" not in second.stderr
    with first.api() as api:
        assert api.get("/sites").status_code == 200
    assert first.valkey_pid() is not None


def test_a_data_directory_with_a_long_name_is_no_hindrance(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path / ("long" * 20) / ("er" * 40))
    try:
        hub.start()
        assert hub.stop().code == 0
    finally:
        hub.discard()


def test_the_command_line_works_without_a_running_hub(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = feeder_hub_json("site", "add", "pond7", "--feeders", "2", "--data-dir", data)
    assert made["site"] == "pond7"
    assert made["feeders"] == ["f1", "f2"]
    assert (made["mqtt"]["username"], len(made["mqtt"]["secret"]) > 30) == ("pond7", True)
    assert feeder_hub_json("token", "add", "--role", "viewer", "--site", "pond7", "--data-dir", data)["token"]
    again = feeder_hub("site", "add", "pond7", "--data-dir", data)
    assert again.returncode == 1
    assert "pond7" in again.stderr
    assert "Traceback" not in again.stderr


def test_the_command_line_leaves_the_tables_of_an_older_hub_to_the_start_of_a_newer_one(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    with database._write_engine.begin() as connection:
        alembic_command.upgrade(alembic_config(connection), "0002")
    refused = feeder_hub("site", "list", "--data-dir", tmp_path)
    assert refused.returncode == 1
    assert "version 0002" in refused.stderr
    assert "feeder-hub serve" in refused.stderr
    assert "Traceback" not in refused.stderr
    told = feeder_hub_json("doctor", "--data-dir", tmp_path, http__port=0, mqtt__port=0)
    assert [found["fine"] for found in told["findings"] if found["name"] == "database"] == [True]
    assert database.versions()[0] == "0002"
    hub = HubProcess(tmp_path)
    try:
        hub.start()
        assert hub.cli_json("site", "list") == {"items": []}
    finally:
        hub.discard()
    current, newest = database.versions()
    database.close()
    assert current == newest


def test_the_doctor_finds_a_fresh_machine_fine_and_a_taken_port_not(tmp_path: Path, taken: int) -> None:
    free = {"http__port": 0, "mqtt__port": 0}
    assert feeder_hub_json("doctor", "--data-dir", tmp_path / "data", **free)["fine"] is True
    assert not any(path.name.startswith("feeder-hub.sqlite") for path in (tmp_path / "data").iterdir())
    done = feeder_hub("doctor", "--data-dir", tmp_path / "data", **(free | {"http__port": taken}))
    assert done.returncode == 1
    assert "http.port" in done.stdout
