"""One feeder and its PLC, in memory: silo, auger, schedule, doses, interlocks. No I/O; `now` is an argument.

The PLC feeds by itself. Between two calls of `advance` nothing is lost: it works through every meal that was
due in the meantime, so a feeder that is looked at once an hour fed the same as one that is looked at all the
time. What it must keep without power is in its `Registers`; put them into a new `Feeder` and it goes on.
"""

import struct
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from device_sim.schedule import next_meal_at
from hub.protocol.codes import Code
from hub.protocol.limits import LIMITS
from hub.protocol.local_days import local_date
from hub.protocol.messages import Condition, Control, FeederConfig

LEAST_DOSE_PAUSE: Final = timedelta(seconds=LIMITS["dose_pause_s"].minimum)


class PlcLost(Exception):
    """The PLC does not answer."""


class Interlocked(Exception):
    """The PLC refuses to move, for this reason."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened at a feeder. A feeding counts for the moment at which it began."""

    kind: Literal["meal", "dose", "skipped", "jam", "silo"]
    at: datetime
    planned_g: float | None = None
    dispensed_g: float | None = None
    reason: str | None = None
    command_id: str | None = None


class Feeding(BaseModel):
    """A meal or dose that is running."""

    kind: Literal["meal", "dose"]
    began_at: datetime
    planned_g: float
    dispensed_g: float = 0
    command_id: str | None = None


class Registers(BaseModel):
    """All that a PLC remembers. Grams and seconds; `dispensed_total_g` only ever counts up."""

    config: FeederConfig
    time_zone: str
    clock: datetime
    silo_g: float
    auger_max_g_per_s: float = 500
    local_rev: int = 0
    control: Control = "remote"
    latched: bool = False
    paused: bool = False
    jammed: bool = False
    dispensed_total_g: float = 0
    fed_on: date | None = None
    fed_today_g: float = 0
    scheduled_through: datetime | None = None
    feeding: Feeding | None = None
    last_dose_id: str | None = None
    last_dose_g: float = 0
    last_dose_at: datetime | None = None


