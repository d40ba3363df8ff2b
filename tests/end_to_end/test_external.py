"""The main job with an external mosquitto, an external redis-server, and both."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.end_to_end.conftest import TTL_S, running_farm
from tests.end_to_end.desktop import CONFIG, now
from tests.end_to_end.events import EventStream
from tests.end_to_end.external import Mosquitto, NeedsProgram, redis_server
from tests.end_to_end.farm import Farm, Site
from tests.end_to_end.hub_process import HubProcess, feeder_hub, feeder_hub_json, until


@dataclass
class Outside:
    """A farm whose broker, Redis or both are external ones, with four sites."""

    farm: Farm
    sites: list[Site]
    mosquitto: Mosquitto | None


@pytest.fixture(scope="module", params=["mosquitto", "redis-server", "mosquitto redis-server"])
def outside(
    request: pytest.FixtureRequest, needs_program: NeedsProgram, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outside]:
    programs = {name: needs_program(name) for name in request.param.split()}
    directory = tmp_path_factory.mktemp("hub")
    settings: dict[str, Any] = {"liveness__ttl_s": TTL_S, "commands__timeout_s": 2}
    with ExitStack() as stack:
        mosquitto = None
        if "mosquitto" in programs:
            mosquitto = Mosquitto(programs["mosquitto"], directory / "mosquitto", directory / "data")
            stack.enter_context(mosquitto.running())
            settings |= {"mqtt__url": mosquitto.url}
        if "redis-server" in programs:
            settings |= {"redis__url": stack.enter_context(redis_server(programs["redis-server"], directory))}
        port = None if mosquitto is None else mosquitto.port
        farm = stack.enter_context(running_farm(directory, mqtt_port=port, **settings))
        sites = [farm.new_site() for _ in range(4)]
        if mosquitto is not None:
            mosquitto.export()
            until(farm.desktop(sites[3], connected=False).is_let_in, 10)
        assert (farm.hub.valkey_pid() is None) == ("redis-server" in programs)
        yield Outside(farm, sites, mosquitto)


def test_the_main_job_works_with_parts_from_outside(outside: Outside) -> None:
    farm, site = outside.farm, outside.sites[0]
    desktop = farm.simulated_farm(site)
    with EventStream(farm.hub, query=f"?site={site.name}") as stream:
        changed = site.put_config(meal_g=310)
        assert changed.status_code == 200, changed.text
        stream.wait_for("command", state="applied")
        assert site.get("/feeders/f1/config")["meal_g"] == 310
        assert site.feed("f2", 10, "dose").status_code == 200
        until(lambda: [event for event in site.get("/feeders/f2/events")["items"] if event["kind"] == "dose"])

        desktop.kill()
        stream.wait_for("liveness", TTL_S / 2, alive=False, ended_by="will")
        assert site.put_config().status_code == 409
        desktop.start()
        farm.wait_known(site)
        desktop.freeze()
        stream.wait_for("liveness", TTL_S + 2, alive=False, ended_by="expired")
        assert site.put_config().status_code == 409
        desktop.thaw()
        until(site.alive, 10)
        until(lambda: site.put_config(meal_g=311).status_code == 200)
    assert len(stream.of("liveness", alive=False, ended_by="expired")) == 1


def test_after_a_restart_of_the_hub_the_living_go_on_and_a_replay_raises_nobody(outside: Outside) -> None:
    farm, (living, silent) = outside.farm, outside.sites[1:3]
    farm.send_away()
    desktop, quiet = farm.desktop(living), farm.desktop(silent)
    quiet.fall_silent()
    until(lambda: silent.alive() is False, TTL_S + 2)
    farm.hub.kill()
    farm.hub.start()
    seen = set()
    if outside.mosquitto is None:
        desktop.wait_cut_off()
        desktop.connect()
    ends_at_s = time.monotonic() + TTL_S + 1

    def is_over() -> bool:
        seen.add(silent.alive())  # its last heartbeat is retained at an external broker, and says that it is online
        return time.monotonic() > ends_at_s

    until(is_over, TTL_S + 3)
    assert True not in seen
    assert silent.alive() is False
    farm.wait_known(living)
    assert living.put_config(meal_g=320).status_code == 200
    if outside.mosquitto is not None:
        quiet.beat()
        until(silent.alive)


@pytest.mark.parametrize("outside", ["mosquitto"], indirect=True)
def test_what_a_desktop_said_while_the_hub_was_away_is_not_lost(outside: Outside) -> None:
    farm, site = outside.farm, outside.sites[3]
    farm.send_away()
    desktop = farm.desktop(site)
    desktop.answer = lambda _desktop, _order: None
    command = site.put_config(headers={"Prefer": "respond-async"}, meal_g=330).json()["command_id"]
    order = desktop.ordered("set_config")
    farm.hub.kill()
    desktop.reply(order, "applied", **desktop.result_of(order)).wait_for_publish(5)
    desktop.vanish()
    farm.hub.start()
    assert site.settled(command)["state"] == "applied"
    until(lambda: site.alive() is False, TTL_S + 2)


class Intruder:
    """A site's credentials, used for what is not the site's."""

    def __init__(self, port: int, site: Site, client_id: str) -> None:
        self.heard: list[str] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, reconnect_on_failure=False)
        self.client.username_pw_set(site.name, site.secret)
        self.client.on_message = lambda _client, _data, message: self.heard.append(message.topic)
        self.client.connect("127.0.0.1", port, keepalive=5)
        self.client.loop_start()
        until(self.client.is_connected)

    def publish(self, topic: str, said: dict[str, Any]) -> None:
        self.client.publish(topic, json.dumps(said), qos=1, retain=topic.endswith("heartbeat")).wait_for_publish(5)

    def end(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_a_site_neither_reads_nor_writes_anothers_topics(outside: Outside) -> None:
    farm, (own, other) = outside.farm, (outside.sites[1], outside.sites[3])
    farm.send_away()
    victim = farm.desktop(other)
    before = other.get("/liveness")["session"]
    intruder = Intruder(farm.mqtt_port(), own, own.name)
    try:
        for topic_filter in ("#", "fh/v1/#", f"fh/v1/{other.name}/#", "fh/v1/+/commands", "fh/v1/+/feeders/+/commands"):
            intruder.client.subscribe(topic_filter, qos=1)
        online = {"online": True, "session": "theirs", "seq": 1, "sent_at": now(), "interval_s": 20, "journal_id": "j"}
        intruder.publish(f"fh/v1/{other.name}/heartbeat", online)
        intruder.publish(f"fh/v1/{other.name}/heartbeat", {"online": False, "session": before})
        intruder.publish(f"fh/v1/{other.name}/feeders/f1/commands", {"name": "feed", "args": {"grams": 9999}})
        intruder.publish(f"fh/v1/{own.name}/commands", {"name": "stop_all"})
        intruder.publish(
            f"fh/v1/{other.name}/feeders/f1/state",
            {
                "seq": 99,
                "journal_id": victim.journal_id,
                "at": now(),
                "config": CONFIG,
                "config_version": 99,
                "local_rev": 0,
                "condition": "jammed",
                "control": "remote",
            },
        )
        assert other.put_config(meal_g=340).status_code == 200
        victim.beat()
        victim.tell_states()
        until(lambda: other.get("/feeders/f1")["reported"]["config"]["meal_g"] == 340)
    finally:
        intruder.end()
    assert other.get("/liveness")["session"] == before
    assert other.get("/feeders/f1")["condition"] == "running"
    assert [order.name for order in victim.orders] == ["set_config"]
    assert [topic for topic in intruder.heard if f"/{other.name}/" in topic] == []


def test_a_site_that_is_added_later_is_let_in_after_another_export(outside: Outside) -> None:
    made = outside.farm.new_site()
    if outside.mosquitto is not None:
        outside.mosquitto.export()
    desktop = outside.farm.desktop(made, connected=False)
    until(desktop.is_let_in, 10)
    outside.farm.wait_known(made)
    assert made.put_config().status_code == 200


@pytest.mark.parametrize("outside", ["mosquitto"], indirect=True)
def test_new_secrets_and_a_deleted_site_say_what_is_to_do_at_an_external_broker(outside: Outside) -> None:
    assert outside.mosquitto is not None
    farm, made = outside.farm, outside.farm.new_site()
    outside.mosquitto.export()
    desktop = farm.desktop(made, connected=False)
    until(desktop.is_let_in, 10)
    rotated = farm.api.post(made.path("/credentials")).raise_for_status().json()
    desktop.leave()
    desktop.connect()  # nobody has told the broker yet
    outside.mosquitto.export()
    desktop.leave()
    desktop.secret = rotated["mqtt"]["secret"]
    until(desktop.is_let_in, 10)
    deleted = farm.api.delete(made.path()).raise_for_status().json()
    for answer in (rotated, deleted):
        assert answer["session_ended"] is None
        assert "feeder-hub export mosquitto" in answer["to_do"]


@pytest.mark.parametrize("outside", ["mosquitto redis-server"], indirect=True)
def test_the_doctor_checks_parts_from_outside(outside: Outside) -> None:
    settings = outside.farm.hub.settings | {"http__port": 0, "mqtt__port": 0}
    told = feeder_hub_json("doctor", "--data-dir", outside.farm.hub.data_dir, **settings)
    assert told["fine"] is True, told


@pytest.mark.parametrize("outside", ["redis-server"], indirect=True)
def test_two_hubs_in_one_data_directory_are_refused_with_an_external_redis_too(outside: Outside) -> None:
    hub: HubProcess = outside.farm.hub
    ports = ("--http-port", "0", "--mqtt-port", "0")
    second = feeder_hub("serve", "--data-dir", hub.data_dir, *ports, **hub.settings)
    assert second.returncode == 1
    assert str(hub.data_dir) in second.stderr


def test_a_broker_that_is_not_there_is_waited_for(tmp_path: Path, needs_program: NeedsProgram) -> None:
    data = tmp_path / "data"
    made = feeder_hub_json("site", "add", "pond", "--data-dir", data)
    mosquitto = Mosquitto(needs_program("mosquitto"), tmp_path / "mosquitto", data)
    with ExitStack() as stack:
        stack.enter_context(mosquitto.running())
        farm = stack.enter_context(running_farm(tmp_path, mqtt_port=mosquitto.port, mqtt__url=mosquitto.url))
        site = Site(farm.api, "pond", made["mqtt"]["secret"], made["feeders"])
        desktop = farm.desktop(site)
        mosquitto.kill()
        desktop.wait_cut_off()
        until(lambda: site.put_config().json()["type"].endswith("#broker-unreachable"))
        assert site.get("/commands")["items"] == []
        stack.enter_context(mosquitto.running())
        until(desktop.is_let_in, 10)
        until(lambda: site.put_config().status_code == 200, 10)
