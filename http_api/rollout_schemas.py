"""What the calls about rollouts take and give."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, WithJsonSchema

from http_api.problems import BY_ERROR
from http_api.schemas import Body, ChangeView, ConfigPatch, FaultView, Page, PageQuery, View
from hub.errors import HubError
from hub.models import Rollout, RolloutFeeder
from hub.protocol.times import Stored
from hub.protocol.topics import ID_PATTERN, Id
from hub.rollout_plan import Change, Planned, Selection, stored_faults
from hub.rollout_rules import Part, Plan, RolloutState

MAX_WAIT_S = 7 * 24 * 3600
FeederPath = Annotated[
    str, Field(pattern=f"{ID_PATTERN.removesuffix('$')}/{ID_PATTERN.removeprefix('^')}", examples=["pond7/f1"])
]


class SelectionBody(Body):
    """The feeders that take part: what is named together, each feeder once."""

    sites: list[Id] = Field(default_factory=list, max_length=1000, description="all feeders of these sites")
    feeders: list[FeederPath] = Field(default_factory=list, max_length=5000, description="site/feeder")
    everything: bool = Field(default=False, description="every feeder of every site where you may operate")

    def selection(self) -> Selection:
        pairs = [(site, feeder) for site, _, feeder in (path.partition("/") for path in self.feeders)]
        return Selection(tuple(self.sites), tuple(pairs), self.everything)


class ConfigChangeBody(Body):
    config: ConfigPatch = Field(description="a merge patch (RFC 7396), made upon each feeder's config when it is sent")


class CommandChangeBody(Body):
    command: Literal["pause", "resume"]


_EXAMPLES: list[JsonValue] = [
    {
        "selection": {"sites": ["pond7"]},
        "change": {"config": {"meal_g": 240}},
        "canaries": 1,
        "per_minute": 60,
        "abort_share": 0.1,
    },
    {"selection": {"feeders": ["pond7/f1", "pond7/f2"]}, "change": {"command": "resume"}},
]


class RolloutBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": _EXAMPLES})

    selection: SelectionBody
    change: ConfigChangeBody | CommandChangeBody
    canaries: int = Field(
        1, ge=0, le=100, description="how many go first; each must end as applied before any other is sent"
    )
    per_minute: int = Field(60, ge=1, le=6000, description="how many changes are sent in a minute")
    max_in_flight: int = Field(10, ge=1, le=500, description="how many are sent and not known to have ended")
    abort_share: float = Field(
        0.1, ge=0, le=1, description="abort when a larger share of those that ended did not end as applied"
    )
    abort_after: int = Field(1, ge=1, le=20_000, description="the share counts once so many have ended")
    queue_for_s: float | None = Field(
        None,
        gt=0,
        le=MAX_WAIT_S,
        description="seconds that a feeder whose turn has come may wait for its site; null: it is refused at once",
    )

    def ordered_change(self) -> Change:
        if isinstance(self.change, CommandChangeBody):
            return Change(self.change.command)
        return Change("set_config", self.change.config.model_dump(exclude_unset=True))

    def plan(self) -> Plan:
        return Plan(self.max_in_flight, self.per_minute, self.abort_share, self.abort_after)


# Written out, as a parameter's schema stands in its place.
PartName = Annotated[Part, WithJsonSchema({"type": "string", "enum": list(Part)})]


class PartsQuery(PageQuery):
    state: PartName | None = Field(None, description="only feeders whose part is in this state")


class RefusalView(View):
    """Why: as a problem of its own would say it, or what the desktop said."""

    type: str | None = Field(description="the kind of problem; null: the command's own end")
    code: str | None
    detail: str | None
    faults: list[FaultView] | None


class PlannedView(View):
    site: str
    feeder: str | None = Field(description="null: it is about the site")
    changes: dict[str, ChangeView] = Field(description="what would change, by field; of pause and resume the condition")
    unchanged: bool = Field(description="it has that config already, and is left out")
    refusal: RefusalView | None = Field(description="why it would not be changed; null: it would")

    @classmethod
    def of(cls, planned: Planned) -> "PlannedView":
        return cls(
            site=planned.site,
            feeder=planned.feeder,
            changes={
                name: ChangeView(before=planned.before.get(name), after=after) for name, after in planned.after.items()
            },
            unchanged=planned.is_needless,
            refusal=None if planned.refusal is None else _refusal(planned.refusal),
        )


class PreviewView(Page[PlannedView]):
    """Nothing was sent. The page's items, and the sums of all of them."""

    changed: int
    unchanged: int
    refused: int


class RolloutView(View):
    """Of a rollout that reaches beyond your sites you see your sites' part."""

    id: str
    state: RolloutState
    reason: str | None = Field(description="why it was aborted")
    change: dict[str, Any] = Field(description="as it was ordered: {config} or {command}")
    canaries: int
    per_minute: int
    max_in_flight: int
    abort_share: float
    abort_after: int
    queue_for_s: float | None
    actor: str
    created_at: Stored
    ended_at: Stored | None
    ended_by: str | None = Field(description="who cancelled it")
    settled_at: Stored | None = Field(description="when the outcome of every feeder was known; nothing changes then")
    counts: dict[Part, int] = Field(description="how many feeders are in each state")

    @classmethod
    def of(cls, row: Rollout, counts: dict[Part, int]) -> "RolloutView":
        change = {"command": row.name} if row.patch is None else {"config": row.patch}
        told = {part: counts.get(part, 0) for part in Part}
        return cls.model_validate(row.model_dump(exclude={"owner", "key"}) | {"change": change, "counts": told})


class PartView(View):
    site: str
    feeder: str
    state: Part
    canary: bool
    waits_until: Stored | None = Field(description="its turn has come, and it waits for its site until then")
    command_id: str | None
    refusal: RefusalView | None
    at: Stored = Field(description="when it came into its state")

    @classmethod
    def of(cls, part: RolloutFeeder) -> "PartView":
        refusal = None
        if part.problem or part.code or part.detail:
            kind = BY_ERROR.get(part.problem or "")
            faults = None if part.faults is None else [FaultView.model_validate(fault) for fault in part.faults]
            refusal = RefusalView(type=kind, code=part.code, detail=part.detail, faults=faults)
        return cls(
            site=part.site_id,
            feeder=part.feeder_id,
            state=Part(part.state),
            canary=part.is_canary,
            waits_until=part.waits_until if part.state == Part.WAITING else None,
            command_id=part.command_id,
            refusal=refusal,
            at=part.at,
        )


def _refusal(error: HubError) -> RefusalView:
    faults = stored_faults(error)
    told = None if faults is None else [FaultView.model_validate(fault) for fault in faults]
    return RefusalView(type=BY_ERROR.get(type(error).__name__), code=None, detail=str(error), faults=told)
