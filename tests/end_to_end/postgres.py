"""A PostgreSQL server for tests: a cluster of its own on a free port, from Debian's package or whatever is on PATH."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from tests.end_to_end.external import free_port
from tests.end_to_end.hub_process import until

_START_WITHIN_S: Final = 20.0
_STOP_WITHIN_S: Final = 20.0
_DEBIAN: Final = Path("/usr/lib/postgresql")
_UNPRIVILEGED: Final = "nobody"
"""Who runs it where we are root, whom PostgreSQL refuses."""
_OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 60,
    "shared_buffers": "32MB",
    "fsync": "off",  # it is killed, the machine is not
}


def postgres_program(name: str) -> str | None:
    """`postgres`, `initdb` and the like: on PATH, or in the newest version that Debian keeps beside it."""
    versions = sorted(_DEBIAN.glob("*/bin"), key=lambda found: float(found.parent.name), reverse=True)
    return shutil.which(name) or next((str(found / name) for found in versions if (found / name).exists()), None)


class Postgres:
    """Runs between `start` and `stop`; what was committed stays."""

    def __init__(self, program: str, cluster: Path, log: Path) -> None:
        self.port = free_port()
        self._program, self._cluster, self._log = program, cluster, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> Self:
        """Returns when it answers."""
        options = [f"--{name}={value}" for name, value in {**_OPTIONS, "port": self.port}.items()]
        with self._log.open("ab") as log:
            self._process = _unprivileged([self._program, "-D", str(self._cluster), *options], log.fileno())
        until(self._answers, _START_WITHIN_S)
        return self

    def stop(self, *, crash: bool = False) -> None:
        """`crash`: at once, as if it had crashed; else open transactions are rolled back and connections closed."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_STOP_WITHIN_S)

    def restart(self, *, crash: bool = False) -> None:
        self.stop(crash=crash)
        self.start()

    def _answers(self) -> bool:
        import psycopg  # an extra of the product: only who tests with PostgreSQL needs it

        assert self._process is not None
        assert self._process.poll() is None, f"PostgreSQL ended at its start:\n{self._log.read_text()}"
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgres_server(directory: Path) -> Iterator[Postgres]:
    """A running server with an empty database; its log is in the directory. The cluster is gone afterwards."""
    initdb, program = postgres_program("initdb"), postgres_program("postgres")
    assert initdb is not None, "PostgreSQL is not installed"
    assert program is not None, "PostgreSQL is not installed"
    log = directory / "postgres.log"
    # Not below the directory: another user could not enter a test's own.
    with tempfile.TemporaryDirectory(prefix="feeder-hub-postgres-", ignore_cleanup_errors=True) as place:
        cluster = Path(place) / "cluster"
        cluster.mkdir(mode=0o700)
        if (user := _user()) is not None:
            Path(place).chmod(0o711)
            os.chown(cluster, user.pw_uid, user.pw_gid)
        with log.open("ab") as output:
            how = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
            made = _unprivileged([initdb, "-D", str(cluster), *how], output.fileno()).wait(_START_WITHIN_S)
        assert made == 0, log.read_text()
        server = Postgres(program, cluster, log)
        try:
            yield server.start()
        finally:
            server.stop()


def _user() -> pwd.struct_passwd | None:
    return pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None


def _unprivileged(command: list[str], output: int) -> subprocess.Popen[bytes]:
    who = {} if (user := _user()) is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    # A terminal's Ctrl-C is for the tests, which then stop it.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        start_new_session=True,
        **who,  # type: ignore[call-overload]  # one of two sets of keywords
    )
