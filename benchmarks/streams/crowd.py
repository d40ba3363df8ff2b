"""The site's desktop, and all who listen: from its reply to the event that tells of it, in one process with one clock.

The first line on stdin is {"mqtt_port", "secret", "http_port", "token"}; then `ListenOrder`s in pairs: after the first
one it says how many streams are open, after the second what they have measured (see load.py) and closes them.
"""

import asyncio
import json
import re
import sys
import time
from functools import partial
from typing import Any, Final, cast

import uvloop

from benchmarks.changes.echo_desktop import EchoDesktop
from benchmarks.changes.http_load import HOST
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Tally
from benchmarks.streams.orders import ListenOrder
from hub.protocol.packets import Publish

_APPLIED: Final = re.compile(rb'"id":"(\w{26})"[^\n]*"state":"applied"')
_LOOK_EVERY_S: Final = 0.02


class TimedDesktop(EchoDesktop):
    """Knows when it replied to each change."""

    def __init__(self) -> None:
        super().__init__()
        self.replied_at_s: dict[bytes, float] = {}

    def take(self, message: Publish) -> None:
        if b'"set_config"' in message.payload:
            self.replied_at_s[json.loads(message.payload)["id"].encode()] = time.perf_counter()
        super().take(message)


class Listener(asyncio.Protocol):
    """One stream. Counts each change's end, and times it."""

    def __init__(self, request: bytes, desktop: TimedDesktop, tally: Tally) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard = 0
        self._request = request
        self._desktop = desktop
        self._tally = tally
        self._left = b""
        self._closed_by_us = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._left + data
        if not self.opened.done():
            if b"retry:" not in data:
                self._left = data
                return
            self.opened.set_result(None)
        whole, newline, self._left = data.rpartition(b"\n\n")
        for command_id in _APPLIED.findall(whole + newline):
            replied_at_s = self._desktop.replied_at_s.get(command_id)
            if replied_at_s is not None:
                self.heard += 1
                self._tally.answered(replied_at_s)
        if b"event: gap" in whole:
            self._tally.failed("a gap")

    def close(self) -> None:
        self._closed_by_us = True
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"no stream: {error}, {self._left[:300]!r}"))
        if not self._closed_by_us:
            self._tally.failed(f"stream lost: {error}")


async def listen(
    order: ListenOrder, desktop: TimedDesktop, http_port: int, token: str, lines: asyncio.Queue[Any]
) -> None:
    """One round: from one line to the next."""
    request = f"GET /api/v1/events HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    tally = Tally(0.0)
    listeners: list[Listener] = []
    for _ in range(order.clients):
        _, listener = await asyncio.get_running_loop().create_connection(
            partial(Listener, request, desktop, tally), HOST, http_port
        )
        await listener.opened
        listeners.append(listener)
    desktop.replied_at_s.clear()
    tally.begin()
    print(json.dumps(len(listeners)), flush=True)
    await lines.get()
    due = len(desktop.replied_at_s)
    for _ in range(int(LAST_ANSWERS_WITHIN_S / _LOOK_EVERY_S)):
        if all(listener.heard == due for listener in listeners):
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    for listener in listeners:
        if listener.heard != due:
            tally.failed(f"{listener.heard} of {due} changes were told")
        listener.close()
    measured = tally.measured()
    print(json.dumps({name: getattr(measured, name) for name in measured.__slots__}), flush=True)


async def main() -> None:
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[Any] = asyncio.Queue()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    access = json.loads(await reader.readline())
    desktop = TimedDesktop()
    running = asyncio.create_task(desktop.run(access["mqtt_port"], access["secret"]))

    async def read_on() -> None:
        while line := await reader.readline():
            await lines.put(json.loads(line))
        await lines.put(None)

    reading = asyncio.create_task(read_on())
    while (order := await lines.get()) is not None:
        await listen(ListenOrder(**order), desktop, access["http_port"], access["token"], lines)
    for task in (running, reading):
        task.cancel()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
