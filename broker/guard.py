"""Who a client is and what it may do: the identity first, then its client id, then each topic, each time."""

import asyncio
import secrets
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from broker.addresses import network_of
from broker.throttle import LoginThrottle
from hub.protocol.packets import Connect
from hub.protocol.topics import Identity


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows to prove who it is; None for what it does not show.

    client_id: the one it wants, which proves nothing.
    certificate_name: whose certificate, believed by the broker, it has shown; "" is nobody's.
    """

    username: str | None
    password: bytes | None
    certificate_name: str | None = None
    client_id: str = ""


Authenticate = Callable[[Credentials], Awaitable[Identity | None]]
"""Returns whose credentials these are, or None if they are nobody's. May raise NotAdmitted with a reason of its own."""


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

    def owner_of(self, topic: str) -> str | None:
        """The user who alone may publish there, the hub apart; None if there is no such user."""
        ...


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """How long a topic or a filter may be, in characters, and how many levels it may have."""

    length: int = 512
    levels: int = 32


RefusedKind = Literal["connection", "connect", "will", "publish", "subscribe", "receive"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that a client tried and may not.

    identity: its MQTT user name, or None if it has not proven one.
    topic: the topic or filter that was refused, or None where there is none.
    address: the client's `host:port`.
    detail: what a person may want to know beyond the reason.
    """

    kind: RefusedKind
    identity: str | None
    client_id: str | None
    topic: str | None
    reason: str
    address: str
    detail: str | None = None


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
        self.reason = reason


IDENTIFIER_REJECTED: Final = 0x02
SERVER_UNAVAILABLE: Final = 0x03
NOT_AUTHORIZED: Final = 0x05


class Guard:
    """Decides, tells `record` of everything it refuses, and counts it by reason.

    max_connections_per_user: how many client ids of one user may be connected at a time; the hub has as many as
        it wants, and a site's desktop, which is one, is let in whatever tools of its site are there.
    """

    def __init__(
        self,
        authenticate: Authenticate,
        rights: Rights,
        record: Callable[[Refusal], None],
        counters: Counter[str],
        throttle: LoginThrottle,
        max_connections_per_user: int,
        topic_limits: TopicLimits,
    ) -> None:
        self._authenticate = authenticate
        self._rights = rights
        self._record = record
        self._counters = counters
        self._throttle = throttle
        self._max_connections_per_user = max_connections_per_user
        self._max_topic_length = topic_limits.length
        self._max_slashes = topic_limits.levels - 1
        self._user_changes = 0
        self._connected: defaultdict[str, Counter[str]] = defaultdict(Counter)  # user -> client id -> connections

    async def admit(self, connect: Connect, address: str, certificate_name: str | None = None) -> Client:
        """Who the client is, proven by its password, under a client id and with a will that are its own.

        Touches nothing of any session. It may wait for its turn. Whoever is admitted counts among the user's
        connections until `leave`. Raises NotAdmitted.
        """
        client_id = connect.client_id
        shown = Credentials(connect.username, connect.password, certificate_name, client_id)
        identity = await self._identify(connect, shown, address)
        if not client_id and connect.clean_session:
            client_id = self._rights.assigned_client_id(identity, secrets.token_hex(10))  # [MQTT-3.1.3-6]
        # [MQTT-3.1.3-9]; an empty client id is nobody's own, so with a stored session it is refused [MQTT-3.1.3-8].
        acting = self._rights.acting_as(identity, client_id)
        if acting is None:
            refusal = Refusal("connect", identity.name, client_id, None, "foreign-client-id", address)
            raise self._refused(IDENTIFIER_REJECTED, refusal)
        if acting.kind in ("hand", "monitor") and (connect.will is not None or not connect.clean_session):
            # A tool must never speak in the desktop's place when it is gone, nor keep anything.
            reason = f"{acting.kind}-with-will-or-session"
            raise self._refused(
                IDENTIFIER_REJECTED, Refusal("connect", identity.name, client_id, None, reason, address)
            )
        client = Client(acting, client_id, address)
        will = connect.will
        rights = self._rights
        if will is not None and not (
            self._fits(will.topic) and rights.may_publish(acting, will.topic, retain=will.retain)
        ):
            reason = "foreign-will" if self._fits(will.topic) else "topic-too-long"
            raise self._refused(NOT_AUTHORIZED, Refusal("will", identity.name, client_id, will.topic, reason, address))
        self._take_a_place(client)
        return client

    def leave(self, client: Client) -> None:
        """The connection of a client that was admitted is over."""
        name = client.identity.name
        connected = self._connected[name]
        connected[client.client_id] -= 1
        if connected[client.client_id] == 0:
            del connected[client.client_id]
        if not connected:
            del self._connected[name]

    def _take_a_place(self, client: Client) -> None:
        name = client.identity.name
        connected = self._connected[name]
        # A client id that is connected already is about to be taken over: its old connection makes the room.
        full = len(connected) >= self._max_connections_per_user and client.client_id not in connected
        if full and client.identity.kind not in ("hub", "site"):
            refusal = Refusal("connect", name, client.client_id, None, "too-many-connections-of-user", client.address)
            raise self._refused(SERVER_UNAVAILABLE, refusal)
        connected[client.client_id] += 1

    def users_changed(self) -> None:
        """A user is no more, or has another secret: whoever is being looked at is looked at again."""
        self._user_changes += 1

    # --- whose password it is ---------------------------------------------------------------------------------

    async def _identify(self, connect: Connect, shown: Credentials, address: str) -> Identity:
        if shown.username is None:  # it guesses at nothing, so there is nothing to slow down
            identity, reason = await self._look(connect, shown, address), "no-credentials"
        else:
            identity, reason = await self._look_in_turn(connect, shown, shown.username, address), "bad-credentials"
        if identity is None:
            raise self._no_login(NOT_AUTHORIZED, reason, connect, address)
        return identity

    async def _look_in_turn(self, connect: Connect, shown: Credentials, username: str, address: str) -> Identity | None:
        now_s = asyncio.get_running_loop().time
        login = self._throttle.ask(now_s(), network_of(address), username)
        if login is None:
            raise self._no_login(SERVER_UNAVAILABLE, "login-throttled", connect, address)
        try:
            if login.wait_s:
                await self._wait(login.wait_s)
            identity = await self._look(connect, shown, address)
        except BaseException:  # also when its time was over: nobody has looked
            self._throttle.unanswered(login)
            raise
        if identity is None:
            self._throttle.failed(now_s(), login)
        else:
            self._throttle.passed(login)
        return identity

    async def _wait(self, seconds: float) -> None:
        self._counters["logins_delayed"] += 1
        self._counters["logins_waiting"] += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._counters["logins_waiting"] -= 1

    async def _look(self, connect: Connect, shown: Credentials, address: str) -> Identity | None:
        try:
            while True:
                changes = self._user_changes
                identity = await self._authenticate(shown)
                if changes == self._user_changes:  # or what was read may be of before the change
                    return identity
        except NotAdmitted as refused:
            raise self._no_login(refused.code, refused.reason, connect, address) from refused
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            raise self._no_login(SERVER_UNAVAILABLE, "authentication-failed", connect, address, detail) from error

    def _no_login(
        self, code: int, reason: str, connect: Connect, address: str, detail: str | None = None
    ) -> NotAdmitted:
        detail = detail or f"user name {connect.username!r}"
        return self._refused(code, Refusal("connect", None, connect.client_id, None, reason, address, detail))

    # --- what it may do ---------------------------------------------------------------------------------------

    def may_publish(self, client: Client, topic: str, retain: bool) -> bool:
        """Whether a PUBLISH goes on; one that does not is acknowledged all the same [MQTT-3.3.5-2]."""
        if not self._fits(topic):
            return self._refuse_topic("publish", client, topic, "topic-too-long")
        return self._publishes(client, topic, retain) or self._refuse_topic("publish", client, topic, "foreign-publish")

    def may_subscribe(self, client: Client, topic_filter: str) -> bool:
        if not self._fits(topic_filter):
            return self._refuse_topic("subscribe", client, topic_filter, "topic-too-long")
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

    def _refused(self, code: int, refusal: Refusal) -> NotAdmitted:
        self.refuse(refusal)
        return NotAdmitted(code, refusal.reason)

    def _fits(self, topic: str) -> bool:
        return len(topic) <= self._max_topic_length and topic.count("/") <= self._max_slashes

    def _publishes(self, client: Client, topic: str, retain: bool) -> bool:
        # Topics beginning with '$' are the broker's own, whatever the table says: section 4.7.2.
        return topic[0] != "$" and self._rights.may_publish(client.identity, topic, retain=retain)

    def _refuse_topic(self, kind: RefusedKind, client: Client, topic: str, reason: str) -> bool:
        self.refuse(Refusal(kind, client.identity.name, client.client_id, topic, reason, client.address))
        return False
