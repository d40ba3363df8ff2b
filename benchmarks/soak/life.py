"""The broker of a soak: a process with its store on disk, which may be killed and started again."""

from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.servers import Server, bare_broker

_FAULT: Final = "Traceback"


class Life:
    """`async with Life(work_dir) as life`. Raises ChildFailed."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._stack = AsyncExitStack()
        self.logged_faults = 0
        """Exceptions in the broker's log."""

    async def __aenter__(self) -> Self:
        self.server = await self._begun(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def kill_and_begin_again(self) -> None:
        """With SIGKILL, in the middle of whatever it does; on the same port with the same store."""
        port = self.server.port
        self.server.process.kill()
        await self._end()
        self.server = await self._begun(port)

    async def _begun(self, port: int) -> Server:
        store = self._work_dir / "store" / "broker.db"
        return await self._stack.enter_async_context(bare_broker(self._work_dir, "--store", str(store), port=port))

    async def _end(self) -> None:
        await self._stack.aclose()
        self.logged_faults += self.server.process.said().count(_FAULT)
