"""What the HTTP API takes and gives, as models: they validate, and the OpenAPI document is made from them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel
from pydantic.config import JsonDict

from http_api.json_schemas import arguments_by_name, without_null
from hub.command_states import CommandState
from hub.daily import Resolution
from hub.feeders import drift
from hub.liveness import Liveness
from hub.models import CommandRow, CommandStep, ConfigRevision, Feeder, FeederEvent, Presence, Site
from hub.protocol.limits import limited
from hub.protocol.messages import NO_NUL, Condition, FeederConfig, TimeOfDay, Window
from hub.protocol.times import FIRST_YEAR, LAST_YEAR, Stored
from hub.protocol.topics import RESERVED_NAMES, Id
from hub.search import Search
from hub.sites import MAX_FEEDERS
from hub.stops import Latch
from hub.tags import MAX_TAGS, TAG_PATTERN, Tag

PAGE_LIMIT = 500
TAG_LIST_PATTERN = f"^{TAG_PATTERN[1:-1]}(,{TAG_PATTERN[1:-1]}){{0,9}}$"
_Q = "a part of an id or of a name, of a feeder's site too; capitals do not matter"
MAX_QUEUE_S = 7 * 24 * 3600


class Body(BaseModel):
    """A request's body: an unknown field is a mistake, not a wish."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class View(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True)


# --- requests ---------------------------------------------------------------------------------------------------
# Their `examples` are sent by a test, from the first to the last, to a site `pond7` whose desktop is alive.


class WindowBody(Window):
    """When meals may start: [start, end) in the site's time zone; it may cross midnight."""

    model_config = ConfigDict(extra="forbid")


class ConfigBody(FeederConfig):
    """The whole config of a feeder."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "enabled": True,
                    "meal_g": 250,
                    "interval_s": 3600,
                    "window": {"start": "06:00", "end": "19:30"},
                    "daily_limit_g": 4000,
                    "feed_rate_g_per_s": 12.5,
                    "silo_low_g": 5000,
                }
            ]
        },
    )

    window: WindowBody


class WindowPatch(Body):
    model_config = ConfigDict(json_schema_extra=without_null)

    start: TimeOfDay | None = None
    end: TimeOfDay | None = None


def _config_patch(schema: dict[str, Any]) -> None:
    without_null(schema)
    schema["examples"] = [{"meal_g": 300}, {"window": {"end": "18:00"}, "interval_s": 1800}]


class ConfigPatch(Body):
    """A merge patch (RFC 7396): the fields that change. The merged config has to hold every limit."""

    model_config = ConfigDict(json_schema_extra=_config_patch)

    enabled: bool | None = None
    meal_g: float | None = limited("meal_g", default=None)
    interval_s: int | None = limited("interval_s", default=None)
    window: WindowPatch | None = None
    daily_limit_g: float | None = limited("daily_limit_g", default=None)
    feed_rate_g_per_s: float | None = limited("feed_rate_g_per_s", default=None)
    silo_low_g: float | None = limited("silo_low_g", default=None)


def _feeder_command(schema: dict[str, Any]) -> None:
    arguments_by_name("feed", "pause", "resume", "calibrate")(schema)
    schema["examples"] = [
        {"name": "feed", "args": {"grams": 250}},
        {"name": "pause"},
        {"name": "resume"},
        {"name": "calibrate"},
    ]


Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS, description="all of them, in place of those that were there")]


class FeederCommandBody(Body):
    """One order for a feeder; `feed` needs an `Idempotency-Key`."""

    model_config = ConfigDict(json_schema_extra=_feeder_command)

    name: Literal["feed", "pause", "resume", "calibrate"]
    args: dict[str, Any] = Field(default_factory=dict)


def _site_command(schema: dict[str, Any]) -> None:
    arguments_by_name("stop_all", "release", "ping", "report")(schema)
    schema["examples"] = [{"name": "ping"}, {"name": "report"}, {"name": "stop_all"}, {"name": "release"}]


class SiteCommandBody(Body):
    """One order for the whole site."""

    model_config = ConfigDict(json_schema_extra=_site_command)

    name: Literal["stop_all", "release", "ping", "report"]
    args: dict[str, Any] = Field(default_factory=dict)


TIME_ZONE: JsonDict = {"format": "time-zone", "examples": ["Europe/Oslo"]}
FeederCount = Annotated[int, Field(ge=1, le=MAX_FEEDERS)]
FeederIds = Annotated[list[Id], Field(min_length=1, max_length=MAX_FEEDERS, json_schema_extra={"uniqueItems": True})]


class SiteBody(Body):
    """A new site with its feeders."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"site": "north-bay", "name": "The pond behind the hill", "feeders": 4, "time_zone": "Europe/Oslo"},
                {"site": "south-bay", "feeders": ["north", "south"]},
            ]
        }
    )

    site: Id = Field(
        description="the site's id: its MQTT user name and client id",
        json_schema_extra={"not": {"pattern": f"^({'|'.join(sorted(RESERVED_NAMES))})(-|$)"}, "examples": ["pond7"]},
    )
    name: str | None = Field(None, min_length=1, max_length=200, pattern=NO_NUL, description="for people")
    feeders: FeederCount | FeederIds = Field(1, description="how many (f1 ... fN), or their ids")
    time_zone: str = Field("UTC", description="an IANA time zone", json_schema_extra=TIME_ZONE)