class Feeder:
    """One feeder. Every method but `advance` acts at the moment up to which it has been advanced."""

    def __init__(self, registers: Registers) -> None:
        self.registers = registers.model_copy(deep=True)
        self._facts: list[Fact] = []

    # --- what can be read -----------------------------------------------------------------------------------

    @property
    def condition(self) -> Condition:
        """What the feeder is doing, the gravest first."""
        r = self.registers
        if r.latched:
            return "stopped"
        if r.jammed:
            return "jammed"
        if r.silo_g <= 0:
            return "empty"
        return "paused" if r.paused else "running"

    @property
    def next_meal_at(self) -> datetime | None:
        """When the schedule would feed next; None while it would not."""
        r = self.registers
        if self.condition != "running" or r.control == "service":
            return None
        return next_meal_at(r.config, r.time_zone, r.scheduled_through or r.clock)

    @property
    def fed_today_g(self) -> float:
        """Grams of all feedings that began on the local date of now."""
        r = self.registers
        return r.fed_today_g if r.fed_on == local_date(r.clock, ZoneInfo(r.time_zone)) else 0

    # --- what the desktop orders ----------------------------------------------------------------------------

    def write_config(self, config: FeederConfig, time_zone: str) -> None:
        """Take a config over: numbers become 32-bit floats, the rate at most what the auger can do."""
        r = self.registers
        rate = min(config.feed_rate_g_per_s, r.auger_max_g_per_s)
        r.config = config.model_copy(
            update={
                "meal_g": _float32(config.meal_g),
                "daily_limit_g": _float32(config.daily_limit_g),
                "feed_rate_g_per_s": _float32(rate),
                "silo_low_g": _float32(config.silo_low_g),
            }
        )
        r.time_zone = time_zone
        r.scheduled_through = r.clock  # a new timetable owes no meal of the past

    def start_dose(self, grams: float, command_id: str) -> None:
        """Begin to feed `grams` now. Raises Interlocked; then nothing has moved."""
        r = self.registers
        if r.control != "remote":
            raise Interlocked(Code.NOT_REMOTE)
        if r.feeding is not None:
            raise Interlocked(Code.BUSY)
        hindrance = self._hindrance(grams)
        if hindrance is not None:
            raise Interlocked(hindrance)
        if r.last_dose_at is not None and r.clock - r.last_dose_at < LEAST_DOSE_PAUSE:
            raise Interlocked(Code.LIMIT)
        r.last_dose_id, r.last_dose_g, r.last_dose_at = command_id, 0, r.clock
        r.feeding = Feeding(kind="dose", began_at=r.clock, planned_g=grams, command_id=command_id)

    def abort_dose(self, reason: str) -> None:
        """End a running dose where it is."""
        if self.registers.feeding is not None and self.registers.feeding.kind == "dose":
            self._end_feeding(reason)

    def pause(self) -> None:
        """Feed nothing until `resume`; a feeding that runs ends where it is."""
        self.registers.paused = True
        self._end_feeding(Code.PAUSED)

    def resume(self) -> None:
        """Let the schedule go on; meals of the meantime are not made up for."""
        self.registers.paused = False

    def latch(self) -> None:
        """Emergency stop: nothing moves, the schedule included, until `release`."""
        self.registers.latched = True
        self._end_feeding(Code.STOPPED)

    def release(self) -> None:
        """End the emergency stop; nothing starts by this."""
        self.registers.latched = False

    # --- what a person on the farm does ---------------------------------------------------------------------

    def switch(self, control: Control) -> None:
        """Turn the switch. In service nothing moves; leaving remote ends a dose, coming back starts none."""
        self.registers.control = control
        if control == "service":
            self._end_feeding(Code.NOT_REMOTE)
        elif control == "local":
            self.abort_dose(Code.NOT_REMOTE)

    def edit(self, config: FeederConfig) -> None:
        """Change the config at the feeder itself."""
        self.write_config(config, self.registers.time_zone)
        self.registers.local_rev += 1

    def refill(self, grams: float) -> None:
        """Put feed into the silo."""
        self.registers.silo_g += grams
        self._facts.append(Fact("silo", self.registers.clock, reason="refilled"))

    def jam(self) -> None:
        """The auger sticks; a feeding that runs ends where it is."""
        if not self.registers.jammed:
            self.registers.jammed = True
            self._facts.append(Fact("jam", self.registers.clock))
            self._end_feeding(Code.JAMMED)

    def clear_jam(self) -> None:
        """Free the auger; nothing starts by this."""
        self.registers.jammed = False

    # --- time -----------------------------------------------------------------------------------------------

    def advance(self, now: datetime) -> list[Fact]:
        """Let time pass up to `now` and tell what happened since the last call. A clock set back waits."""
        r = self.registers
        if r.scheduled_through is None:
            r.scheduled_through = r.clock
        while True:
            if r.feeding is not None:
                if r.clock >= now:
                    break
                self._feed(r.feeding, now)
                continue
            due = next_meal_at(r.config, r.time_zone, r.scheduled_through)
            if due is None or due > max(now, r.clock):
                r.clock = max(now, r.clock)
                break
            r.clock = max(due, r.clock)
            r.scheduled_through = r.clock  # meals that fell due during a long dose become one, not a burst
            self._begin_meal()
        facts, self._facts = self._facts, []
        return facts

    def _begin_meal(self) -> None:
        r = self.registers
        hindrance = "service" if r.control == "service" else self._hindrance(r.config.meal_g)
        if hindrance is not None:
            self._facts.append(Fact("skipped", r.clock, planned_g=_grams(r.config.meal_g), reason=hindrance))
        else:
            r.feeding = Feeding(kind="meal", began_at=r.clock, planned_g=r.config.meal_g)

    def _hindrance(self, grams: float) -> Code | None:
        r = self.registers
        if r.latched:
            return Code.STOPPED
        if r.jammed:
            return Code.JAMMED
        if r.silo_g <= 0:
            return Code.EMPTY
        if r.paused:
            return Code.PAUSED
        # A hair of room: sums of 32-bit numbers do not come out even.
        return Code.LIMIT if self.fed_today_g + grams > r.config.daily_limit_g + 0.05 else None

    def _feed(self, feeding: Feeding, now: datetime) -> None:
        """Turn the auger until `now`, the end of the feeding or the end of the feed, whatever comes first."""
        r = self.registers
        rate = r.config.feed_rate_g_per_s
        wanted = feeding.planned_g - feeding.dispensed_g
        grams = min(wanted, r.silo_g)
        done_at = r.clock + timedelta(seconds=grams / rate)
        done = done_at <= now
        if not done:
            grams = min(grams, (now - r.clock).total_seconds() * rate)
        silo_before = r.silo_g
        # What is taken from the silo is what is counted: no rounding comes in between.
        r.silo_g = 0 if grams >= silo_before else silo_before - grams
        self._count(feeding, silo_before - r.silo_g)
        r.clock = done_at if done else now
        if silo_before >= r.config.silo_low_g > r.silo_g:
            self._facts.append(Fact("silo", r.clock, reason="low"))
        if r.silo_g <= 0:
            self._facts.append(Fact("silo", r.clock, reason="empty"))
        if done:
            self._end_feeding(Code.EMPTY if grams < wanted else None)

    def _count(self, feeding: Feeding, grams: float) -> None:
        r = self.registers
        began_on = local_date(feeding.began_at, ZoneInfo(r.time_zone))
        if r.fed_on != began_on:
            r.fed_on, r.fed_today_g = began_on, 0
        r.fed_today_g += grams
        r.dispensed_total_g += grams
        feeding.dispensed_g += grams
        if feeding.kind == "dose":
            r.last_dose_g = feeding.dispensed_g

    def _end_feeding(self, reason: str | None) -> None:
        feeding, self.registers.feeding = self.registers.feeding, None
        if feeding is not None:
            fact = Fact(feeding.kind, feeding.began_at, reason=reason, command_id=feeding.command_id)
            planned, dispensed = _grams(feeding.planned_g), _grams(feeding.dispensed_g)
            self._facts.append(replace(fact, planned_g=planned, dispensed_g=dispensed))


