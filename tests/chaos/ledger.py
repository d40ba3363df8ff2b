"""The books of a run: what was ordered and answered, the hub's rows, the desktops' journals; and what is wrong. No I/O.

A time is in seconds since 1970, on the one clock of this machine.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

ENDS: Final = frozenset(
    {"applied", "rejected", "failed", "refused", "expired", "superseded", "not_executed", "unresolved"}
)
NEVER_ACTED: Final = frozenset({"rejected", "refused", "expired", "superseded", "not_executed"})
_UNKNOWN: Final = frozenset({"applied", "rejected", "failed", "not_executed", "unresolved"})
_GRAMS_TOLERANCE: Final = 0.01
_TIME_TOLERANCE_S: Final = 0.005

_MAY_BECOME: Final[dict[str, frozenset[str]]] = {
    "200": frozenset({"applied"}),
    "202": ENDS,
    "not-executed": frozenset({"superseded", "not_executed", "refused", "expired"}),
    "rejected-by-desktop": frozenset({"rejected"}),
    "config-changed": frozenset({"rejected"}),
    "plc-failed": frozenset({"failed"}),
    "outcome-unknown": _UNKNOWN,
}
"""What an answer that names a command allows it to end as."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one try of a caller came to. kind: `200`, `202` or a problem's name; None: nobody answered."""

    sent_at_s: float
    answered_at_s: float
    kind: str | None
    command_id: str | None = None
    detail: str = ""


@dataclass(slots=True)
class Change:
    """One order, tried once or more, always with the same key. `feeder` None: for the whole site."""

    key: str
    site: str
    feeder: str | None
    name: str
    answers: list[Answer] = field(default_factory=list)

    @property
    def ids(self) -> set[str]:
        return {answer.command_id for answer in self.answers if answer.command_id is not None}


@dataclass(frozen=True, slots=True)
class Stop:
    """An emergency stop, from the answer that it is latched until somebody asks for its release."""

    site: str
    command_id: str
    latched_at_s: float
    release_asked_at_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a desktop's journal holds of a command. status None: it has begun it, and not ended."""

    status: str | None
    dispensed_g: float | None
    config_version: int | None = None


@dataclass(slots=True)
class FeederBooks:
    """At the farm. total_g: the PLC's own counter, from 0. kept_events: ids of those not acknowledged by the hub."""

    total_g: float
    config: dict[str, Any]
    config_version: int
    kept_events: list[str] = field(default_factory=list)


@dataclass(slots=True)
class SiteBooks:
    """One site as both sides have it in the end.

    rows: the hub's commands. events: its events. reported: its configs, by feeder. journal: the desktop's, by command.
    """

    rows: list[dict[str, Any]]
    events: list[dict[str, Any]]
    reported: dict[str, dict[str, Any]]
    journal: dict[str, Outcome]
    feeders: dict[str, FeederBooks]


@dataclass(slots=True)
class Ledger:
    """Told of everything as it happens."""

    changes: list[Change] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)

    def answer_counts(self) -> Counter[str]:
        return Counter(answer.kind or "no answer" for change in self.changes for answer in change.answers)


def faults_in(ledger: Ledger, books: dict[str, SiteBooks]) -> list[str]:
    """Everything that breaks the hub's promise, in sentences; none if it was kept. `books`: by site."""
    rows = {row["id"]: row for site in books.values() for row in site.rows}
    found = [*_in_answers(ledger, rows), *_in_keys(ledger, rows)]
    for name, site in books.items():
        found += [f"{name}: {fault}" for fault in (*_in_ends(site), *_in_doses(site), *_in_configs(site))]
        stops = [stop for stop in ledger.stops if stop.site == name]
        found += [f"{name}: {fault}" for fault in _in_latches(ledger, stops, site, rows)]
    return found


# --- commands and answers -------------------------------------------------------------------------------------------