class SitePatch(Body):
    """The fields that change; null changes nothing."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Pond seven"}, {"time_zone": "Europe/Oslo"}]})

    name: str | None = Field(None, min_length=1, max_length=200, pattern=NO_NUL)
    time_zone: str | None = Field(None, description="an IANA time zone", json_schema_extra=TIME_ZONE)
    tags: Tags | None = None


class FeederPatch(Body):
    """The fields that change; null changes nothing."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tags": ["south", "salmon"]}]})

    tags: Tags | None = None


class CloseBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"remark": "Looked at the silo: the dose was fed."}]})

    remark: str = Field(
        min_length=1,
        max_length=1000,
        pattern=r"^[^\x00]*[^\x00\s][^\x00]*$",
        description="what was found out, or done about it; not blank",
    )


class Query(BaseModel):
    """A call's query parameters; an unknown one is a mistake."""

    model_config = ConfigDict(extra="forbid")


class NoQuery(Query):
    pass


class PageQuery(Query):
    limit: int = Field(100, ge=1, le=PAGE_LIMIT)
    cursor: str | None = Field(None, max_length=100, pattern=NO_NUL, description="`next` of the page before")


class SearchQuery(PageQuery):
    tag: str | None = Field(
        None,
        max_length=500,
        pattern=TAG_LIST_PATTERN,
        description="a tag, or several with commas between them: only what has all of them",
    )
    q: str | None = Field(None, min_length=1, max_length=100, pattern=NO_NUL, description=_Q)

    def search(self) -> Search:
        return Search(tags=() if self.tag is None else self.tag.split(","), text=self.q)


class SitesQuery(SearchQuery):
    pass


class FeedersQuery(SearchQuery):
    """A feeder has the tags of its site as well."""

    condition: Condition | None = Field(None, description="only those in this condition, as their desktop told it")

    def search(self) -> Search:
        return replace(super().search(), condition=self.condition)


class ChangeQuery(Query):
    queue_for: float | None = Field(
        None,
        gt=0,
        le=MAX_QUEUE_S,
        allow_inf_nan=False,
        description="seconds that the change may wait at the hub for a site that is away; else it is refused",
    )


class CommandsQuery(PageQuery):
    unresolved: bool = Field(
        default=False, description="only those whose outcome cannot be known, and that nobody closed"
    )


def _written_as_date(given: object) -> object:
    """Numbers are no dates, though pydantic reads them as seconds since 1970."""
    if isinstance(given, str) and not _DATE.match(given):
        raise ValueError("a date is written YYYY-MM-DD")
    return given


def _in_bounds(day: date) -> date:
    """There is no moment for the first and last days that a calendar has, in every time zone."""
    if not MIN_DAY <= day <= MAX_DAY:
        raise ValueError(f"a date is between {MIN_DAY} and {MAX_DAY}")
    return day


MIN_DAY, MAX_DAY = date(FIRST_YEAR, 1, 1), date(LAST_YEAR, 12, 31)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
LocalDate = Annotated[date, BeforeValidator(_written_as_date), AfterValidator(_in_bounds)]


class DailyQuery(Query):
    first: LocalDate | None = Field(None, alias="from", description="a local date; by default 29 days before `to`")
    last: LocalDate | None = Field(None, alias="to", description="a local date, in the range; by default today")
    resolution: Resolution = Field(
        "day",
        description="`week` (from Monday) and `month` sum up more, and take three years at a time instead of one",
    )


class EventsQuery(Query):
    site: Id | None = None
    last_event_id: str | None = Field(None, max_length=41, description="for clients that cannot send Last-Event-ID")


