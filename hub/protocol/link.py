"""What a link to the broker is, whichever broker and whichever library stands behind it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived.

    retained: the RETAIN flag was set, so this is a replay of something said earlier.
    received_at_s: `time.monotonic()` of its arrival, in seconds.
    """

    topic: str
    payload: bytes
    retained: bool
    received_at_s: float


Receive = Callable[[Message], Awaitable[None]]
"""Called for each message; the message is acknowledged to the broker (QoS 1) when it returns."""


class NotConnected(Exception):  # noqa: N818 - a state, in the words of the contract
    """The link has no connection to the broker now; nothing was sent."""


class Link(Protocol):
    """Publishes, and hands arriving messages to the `Receive` it was made with, in order per topic."""

    @property
    def connected(self) -> bool:
        """The broker has accepted the connection and granted every subscription."""
        ...

    async def publish(self, topic: str, payload: bytes) -> None:
        """Hand a QoS 1 message, never retained, to the broker. Raises NotConnected before anything is sent."""
        ...
