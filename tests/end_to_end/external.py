"""An external mosquitto, set up by `feeder-hub export mosquitto`, and an external redis-server."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.end_to_end.hub_process import Child, environment, feeder_hub, until

NeedsProgram = Callable[[str], str]
"""The path of a program, or a loud skip."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port: int = once.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


class Mosquitto:
    """Runs with the files that a hub with that data directory and these settings exports."""

    def __init__(self, program: str, directory: Path, data_dir: Path, **settings: object) -> None:
        self.port = free_port()
        self._settings = settings
        self._program, self._directory, self._data_dir = program, directory, data_dir
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def export(self) -> None:
        """Write the files, and let mosquitto read them again if it runs."""
        done = feeder_hub("export", "mosquitto", self._directory, "--data-dir", self._data_dir, **self._settings)
        assert done.returncode == 0, done.stderr
        if self._child is not None:
            self._child.send(signal.SIGHUP)

    def _take_own_port(self) -> None:
        """The settings are ours to edit: another export leaves them alone."""
        conf = self._directory / "mosquitto.conf"
        exported = conf.read_text()
        if f"listener {self.port}" not in exported:
            assert "listener 1883 127.0.0.1" in exported
            # Mosquitto started by root would give up the right to read the test's directory.
            own = exported.replace("listener 1883", f"listener {self.port}")
            conf.write_text(own + ("user root\n" if os.geteuid() == 0 else ""))

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def start(self) -> None:
        """Returns when it listens."""
        self.export()
        self._take_own_port()
        command = [self._program, "-c", str(self._directory / "mosquitto.conf")]
        self._child = Child(command, self._directory / "mosquitto.out", environment({}))
        until(lambda: _listens(self.port))

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(signal.SIGTERM)
            self._child = None

    @contextmanager
    def running(self) -> Iterator["Mosquitto"]:
        try:
            self.start()
            yield self
        finally:
            self.kill()


class RedisServer:
    """Keeps nothing on disk: after a kill it comes back empty."""

    def __init__(self, program: str, directory: Path) -> None:
        self.port = free_port()
        self._program, self._directory = program, directory
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when it listens."""
        on_port = ["--port", str(self.port), "--bind", "127.0.0.1"]
        in_memory = ["--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        command = [self._program, *on_port, *in_memory]
        self._child = Child(command, self._directory / "redis.out", environment({}))
        until(lambda: _listens(self.port))

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    @contextmanager
    def running(self) -> Iterator["RedisServer"]:
        try:
            self.start()
            yield self
        finally:
            self.kill()


@contextmanager
def redis_server(program: str, directory: Path) -> Iterator[str]:
    """Its URL."""
    with RedisServer(program, directory).running() as server:
        yield server.url