# --- answers ----------------------------------------------------------------------------------------------------

Item = TypeVar("Item")


class Page(View, Generic[Item]):
    items: list[Item]
    next: str | None = Field(description="cursor of the next page, null on the last")


class MqttCredentials(View):
    username: str
    secret: str


class NewSiteView(View):
    """The secret is shown this once."""

    site: str
    feeders: list[str]
    mqtt: MqttCredentials


class DeletedSiteView(View):
    site: str
    session_ended: bool | None = Field(
        description="whether an open connection was ended; null: the broker is an external one, see `to_do`"
    )
    to_do: str | None = Field(description="what an administrator has to do at an external broker")


class LivenessView(View):
    alive: bool | None = Field(description="null: it cannot be known now")
    session: str | None
    since: Stored | None
    last_seen_at: Stored | None
    expires_in_s: float | None
    agent: str | None
    plc_connected: bool | None
    clock_skew_s: float | None = Field(description="the desktop's clock against the hub's; positive: ahead")

    @classmethod
    def of(cls, live: Liveness) -> "LivenessView":
        return cls.model_validate(live, from_attributes=True)


class StoppedFeederView(View):
    asked: bool = Field(description="its desktop has heard of the stop")
    confirmed: bool = Field(description="its PLC says that it stands")
    code: str | None = Field(description="why it has not")


class StopView(View):
    """The emergency stop that is latched."""

    at: Stored
    command_id: str
    by: str
    feeders: dict[str, StoppedFeederView]

    @classmethod
    def of(cls, latch: Latch) -> "StopView":
        feeders = {name: StoppedFeederView.model_validate(each, from_attributes=True) for name, each in latch.feeders}
        return cls(at=latch.at, command_id=latch.command_id, by=latch.by, feeders=feeders)


class SiteView(View):
    site: str
    name: str
    time_zone: str
    tags: list[str]
    stopped: bool = Field(description="the emergency stop is latched")
    stop_epoch: int
    unresolved: int = Field(description="commands whose outcome cannot be known, and that nobody has closed")
    created_at: Stored
    liveness: LivenessView

    @classmethod
    def of(cls, site: Site, live: Liveness, unresolved: int, tags: list[str]) -> "SiteView":
        return cls(
            site=site.id,
            name=site.name,
            time_zone=site.time_zone,
            tags=tags,
            stopped=site.stopped_at is not None,
            stop_epoch=site.stop_epoch,
            unresolved=unresolved,
            created_at=site.created_at,
            liveness=LivenessView.of(live),
        )


class OneSiteView(SiteView):
    stop: StopView | None = Field(description="null: it is not stopped")


class PresenceView(View):
    session: str
    began_at: Stored
    ended_at: Stored | None
    ended_by: str | None = Field(description="will, shutdown, expired, replaced or restart")
    last_seen_at: Stored | None

    @classmethod
    def of(cls, span: Presence) -> "PresenceView":
        return cls.model_validate(span, from_attributes=True)


class DesiredView(View):
    config: FeederConfig
    version: int


class ReportedView(View):
    config: FeederConfig
    version: int
    local_rev: int


class FeederView(View):
    feeder: str
    site: str
    tags: list[str] = Field(description="its own")
    desired: DesiredView | None
    reported: ReportedView | None
    drift: list[str] = Field(description="fields in which reported differs from desired")
    pending_command_id: str | None = Field(description="a change of config that is on its way")
    condition: str | None
    control: str | None
    silo_g: float | None
    next_meal_at: Stored | None
    today_g: float = Field(description="grams dispensed since the site's local midnight")
    state_at: Stored | None

    @classmethod
    def of(cls, feeder: Feeder, today_g: float, tags: list[str]) -> "FeederView":
        desired = reported = None
        if feeder.desired_config is not None and feeder.desired_version is not None:
            desired = DesiredView(config=_config(feeder.desired_config), version=feeder.desired_version)
        if feeder.reported_config is not None and feeder.reported_version is not None:
            reported = ReportedView(
                config=_config(feeder.reported_config),
                version=feeder.reported_version,
                local_rev=feeder.local_rev,
            )
        return cls(
            feeder=feeder.id,
            site=feeder.site_id,
            tags=tags,
            desired=desired,
            reported=reported,
            drift=drift(feeder),
            pending_command_id=feeder.pending_command_id,
            condition=feeder.condition,
            control=feeder.control,
            silo_g=feeder.silo_g,
            next_meal_at=feeder.next_meal_at,
            today_g=today_g,
            state_at=feeder.state_at,
        )


