"""A site whose desktop is driven by hand: no network, no real time, a real journal on disk."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from device_sim.journal import Journal
from device_sim.outbox import Outgoing
from device_sim.plc import Feeder, Plc, Registers
from device_sim.rules import DesktopRules
from hub.protocol.messages import FeederConfig, Window
from hub.protocol.times import rfc3339
from hub.protocol.topics import Topics

SITE = "pond7"
TOPICS = Topics()
REPLIES = TOPICS.replies(SITE, "hub1")
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)

CONFIG = FeederConfig(
    enabled=True,
    meal_g=250,
    interval_s=3600,
    window=Window(start="06:00", end="19:30"),
    daily_limit_g=4000,
    feed_rate_g_per_s=12.5,
    silo_low_g=5000,
)


class PlayedSite:
    """One desktop's rules, and what it published, with a hub and a clock that the test plays."""

    def __init__(self, file: Path, feeders: int = 2) -> None:
        self.file = file
        self.now = NOON + timedelta(minutes=30)
        self.clock_s = 1000.0
        self.said: list[Outgoing] = []
        self.stop_epoch = 0
        self.start(feeders)

    def start(self, feeders: int = 2) -> None:
        """The desktop's process begins."""
        self.journal = Journal(self.file)
        names = [f"f{number}" for number in range(1, feeders + 1)]
        self.plc = Plc({name: Feeder(self.journal.registers(name) or self._new_registers()) for name in names})
        self.rules = DesktopRules(SITE, self.plc, self.journal, lambda: self.clock_s, TOPICS)
        self.rules.start(self.now)

    def _new_registers(self) -> Registers:
        return Registers(config=CONFIG, time_zone="UTC", clock=self.now, silo_g=40_000)

    def crash(self) -> None:
        """The process is gone from one moment to the next; what is on disk stays. Another one begins."""
        image = self.file.with_name(f"{ULID()}.sqlite")
        for suffix in ("", "-wal"):
            source = self.file.with_name(self.file.name + suffix)
            if source.exists():
                shutil.copy(source, image.with_name(image.name + suffix))
        self.journal.close()
        self.file = image
        self.start(len(self.plc.names))

    def connect(self, *, ping: bool = True) -> None:
        """A new session comes to life; the hub pings it."""
        self.rules.open_session()
        self.said += self.rules.subscribed(self.now)
        if ping:
            assert self.ping()["status"] == "applied"

    def ping(self, **changed: Any) -> dict[str, Any]:
        beat = self.heartbeats()[-1]
        return self.order("ping", args={"session": beat["session"], "seq": beat["seq"]}, **changed)[-1]

    def wait(self, seconds: float, *, step_s: float = 1.0) -> None:
        """Time passes, and the desktop looks after its feeders meanwhile."""
        while seconds > 0:
            self.sleep(min(step_s, seconds))
            seconds -= step_s
            self.said += self.rules.tick(self.now)

    def sleep(self, seconds: float) -> None:
        """Time passes, and nobody does anything."""
        self.now += timedelta(seconds=seconds)
        self.clock_s += seconds

    def command(self, name: str, args: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
        """A command as the hub would send it now."""
        return {
            "id": str(ULID()),
            "name": name,
            "args": args or {},
            "session": self.rules.presence.session,
            "journal_id": self.journal.journal_id,
            "stop_epoch": self.stop_epoch,
            "reply_to": REPLIES,
            "issued_at": rfc3339(self.now),
            "expires_at": rfc3339(self.now + timedelta(seconds=10)),
        } | changed

    def send(self, command: dict[str, Any] | bytes, feeder: str | None = None, *, retained: bool = False) -> None:
        payload = command if isinstance(command, bytes) else json.dumps(command).encode()
        self.said += self.rules.receive(TOPICS.commands(SITE, feeder), payload, retained, self.now)

    def order(
        self, name: str, feeder: str | None = None, args: dict[str, Any] | None = None, **changed: Any
    ) -> list[dict[str, Any]]:
        """Send a command and tell every reply to it so far."""
        command = self.command(name, args, **changed)
        self.send(command, feeder)
        return self.replies(command["id"])

    def set_config(self, version: int, feeder: str = "f1", **changed: Any) -> dict[str, Any]:
        """Order a config that differs from CONFIG in `changed`, and tell the last reply."""
        order = {
            "config": CONFIG.model_dump() | {k: v for k, v in changed.items() if k in FeederConfig.model_fields},
            "config_version": version,
            "local_rev": changed.get("local_rev", 0),
            "time_zone": changed.get("time_zone", "UTC"),
        }
        return self.order("set_config", feeder, order)[-1]

    # --- what it said ---------------------------------------------------------------------------------------

    def on(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(message.payload) for message in self.said if message.topic == topic]

    def replies(self, command_id: str) -> list[dict[str, Any]]:
        return [reply for reply in self.on(REPLIES) if reply["id"] == command_id]

    def heartbeats(self) -> list[dict[str, Any]]:
        return self.on(TOPICS.heartbeat(SITE))

    def states(self, feeder: str = "f1") -> list[dict[str, Any]]:
        return self.on(TOPICS.state(SITE, feeder))

    def events(self, feeder: str = "f1") -> list[dict[str, Any]]:
        return self.on(TOPICS.events(SITE, feeder))

    def dispensed_g(self, feeder: str = "f1") -> float:
        return self.plc.on_site(feeder).registers.dispensed_total_g


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PlayedSite]:
    """A site at half past noon, connected and pinged, at rest between two meals."""
    played = PlayedSite(tmp_path / "journal.sqlite")
    played.connect()
    yield played
    played.journal.close()


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[Callable[..., PlayedSite]]:
    """Makes one site that is not connected yet."""
    made: list[PlayedSite] = []

    def make(feeders: int = 2) -> PlayedSite:
        made.append(PlayedSite(tmp_path / f"journal-{len(made)}.sqlite", feeders))
        return made[-1]

    yield make
    for played in made:
        played.journal.close()
