"""The main job: a change goes from REST to the PLC and back, with the real simulated farm."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.end_to_end.conftest import StartFarm, running_farm
from tests.end_to_end.farm import Farm, Site
from tests.end_to_end.hub_process import HubProcess, until


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with running_farm(tmp_path_factory.mktemp("hub"), liveness__ttl_s=5, commands__timeout_s=5) as farm:
        yield farm


def test_a_change_reaches_the_plc_and_comes_back_read_back(farm: Farm) -> None:
    site = farm.new_site()
    farm.simulated_farm(site)

    answer = site.put_config(meal_g=300)

    assert answer.status_code == 200
    assert answer.json()["meal_g"] == 300
    read = site.api.get(site.path("/feeders/f1/config"))
    assert (read.json()["meal_g"], read.headers["ETag"]) == (300, answer.headers["ETag"])
    feeder = site.get("/feeders/f1")
    assert (feeder["reported"]["config"]["meal_g"], feeder["drift"], feeder["pending_command_id"]) == (300, [], None)
    command = site.command(answer.headers["Command-Id"])
    assert [step["state"] for step in command["story"]] == ["pending", "sent", "applied"]
    revision = site.get("/feeders/f1/config/revisions")["items"][0]
    assert (revision["origin"], revision["outcome"], revision["config"]["meal_g"]) == ("hub", "applied", 300)


def test_a_dose_is_fed_once_and_counted(farm: Farm) -> None:
    site = farm.new_site()
    farm.simulated_farm(site)

    answer = site.feed("f2", 20, "dose-1")

    assert answer.status_code == 200
    assert answer.json()["result"]["dispensed_g"] == pytest.approx(20, abs=0.5)
    doses = until(lambda: [e for e in site.get("/feeders/f2/events")["items"] if e["kind"] == "dose"])
    assert [dose["command_id"] for dose in doses] == [answer.json()["id"]]
    assert site.feed("f2", 20, "dose-1").json()["id"] == answer.json()["id"]
    assert len([e for e in site.get("/feeders/f2/events")["items"] if e["kind"] == "dose"]) == 1


def test_a_site_added_on_the_command_line_beside_the_hub_connects_at_once(farm: Farm) -> None:
    made = farm.hub.cli_json("site", "add", "beside", "--feeders", "3", "--time-zone", "Europe/Oslo")
    assert made["feeders"] == ["f1", "f2", "f3"]
    assert made["mqtt"]["username"] == "beside"

    site = Site(farm.api, "beside", made["mqtt"]["secret"], made["feeders"])
    farm.desktop(site)

    assert site.put_config("f3").status_code == 200
    assert {"beside"} <= {item["site"] for item in farm.hub.cli_json("site", "list")["items"]}


def test_the_printed_curl_line_changes_a_feeder_of_the_demo(start_farm: StartFarm) -> None:
    hub: HubProcess = start_farm("--demo", liveness__ttl_s=5).hub
    with hub.api() as api:
        until(lambda: api.get("/sites/demo/liveness").json()["alive"], 10)
        until(lambda: api.get("/sites/demo/feeders/f1").json()["reported"])
        line = hub.hello[hub.hello.index("  curl ") :]
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=20, check=True)
        assert done.stdout.startswith("HTTP/1.1 200"), done.stdout
        assert '"meal_g":300' in done.stdout
        assert api.get("/sites/demo/feeders/f1/config").json()["meal_g"] == 300
