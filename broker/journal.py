"""What changes of the state that survives a restart, gathered into numbered batches. No I/O.

A batch holds rows by their primary key, the last change of each, and None for a row that goes; a message that comes and
goes within one batch leaves no trace in it. Whoever writes batches to disk takes one, writes it and says so;
whoever must not speak before a change is on disk waits for the batch that holds it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from hub.protocol.packets import Publish
from hub.protocol.topics import Identity


class MessageRow(NamedTuple):
    """A QoS 1 or 2 message for a stored session. `packet_id`: 0 while it waits for its place in flight.

    released: it has arrived (QoS 2) and only its release is on the way; its payload is gone.
    """

    client_id: str
    packet_id: int
    released: bool
    topic: str
    payload: bytes
    qos: int
    retain: bool


class RetainedRow(NamedTuple):
    """A retained message. `owner`: the user name of who published it."""

    payload: bytes
    qos: int
    owner: str


class WillRow(NamedTuple):
    """The will of a client that is connected."""

    identity: Identity
    topic: str
    payload: bytes
    qos: int
    retain: bool


class StoredSession(NamedTuple):
    """A stored session as it was kept.

    subscriptions: QoS granted by filter. messages: with their numbers, in the order they came in.
    received: packet ids of QoS 2 messages that its client has not released.
    """

    identity: Identity
    subscriptions: dict[str, int]
    messages: list[tuple[int, MessageRow]]
    received: set[int]


@dataclass(slots=True)
class Batch:
    """Changed rows by key.

    sessions (whose it is) by client id; subscriptions (the QoS granted) by client id and filter; messages by
    their number, which counts up; received, the QoS 2 messages that a client has not released, by client id and
    packet id; retained by topic; wills by client id.
    """

    sessions: dict[str, Identity | None] = field(default_factory=dict)
    subscriptions: dict[tuple[str, str], int | None] = field(default_factory=dict)
    messages: dict[int, MessageRow | None] = field(default_factory=dict)
    received: dict[tuple[str, int], bool | None] = field(default_factory=dict)
    retained: dict[str, RetainedRow | None] = field(default_factory=dict)
    wills: dict[str, WillRow | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(
            self.messages or self.retained or self.received or self.subscriptions or self.sessions or self.wills
        )


class Journal:
    """The batch being gathered, and how far the earlier ones are on disk.

    last_message: the highest number of a message that was ever kept.
    changed: called at the first change of a batch.
    """

    def __init__(self, last_message: int, changed: Callable[[], None]) -> None:
        self.changes = 0
        """How many changes there were; compared before and after, it says whether something changed."""
        self.gathering = 1
        """The number of the batch being gathered; the batches before it were taken."""
        self.committed = 0
        """The number of the last batch on disk; all before it are there too."""
        self.read_here: str | None = None
        """The client id of whoever reads in this process."""
        self._batch = Batch()
        self._last_message = last_message
        self._first_of_batch = last_message + 1
        self._changed = changed
        self._waiting: list[Callable[[], None]] = []

    # --- for the writer -------------------------------------------------------------------------------------

    def take(self) -> Batch:
        """The batch gathered so far; changes from now on belong to the next one."""
        taken, self._batch = self._batch, Batch()
        self.gathering += 1
        self._first_of_batch = self._last_message + 1
        return taken

    def commit(self) -> None:
        """The oldest batch that was taken and not committed is on disk: tell those who waited for one."""
        self.committed += 1
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    # --- for those who wait ---------------------------------------------------------------------------------

    @property
    def last_change(self) -> int:
        """The number of the batch that holds the last change so far."""
        return self.gathering if self._batch else self.gathering - 1

    @property
    def may_come_to_nothing(self) -> bool:
        """Whether all of this batch is messages for a reader in this process, who is done with them in a moment."""
        batch = self._batch
        if batch.retained or batch.received or batch.subscriptions or batch.sessions or batch.wills:
            return False
        messages = batch.messages.values()
        return bool(messages) and all(row is not None and row.client_id == self.read_here for row in messages)

    def when_committed(self, call: Callable[[], None]) -> None:
        """Call it once, when the next batch is on disk."""
        self._waiting.append(call)

    # --- changes --------------------------------------------------------------------------------------------

    def _touch(self) -> Batch:
        self.changes += 1
        if not self._batch:
            self._changed()
        return self._batch

    def open_session(self, client_id: str, identity: Identity) -> None:
        self._touch().sessions[client_id] = identity

    def close_session(self, client_id: str) -> None:
        """Take the session's own row away; its other rows go one by one."""
        self._touch().sessions[client_id] = None

    def subscribe(self, client_id: str, topic_filter: str, qos: int) -> None:
        self._touch().subscriptions[client_id, topic_filter] = qos

    def unsubscribe(self, client_id: str, topic_filter: str) -> None:
        self._touch().subscriptions[client_id, topic_filter] = None

    def add_message(self, client_id: str, message: Publish) -> int:
        """Keep a message that waits or is being sent; returns its number."""
        self._last_message += 1
        self.set_message(self._last_message, client_id, message)
        return self._last_message

    def set_message(self, number: int, client_id: str, message: Publish) -> None:
        """A message that was kept is in flight now, under its packet id."""
        self._touch().messages[number] = MessageRow(
            client_id,
            message.packet_id,
            released=False,
            topic=message.topic,
            payload=message.payload,
            qos=message.qos,
            retain=message.retain,
        )

    def release_message(self, number: int, client_id: str, packet_id: int) -> int:
        """A QoS 2 message has arrived; what is left is to say so. It is the last in order now: its new number."""
        self.remove_message(number)
        self._last_message += 1
        self._touch().messages[self._last_message] = MessageRow(
            client_id, packet_id, released=True, topic="", payload=b"", qos=2, retain=False
        )
        return self._last_message

    def remove_message(self, number: int) -> None:
        """A message is delivered, or nobody's any more."""
        messages = self._touch().messages
        if number >= self._first_of_batch:
            del messages[number]
        else:
            messages[number] = None

    def receive(self, client_id: str, packet_id: int) -> None:
        """A QoS 2 message came in and is not released yet."""
        self._touch().received[client_id, packet_id] = True

    def release(self, client_id: str, packet_id: int) -> None:
        self._touch().received[client_id, packet_id] = None

    def retain(self, message: Publish, owner: str) -> None:
        self._touch().retained[message.topic] = RetainedRow(message.payload, message.qos, owner)

    def set_will(self, client_id: str, row: WillRow) -> None:
        self._touch().wills[client_id] = row

    def remove_will(self, client_id: str) -> None:
        """It was published, or is not to be."""
        self._touch().wills[client_id] = None

    def clear_retained(self, topic: str) -> None:
        self._touch().retained[topic] = None
