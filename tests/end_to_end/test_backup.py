"""A backup of a hub under load, and the same hub after it was restored: with SQLite and with PostgreSQL."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.end_to_end.conftest import TTL_S, running_farm
from tests.end_to_end.desktop import silent
from tests.end_to_end.external import NeedsProgram
from tests.end_to_end.farm import Farm, Site
from tests.end_to_end.hub_process import feeder_hub, until
from tests.end_to_end.postgres import postgres_server


@pytest.fixture(params=["sqlite", "postgresql"])
def farm(
    request: pytest.FixtureRequest, needs_program: NeedsProgram, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Farm]:
    directory = tmp_path_factory.mktemp("hub")
    settings: dict[str, Any] = {"liveness__ttl_s": TTL_S, "commands__timeout_s": 2}
    with ExitStack() as stack:
        if request.param == "postgresql":
            needs_program("postgres")
            settings["database__url"] = stack.enter_context(postgres_server(directory)).url
        yield stack.enter_context(running_farm(directory, **settings))


@contextmanager
def under_load(site: Site) -> Iterator[list[str]]:
    """Changes and doses go on inside the block; the ids of the commands that were accepted."""
    accepted: list[str] = []
    ended = threading.Event()

    def go_on(feeder: str) -> None:
        for turn in itertools.count():
            if ended.is_set():
                return
            asked = {"Prefer": "respond-async"}
            change = site.put_config(feeder, headers=asked, meal_g=200 + turn % 100)
            dose = site.feed(feeder, 1, f"{feeder}-{turn}", **asked)
            time.sleep(0.02)  # the pace of the load; nothing is waited for
            accepted.extend(answer.json()["command_id"] for answer in (change, dose) if answer.status_code == 202)

    threads = [threading.Thread(target=go_on, args=(feeder,)) for feeder in site.feeders]
    for thread in threads:
        thread.start()
    try:
        yield accepted
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)


def commands(site: Site) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        page = site.get(f"/commands?limit=100{cursor}")
        found |= {command["id"]: command for command in page["items"]}
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


def all_settled(site: Site) -> dict[str, dict[str, Any]] | None:
    found = commands(site)
    return found if all(command["settled_at"] for command in found.values()) else None


@pytest.mark.timeout(150)  # a restore, a start, and a load on a machine that may have one of its own
def test_a_hub_that_is_restored_goes_on_from_the_backup_and_knows_what_it_does_not_know(farm: Farm) -> None:
    hub, backup = farm.hub, farm.directory / "backup"

    def run(*command: str) -> Any:
        return feeder_hub(*command, "--data-dir", str(hub.data_dir), **hub.settings)

    busy, stopped, away = farm.new_site(), farm.new_site(), farm.new_site()
    simulated = farm.simulated_farm(busy)
    deaf = farm.desktop(stopped)
    deaf.answer = silent
    stop_id = stopped.order("stop_all", Prefer="respond-async").json()["command_id"]
    waiting = away.api.put(away.path("/feeders/f1/config?queue_for=3600"), json=busy.get("/feeders/f1/config")).json()[
        "command_id"
    ]

    with under_load(busy) as accepted:
        until(lambda: len(accepted) > 20, 20)
        before = list(accepted)
        done = run("backup", str(backup))
        assert done.returncode == 0, done.stderr
        after_backup = len(accepted)
        until(lambda: len(accepted) > after_backup + 20, 20)
    assert run("backup", str(backup)).returncode == 1, "it is not overwritten"
    assert run("backup").returncode == 2
    refused = run("restore", str(backup))
    assert refused.returncode == 1
    assert "another hub is running" in refused.stderr
    version = busy.get("/feeders/f1")["reported"]["version"]
    was = until(lambda: all_settled(busy), 20, 0.2)

    hub.stop()
    deaf.wait_cut_off()
    restored = run("restore", str(backup))
    assert restored.returncode == 0, restored.stderr
    hub.start()
    deaf.connect()

    until(lambda: busy.alive() and stopped.alive(), 20)
    found = until(lambda: all_settled(busy), 30, 0.2)
    assert set(before) <= set(found)
    assert set(found) <= set(was), "what came after the backup is not there"
    for command_id, end in found.items():
        if was[command_id]["name"] == "feed":
            assert (end["state"], end["result"]) == (was[command_id]["state"], was[command_id]["result"])
    ended = away.command(waiting)
    assert (ended["state"], ended["story"][-1]["cause"]) == ("expired", "restored from a backup")

    changed = until(lambda: (answer := busy.put_config(meal_g=333)).status_code == 200 and answer, 10)
    assert changed.status_code == 200
    assert busy.get("/feeders/f1")["reported"]["version"] > version
    assert stopped.feed("f1", 1, "after").status_code == 409
    assert until(lambda: [order for order in deaf.orders if order.id == stop_id][1:], 10), "it is told again"
    simulated.kill()
