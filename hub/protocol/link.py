"""What a link to the broker is, whichever broker and whichever library stands behind it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived.

    retained: the RETAIN flag was set, so this is a replay of something said earlier.
    received_at_s: `time.monotonic()` of its arrival, in seconds.
    acknowledge: tells the broker (QoS 1) that the message is safe with us; it may send it again until then.
    """

    topic: str
    payload: bytes
    retained: bool
    received_at_s: float
    acknowledge: Callable[[], None]


Receive = Callable[[Message], None]
"""Called in the event loop for each message, in their order."""


class NotConnected(Exception):
    """The link has no connection to the broker now; nothing was sent."""


class Link(Protocol):
    """Publishes, and hands arriving messages to the `Receive` it was made with."""

    @property
    def connected(self) -> bool:
        """The broker has accepted the connection and granted every subscription."""
        ...

    def publish(self, topic: str, payload: bytes) -> None:
        """Hand a QoS 1 message, never retained, to the broker. Raises NotConnected.

        A message that was handed over while the connection broke may reach the broker after the next connect.
        """
        ...
