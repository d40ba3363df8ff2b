"""Who a client is and what it may do: the identity first, then its client id, then each topic, each time."""

import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from hub.protocol.packets import Connect
from hub.protocol.topics import Identity

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows to prove who it is; None for what it does not show."""

    username: str | None
    password: bytes | None


Authenticate = Callable[[Credentials], Awaitable[Identity | None]]
"""Returns whose credentials these are, or None if they are nobody's."""


class Rights(Protocol):
    """Who may do what; `hub.protocol.topics.Topics` is the product's."""

    def acting_as(self, identity: Identity, client_id: str) -> Identity | None:
        """Who a client is by its user and its client id; None if that client id is not the user's."""
        ...

    def assigned_client_id(self, identity: Identity, unique: str) -> str:
        """The client id of a client that leaves it to the broker."""
        ...

    def may_publish(self, identity: Identity, topic: str, *, retain: bool) -> bool: ...

    def may_subscribe(self, identity: Identity, topic_filter: str) -> bool: ...

    def may_receive(self, identity: Identity, topic: str) -> bool: ...


RefusedKind = Literal["connection", "connect", "will", "publish", "subscribe", "receive"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that a client tried and may not.

    identity: its MQTT user name, or None if it has not proven one.
    topic: the topic or filter that was refused, or None where there is none.
    address: the client's `host:port`.
    """

    kind: RefusedKind
    identity: str | None
    client_id: str | None
    topic: str | None
    reason: str
    address: str


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other end, after password and client id were found right."""

    identity: Identity
    client_id: str
    address: str


class NotAdmitted(Exception):
    """A CONNECT that is refused with this CONNACK code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


IDENTIFIER_REJECTED: Final = 0x02
SERVER_UNAVAILABLE: Final = 0x03
NOT_AUTHORIZED: Final = 0x05


class Guard:
    """Decides, tells `record` of everything it refuses, and counts it by reason."""

    def __init__(
        self,
        authenticate: Authenticate,
        rights: Rights,
        record: Callable[[Refusal], None],
        counters: Counter[str],
    ) -> None:
        self._authenticate = authenticate
        self._rights = rights
        self._record = record
        self._counters = counters

    async def admit(self, connect: Connect, address: str) -> Client:
        """Who the client is, proven by its password, under a client id and with a will that are its own.

        Touches nothing of any session. Raises NotAdmitted.
        """
        client_id = connect.client_id
        try:
            identity = await self._authenticate(Credentials(connect.username, connect.password))
        except Exception as error:
            _log.exception("nobody can be authenticated")
            self.refuse(Refusal("connect", None, client_id, None, "authentication-failed", address))
            raise NotAdmitted(SERVER_UNAVAILABLE, "authentication-failed") from error
        if identity is None:
            reason = "no-credentials" if connect.username is None else "bad-credentials"
            self.refuse(Refusal("connect", None, client_id, None, reason, address))
            raise NotAdmitted(NOT_AUTHORIZED, reason)
        if not client_id and connect.clean_session:
            client_id = self._rights.assigned_client_id(identity, secrets.token_hex(10))  # [MQTT-3.1.3-6]
        # [MQTT-3.1.3-9]; an empty client id is nobody's own, so with a stored session it is refused [MQTT-3.1.3-8].
        acting = self._rights.acting_as(identity, client_id)
        if acting is None:
            self.refuse(Refusal("connect", identity.name, client_id, None, "foreign-client-id", address))
            raise NotAdmitted(IDENTIFIER_REJECTED, "foreign-client-id")
        if acting.kind == "hand" and (connect.will is not None or not connect.clean_session):
            # A hand must never speak in the desktop's place when it is gone, nor keep anything.
            self.refuse(Refusal("connect", identity.name, client_id, None, "hand-with-will-or-session", address))
            raise NotAdmitted(IDENTIFIER_REJECTED, "hand-with-will-or-session")
        client = Client(acting, client_id, address)
        if connect.will is not None and not self._publishes(client, connect.will.topic, connect.will.retain):
            self.refuse(Refusal("will", identity.name, client_id, connect.will.topic, "foreign-will", address))
            raise NotAdmitted(NOT_AUTHORIZED, "foreign-will")
        return client

    def may_publish(self, client: Client, topic: str, retain: bool) -> bool:
        """Whether a PUBLISH goes on; one that does not is acknowledged all the same [MQTT-3.3.5-2]."""
        return self._publishes(client, topic, retain) or self._refuse_topic("publish", client, topic, "foreign-publish")

    def may_subscribe(self, client: Client, topic_filter: str) -> bool:
        return self._rights.may_subscribe(client.identity, topic_filter) or self._refuse_topic(
            "subscribe", client, topic_filter, "foreign-subscribe"
        )

    def may_receive(self, client: Client, topic: str) -> bool:
        """Whether a message may be delivered to the client or queued for it: asked for every single one."""
        return self._rights.may_receive(client.identity, topic) or self._refuse_topic(
            "receive", client, topic, "foreign-delivery"
        )

    def refuse(self, refusal: Refusal) -> None:
        """Record and count something that was refused."""
        self._counters[f"refused_{refusal.reason}"] += 1
        self._record(refusal)

    def _publishes(self, client: Client, topic: str, retain: bool) -> bool:
        # Topics beginning with '$' are the broker's own, whatever the table says: section 4.7.2.
        return topic[0] != "$" and self._rights.may_publish(client.identity, topic, retain=retain)

    def _refuse_topic(self, kind: RefusedKind, client: Client, topic: str, reason: str) -> bool:
        self.refuse(Refusal(kind, client.identity.name, client.client_id, topic, reason, client.address))
        return False
