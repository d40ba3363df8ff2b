"""The real process, over a real broker, with a hub that the test plays."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from ulid import ULID

from hub.protocol.times import rfc3339
from tests.device_sim.conftest import REPLIES, SITE, TOPICS

HEARTBEAT = TOPICS.heartbeat(SITE)
PATIENCE_S = 20.0


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def nobodys_port() -> Iterator[int]:
    """A port that is taken and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def start_mosquitto(program: str, passwords: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """Mosquitto cannot choose a port itself, and one that was free may be taken when it gets there: then another."""
    for _ in range(5):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        config = passwords.with_name("mosquitto.conf")
        config.write_text(
            f"listener {port} 127.0.0.1\npassword_file {passwords}\nset_tcp_nodelay true\n"
            f"user {os.environ.get('USER', 'root')}\n"
        )
        process = subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if listens(port):
                return process, port
    raise RuntimeError("mosquitto does not start")


@pytest.fixture
def broker(needs_program: Callable[[str], str], tmp_path: Path) -> Iterator[int]:
    """A mosquitto that knows the site and a hub; its port."""
    passwords = tmp_path / "passwords"
    maker = needs_program("mosquitto_passwd")
    for options in (["-c", "-b", passwords, SITE], ["-b", passwords, "hub"]):
        subprocess.run([maker, *options, "right"], check=True)
    process, port = start_mosquitto(needs_program("mosquitto"), passwords)
    with process:
        yield port
        process.terminate()


class PlayedHub:
    """Hears all that the site says, in order."""

    def __init__(self, port: int) -> None:
        self._heard: queue.Queue[tuple[str, dict[str, Any], bool]] = queue.Queue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="hub-test")
        self._client.username_pw_set("hub", "right")
        subscribed: queue.Queue[None] = queue.Queue()
        self._client.on_connect = lambda client, *_: client.subscribe("fh/v1/#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.put(None)
        self._client.on_message = lambda _client, _data, m: self._heard.put((m.topic, json.loads(m.payload), m.retain))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        subscribed.get(timeout=PATIENCE_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def hear(self, topic: str, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The next message on the topic that is wanted; the ones before it are dropped."""
        gives_up_at_s = time.monotonic() + PATIENCE_S
        while True:
            heard, message, _ = self._heard.get(timeout=max(0.01, gives_up_at_s - time.monotonic()))
            if heard == topic and wanted(message):
                return message

    def publish(self, topic: str, message: dict[str, Any], *, retain: bool = False) -> None:
        self._client.publish(topic, json.dumps(message), qos=1, retain=retain)

    def meet(self, *, other_than: str | None = None) -> dict[str, Any]:
        """The heartbeat of a new session, which is pinged."""
        beat = self.hear(HEARTBEAT, lambda said: said["online"] and said["session"] != other_than)
        pong = self.order(beat, "ping", args={"session": beat["session"], "seq": beat["seq"]})
        assert pong["status"] == "applied"
        return beat

    def send(self, beat: dict[str, Any], name: str, feeder: str | None = None, **changed: Any) -> str:
        now = datetime.now(UTC)
        command = {
            "id": str(ULID()),
            "name": name,
            "args": {},
            "session": beat["session"],
            "journal_id": beat["journal_id"],
            "stop_epoch": 0,
            "reply_to": REPLIES,
            "issued_at": rfc3339(now),
            "expires_at": rfc3339(now + timedelta(seconds=30)),
        } | changed
        self.publish(TOPICS.commands(SITE, feeder), command)
        return str(command["id"])

    def order(self, beat: dict[str, Any], name: str, feeder: str | None = None, **changed: Any) -> dict[str, Any]:
        """Send a command and wait for the first reply to it."""
        command_id = self.send(beat, name, feeder, **changed)
        return self.hear(REPLIES, lambda reply: reply["id"] == command_id)


@pytest.fixture
def hub(broker: int) -> Iterator[PlayedHub]:
    played = PlayedHub(broker)
    yield played
    played.close()


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(broker: int, tmp_path: Path) -> Iterator[Start]:
    """Starts a desktop's process; all of them share one journal unless told otherwise."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*options: str, secret: str = "right", port: int = broker) -> "subprocess.Popen[bytes]":
        (tmp_path / "secret").write_text(secret + "\n")
        command = [sys.executable, "-m", "device_sim", "desktop", "--url", f"mqtt://127.0.0.1:{port}"]
        command += ["--site", SITE, "--secret-file", str(tmp_path / "secret"), "--tick-s", "0.05"]
        command += ["--journal", str(tmp_path / "journal.sqlite"), *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_desktop_comes_alive_takes_a_config_and_leaves_on_purpose(start: Start, hub: PlayedHub) -> None:
    process = start("--feeders", "2", "--heartbeat-s", "0.2")
    beat = hub.meet()
    hub.send(beat, "report")
    state = hub.hear(TOPICS.state(SITE, "f2"))
    order = {"config": state["config"] | {"meal_g": 123.4}, "config_version": 1, "local_rev": 0, "time_zone": "UTC"}
    reply = hub.order(beat, "set_config", "f2", args=order)
    assert (reply["status"], round(reply["config"]["meal_g"], 3)) == ("applied", 123.4)
    assert hub.hear(HEARTBEAT, lambda said: said["seq"] >= 3)["session"] == beat["session"]
    process.send_signal(signal.SIGTERM)
    assert hub.hear(HEARTBEAT, lambda said: not said["online"]) == {
        "online": False,
        "session": beat["session"],
        "reason": "shutdown",
    }
    assert process.wait(2) == 0


def test_a_killed_desktop_is_declared_gone_by_its_will_and_another_goes_on_with_its_journal(
    start: Start, hub: PlayedHub
) -> None:
    process = start()
    beat = hub.meet()
    dose = hub.send(beat, "feed", "f1", args={"grams": 3000})
    hub.hear(REPLIES, lambda reply: reply["id"] == dose and reply["status"] == "running")
    process.kill()
    assert hub.hear(HEARTBEAT, lambda said: not said["online"]) == {"online": False, "session": beat["session"]}
    process.wait()
    start()
    again = hub.meet(other_than=beat["session"])
    assert again["journal_id"] == beat["journal_id"]
    (outcome,) = hub.order(again, "report", args={"commands": [dose]})["outcomes"]
    assert outcome["status"] == "interrupted"
    assert 0 < outcome["dispensed_g"] < 3000


def test_a_late_will_is_answered_by_a_heartbeat(start: Start, hub: PlayedHub) -> None:
    start("--heartbeat-s", "3000")
    beat = hub.meet()
    hub.publish(HEARTBEAT, {"online": False, "session": "an-older-one"}, retain=True)
    answer = hub.hear(HEARTBEAT, lambda said: said["online"])
    assert (answer["session"], answer["seq"]) == (beat["session"], 2)


def test_a_desktop_whose_connection_is_cut_comes_back_with_a_new_session(
    start: Start, hub: PlayedHub, broker: int
) -> None:
    start()
    beat = hub.meet()
    thief = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=SITE)
    thief.username_pw_set(SITE, "right")
    thief.connect("127.0.0.1", broker)
    thief.loop_start()
    assert hub.hear(HEARTBEAT, lambda said: not said["online"])["session"] == beat["session"]
    thief.disconnect()
    thief.loop_stop()
    assert hub.meet(other_than=beat["session"])["journal_id"] == beat["journal_id"]


def test_a_refused_login_ends_the_process_with_its_own_code(start: Start) -> None:
    process = start(secret="wrong")
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3
    assert b"the broker refuses pond7: Not authorized" in said


def test_without_a_broker_it_keeps_trying_until_a_signal_or_once(start: Start, nobodys_port: int) -> None:
    assert start("--once", port=nobodys_port).wait(PATIENCE_S) == 4
    process = start(port=nobodys_port)
    assert process.stderr is not None
    while b"no connection to" not in process.stderr.readline():
        pass
    process.terminate()
    assert process.wait(2) == 0


@pytest.mark.parametrize(
    "wrong", [("--site", "Pond 7"), ("--url", "http://here"), ("--time-zone", "Mars"), ("--secret-file", "/nowhere")]
)
def test_a_wrong_command_line_is_said_at_once(start: Start, wrong: tuple[str, str]) -> None:
    process = start(*wrong)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert b"Invalid value" in said
