"""A broker without identities: everybody comes in and may do everything. For tests and benchmarks, on loopback."""

from typing import Final

from broker.guard import Credentials
from broker.server import BrokerOptions
from broker.websocket import ANY_ORIGIN
from hub.protocol.topics import Identity

MANY: Final = 100_000
ANYONE: Final = Identity("anyone", "anyone")

OPEN_OPTIONS: Final = BrokerOptions(
    ws_origins=(ANY_ORIGIN,),
    max_connections=MANY,
    max_connections_per_address=MANY,
    max_unauthenticated=MANY,
    max_packet_bytes=268_435_460,  # packets of any length that MQTT can express
    max_connections_per_user=MANY,
    max_topic_length=65_535,
    max_topic_levels=1_000,
    max_queued_messages=10_000,
    max_queued_bytes=64 * 1024 * 1024,
    max_subscriptions=200,
    max_unreleased=65_535,
    max_retained_messages=1_000_000,  # of everybody together, who are all one user here
    max_retained_bytes=1024 * 1024 * 1024,
)
"""As wide as the standard, with bounds that only a broken test reaches."""


async def let_everybody_in(_: Credentials) -> Identity:
    """Whoever it is, with or without a password."""
    return ANYONE


class EverybodyMayDoEverything:
    """`Rights` without a limit, but for topics beginning with '$', which are the broker's own.

    Shared subscriptions, which MQTT 3.1.1 does not have, are refused: as filters like any other they would be
    granted and match nothing.
    """

    def acting_as(self, identity: Identity, client_id: str) -> Identity | None:
        return identity if client_id else None  # whatever its length and letters [MQTT-3.1.3-5]

    def assigned_client_id(self, _: Identity, unique: str) -> str:
        return f"auto-{unique}"

    def may_publish(self, _: Identity, __: str, *, retain: bool) -> bool:  # noqa: ARG002 - retained or not
        return True

    def may_subscribe(self, _: Identity, topic_filter: str) -> bool:
        return not topic_filter.startswith("$share/")

    def may_receive(self, _: Identity, __: str) -> bool:
        return True

    def owner_of(self, _: str) -> str | None:
        return None
