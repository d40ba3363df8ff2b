"""Redis dies, the hub dies, replies come late: every command comes to its known end, and no dose runs twice."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.end_to_end.conftest import TTL_S, StartFarm, running_farm
from tests.end_to_end.desktop import ScriptedDesktop, applied, in_hand, silent
from tests.end_to_end.events import EventStream
from tests.end_to_end.farm import Farm, Site
from tests.end_to_end.hub_process import until

ENDS = {"applied", "rejected", "failed", "not_executed", "unresolved"}


def kill_valkey(farm: Farm) -> int:
    pid = farm.hub.valkey_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def answers(site: Site, status: int) -> httpx.Response | None:
    answer = site.put_config(meal_g=202)
    return answer if answer.status_code == status else None


def kind(answer: httpx.Response) -> str:
    return str(answer.json()["type"].partition("#")[2])


def test_without_redis_liveness_is_unknown_and_it_comes_back_by_itself(start_farm: StartFarm) -> None:
    # Heartbeats are far apart, so that nothing but the recovery itself decides when the site is known again.
    farm = start_farm(liveness__ttl_s=4)
    farm.heartbeat_s = 1.2
    site = farm.new_site()
    desktop = farm.desktop(site)
    assert site.put_config(meal_g=200).status_code == 200
    desktop.orders.clear()

    desktop.answer = silent
    waiting = site.put_config(headers={"Prefer": "respond-async"}, meal_g=201).json()["command_id"]
    order = desktop.ordered("set_config")
    desktop.orders.clear()
    dead = kill_valkey(farm)
    refused = until(lambda: answers(site, 503), 3)
    assert refused is not None
    assert kind(refused) == "liveness-unknown"
    assert refused.headers["Retry-After"]
    assert site.get("/liveness")["alive"] is None
    assert desktop.orders == []
    desktop.reply(order, "applied", **desktop.result_of(order))
    assert site.settled(waiting)["state"] == "applied", "no command is lost"

    desktop.answer = applied
    until(lambda: farm.hub.valkey_pid() not in (None, dead), 5)
    until(lambda: site.put_config(meal_g=203).status_code == 200, 8)
    assert [span["ended_by"] for span in site.get("/presence")["items"]] == [None], "nobody was declared offline"
    assert [command["state"] for command in site.get("/commands")["items"]] == ["applied"] * 3


def test_a_site_is_deleted_while_redis_does_not_answer(start_farm: StartFarm) -> None:
    farm = start_farm()
    site = farm.new_site()
    valkey = farm.hub.valkey_pid()
    assert valkey is not None
    os.kill(valkey, signal.SIGSTOP)
    try:
        assert site.api.delete(site.path()).status_code == 200
    finally:
        os.kill(valkey, signal.SIGCONT)
    assert site.api.get(site.path()).status_code == 404


def test_readiness_names_the_part_that_is_away(start_farm: StartFarm) -> None:
    farm = start_farm()
    with EventStream(farm.hub) as stream:
        kill_valkey(farm)
        url = f"{farm.hub.http_url}/readyz"
        down = until(lambda: None if (answer := httpx.get(url)).is_success else answer, 3, every_s=0.001)
        assert down is not None
        assert down.json()["parts"]["redis"] != "ok"
        assert down.json()["ready"] is False
        assert httpx.get(f"{farm.hub.http_url}/healthz").status_code == 200
        until(lambda: httpx.get(url).status_code == 200)
        site = farm.new_site()
        farm.desktop(site)
        stream.wait_for("liveness", alive=True, site=site.name)


def test_a_site_that_was_dead_before_redis_came_back_empty_is_unknown_for_one_time_to_live(
    start_farm: StartFarm,
) -> None:
    farm = start_farm(liveness__ttl_s=3)
    site = farm.new_site()
    assert kind(site.put_config()) == "desktop-offline"
    dead = kill_valkey(farm)
    until(lambda: farm.hub.valkey_pid() not in (None, dead))
    until(lambda: httpx.get(f"{farm.hub.http_url}/readyz").status_code == 200)
    assert kind(site.put_config()) == "liveness-unknown"
    assert site.alive() is None
    until(lambda: site.alive() is False, 5)
    assert kind(site.put_config()) == "desktop-offline"


# --- the hub dies ---------------------------------------------------------------------------------------------------


def request(site: Site, n: int) -> httpx.Response | None:
    """One of 50 changes, always with the same key; None if the hub is not there."""
    feeder = site.feeders[n // 2]  # a config and a dose each: a feeder takes no second dose within its pause
    try:
        if n % 2:
            return site.feed(feeder, 5, f"change-{n}")
        return site.put_config(
            feeder, headers={"Idempotency-Key": f"change-{n}"}, meal_g=200 + n, enabled=False, feed_rate_g_per_s=100
        )
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("after_answers", [4, 25])
def test_a_hub_killed_amid_50_changes_brings_each_to_its_end_and_doses_once(
    start_farm: StartFarm, after_answers: int
) -> None:
    farm = start_farm(commands__timeout_s=2, liveness__ttl_s=4)
    site = farm.new_site(feeders=25)
    farm.simulated_farm(site)
    for feeder in site.feeders:  # no meals, so that the silo tells what the doses took
        assert site.put_config(feeder, enabled=False, feed_rate_g_per_s=100).status_code == 200
    silo_g = silos(site)

    with ThreadPoolExecutor(8) as pool:
        changes = [pool.submit(request, site, n) for n in range(50)]
        until(lambda: sum(change.done() for change in changes) >= after_answers, 20, every_s=0.001)
        farm.hub.kill()
    told = {n: change.result() for n, change in enumerate(changes)}
    assert None in told.values(), "it died too late to be of interest"
    farm.hub.start()
    farm.wait_known(site, 30)

    for n, before in told.items():  # the callers try again, each with its key
        again = request(site, n)
        assert again is not None
        if before is not None and before.status_code == 200:
            assert again.status_code == 200
    until(lambda: all(command["settled_at"] for command in all_commands(site)), 20)
    commands = all_commands(site)
    assert {command["state"] for command in commands} <= ENDS
    assert all(len(command["story"]) >= 3 for command in commands)

    fed = {command["id"]: command for command in commands if command["name"] == "feed"}
    acted = [command for command in fed.values() if (command["result"] or {}).get("dispensed_g")]
    assert acted
    until(lambda: {dose["command_id"] for dose in doses(site)} >= {command["id"] for command in acted}, 10)
    done = [dose["command_id"] for dose in doses(site)]
    assert len(done) == len(set(done)), "no dose ran twice"
    assert set(done) <= set(fed)
    keys = [command["id"] for command in fed.values()]
    assert len(keys) <= 25, "no key made two commands"
    until(lambda: all(abs(grams) < 0.5 for grams in missing(site, silo_g).values()), 10)


def silos(site: Site) -> dict[str, float]:
    return {item["feeder"]: item["silo_g"] for item in site.get("/feeders")["items"]}


def missing(site: Site, before_g: dict[str, float]) -> dict[str, float]:
    """Grams that left each silo without a dose that tells of them."""
    now_g = silos(site)
    told_g = {feeder: sum(dose["dispensed_g"] for dose in doses(site) if dose["feeder"] == feeder) for feeder in now_g}
    return {feeder: before_g[feeder] - now_g[feeder] - told_g[feeder] for feeder in now_g}


def all_commands(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.get("/commands?limit=500")["items"]
    return found


def doses(site: Site) -> list[dict[str, Any]]:
    return [
        event
        for feeder in site.feeders
        for event in site.get(f"/feeders/{feeder}/events?limit=500")["items"]
        if event["kind"] == "dose"
    ]


OUTCOMES: dict[str, tuple[dict[str, Any], str]] = {
    "not seen": ({"status": "not_seen"}, "not_executed"),
    "applied": ({"status": "applied", "dispensed_g": 4.5}, "applied"),
    "rejected": ({"status": "rejected", "code": "expired"}, "rejected"),
    "failed": ({"status": "failed", "code": "jammed", "dispensed_g": 3}, "failed"),
    "interrupted": ({"status": "interrupted", "dispensed_g": 4}, "failed"),
    "interrupted, grams not known": ({"status": "interrupted"}, "unresolved"),
    "forgotten": ({"status": "forgotten"}, "unresolved"),
}
"""What a desktop's journal says of a dose, and what the dose's row comes to."""


@dataclass
class Open:
    """A site with a dose whose reply died with the hub."""

    site: Site
    desktop: ScriptedDesktop
    command: str


@dataclass
class Crash:
    """A hub that was killed with open doses and a latched stop, and runs again."""

    doses: dict[str, Open]
    stopped: Site


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crash]:
    with running_farm(tmp_path_factory.mktemp("hub"), commands__timeout_s=0.5, liveness__ttl_s=8) as farm:
        stopped = farm.new_site()
        simulated = farm.simulated_farm(stopped)
        assert stopped.order("stop_all").status_code == 200
        opened = {case: open_dose(farm) for case in OUTCOMES}
        farm.hub.kill()
        simulated.kill()
        for case, each in opened.items():
            each.desktop.wait_cut_off()
            each.desktop.outcomes[each.command] = OUTCOMES[case][0]
        farm.hub.start()
        assert [each.site.alive() for each in opened.values()] == [False] * len(opened), "nobody is connected yet"
        simulated.start()
        for each in opened.values():
            each.desktop.connect()
        farm.wait_known(stopped)
        yield Crash(opened, stopped)


def open_dose(farm: Farm) -> Open:
    site = farm.new_site()
    desktop = farm.desktop(site)
    desktop.answer = silent
    command = site.feed("f1", 5, site.name, Prefer="respond-async").json()["command_id"]
    desktop.ordered("feed")
    return Open(site, desktop, command)


@pytest.mark.parametrize("case", OUTCOMES)
def test_a_dose_whose_reply_died_with_the_hub_is_settled_by_a_report(crash: Crash, case: str) -> None:
    outcome, state = OUTCOMES[case]
    dose = crash.doses[case]

    ended = dose.site.settled(dose.command, 15)

    assert ended["state"] == state
    assert [step["state"] for step in ended["story"]] == ["pending", "sent", "unknown", state]
    assert (ended["result"] or {}).get("dispensed_g") == outcome.get("dispensed_g")
    assert dose.desktop.reports[-1] == [dose.command]
    assert [order.name for order in dose.desktop.orders] == ["feed"], "it was never sent twice"


def test_the_time_without_the_hub_was_no_life(crash: Crash) -> None:
    spans = crash.doses["applied"].site.get("/presence")["items"]
    assert [span["ended_by"] for span in spans] == [None, "restart"]


def test_a_latch_outlives_the_hub_and_the_desktop(crash: Crash) -> None:
    site = crash.stopped
    assert site.get()["stopped"] is True
    until(lambda: {item["condition"] for item in site.get("/feeders")["items"]} == {"stopped"})
    assert kind(site.feed("f1", 10, site.name)) == "stopped"
    assert site.order("release").status_code == 200
    until(lambda: "stopped" not in {item["condition"] for item in site.get("/feeders")["items"]})


# --- desktops -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with running_farm(tmp_path_factory.mktemp("hub"), commands__timeout_s=1, liveness__ttl_s=TTL_S) as farm:
        yield farm


def test_not_seen_from_another_journal_cannot_be_known(farm: Farm) -> None:
    dose = open_dose(farm)
    dose.desktop.vanish()
    dose.desktop.journal_id = "another-journal"
    dose.desktop.connect()
    assert dose.site.settled(dose.command, 15)["state"] == "unresolved"


def test_what_runs_still_is_asked_about_again(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.desktop(site)
    desktop.answer = in_hand
    command = site.put_config(headers={"Prefer": "respond-async"}).json()["command_id"]
    desktop.outcomes[command] = {"status": "running"}
    site.in_state(command, "unknown")
    until(lambda: [asked for asked in desktop.reports if command in asked], 10)
    assert site.command(command)["state"] == "unknown"
    desktop.outcomes[command] = {"status": "applied", **desktop.result_of(desktop.ordered("set_config"))}
    assert site.settled(command, 10)["state"] == "applied"


# --- the emergency stop ---------------------------------------------------------------------------------------------


def test_a_stop_latches_is_told_to_who_comes_back_and_ends_by_a_release(farm: Farm) -> None:
    site = farm.new_site()
    desktop = farm.simulated_farm(site)
    desktop.kill()
    until(lambda: site.alive() is False)

    stopped = site.order("stop_all", Prefer="respond-async")
    command = stopped.json()["command_id"]
    assert site.get()["stopped"] is True
    site.in_state(command, "unknown")

    desktop.start()
    assert site.settled(command)["state"] == "applied"
    assert {item["confirmed"] for item in site.command(command)["result"]["feeders"].values()} == {True}
    until(lambda: {item["condition"] for item in site.get("/feeders")["items"]} == {"stopped"})
    assert kind(site.feed("f1", 10, site.name)) == "stopped"
    assert kind(site.put_config()) == "stopped"

    assert site.order("release").status_code == 200
    assert site.get()["stopped"] is False
    assert site.feed("f1", 10, site.name).status_code == 200
    names = [found["name"] for found in reversed(all_commands(site))]
    assert names == ["stop_all", "release", "feed"]


def test_when_a_site_is_back_it_hears_the_time_then_questions_then_its_stop(farm: Farm) -> None:
    site = farm.new_site()
    site.order("stop_all", Prefer="respond-async")
    desktop = farm.desktop(site, connected=False)
    desktop.connect()
    desktop.ordered("stop_all")
    assert desktop.heard[:3] == ["ping", "report", "stop_all"]