def _in_answers(ledger: Ledger, rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Every command that was named to a caller came to an end that its answer allows."""
    for change in ledger.changes:
        for answer in change.answers:
            if answer.kind == "internal":
                yield f"{change.name} {change.key}: the hub made a mistake: {answer.detail}"
            if answer.command_id is None:
                continue
            row = rows.get(answer.command_id)
            what = f"{change.name} {answer.command_id} was answered {answer.kind}"
            if row is None:
                yield f"lost: {what}, and is not in the hub's rows"
            elif row["state"] in ENDS and row["state"] not in _MAY_BECOME.get(answer.kind or "", ENDS):
                yield f"{what}, and ended as {row['state']}"


def _in_keys(ledger: Ledger, rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """One key is one command; every command is one that somebody ordered; `nothing was sent` is true."""
    known: set[str] = set()
    for change in ledger.changes:
        known |= change.ids
        if len(change.ids) > 1:
            yield f"key {change.key} made {len(change.ids)} commands: {', '.join(sorted(change.ids))}"
        if change.answers[-1].kind is None:
            yield f"{change.name} {change.key} never got an answer"
        for command_id in change.ids & rows.keys():
            placed_at_s = _moment_s(rows[command_id]["created_at"])
            for answer in change.answers:
                said_nothing_was_sent = answer.kind is not None and answer.command_id is None
                if said_nothing_was_sent and answer.sent_at_s <= placed_at_s <= answer.answered_at_s:
                    yield f"{change.name} {command_id} was answered {answer.kind} as if nothing had been sent"
    ordered = {(change.site, change.name) for change in ledger.changes}
    for row in rows.values():
        if row["id"] not in known and (row["site"], row["name"]) in ordered:
            yield f"{row['name']} {row['id']} ({row['state']}) is a command that no caller was told of"


def _in_ends(site: SiteBooks) -> Iterator[str]:
    for row in site.rows:
        if row["state"] not in ENDS:
            yield f"{row['name']} {row['id']} has no end: it is {row['state']}"
        states = [step["state"] for step in row["story"]]
        if states[-1] != row["state"] or len(states) != len(set(states)):
            yield f"{row['name']} {row['id']} is {row['state']}, and its story is {', '.join(states)}"


# --- doses ----------------------------------------------------------------------------------------------------------


def _in_doses(site: SiteBooks) -> Iterator[str]:
    """Each dose acted at most once, and the hub, the journal and the PLC's counter agree on what it fed."""
    doses = [event for event in site.events if event["kind"] == "dose"]
    by_command: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in doses:
        by_command[event["command_id"]].append(event)
    for row in site.rows:
        if row["name"] == "feed":
            yield from _in_dose(row, by_command.pop(row["id"], []), site.journal.get(row["id"]))
    for command_id in by_command:
        yield f"dose {command_id} was fed, and is no command of the hub"
    stored = {event["id"] for event in site.events}
    for name, feeder in site.feeders.items():
        told_g = sum(event["dispensed_g"] or 0 for event in doses if event["feeder"] == name)
        for lost in set(feeder.kept_events) - stored:
            yield f"{name}: event {lost} has not come to the hub"
        if abs(told_g - feeder.total_g) > _GRAMS_TOLERANCE * (1 + len(doses)):
            yield f"{name}: the PLC counted {feeder.total_g:.2f} g, and the doses that it told of are {told_g:.2f} g"


def _in_dose(row: dict[str, Any], events: list[dict[str, Any]], journal: Outcome | None) -> Iterator[str]:
    what = f"dose {row['id']} ({row['state']})"
    fed_g = sum(event["dispensed_g"] or 0 for event in events)
    told_g = (row["result"] or {}).get("dispensed_g")
    if len(events) > 1:
        yield f"{what} was fed {len(events)} times"
    if row["state"] in NEVER_ACTED and (events or (journal is not None and journal.dispensed_g)):
        yield f"{what} was fed all the same, {fed_g:g} g"
    if row["state"] == "applied" and not events:
        yield f"{what} was not fed"
    if row["state"] in ("applied", "failed") and abs((told_g or 0) - fed_g) > _GRAMS_TOLERANCE:
        yield f"{what} is said to have been {told_g} g, and was {fed_g:g} g"
    if row["state"] == "applied" and (journal is None or journal.status != "applied"):
        yield f"{what} is in the desktop's journal as {None if journal is None else journal.status}"


# --- configs --------------------------------------------------------------------------------------------------------


def _in_configs(site: SiteBooks) -> Iterator[str]:
    """The last config that was applied is the one at the farm, and the one that the hub has."""
    for name, feeder in site.feeders.items():
        rows = [row for row in site.rows if row["name"] == "set_config" and row["feeder"] == name]
        applied = [row for row in rows if row["state"] == "applied"]
        if site.reported[name] != feeder.config:
            yield f"{name}: the hub's reported config is not the one at the farm"
        if not applied:
            continue
        last = max(applied, key=lambda row: row["args"]["config_version"])
        version = last["args"]["config_version"]
        in_doubt = any(row["state"] == "unresolved" and row["args"]["config_version"] > version for row in rows)
        if not in_doubt and (feeder.config_version, feeder.config["meal_g"]) != (
            version,
            last["args"]["config"]["meal_g"],
        ):
            yield f"{name}: version {version} was applied last, and the farm has {feeder.config_version}"


# --- stops ----------------------------------------------------------------------------------------------------------


def _in_latches(ledger: Ledger, stops: list[Stop], site: SiteBooks, rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """While a stop is latched nothing is taken that would move a feeder, and nothing moves once it is confirmed."""
    for stop in stops:
        for change in ledger.changes:
            if change.site != stop.site or change.name not in ("feed", "set_config"):
                continue
            for answer in change.answers:
                within = stop.latched_at_s < answer.sent_at_s and answer.answered_at_s < stop.release_asked_at_s
                row = rows.get(answer.command_id or "")
                if within and row is not None and _moment_s(row["created_at"]) >= answer.sent_at_s:
                    yield f"{change.name} {row['id']} was taken while stop {stop.command_id} was latched"
        row = rows.get(stop.command_id)
        if row is None or row["state"] != "applied":
            continue
        stands_from_s = _moment_s(row["settled_at"]) + _TIME_TOLERANCE_S
        for event in site.events:
            if event["kind"] == "dose" and stands_from_s < _moment_s(event["at"]) < stop.release_asked_at_s:
                yield f"dose {event['command_id']} began after stop {stop.command_id} was confirmed"


def _moment_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
