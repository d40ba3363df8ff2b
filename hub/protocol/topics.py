"""Topics of the contract and who may do what with them: one table, read by the broker, the hub and the export.

| topic (below the root)               | published by            | read by                        | retained  |
|--------------------------------------|-------------------------|--------------------------------|-----------|
| `{site}/heartbeat`                   | the site (and its will) | the hub, the site itself       | yes       |
| `{site}/feeders/{feeder}/state`      | the site                | the hub                        | yes       |
| `{site}/feeders/{feeder}/events`     | the site                | the hub                        | no        |
| `{site}/replies/{hub_id}`            | the site                | the hub                        | no        |
| `{site}/feeders/{feeder}/commands`   | the hub                 | the site                       | **never** |
| `{site}/commands`                    | the hub                 | the site                       | **never** |

A monitor reads the broker's own figures, `$SYS/#`, and if it is one of a site's, everything below `{site}/`. It
publishes nothing.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import StringConstraints

ID_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
ULID_PATTERN: Final = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$"
_ID = re.compile(ID_PATTERN[:-1] + r"\Z")
_ULID = re.compile(ULID_PATTERN[:-1] + r"\Z")

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Ulid = Annotated[str, StringConstraints(pattern=ULID_PATTERN)]

_TOPICS_REMEMBERED: Final = 10_000
"""Those of the contract only, which are short: each is taken apart several times on its way."""

RESERVED_NAMES: Final = frozenset({"hub", "monitor", "admin"})
"""No site is called so, nor so with a dash behind: these are the MQTT users and client ids of hub and monitors."""


def is_id(text: str) -> bool:
    """Whether the text may name a site, a feeder or a hub process."""
    return _ID.match(text) is not None


def is_ulid(text: str) -> bool:
    """Whether the text may name a command or an event."""
    return _ULID.match(text) is not None


class Kind(StrEnum):
    """What a topic of the contract carries."""

    HEARTBEAT = "heartbeat"
    STATE = "state"
    EVENTS = "events"
    COMMANDS = "commands"
    REPLIES = "replies"


@dataclass(frozen=True, slots=True)
class Address:
    """A topic of the contract, taken apart."""

    site: str
    kind: Kind
    feeder: str | None = None
    hub_id: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is connected to the broker, after its password was found right.

    kind `hand`: a site's second connection, for tools; it may publish what the site may, and receives nothing.
    kind `monitor`: a tool that only reads; `site` is the one whose topics it may read, if there is one.
    kind `anyone`: whoever connects to a broker that is open to everybody.
    """

    kind: Literal["hub", "site", "hand", "monitor", "anyone"]
    name: str
    site: str | None = None


PUBLISHED_BY_SITE: Final = frozenset({Kind.HEARTBEAT, Kind.STATE, Kind.EVENTS, Kind.REPLIES})
READ_BY_SITE: Final = frozenset({Kind.HEARTBEAT, Kind.COMMANDS})
RETAINED: Final = frozenset({Kind.HEARTBEAT, Kind.STATE})


