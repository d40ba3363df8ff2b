"""Redis dies, the hub dies, replies come late: every command comes to its known end, and no dose runs twice."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.end_to_end.conftest import StartFarm
from tests.end_to_end.desktop import applied, in_hand, silent
from tests.end_to_end.events import EventStream
from tests.end_to_end.farm import Farm, Site
from tests.end_to_end.hub_process import until

ENDS = {"applied", "rejected", "failed", "not_executed", "unresolved"}


def kill_valkey(farm: Farm) -> int:
    pid = farm.hub.valkey_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


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
    refused = until(lambda: (answer := site.put_config(meal_g=202)).status_code == 503 and answer, 3)
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


def test_readiness_names_the_part_that_is_away(start_farm: StartFarm) -> None:
    farm = start_farm()
    with EventStream(farm.hub) as stream:
        kill_valkey(farm)
        url = f"{farm.hub.http_url}/readyz"
        down = until(lambda: (answer := httpx.get(url)).status_code == 503 and answer, 3, every_s=0.001)
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
    feeder = site.feeders[n % len(site.feeders)]
    try:
        if n % 2:
            return site.feed(feeder, 5, f"change-{n}")
        return site.put_config(
            feeder, headers={"Idempotency-Key": f"change-{n}"}, meal_g=200 + n, enabled=False, feed_rate_g_per_s=100
        )
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("after_answers", [1, 12, 30])
def test_a_hub_killed_amid_50_changes_brings_each_to_its_end_and_doses_once(
    start_farm: StartFarm, after_answers: int
) -> None:
    farm = start_farm(commands__timeout_s=2, liveness__ttl_s=4)
    site = farm.new_site(feeders=8)
    farm.simulated_farm(site)
    for feeder in site.feeders:  # no meals, so that the silo tells what the doses took
        assert site.put_config(feeder, enabled=False, feed_rate_g_per_s=100).status_code == 200
    silo_g = {feeder: until(lambda f=feeder: site.get(f"/feeders/{f}")["silo_g"]) for feeder in site.feeders}

    with ThreadPoolExecutor(8) as pool:
        changes = [pool.submit(request, site, n) for n in range(50)]
        until(lambda: sum(change.done() for change in changes) >= after_answers, 20, every_s=0.001)
        farm.hub.kill()
    told = {n: change.result() for n, change in enumerate(changes)}
    assert None in told.values(), "it died too late to be of interest"
    farm.hub.start()
    farm.wait_known(site, 30)

    for n in range(50):  # the callers try again, each with its key
        again = until(lambda n=n: request(site, n), 10)
        before = told[n]
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
    for feeder in site.feeders:
        dispensed_g = sum(dose["dispensed_g"] for dose in doses(site) if dose["feeder"] == feeder)
        until(lambda f=feeder, g=dispensed_g: abs(silo_g[f] - site.get(f"/feeders/{f}")["silo_g"] - g) < 0.5)


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


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ({"status": "not_seen"}, "not_executed"),
        ({"status": "applied", "dispensed_g": 9.5}, "applied"),
        ({"status": "rejected", "code": "expired"}, "rejected"),
        ({"status": "failed", "code": "jammed", "dispensed_g": 3}, "failed"),
        ({"status": "interrupted", "dispensed_g": 4}, "failed"),
        ({"status": "interrupted"}, "unresolved"),
        ({"status": "forgotten"}, "unresolved"),
    ],
)
def test_a_dose_whose_reply_died_with_the_hub_is_settled_by_a_report(
    start_farm: StartFarm, outcome: dict[str, Any], state: str
) -> None:
    farm = start_farm(commands__timeout_s=0.5, liveness__ttl_s=4)
    site = farm.new_site()
    desktop = farm.desktop(site)
    desktop.answer = silent
    command = site.feed("f1", 5, "dose", Prefer="respond-async").json()["command_id"]
    desktop.ordered("feed")
    farm.hub.kill()
    desktop.wait_cut_off()
    desktop.outcomes[command] = outcome
    farm.hub.start()
    desktop.connect()
    farm.wait_known(site)

    ended = site.settled(command, 15)

    assert ended["state"] == state
    assert [step["state"] for step in ended["story"]] == ["pending", "sent", "unknown", state]
    assert [order.name for order in desktop.orders] == ["feed"], "it was never sent twice"
    assert (ended["result"] or {}).get("dispensed_g") == outcome.get("dispensed_g")
    assert desktop.reports[-1] == [command]


def test_not_seen_from_another_journal_cannot_be_known(start_farm: StartFarm) -> None:
    farm = start_farm(commands__timeout_s=0.5, liveness__ttl_s=4)
    site = farm.new_site()
    desktop = farm.desktop(site)
    desktop.answer = silent
    command = site.feed("f1", 5, "dose", Prefer="respond-async").json()["command_id"]
    desktop.ordered("feed")
    desktop.vanish()
    desktop.journal_id = "another-journal"
    desktop.connect()
    assert site.settled(command, 15)["state"] == "unresolved"


def test_what_runs_still_is_asked_about_again(start_farm: StartFarm) -> None:
    farm = start_farm(commands__timeout_s=0.5, liveness__ttl_s=4)
    site = farm.new_site()
    desktop = farm.desktop(site)
    desktop.answer = in_hand
    accepted = site.feed("f1", 5, "dose", Prefer="respond-async")
    command = accepted.json()["command_id"]
    desktop.outcomes[command] = {"status": "running"}
    site.in_state(command, "unknown")
    until(lambda: len([asked for asked in desktop.reports if command in asked]) >= 2, 10)
    assert site.command(command)["state"] == "unknown"
    desktop.outcomes[command] = {"status": "applied", "dispensed_g": 5}
    assert site.settled(command, 15)["state"] == "applied"


# --- the emergency stop ---------------------------------------------------------------------------------------------


def test_a_stop_latches_is_told_to_who_comes_back_and_ends_by_a_release(start_farm: StartFarm) -> None:
    farm = start_farm(commands__timeout_s=1)
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
    assert kind(site.feed("f1", 10, "dose")) == "stopped"
    assert kind(site.put_config()) == "stopped"

    assert site.order("release").status_code == 200
    assert site.get()["stopped"] is False
    assert site.feed("f1", 10, "dose").status_code == 200
    names = [found["name"] for found in reversed(all_commands(site))]
    assert names == ["stop_all", "release", "feed"]


def test_a_latch_outlives_the_hub_and_the_desktop(start_farm: StartFarm) -> None:
    farm = start_farm()
    site = farm.new_site()
    desktop = farm.simulated_farm(site)
    assert site.order("stop_all").status_code == 200
    farm.hub.kill()
    desktop.kill()
    farm.hub.start()
    desktop.start()
    farm.wait_known(site)
    assert site.get()["stopped"] is True
    until(lambda: {item["condition"] for item in site.get("/feeders")["items"]} == {"stopped"})
    assert kind(site.feed("f1", 10, "dose")) == "stopped"
    assert site.order("release").status_code == 200
    until(lambda: "stopped" not in {item["condition"] for item in site.get("/feeders")["items"]})


def test_when_a_site_is_back_it_hears_the_time_then_questions_then_its_stop(start_farm: StartFarm) -> None:
    farm = start_farm()
    site = farm.new_site()
    site.order("stop_all", Prefer="respond-async")
    desktop = farm.desktop(site, connected=False)
    desktop.connect()
    desktop.ordered("stop_all")
    assert desktop.heard[:3] == ["ping", "report", "stop_all"]


def test_a_restart_of_the_hub_declares_the_time_without_it_as_no_life(start_farm: StartFarm) -> None:
    farm = start_farm()
    site = farm.new_site()
    desktop = farm.desktop(site)
    farm.hub.kill()
    desktop.wait_cut_off()
    farm.hub.start()
    assert site.alive() is False
    assert [span["ended_by"] for span in site.get("/presence")["items"]] == ["restart"]