class StepView(View):
    state: CommandState
    at: Stored
    cause: str


class ClosedView(View):
    at: Stored
    by: str
    remark: str


class CommandView(View):
    id: str
    site: str
    feeder: str | None
    name: str
    args: dict[str, Any]
    state: CommandState
    code: str | None
    detail: str | None
    result: dict[str, Any] | None = Field(
        description="what was read back: config, dispensed_g, feeders; contradiction: a final answer after another one"
    )
    actor: str
    replaces: str | None = Field(description="the change that waited, and whose place this one took")
    created_at: Stored
    expires_at: Stored
    deadline_at: Stored
    settled_at: Stored | None
    closed: ClosedView | None = Field(description="of one that is `unresolved`: who looked into it")
    story: list[StepView]

    @classmethod
    def of(cls, command: CommandRow, story: Sequence[CommandStep]) -> "CommandView":
        closed = None
        if command.closed_at is not None:
            closed = ClosedView(at=command.closed_at, by=command.closed_by or "", remark=command.remark or "")
        return cls(
            site=command.site_id,
            feeder=command.feeder_id,
            state=CommandState(command.state),
            replaces=command.replaces_id,
            closed=closed,
            story=[StepView(state=CommandState(step.state), at=step.at, cause=step.cause) for step in story],
            **{name: getattr(command, name) for name in _SAME_NAMES},
        )


_SAME_NAMES = (
    *("id", "name", "args", "code", "detail", "result", "actor"),
    *("created_at", "expires_at", "deadline_at", "settled_at"),
)


class AcceptedView(View):
    """A command that has not come to its end yet."""

    command_id: str
    state: CommandState


class ChangeView(View):
    """One field of a config."""

    before: Any
    after: Any


class RevisionView(View):
    revision: int
    version: int
    local_rev: int
    origin: Literal["hub", "local"] = Field(description="local: an edit made on the farm itself")
    actor: str | None
    at: Stored
    config: FeederConfig
    changes: dict[str, ChangeView] | None = Field(
        description="what differs from the last revision before it that took effect, by field; null: there was none"
    )
    command_id: str | None
    outcome: CommandState | None

    @classmethod
    def of(cls, revision: ConfigRevision, before: dict[str, Any] | None, outcome: str | None) -> "RevisionView":
        changes = None
        if before is not None:
            after = revision.config
            changes = {
                name: ChangeView(before=before.get(name), after=after[name])
                for name in after
                if after[name] != before.get(name)
            }
        return cls.model_validate(
            revision.model_dump()
            | {
                "revision": revision.id,
                "changes": changes,
                "outcome": None if outcome is None else CommandState(outcome),
            }
        )


class DayView(View):
    date: date
    days: int = Field(description="how many local days, from `date` on: 1, or what the range has of the week or month")
    meals: int
    doses: int
    skipped: int
    jams: int
    planned_g: float = Field(description="of meals and doses that began on these days")
    dispensed_g: float


class DailyView(View):
    """By the site's time zone, every day, week or month of the range."""

    items: list[DayView]


class EventView(View):
    id: str
    feeder: str
    kind: str
    at: Stored
    planned_g: float | None
    dispensed_g: float | None
    reason: str | None
    command_id: str | None

    @classmethod
    def of(cls, event: FeederEvent) -> "EventView":
        return cls.model_validate(event.model_dump() | {"feeder": event.feeder_id})


class EventStream(RootModel[str]):
    """Server-sent events: `id`, `event` and `data`, which is a JSON object with the `site`."""


class RejectView(View):
    at: Stored
    reason: str
    detail: str
    topic: str
    payload: str = Field(description="the first 200 bytes")


class DiagnosticsView(View):
    rejected: list[RejectView] = Field(description="the last messages that changed nothing, the newest first")
    two_desktops: bool = Field(description="sessions follow each other so fast that there must be two desktops")
    clock_skew_s: float | None


class FaultView(View):
    field: str
    message: str
    limit: float | None = Field(default=None, description="the limit that it broke")
    value: float | None = Field(default=None, description="what was to be, in the limit's unit")
    left_today_g: float | None = Field(default=None, description="grams that the feeder may still be fed today")


class ProblemView(View):
    """RFC 9457. A problem about a command carries its `command_id`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    command_id: str | None = None
    faults: list[FaultView] | None = None


def _config(stored: dict[str, Any]) -> FeederConfig:
    return FeederConfig.model_validate(stored)