class Topics:
    """The topics below one root, built, taken apart and guarded."""

    def __init__(self, root: str = "fh/v1") -> None:
        if not root or root.startswith("$") or set(root) & set("+#\0") or "" in root.split("/"):
            raise ValueError(f"the topic root {root!r} must be one or more non-empty levels without + # or a leading $")
        self.root = root
        self._prefix = root + "/"
        self._known: dict[str, Address] = {}

    def heartbeat(self, site: str) -> str:
        return f"{self.root}/{site}/heartbeat"

    def state(self, site: str, feeder: str) -> str:
        return f"{self.root}/{site}/feeders/{feeder}/state"

    def events(self, site: str, feeder: str) -> str:
        return f"{self.root}/{site}/feeders/{feeder}/events"

    def commands(self, site: str, feeder: str | None = None) -> str:
        """Where the hub sends a feeder's commands, or (without a feeder) those for the whole site."""
        return f"{self.root}/{site}/commands" if feeder is None else f"{self.root}/{site}/feeders/{feeder}/commands"

    def replies(self, site: str, hub_id: str) -> str:
        return f"{self.root}/{site}/replies/{hub_id}"

    def hub_filters(self, hub_id: str) -> tuple[tuple[str, int], ...]:
        """What one hub process subscribes to, with the QoS.

        Heartbeats at 0: a broker would keep those of 1 for a hub that is away, and they would raise the dead later.
        """
        return (
            (self.heartbeat("+"), 0),
            (self.state("+", "+"), 1),
            (self.events("+", "+"), 1),
            (self.replies("+", hub_id), 1),
        )

    def desktop_filters(self, site: str) -> tuple[str, ...]:
        """What a site's desktop subscribes to: its two command filters, and its own heartbeat."""
        return (self.commands(site), self.commands(site, "+"), self.heartbeat(site))

    def parse(self, topic: str) -> Address | None:
        """The address that a topic name stands for, or None if the contract does not know it."""
        known = self._known.get(topic)
        if known is None and (known := self._taken_apart(topic)) is not None:
            if len(self._known) >= _TOPICS_REMEMBERED:
                self._known.clear()
            self._known[topic] = known
        return known

    def _taken_apart(self, topic: str) -> Address | None:
        if not topic.startswith(self._prefix):
            return None
        match topic[len(self._prefix) :].split("/"):
            case [site, "heartbeat"] if is_id(site):
                return Address(site, Kind.HEARTBEAT)
            case [site, "commands"] if is_id(site):
                return Address(site, Kind.COMMANDS)
            case [site, "replies", hub_id] if is_id(site) and is_id(hub_id):
                return Address(site, Kind.REPLIES, hub_id=hub_id)
            case [site, "feeders", feeder, "state" | "events" | "commands" as kind] if is_id(site) and is_id(feeder):
                return Address(site, Kind(kind), feeder=feeder)
        return None

    # --- who may do what -------------------------------------------------------------------------------------

    def acting_as(self, identity: Identity, client_id: str) -> Identity | None:
        """Who a client is by its user and its client id; None if that client id is not the user's.

        A site's client id is exactly its name, so a second desktop knocks the first one out. `{site}.{anything}` is a
        hand: a tool that publishes beside the desktop and, as it receives nothing, can never act in its place.
        A monitor's may go on with a dot as well, which no name has: nobody's client ids are anybody else's.
        """
        name = identity.name
        if client_id == name:
            return identity
        if not client_id.startswith(name + _separator(identity)):
            return None
        return Identity("hand", name) if identity.kind == "site" else identity

    def assigned_client_id(self, identity: Identity, unique: str) -> str:
        """The client id of a client that leaves it to the broker; `unique` is a text that no other client has."""
        return f"{identity.name}{_separator(identity)}{unique}"

    def may_publish(self, identity: Identity, topic: str, *, retain: bool) -> bool:
        """Whether the identity may publish there (a will is a publish), with or without the RETAIN flag."""
        address = self.parse(topic)
        if address is None or (retain and address.kind not in RETAINED):
            return False
        if identity.kind == "hub":
            return address.kind is Kind.COMMANDS
        by_site = identity.kind in ("site", "hand") and address.site == identity.name
        return by_site and address.kind in PUBLISHED_BY_SITE

    def may_subscribe(self, identity: Identity, topic_filter: str) -> bool:
        """Whether every topic that the filter matches may be read by the identity."""
        if identity.kind == "hub":
            return topic_filter.startswith(self._prefix)
        if identity.kind == "monitor":
            return topic_filter == "$SYS" or self._is_read_by_monitor(identity, topic_filter)
        if identity.kind == "hand":
            return False
        if topic_filter == self.commands(identity.name, "+"):
            return True
        address = self.parse(topic_filter)
        return address is not None and address.site == identity.name and address.kind in READ_BY_SITE

    def may_receive(self, identity: Identity, topic: str) -> bool:
        """Whether a message on that topic may be delivered to the identity: live, retained or queued."""
        if identity.kind == "hub":
            return topic.startswith(self._prefix)
        if identity.kind == "monitor":
            return self._is_read_by_monitor(identity, topic)
        if identity.kind == "hand":
            return False
        address = self.parse(topic)
        return address is not None and address.site == identity.name and address.kind in READ_BY_SITE

    def owner_of(self, topic: str) -> str | None:
        """The site that alone may publish there, the hub apart; None if the topic is not below a site's."""
        if not topic.startswith(self._prefix):
            return None
        return topic[len(self._prefix) :].partition("/")[0]

    def _is_read_by_monitor(self, identity: Identity, topic_or_filter: str) -> bool:
        of_site = identity.site is not None and topic_or_filter.startswith(f"{self._prefix}{identity.site}/")
        return of_site or topic_or_filter.startswith("$SYS/")


def _separator(identity: Identity) -> str:
    """What stands between a user's name and the rest of a longer client id."""
    return "-" if identity.kind == "hub" else "."
