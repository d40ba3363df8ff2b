"""A desktop played with mosquitto's own tools, as docs/desktop-developer.md tells it (section 11)."""

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartFarm
from tests.end_to_end.desktop import CONFIG
from tests.end_to_end.external import NeedsProgram
from tests.end_to_end.farm import Farm, Site
from tests.end_to_end.hub_process import Child, environment, until

SESSION = "by-hand-1"


class Hands:
    """Shell 1 holds the connection with its will; shell 2 speaks as `{site}.hand`."""

    def __init__(self, farm: Farm, site: Site, needs_program: NeedsProgram, directory: Path) -> None:
        self._site, self._topic = site, f"fh/v1/{site.name}"
        self._publish = needs_program("mosquitto_pub")
        self._login = ["-h", "127.0.0.1", "-p", str(farm.mqtt_port()), "-u", site.name, "-P", site.secret]
        self._heard = directory / "shell-1.out"
        gone = json.dumps({"online": False, "session": SESSION})
        self.shell_1 = Child(
            [
                *(needs_program("mosquitto_sub"), *self._login, "-i", site.name, "-q", "1", "-v"),
                *("-t", f"{self._topic}/commands", "-t", f"{self._topic}/feeders/+/commands"),
                *("--will-topic", f"{self._topic}/heartbeat", "--will-qos", "1", "--will-retain"),
                *("--will-payload", gone),
            ],
            self._heard,
            environment({}),
        )

    def say(self, topic: str, said: dict[str, object], *options: str) -> None:
        message = ["-i", f"{self._site.name}.hand", "-q", "1", "-t", topic, "-m", json.dumps(said), *options]
        subprocess.run([self._publish, *self._login, *message], check=True, timeout=10)

    def beat(self, seq: int) -> None:
        said = {"online": True, "session": SESSION, "seq": seq, "sent_at": "2026-03-01T06:00:00.000Z"}
        self.say(
            f"{self._topic}/heartbeat", {**said, "interval_s": 20, "agent": "by hand", "journal_id": "paper"}, "-r"
        )

    def first(self, name: str) -> dict[str, str] | None:
        """The first command of that name that shell 1 shows, if it does."""
        said = [json.loads(line.split(" ", 1)[1]) for line in self._heard.read_text().split("\n")[:-1]]
        return next((command for command in said if command["name"] == name), None)

    def shown(self, name: str) -> dict[str, str]:
        command = until(lambda: self.first(name))
        assert command is not None
        return command


@pytest.fixture
def hands(start_farm: StartFarm, needs_program: NeedsProgram, tmp_path: Path) -> Iterator[tuple[Site, Hands]]:
    farm = start_farm(liveness__ttl_s=25, commands__timeout_s=20)
    site = farm.new_site()
    played = Hands(farm, site, needs_program, tmp_path)
    try:
        yield site, played
    finally:
        played.shell_1.kill()


def test_a_desktop_played_by_hand_applies_a_change_and_is_gone_when_it_is_killed(hands: tuple[Site, Hands]) -> None:
    site, played = hands
    seq = iter(range(1, 1000))

    def is_heard() -> bool:
        played.beat(next(seq))  # it is answered by a ping, which shell 1 shows once it is connected
        return played.first("ping") is not None

    until(is_heard)
    assert site.alive()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(site.put_config(meal_g=300)))
    waiting.start()
    order = played.shown("set_config")
    done = {"status": "applied", "config_version": 1, "local_rev": 0, "config": CONFIG | {"meal_g": 300}}
    played.say(order["reply_to"], {"id": order["id"], **done})
    waiting.join(10)
    assert [(answer.status_code, answer.headers["ETag"]) for answer in answers] == [(200, '"1.0"')]
    assert answers[0].json()["meal_g"] == 300

    played.shell_1.kill()
    until(lambda: site.alive() is False, 2)
