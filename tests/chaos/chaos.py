"""One run: the ground, the callers, the watch, one fault after the other, and the books at the end."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx

from tests.chaos.callers import Callers
from tests.chaos.farmhouse import feeders_of, journal_of
from tests.chaos.faults import Fault, deck
from tests.chaos.ground import GROUNDS, HEALED_WITHIN_S, Ground, NotInTime
from tests.chaos.ledger import Change, Ledger, SiteBooks, faults_in
from tests.chaos.watch import Watch

_CALM_S: Final = (0.2, 1.0)
_SETTLED_WITHIN_S: Final = 90.0
_LOOK_EVERY_S: Final = 0.3
_QUIET_S: Final = 0.5
_TRACEBACK: Final = "Traceback"


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault, as it went; seconds since the beginning. healed_s None: it never healed."""

    kind: str
    what: str
    at_s: float
    healed_s: float | None

    def __str__(self) -> str:
        healed = "NOT HEALED" if self.healed_s is None else f"healed after {self.healed_s - self.at_s:.1f} s"
        return f"{self.at_s:7.1f} s  {self.kind} {self.what}: {healed}"


Tell = Callable[[str, int, Struck], None]
"""Told of each fault: the ground's name, the how manieth it was, and how it went."""


@dataclass(slots=True)
class Found:
    """What one ground came to. ends: of the hub's commands, by name and state. answers: when, and of what kind."""

    ground: str
    database: str
    seconds: float = 0.0
    struck: list[Struck] = field(default_factory=list)
    changes: int = 0
    left_out: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    doses_fed: int = 0
    stops: int = 0
    looks: int = 0
    looks_unknown: int = 0
    settled_after_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    moments: list[tuple[float, str]] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not self.wrong


async def run(ground_name: str, faults: int, seed: int, changes_per_s: float, directory: Path, tell: Tell) -> Found:
    """All of it on one ground. Raises what the ground's own start raises."""
    directory.mkdir(parents=True)
    async with GROUNDS[ground_name](directory) as ground:
        found = Found(ground_name, "SQLite" if ground.postgres is None else "PostgreSQL")
        ledger = Ledger()
        callers = Callers(ground, ledger, Random(f"{seed} callers {ground_name}"), changes_per_s)
        drawn = deck(ground, Random(f"{seed} faults {ground_name}"), faults)
        watch = Watch(ground)
        began_at_s, began_s = time.time(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.look_on())
            busy = group.create_task(callers.busy())
            for number, fault in enumerate(drawn, 1):
                struck = await _strike(ground, callers, fault, began_s)
                found.struck.append(struck)
                tell(ground_name, number, struck)
                if struck.healed_s is None:
                    found.wrong.append(str(struck))
                    break
            callers.finish()
            await asyncio.wait({busy})
            over_s = time.monotonic()
            await _settle(ground, callers, found)
            found.settled_after_s = time.monotonic() - over_s
            watching.cancel()
        found.seconds = time.monotonic() - began_s
        books = await _books(ground, found)
        found.wrong += faults_in(ledger, books) + watch.faults
        found.looks, found.looks_unknown = watch.looks, watch.unknown
        found.changes, found.left_out = len(ledger.changes), callers.left_out
        found.answers, found.stops = ledger.answer_counts(), len(ledger.stops)
        for site in books.values():
            found.ends.update(f"{row['name']} {row['state']}" for row in site.rows)
            found.doses_fed += sum(event["kind"] == "dose" for event in site.events)
        found.moments = [
            (answer.answered_at_s - began_at_s, answer.kind or "no answer")
            for change in ledger.changes
            for answer in change.answers
        ]
        if logged := ground.hub.log.count(_TRACEBACK):
            found.wrong.append(f"the hub logged {logged} exceptions that it did not expect")
        return found


async def _strike(ground: Ground, callers: Callers, fault: Fault, began_s: float) -> Struck:
    """One fault, until everything works again as it did before."""
    await asyncio.sleep(Random(fault.what).uniform(*_CALM_S))
    at_s = time.monotonic() - began_s
    healed_s = None
    # A part that does not start again (AssertionError says why in its log) has not healed.
    with suppress(NotInTime, AssertionError):
        await fault.strike()
        await _healed(ground, callers)
        healed_s = time.monotonic() - began_s
    return Struck(fault.kind, fault.what, round(at_s, 2), None if healed_s is None else round(healed_s, 2))


async def _healed(ground: Ground, callers: Callers) -> None:
    """Everything can be reached, everybody is alive, and every site that is not stopped takes a change.

    Raises NotInTime; but no caller is interrupted, for every order is to have its answer.
    """
    ends_at_s = time.monotonic() + HEALED_WITHIN_S
    await ground.wait_ready(HEALED_WITHIN_S)
    for site in ground.sites:
        while not site.is_stopped:
            change: Change = await callers.config(site, site.feeders[0])
            if change.answers[-1].kind == "200":
                break
            if time.monotonic() > ends_at_s:
                raise NotInTime(f"no change of {site.name} was applied within {HEALED_WITHIN_S:g} s")
            await asyncio.sleep(0.1)


async def _settle(ground: Ground, callers: Callers, found: Found) -> None:
    """Release who is stopped, and wait until every command has its end."""
    for site in ground.sites:
        await callers.release(site)
    left = []
    for site in ground.sites:
        left += [row["id"] for row in await ground.pages(f"/sites/{site.name}/commands") if not row["settled_at"]]
    ends_at_s = time.monotonic() + _SETTLED_WITHIN_S
    while left and time.monotonic() < ends_at_s:
        left = [one for one in left if not (await ground.get(f"/commands/{one}"))["settled_at"]]
        await asyncio.sleep(_LOOK_EVERY_S)
    if left:
        found.wrong.append(f"lost: no end after {_SETTLED_WITHIN_S:g} s for {', '.join(left[:5])} ({len(left)} in all)")
    await asyncio.sleep(_QUIET_S)  # for the last events, and the thanks for them


async def _books(ground: Ground, found: Found) -> dict[str, SiteBooks]:
    """What both sides have; the desktops are stopped for it."""
    for site in ground.sites:
        await asyncio.to_thread(site.desktop.stop)
    books = {}
    for site in ground.sites:
        file = ground.directory / f"{site.name}.sqlite"
        events: list[dict[str, Any]] = []
        for feeder in site.feeders:
            events += await ground.pages(f"/sites/{site.name}/feeders/{feeder}/events")
        told = await ground.pages(f"/sites/{site.name}/feeders")
        reported = {item["feeder"]: item["reported"]["config"] for item in told}
        rows = await ground.pages(f"/sites/{site.name}/commands")
        books[site.name] = SiteBooks(rows, events, reported, journal_of(file), feeders_of(file))
        with suppress(httpx.HTTPError):
            for item in (await ground.get(f"/sites/{site.name}/diagnostics"))["rejected"]:
                if item["reason"] in ("contradiction", "internal"):
                    found.wrong.append(f"{site.name}: {item['reason']}: {item['detail']}")
    return books
