"""Every message of the contract as a model: parsing is checking. Unknown fields are ignored.

`X.model_validate_json(payload)` reads one; `encode(x)` writes one, leaving out what is not set.
"""

import re
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hub.protocol.limits import LIMITS, equal_within_tolerance, limited
from hub.protocol.times import Instant
from hub.protocol.topics import Id, Ulid

Count = Annotated[int, Field(ge=0, le=2**53)]
MAX_VERSION: Final = 2**53 - 1
Version = Annotated[int, Field(ge=0, le=MAX_VERSION)]
Grams = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
NO_NUL: Final = r"^[^\x00]*$"
"""Databases do not take it."""
Word = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_NUL)]
Text = Annotated[str, Field(max_length=1000, pattern=NO_NUL)]
SessionId = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_NUL)]

_TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00")


def _time_of_day(text: str) -> str:
    if not _TIME_OF_DAY.fullmatch(text):
        raise ValueError("a time of day is written HH:MM, 00:00 to 24:00")
    return text


TimeOfDay = Annotated[
    str,
    AfterValidator(_time_of_day),
    Field(
        examples=["06:00"],
        description="local time, HH:MM",
        json_schema_extra={"pattern": f"^({_TIME_OF_DAY.pattern})$"},
    ),
]


class Model(BaseModel):
    """A message or a part of one: a number must be a JSON number ("12" and true are none), times know their zone."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Window(Model):
    """When meals may start: [start, end) in the site's time zone; it may cross midnight."""

    start: TimeOfDay
    end: TimeOfDay

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.start == self.end or self.start == "24:00":
            raise ValueError("the window is empty: start and end must differ, and it cannot start at 24:00")
        return self


class FeederConfig(Model):
    """How one feeder feeds. The whole of it travels in every `set_config`."""

    enabled: bool = Field(description="whether meals are fed by the schedule")
    meal_g: float = limited("meal_g")
    interval_s: int = limited("interval_s")
    window: Window
    daily_limit_g: float = limited("daily_limit_g")
    feed_rate_g_per_s: float = limited("feed_rate_g_per_s")
    silo_low_g: float = limited("silo_low_g")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.meal_g > self.daily_limit_g:
            raise ValueError(f"meal_g {self.meal_g:g} is more than daily_limit_g {self.daily_limit_g:g}")
        # A hair of room: what fits as written must fit as well when it is read back in 32 bits.
        if self.meal_g / self.feed_rate_g_per_s > self.interval_s * (1 + 1e-6):
            raise ValueError(
                f"a meal of {self.meal_g:g} g at {self.feed_rate_g_per_s:g} g/s "
                f"lasts longer than interval_s {self.interval_s}"
            )
        return self


def differences(written: FeederConfig, read: FeederConfig) -> list[str]:
    """The fields in which a config read back differs from the one written, by more than the table's tolerance."""
    different = [name for name in ("enabled", "window") if getattr(written, name) != getattr(read, name)]
    different += [
        name
        for name in FeederConfig.model_fields
        if name in LIMITS and not equal_within_tolerance(name, getattr(written, name), getattr(read, name))
    ]
    return different


# --- from the desktop -------------------------------------------------------------------------------------------


class PlcHealth(Model):
    connected: bool


