"""The real `feeder-hub` and `feeder-sim` as processes of their own, and what tests do to them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import httpx

BIN = Path(sys.executable).parent
START_WITHIN_S = 20.0
T = TypeVar("T")


def until(condition: Callable[[], T], within_s: float = 5.0, every_s: float = 0.02) -> T:
    """What the condition gives once it is true; fails when it is not within that time."""
    ends_at_s = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < ends_at_s, f"not within {within_s:g} s; it is still {found!r}"
        time.sleep(every_s)
    return found


def environment(settings: dict[str, object]) -> dict[str, str]:
    """This process's environment with these settings (`liveness__ttl_s=1.5`) and no others of the hub's."""
    ours = {key: value for key, value in os.environ.items() if not key.upper().startswith("FEEDER_HUB_")}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)  # dozens of starts, each compiling everything anew, take minutes
    return ours | {f"FEEDER_HUB_{name.upper()}": str(value) for name, value in settings.items()}


def feeder_hub(*arguments: str | Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command of `feeder-hub` to its end."""
    command = [str(BIN / "feeder-hub"), *map(str, arguments)]
    return subprocess.run(
        command, env=environment(settings), capture_output=True, text=True, timeout=START_WITHIN_S, check=False
    )


def feeder_hub_json(*arguments: str | Path, **settings: object) -> dict[str, Any]:
    """What a command of `feeder-hub` prints for scripts."""
    done = feeder_hub(*arguments, "--json", **settings)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> dict[int, str]:
    """The child processes of a process, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                if parent == pid:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, and seconds from the signal to the end."""

    code: int
    after_s: float


class Child:
    """A process with its output in files."""

    def __init__(self, command: list[str], output: Path, env: dict[str, str]) -> None:
        self.output, self.log = output, output.with_suffix(".log")
        self._files: list[IO[bytes]] = [output.open("wb"), self.log.open("ab")]
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=self._files[0], stderr=self._files[1]
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float) -> int:
        code = self.process.wait(within_s)
        for file in self._files:
            file.close()
        return code

    def stop(self, number: signal.Signals = signal.SIGINT, within_s: float = 10.0) -> Ended:
        began_s = time.monotonic()
        self.send(number)
        return Ended(self.wait(within_s), time.monotonic() - began_s)

    def kill(self) -> None:
        """SIGKILL, whatever became of it before."""
        self.process.kill()
        self.wait(5)


class HubProcess:
    """`feeder-hub serve` on free ports; `start` again after an end goes on with the same ports and data."""

    def __init__(self, data_dir: Path, *flags: str, **settings: object) -> None:
        self.data_dir = data_dir
        self.settings = settings
        self.http_port = self.mqtt_port = 0
        self.token = ""
        self.hello = ""
        self._flags = flags
        self._child: Child | None = None

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def mqtt_url(self) -> str:
        return f"mqtt://127.0.0.1:{self.mqtt_port}"

    @property
    def child(self) -> Child:
        assert self._child is not None
        return self._child

    @property
    def log(self) -> str:
        return self.child.log.read_text()

    def start(self) -> Self:
        """Start it, and wait until it is ready."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        ports = ["--http-port", str(self.http_port), "--mqtt-port", str(self.mqtt_port)]
        command = [str(BIN / "feeder-hub"), "serve", "--data-dir", str(self.data_dir), *ports, *self._flags]
        self._child = Child(command, self.data_dir / "hub.out", environment(self.settings))
        until(self._has_said_hello, START_WITHIN_S)
        with httpx.Client(base_url=self.http_url) as client:
            until(lambda: client.get("/readyz").status_code == 200, START_WITHIN_S)
        return self

    def _has_said_hello(self) -> bool:
        assert self.child.process.poll() is None, f"the hub ended at its start:\n{self.log}"
        self.hello = self.child.output.read_text()
        http = re.search(r"HTTP   http://127\.0\.0\.1:(\d+)/", self.hello)
        mqtt = re.search(r"MQTT   mqtt://127\.0\.0\.1:(\d+)\n", self.hello)
        token = re.search(r"token, shown this once:  (\S+)\n", self.hello)
        if not (http and mqtt and self.hello.endswith("\n\n")):
            return False
        self.http_port, self.mqtt_port = int(http[1]), int(mqtt[1])
        self.token = token[1] if token else self.token
        return True

    def stop(self) -> Ended:
        return self.child.stop()

    def kill(self) -> None:
        self.child.kill()

    def discard(self) -> None:
        """Be sure that it is gone."""
        if self._child is not None and self.child.process.poll() is None:
            self.kill()

    def valkey_pid(self) -> int | None:
        """The embedded Redis-compatible server's process id; None while it is down."""
        found = [
            pid for pid, line in children_of(self.child.pid).items() if "unixsocket" in line or "valkey-server" in line
        ]
        return found[0] if found else None

    def cli_json(self, *arguments: str) -> dict[str, Any]:
        """A command of `feeder-hub` on this hub's data directory."""
        return feeder_hub_json(*arguments, "--data-dir", self.data_dir, **self.settings)

    def new_token(self, role: str, site: str | None = None) -> str:
        of_site = () if site is None else ("--site", site)
        return str(self.cli_json("token", "add", "--role", role, *of_site)["token"])

    @contextmanager
    def api(self, token: str | None = None) -> Iterator[httpx.Client]:
        """A client of /api/v1 with a token: this one, or the administrator's."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        with httpx.Client(base_url=f"{self.http_url}/api/v1", headers=headers, timeout=30) as client:
            yield client


class SimulatedFarm:
    """`feeder-sim desktop` for one site."""

    def __init__(
        self,
        directory: Path,
        mqtt_url: str,
        site: str,
        secret: str,
        feeders: int,
        heartbeat_s: float,
        *,
        tick_s: float = 0.02,
    ) -> None:
        secret_file = directory / f"{site}.secret"
        secret_file.write_text(secret)
        self._output = directory / f"{site}.out"
        self._command = [
            *(str(BIN / "feeder-sim"), "desktop", "--url", mqtt_url, "--site", site, "--secret-file", str(secret_file)),
            *("--feeders", str(feeders), "--heartbeat-s", f"{heartbeat_s:g}", "--tick-s", f"{tick_s:g}"),
            *("--journal", str(directory / f"{site}.sqlite")),
        ]
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        assert self._child is not None
        return self._child

    def start(self) -> Self:
        self._child = Child(self._command, self._output, environment({}))
        return self

    def freeze(self) -> None:
        self.child.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.child.send(signal.SIGCONT)

    def kill(self) -> None:
        self.child.kill()

    def stop(self) -> Ended:
        return self.child.stop(signal.SIGTERM)

    def discard(self) -> None:
        if self._child is not None and self.child.process.poll() is None:
            self.kill()
