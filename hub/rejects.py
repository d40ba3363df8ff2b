"""What was refused of a site: bad messages, forbidden topics; the last few are kept with their reasons.

So the person who writes a desktop sees what is wrong with it.
"""

import json
from typing import Any, Final

from prometheus_client import Counter
from redis.exceptions import RedisError

from hub.models import JsonObject
from hub.protocol.times import rfc3339, utc_now
from hub.quiet_log import QuietLines
from hub.store import Store, StoreUnreachable

KEPT_PER_SITE: Final = 20
KEPT_FOR_S: Final = 7 * 24 * 3600
_EXCERPT_BYTES: Final = 200
_EXCERPT_CHARS: Final = 200

REJECTED = Counter("feeder_hub_rejected_messages_total", "MQTT messages that changed nothing, by reason.", ["reason"])


class Rejects:
    """The last refused messages of each site, in Redis. `lines`: where they are told."""

    def __init__(self, store: Store, lines: QuietLines) -> None:
        self._store = store
        self.lines = lines

    async def record(self, site: str, reason: str, detail: str, topic: str, payload: bytes = b"") -> None:
        """Count, log and keep a message. `reason` is one of a few words; `detail` is for the person who reads it."""
        REJECTED.labels(reason).inc()
        facts = {"site": site, "reason": reason, "detail": detail, "topic": excerpt(topic)}
        self.lines.warning("mqtt message rejected", f"{site} {reason}", **facts)
        await self.keep(site, reason, detail, topic, payload)

    async def keep(self, site: str, reason: str, detail: str, topic: str, payload: bytes = b"") -> None:
        """Keep something that was refused, which somebody else has counted and logged."""
        entry = {
            "at": rfc3339(utc_now()),
            "reason": reason,
            "detail": detail[:1000],
            "topic": topic[:300],
            "payload": payload[:_EXCERPT_BYTES].decode("utf-8", "replace"),
        }
        key = _key(site)
        commands: tuple[tuple[Any, ...], ...] = (
            ("LPUSH", key, json.dumps(entry)),
            ("LTRIM", key, 0, KEPT_PER_SITE - 1),
            ("EXPIRE", key, KEPT_FOR_S),
        )
        try:
            await self._store.calls(*commands)
        except (StoreUnreachable, RedisError) as error:
            self.lines.warning("rejected message not kept", site, site=site, reason=str(error))

    async def forget(self, site: str) -> None:
        """Drop what was kept of a site that is deleted."""
        await self._store.call("DEL", _key(site))

    async def last(self, site: str) -> list[JsonObject]:
        """The newest first. Raises StoreUnreachable."""
        return [json.loads(entry) for entry in await self._store.call("LRANGE", _key(site), 0, -1)]


def excerpt(text: str) -> str:
    """The beginning of a text that a stranger chose, fit for a log and a terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[:_EXCERPT_CHARS])


def _key(site: str) -> str:
    return f"fh:{{{site}}}:rejects"
