"""What taking in any message has in common: reading it, waiting for a store that is away, and saying what is wrong.

A message is acknowledged to the broker only after what it says is stored. Where the database or Redis is away the
message waits here, unacknowledged; the broker's in-flight window bounds how many do.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from prometheus_client import Counter
from pydantic import BaseModel, ValidationError

from hub.database import AWAY, why_away
from hub.errors import NotFound
from hub.protocol.limits import MAX_PAYLOAD_BYTES
from hub.protocol.link import Message
from hub.protocol.topics import Address, Kind
from hub.rejects import Rejects
from hub.store import StoreUnreachable
from hub.tasks import Tasks

RETRY_PAUSE_S: Final = 0.25

MESSAGES = Counter("feeder_hub_messages_total", "MQTT messages taken in, by kind.", ["kind"])
_messages = functools.cache(MESSAGES.labels)

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


class Rejected(Exception):
    """The message changes nothing. `reason` counts, `detail` explains."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Intake:
    """Each message in a task of its own, to its end: taken in, or refused with a reason that people can read."""

    def __init__(self, rejects: Rejects, tasks: Tasks) -> None:
        self._rejects = rejects
        self._tasks = tasks

    def start(self, address: Address, message: Message, take: Callable[[], Awaitable[None]]) -> None:
        """Begin to take a message in; tasks begin in the order in which they are started."""
        self._tasks.start(self._take_in(address, message, take), f"take {address.kind}")

    async def _take_in(self, address: Address, message: Message, take: Callable[[], Awaitable[None]]) -> None:
        try:
            await self.insist(message, take)
        except Rejected as error:
            await self._record(address, message, error)
        except NotFound as error:
            await self._record(address, message, Rejected("unknown", str(error)))
        except Exception as error:  # noqa: BLE001 - it is logged, kept for people, and costs this message only
            lines = self._rejects.lines
            lines.warning("message could not be taken in", repr(error), topic=message.topic, exc_info=error)
            await self._record(address, message, Rejected("internal", repr(error)))
        self.done(address.kind, message)  # not where it was cancelled: the broker has it still

    def reject(self, address: Address, message: Message, error: Rejected) -> None:
        """Begin to refuse a message."""

        async def refuse() -> None:
            raise error

        self.start(address, message, refuse)

    async def _record(self, address: Address, message: Message, error: Rejected) -> None:
        await self._rejects.record(address.site, error.reason, str(error), message.topic, message.payload)

    def done(self, kind: Kind, message: Message) -> None:
        """The message has been taken in, or refused."""
        _messages(kind).inc()
        message.acknowledge()

    async def insist(self, message: Message, step: Callable[[], Awaitable[R]]) -> R:
        """Do a step until its store is there. A step that was done is not done again when a later one has to wait."""
        waits = False
        while True:
            try:
                return await step()
            except (StoreUnreachable, *AWAY) as error:
                if not waits:
                    reason = why_away(error)
                    self._rejects.lines.warning("message waits: its store is away", message.topic, reason=reason)
                waits = True
                await asyncio.sleep(RETRY_PAUSE_S)


def read(model: type[M], message: Message) -> M:
    """What the message says. Raises Rejected."""
    if len(message.payload) > MAX_PAYLOAD_BYTES:
        raise Rejected("too-large", f"{len(message.payload)} bytes; the contract knows at most {MAX_PAYLOAD_BYTES}")
    try:
        return model.model_validate_json(message.payload)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        reason = "not-json" if faults[0]["type"] == "json_invalid" else "not-the-schema"
        raise Rejected(
            reason, "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        ) from error