class Plc:
    """All feeders of a site, each behind its cable. A cut cable stops no feeding; it hides what happens."""

    def __init__(self, feeders: dict[str, Feeder]) -> None:
        self._feeders = feeders
        self._untold: dict[str, list[Fact]] = {name: [] for name in feeders}
        self.cut: set[str] = set()

    @property
    def names(self) -> list[str]:
        return list(self._feeders)

    @property
    def connected(self) -> bool:
        """Every feeder can be reached."""
        return not self.cut

    def __getitem__(self, name: str) -> Feeder:
        """The feeder, reached over its cable. Raises PlcLost while that is cut, KeyError if there is none."""
        feeder = self._feeders[name]
        if name in self.cut:
            raise PlcLost
        return feeder

    def on_site(self, name: str) -> Feeder:
        """The feeder for somebody who stands in front of it."""
        return self._feeders[name]

    def advance(self, now: datetime) -> list[tuple[str, Fact]]:
        """Let time pass for all; what happened behind a cut cable is told when it is whole again."""
        told = []
        for name, feeder in self._feeders.items():
            self._untold[name] += feeder.advance(now)
            if name not in self.cut:
                told += [(name, fact) for fact in self._untold[name]]
                self._untold[name] = []
        return told


def _float32(number: float) -> float:
    """The number as a PLC keeps it."""
    value: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return value


def _grams(grams: float) -> float:
    """Grams as they are told: to the milligram."""
    return round(grams, 3)