def _truth_value(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("online is true or false")
    return value


Truth = BeforeValidator(_truth_value)
"""A literal true equals 1 in Python, and would take it."""


class Heartbeat(Model):
    """I am here. Every `interval_s` seconds, retained, QoS 1."""

    online: Annotated[Literal[True], Truth]
    session: SessionId = Field(description="new for every MQTT connection")
    seq: Count = Field(description="counts up within the session")
    sent_at: Instant
    interval_s: float = Field(gt=0, le=3600)
    agent: Text = ""
    journal_id: SessionId = Field(description="names the desktop's journal and stays as long as the journal does")
    plc: PlcHealth | None = None


class Offline(Model):
    """I am gone: the last will, or (with the reason `shutdown`) leaving on purpose."""

    online: Annotated[Literal[False], Truth]
    session: SessionId
    reason: Word | None = None


Condition = Literal["running", "paused", "stopped", "jammed", "empty", "plc_lost"]
Control = Literal["remote", "local", "service"]


class State(Model):
    """How one feeder is now. Retained; it counts only if its `seq` is newer within the same journal."""

    seq: Count
    journal_id: SessionId
    config: FeederConfig
    config_version: Version
    local_rev: Count = Field(description="raised by every edit made on the farm itself")
    condition: Condition
    control: Control
    silo_g: Grams | None = None
    next_meal_at: Instant | None = None
    at: Instant


class Event(Model):
    """Something that happened at a feeder. Kept by the desktop until the hub's `ack_events`; stored once by id."""

    id: Ulid
    seq: Count = Field(description="counts up per feeder within the journal")
    kind: Word = Field(description="meal, dose, skipped, jam, silo, sensor, ...")
    at: Instant
    planned_g: Grams | None = None
    dispensed_g: Grams | None = None
    reason: Text | None = None
    command_id: Ulid | None = None


ReplyStatus = Literal["received", "running", "applied", "rejected", "failed"]
FINAL_STATUSES: Final = frozenset({"applied", "rejected", "failed"})


class StopConfirmation(Model):
    """Whether one feeder's PLC has confirmed the emergency stop (or its release)."""

    confirmed: bool
    code: Word | None = None


class Answer(Model):
    """What became of a command: the part that a reply and a reported outcome share."""

    code: Word | None = None
    detail: Text | None = None
    config: FeederConfig | None = Field(default=None, description="the config as it is now, read back from the PLC")
    config_version: Version | None = None
    local_rev: Count | None = None
    dispensed_g: Grams | None = Field(default=None, description="by the PLC's counter")
    feeders: dict[Id, StopConfirmation] | None = None


class Outcome(Answer):
    """What the desktop's journal says of one command that the hub asked about."""

    id: Ulid
    status: Literal["applied", "rejected", "failed", "running", "interrupted", "not_seen", "forgotten"]


class Reply(Answer):
    """The answer to one command. `received` and `running` are not final."""

    id: Ulid
    status: ReplyStatus
    outcomes: list[Outcome] | None = Field(default=None, max_length=100, description="of a `report`")
    at: Instant | None = None


# --- from the hub -----------------------------------------------------------------------------------------------

FeederCommandName = Literal["set_config", "feed", "pause", "resume", "calibrate"]
SiteCommandName = Literal["stop_all", "release", "report", "ping", "ack_events"]
CommandName = Literal[FeederCommandName, SiteCommandName]
FEEDER_COMMANDS: Final = frozenset(get_args(FeederCommandName))
"""Those that go to one feeder's topic; the others go to the site's."""


class SetConfig(Model):
    """The whole config; `local_rev` is the farm's revision that the change was made upon."""

    config: FeederConfig
    config_version: Version
    local_rev: Count
    time_zone: str = Field(description="IANA name of the site's time zone")


class Feed(Model):
    """One dose, now."""

    grams: float = limited("grams")


class Ping(Model):
    """Answers the heartbeat `session`/`seq`: its `issued_at` is the hub's time at that moment."""

    session: SessionId
    seq: Count


class Report(Model):
    """Asks what became of these commands (none to 100); every feeder's state is published again."""

    commands: list[Ulid] = Field(default_factory=list, max_length=100)


class AckEvents(Model):
    """Events up to these numbers are stored for good; the desktop may forget them."""

    through: dict[Id, Count]


class NoArguments(Model):
    """pause, resume, calibrate, stop_all and release have none."""


ARGUMENTS: Final[dict[str, type[Model]]] = {
    "set_config": SetConfig,
    "feed": Feed,
    "pause": NoArguments,
    "resume": NoArguments,
    "calibrate": NoArguments,
    "stop_all": NoArguments,
    "release": NoArguments,
    "ping": Ping,
    "report": Report,
    "ack_events": AckEvents,
}
"""The arguments of each command by its name."""


class Command(Model):
    """One order. `args` has the shape that ARGUMENTS gives for its name."""

    id: Ulid
    name: CommandName
    args: dict[str, Any] = Field(default_factory=dict)
    session: SessionId | None = Field(default=None, description="None only in a stop, which goes to whoever is there")
    journal_id: SessionId | None = None
    stop_epoch: Count
    reply_to: str = Field(max_length=300)
    issued_at: Instant
    expires_at: Instant


def encode(message: BaseModel) -> bytes:
    """The message as JSON, UTF-8, without the fields that are not set."""
    return message.model_dump_json(exclude_none=True).encode()
