"""The ground that all clients of a soak stand on: where the broker is, the books, and what went wrong."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

from benchmarks.soak.client import Client, Refused, Session
from benchmarks.soak.ledger import Ledger
from hub.protocol.packets import Publish, Will

ROOT: Final = "soak"
_AGAIN_AFTER_S: Final = 0.2
_NUMBER_BYTES: Final = 10
_MOST_FILLING_BYTES: Final = 490


class Ground:
    """What the clients share.

    stop: set when everybody is to finish. over: set when nothing more is expected, and everybody is to leave.
    counts: what happened. faults: what the broker did wrong.
    """

    def __init__(self, port: int, ledger: Ledger, random: Random) -> None:
        self.port = port
        self.ledger = ledger
        self.random = random
        self.stop = asyncio.Event()
        self.over = asyncio.Event()
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.kills = 0
        """How often the broker was killed; what it does to a connection that it had then is no fault."""
        self.up = asyncio.Event()
        """It runs."""

    async def pause(self, shortest_s: float, longest_s: float) -> None:
        """Wait, but not past `stop`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.random.uniform(shortest_s, longest_s)):
                await self.stop.wait()

    def fault(self, kind: str, kills: int) -> None:
        """Count what the broker did wrong, unless it was killed since `kills`."""
        if kills == self.kills:
            self.faults[kind] += 1

    async def connect(
        self,
        session: Session,
        on_message: Callable[[Publish], None] = lambda _: None,
        *,
        will: Will | None = None,
    ) -> tuple[Client, int]:
        """A connection, however many attempts it takes, and `kills` as it was then."""
        while True:
            await self.up.wait()
            kills = self.kills
            known = session.begun
            try:
                client = await Client.open(self.port, session, on_message, will=will)
            except (OSError, TimeoutError, Refused) as error:
                self.fault(f"refused a client: {type(error).__name__}", kills)
                await asyncio.sleep(_AGAIN_AFTER_S)
                continue
            self.counts["connections"] += 1
            if known and not session.clean and not client.session_present:
                self.faults["forgot a stored session"] += 1
            if session.clean and client.session_present:
                self.faults["kept a clean session"] += 1
            return client, kills

    async def stay(self, client: Client, kills: int, shortest_s: float, longest_s: float) -> bool:
        """Keep the connection for a while, but not past `stop`; whether it is still there."""
        await until_either(client.lost, self.stop, self.random.uniform(shortest_s, longest_s))
        if client.lost.done():
            self.fault("ended a connection", kills)
            return False
        return True

    def leave(self, client: Client) -> None:
        """With a goodbye or without."""
        if self.random.random() < 0.5:
            client.disconnect()
        else:
            client.abort()

    def payload(self, number: int) -> bytes:
        """The number, and filling of any length."""
        return b"%0*d" % (_NUMBER_BYTES, number) + b"." * self.random.randrange(_MOST_FILLING_BYTES)


async def until_either(lost: asyncio.Future[None], event: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait for a connection's end or for an event, or for neither any longer."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        either: list[asyncio.Future[Any]] = [lost, waiting]
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def number_in(payload: bytes) -> int:
    return int(payload[:_NUMBER_BYTES])
