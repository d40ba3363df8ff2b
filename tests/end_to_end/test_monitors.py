"""Monitors from the command line, with mosquitto's tools: at the hub's own broker and at a mosquitto."""

import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartFarm
from tests.end_to_end.external import Mosquitto, NeedsProgram
from tests.end_to_end.hub_process import Child, environment, feeder_hub, feeder_hub_json, until


class Tools:
    """mosquitto_pub and mosquitto_sub at one broker."""

    def __init__(self, needs_program: NeedsProgram, port: int) -> None:
        self._programs = {name: needs_program(f"mosquitto_{name}") for name in ("pub", "sub")}
        self._port = port

    def command(self, tool: str, login: dict[str, str], *arguments: str) -> list[str]:
        user, secret = login["username"], login["secret"]
        address = ("-h", "127.0.0.1", "-p", str(self._port), "-u", user, "-P", secret)
        return [self._programs[tool], *address, *arguments]

    def run(self, tool: str, login: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self.command(tool, login, *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_a_monitor_reads_the_broker_and_its_site_until_it_is_removed(
    start_farm: StartFarm, needs_program: NeedsProgram, tmp_path: Path
) -> None:
    farm = start_farm(mqtt__sys_interval_s=0.2)
    own, other = farm.new_site(), farm.new_site()
    farm.desktop(own)
    farm.desktop(other)
    login = farm.hub.cli_json("monitor", "add", "anna", "--site", own.name)["mqtt"]
    tools = Tools(needs_program, farm.hub.mqtt_port)
    everything = tools.command("sub", login, "-v", "-t", "$SYS/#", "-t", f"fh/v1/{own.name}/#")
    reader = Child(everything, tmp_path / "heard", environment({}))
    try:
        until(lambda: "$SYS/broker/uptime " in reader.output.read_text())
        assert own.put_config(meal_g=320).status_code == 200
        for topic in ("heartbeat", "feeders/f1/commands", "replies/"):
            until(lambda topic=topic: f"fh/v1/{own.name}/{topic}" in reader.output.read_text())  # type: ignore[misc]  # mypy does not infer a lambda with a default
        denied = tools.run("sub", login, "-t", f"fh/v1/{other.name}/#", "-t", "fh/v1/+/heartbeat")
        assert (denied.stdout, denied.returncode) == ("", 0)
        assert "denied" in denied.stderr
        assert f"fh/v1/{other.name}/" not in reader.output.read_text()

        assert farm.hub.cli_json("monitor", "list")["items"][0]["site"] == own.name
        removed = feeder_hub("monitor", "remove", "anna", "--data-dir", farm.hub.data_dir)
        assert removed.returncode == 0, removed.stderr
        assert reader.wait(10) != 0  # it was cut off, came again and was refused
        assert "not authorised" in reader.log.read_text()
    finally:
        if reader.process.poll() is None:
            reader.kill()


def test_a_monitor_that_is_removed_with_its_site_is_cut_off(
    start_farm: StartFarm, needs_program: NeedsProgram, tmp_path: Path
) -> None:
    farm = start_farm(mqtt__sys_interval_s=0.2)
    site = farm.new_site()
    login = farm.hub.cli_json("monitor", "add", "anna", "--site", site.name)["mqtt"]
    command = Tools(needs_program, farm.hub.mqtt_port).command("sub", login, "-v", "-t", "$SYS/#")
    reader = Child(command, tmp_path / "heard", environment({}))
    try:
        until(reader.output.read_text)
        assert farm.api.delete(f"/sites/{site.name}").status_code == 200
        assert reader.wait(10) != 0
    finally:
        if reader.process.poll() is None:
            reader.kill()


def test_a_mosquitto_gives_a_monitor_the_same_rights(tmp_path: Path, needs_program: NeedsProgram) -> None:
    data = ("--data-dir", tmp_path / "data")
    own, other = (feeder_hub_json("site", "add", name, *data)["mqtt"] for name in ("pond7", "pond8"))
    monitor = feeder_hub_json("monitor", "add", "anna", "--site", "pond7", *data)["mqtt"]
    figures = feeder_hub_json("monitor", "add", "grafana", *data)["mqtt"]
    mosquitto = Mosquitto(needs_program("mosquitto"), tmp_path / "mosquitto", tmp_path / "data")
    with mosquitto.running():
        tools = Tools(needs_program, mosquitto.port)
        for login in (other, own):
            site = login["username"]
            topic = f"fh/v1/{site}/heartbeat"
            assert tools.run("pub", login, "-i", site, "-q", "1", "-r", "-t", topic, "-m", site).returncode == 0
        assert tools.run("pub", monitor, "-q", "1", "-r", "-t", "fh/v1/pond7/heartbeat", "-m", "no").returncode == 0
        read = ("-W", "2", "-v", "-t", "fh/v1/#")
        assert tools.run("sub", monitor, *read).stdout == "fh/v1/pond7/heartbeat pond7\n"
        assert tools.run("sub", figures, *read).stdout == ""
        for login in (monitor, figures):
            assert tools.run("sub", login, "-C", "1", "-t", "$SYS/broker/version").stdout.startswith("mosquitto")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("add", "anna"), "There is a monitor anna already."),
        (("add", "Anna"), "'Anna' cannot name a monitor"),
        (("add", "zoe", "--site", "nowhere"), "There is no site nowhere."),
        (("remove", "zoe"), "There is no monitor zoe."),
    ],
)
def test_a_mistake_is_told_and_ends_with_1(tmp_path: Path, arguments: tuple[str, ...], complaint: str) -> None:
    data = ("--data-dir", tmp_path)
    made = feeder_hub("monitor", "add", "anna", *data)
    assert made.returncode == 0
    assert "MQTT user name: monitor-anna\n" in made.stdout
    mistaken = feeder_hub("monitor", *arguments, *data)
    assert mistaken.returncode == 1
    assert complaint in mistaken.stderr
    listed = feeder_hub("monitor", "list", *data)
    assert "monitor-anna" in listed.stdout
