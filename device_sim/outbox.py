"""What the desktop says: every message that it publishes is made here, and taken from here. No I/O."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from device_sim.presence import Presence
from hub.protocol.codes import Code
from hub.protocol.messages import Event, Offline, Outcome, Reply, ReplyStatus, State, encode
from hub.protocol.topics import Topics

AS_REPLY: Final[dict[str, tuple[ReplyStatus, Code]]] = {
    "interrupted": ("failed", Code.INTERRUPTED),
    "not_seen": ("rejected", Code.VOIDED),
}
"""How a duplicate of a command is answered whose outcome is a word that only a report knows."""

log = logging.getLogger("feeder-sim")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish now, QoS 1. What cannot go out is not kept: each session tells all anew."""

    topic: str
    payload: bytes
    retain: bool = False


class Outbox:
    """Takes messages while the session lives, and drops them while there is nobody to hear."""

    def __init__(self, site: str, topics: Topics, presence: Presence) -> None:
        self._site = site
        self._topics = topics
        self._presence = presence
        self._messages: list[Outgoing] = []

    def take(self) -> list[Outgoing]:
        """What is to be published now, in this order."""
        taken, self._messages = self._messages, []
        return taken

    def heartbeat(self, now: datetime, *, plc_connected: bool) -> None:
        """The first one brings the session to life."""
        heartbeat = self._presence.heartbeat(now, plc_connected=plc_connected)
        self._put(self._topics.heartbeat(self._site), encode(heartbeat), retain=True)

    def farewell(self, said: Offline) -> None:
        self._messages.append(Outgoing(self._topics.heartbeat(self._site), encode(said), retain=True))

    def state(self, feeder: str, state: State) -> None:
        self._put(self._topics.state(self._site, feeder), encode(state), retain=True)

    def event(self, feeder: str, event: Event | bytes) -> None:
        payload = event if isinstance(event, bytes) else encode(event)
        self._put(self._topics.events(self._site, feeder), payload)

    def reply(self, reply_to: str, reply: Reply) -> None:
        log.info("%s %s%s", reply.id, reply.status, "" if reply.code is None else f" ({reply.code})")
        self._put(reply_to, encode(reply))

    def outcome(self, reply_to: str, outcome: Outcome, now: datetime) -> None:
        """Answer with what became of a command, in the words that a reply has."""
        status, code = AS_REPLY.get(outcome.status, (outcome.status, outcome.code))
        answer = outcome.model_dump(exclude={"status", "code"}, exclude_none=True)
        self.reply(reply_to, Reply.model_validate(answer | {"status": status, "code": code, "at": now}))

    def _put(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if self._presence.live:
            self._messages.append(Outgoing(topic, payload, retain))
