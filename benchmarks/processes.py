"""The processes of a benchmark: started with pipes, spoken to in lines, ended by their pid however the block ends."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from hub.child import tied_to_this_process

ROOT: Final = Path(__file__).resolve().parent.parent
FEEDER_HUB: Final = (sys.executable, str(ROOT / "main.py"))
"""The product's command."""
_STOPPED_WITHIN_S: Final = 10.0
_SHOWN_LINES: Final = 15


class ChildFailed(Exception):
    """A process ended, or said nothing in time; carries the end of its log."""


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """Ours with these settings of the product (`mqtt__url=…`) and no others: it is measured as it comes."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("FEEDER_HUB_")}
    return others | {f"FEEDER_HUB_{name.upper()}": str(value) for name, value in settings.items()}


def module(name: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{name}"]


class Child:
    """`async with Child.started(name, command, log_dir) as child`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._name = name
        self._process = process
        self._log = log

    @classmethod
    @asynccontextmanager
    async def started(
        cls, name: str, command: list[str], log_dir: Path, settings: Mapping[str, object] = MappingProxyType({})
    ) -> AsyncIterator[Self]:
        """Its standard error goes to `log_dir`/`name`.log. It also ends when this process is killed."""
        log = log_dir / f"{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *tied_to_this_process(command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                cwd=ROOT,
                env=environment(settings),
                start_new_session=True,  # a terminal's Ctrl-C is for the benchmark, which then stops its processes
            )
        child = cls(name, process, log)
        try:
            yield child
        finally:
            await child._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    def cpu_seconds(self) -> float | None:
        """What all its threads have used so far; None where the system does not tell in /proc."""
        stat = Path(f"/proc/{self.pid}/stat")
        if not stat.exists():
            return None
        user_ticks, system_ticks = stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user_ticks) + int(system_ticks)) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int | None:
        """What it holds in memory now (RSS); None where the system does not tell in /proc."""
        statm = Path(f"/proc/{self.pid}/statm")
        if not statm.exists():
            return None
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def say(self, **what: object) -> None:
        """One line of JSON to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        await self._process.stdin.drain()

    async def line(self, timeout_s: float) -> str:
        """The next line of its standard output. Raises ChildFailed."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise ChildFailed(f"{self._name} said nothing for {timeout_s:g} s.\n{self.last_words()}") from None
        if not line:
            raise ChildFailed(f"{self._name} has ended.\n{self.last_words()}")
        return line.decode()

    async def hear(self, timeout_s: float) -> Any:
        """The next line of its standard output, as JSON. Raises ChildFailed."""
        return json.loads(await self.line(timeout_s))

    def kill(self) -> None:
        """As a power cut would end it."""
        self._process.kill()

    def said(self) -> str:
        """Its standard error so far."""
        return self._log.read_text(errors="replace")

    def last_words(self) -> str:
        return "\n".join(self.said().splitlines()[-_SHOWN_LINES:])

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOPPED_WITHIN_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def output_of(command: list[str]) -> Any:
    """What a command prints as JSON. Raises ChildFailed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment({}),
    )
    printed, complaints = await process.communicate()
    if process.returncode:
        raise ChildFailed(f"{' '.join(command)} ended with {process.returncode}.\n{complaints.decode()}")
    return json.loads(printed)
