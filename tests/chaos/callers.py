"""Those who ask the hub for changes all the time, and try again with the same key when nobody answers, as people do."""

import asyncio
import itertools
import time
from contextlib import suppress
from random import Random
from typing import Any, Final

import httpx

from hub.protocol.limits import LIMITS
from tests.chaos.ground import Ground, Site
from tests.chaos.ledger import Answer, Change, Ledger, Stop
from tests.end_to_end.desktop import CONFIG

_FEED_RATE_G_PER_S: Final = 100.0
_SHARE_OF_DOSES: Final = 0.45
_LONG_DOSES: Final = 0.08
_BETWEEN_DOSES_S: Final = LIMITS["dose_pause_s"].minimum + 0.2
_QUEUED: Final = 0.15
_ASYNC: Final = 0.3
_MOST_AT_A_TIME: Final = 150
_AGAIN_AFTER_S: Final = (0.2, 1.0)
_TRIES_WHEN_REFUSED: Final = 3
_GIVES_UP_AFTER_S: Final = 60.0
_STOP_EVERY_S: Final = (3.0, 8.0)
_STOPPED_FOR_S: Final = (0.3, 2.0)
_FOR_THE_MOMENT: Final = frozenset(
    {"liveness-unknown", "broker-unreachable", "store-unreachable", "database-unreachable", "internal"}
)


class Callers:
    """They work from `busy` on, until it is left by cancelling; what they learn is in the ledger."""

    def __init__(self, ground: Ground, ledger: Ledger, random: Random, changes_per_s: float) -> None:
        self._ground = ground
        self._ledger = ledger
        self._random = random
        self._changes_per_s = changes_per_s
        self._numbers = itertools.count(1)
        self._stop = asyncio.Event()
        self._next_dose_s: dict[tuple[str, str], float] = {}
        self.left_out = 0
        """Changes that were not asked for, because too many waited for their answers."""

    def finish(self) -> None:
        """Ask for nothing new."""
        self._stop.set()

    async def busy(self) -> None:
        """Until `finish`; then those that are under way come to their answers."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stop_now_and_then())
            under_way: set[asyncio.Task[Change]] = set()
            next_s = time.monotonic()
            while not self._stop.is_set():
                next_s = max(next_s + self._random.expovariate(self._changes_per_s), time.monotonic() - 1)
                await self._pause(next_s - time.monotonic())
                if len(under_way) >= _MOST_AT_A_TIME:
                    self.left_out += 1
                    continue
                task = group.create_task(self.dose() if self._random.random() < _SHARE_OF_DOSES else self.config())
                under_way.add(task)
                task.add_done_callback(under_way.discard)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), max(0.0, seconds))

    # --- what they want -----------------------------------------------------------------------------------------

    async def dose(self) -> Change:
        """Most take some hundredths of a second, some take seconds. A config, where no feeder may have a dose yet."""
        site = self._random.choice(self._ground.sites)
        rested = [feeder for feeder in site.feeders if self._may_be_fed(site, feeder)]
        if not rested:
            return await self.config(site)
        feeder = self._random.choice(rested)
        self._next_dose_s[site.name, feeder] = float("inf")
        try:
            return await self._dose(site, feeder)
        finally:
            self._next_dose_s[site.name, feeder] = time.monotonic() + _BETWEEN_DOSES_S

    def _may_be_fed(self, site: Site, feeder: str) -> bool:
        return time.monotonic() >= self._next_dose_s.get((site.name, feeder), 0.0)

    async def _dose(self, site: Site, feeder: str) -> Change:
        long = self._random.random() < _LONG_DOSES
        grams = round(self._random.uniform(100, 400) if long else self._random.uniform(1, 5), 1)
        path = f"/sites/{site.name}/feeders/{feeder}/commands"
        body = {"name": "feed", "args": {"grams": grams}}
        return await self._ask(self._new("feed", site, feeder), "POST", path, body, self._preference())

    async def config(self, site: Site | None = None, feeder: str | None = None) -> Change:
        site = site or self._random.choice(self._ground.sites)
        canary = feeder is not None
        feeder = feeder or self._random.choice(site.feeders)
        change = self._new("set_config", site, feeder)
        path = f"/sites/{site.name}/feeders/{feeder}/config"
        if not canary and self._random.random() < _QUEUED:
            path += f"?queue_for={self._random.choice((1, 5, 20))}"
        number = int(change.key.rpartition("-")[2])
        body = CONFIG | {
            "enabled": False,  # no meals, so that the counters tell what doses took
            "meal_g": 1 + number % 19_000,
            "feed_rate_g_per_s": _FEED_RATE_G_PER_S,
            "daily_limit_g": 500_000,
        }
        return await self._ask(change, "PUT", path, body, "" if canary else self._preference())

    def _preference(self) -> str:
        return "respond-async" if self._random.random() < _ASYNC else ""

    async def _stop_now_and_then(self) -> None:
        while True:
            await self._pause(self._random.uniform(*_STOP_EVERY_S))
            if self._stop.is_set():
                return
            await self._stop_and_release(self._random.choice(self._ground.sites))

    async def _stop_and_release(self, site: Site) -> None:
        """Whatever happens meanwhile, the site is released in the end."""
        site.is_stopped = True
        stop = await self._order("stop_all", site)
        latched_at_s = time.time()
        await asyncio.sleep(self._random.uniform(*_STOPPED_FOR_S))
        asked_at_s = time.time()
        if stop.ids:
            self._ledger.stops.append(Stop(site.name, min(stop.ids), latched_at_s, asked_at_s))
        await self.release(site)

    async def release(self, site: Site) -> None:
        """Ask until the site is released."""
        while site.is_stopped:
            await self._order("release", site)
            site.is_stopped = not await self._is_released(site)

    async def _is_released(self, site: Site) -> bool:
        """Looks for as long as an outcome that is unknown may need to be found out."""
        for _ in range(10):
            try:
                if not (await self._ground.get(f"/sites/{site.name}"))["stopped"]:
                    return True
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.2)
        return False

    async def _order(self, name: str, site: Site) -> Change:
        return await self._ask(self._new(name, site, None), "POST", f"/sites/{site.name}/commands", {"name": name}, "")

    # --- how they ask -------------------------------------------------------------------------------------------

    def _new(self, name: str, site: Site, feeder: str | None) -> Change:
        change = Change(f"{name}-{next(self._numbers)}", site.name, feeder, name)
        self._ledger.changes.append(change)
        return change

    async def _ask(self, change: Change, method: str, path: str, body: dict[str, Any], prefer: str) -> Change:
        """Until there is an answer that counts; a refusal for the moment is taken after a few tries."""
        headers = {"Idempotency-Key": change.key} | ({"Prefer": prefer} if prefer else {})
        gives_up_at_s = time.monotonic() + _GIVES_UP_AFTER_S
        for tries in itertools.count(1):
            sent_at_s = time.time()
            answer = await self._try(method, path, body, headers, sent_at_s)
            change.answers.append(answer)
            unheard = any(one.kind is None for one in change.answers)
            patience = tries < _TRIES_WHEN_REFUSED or unheard or change.name in ("stop_all", "release")
            again = answer.kind is None or (answer.kind in _FOR_THE_MOMENT and patience)
            if not again or time.monotonic() > gives_up_at_s:
                return change
            await asyncio.sleep(self._random.uniform(*_AGAIN_AFTER_S))
        raise AssertionError("unreachable")

    async def _try(
        self, method: str, path: str, body: dict[str, Any], headers: dict[str, str], sent_at_s: float
    ) -> Answer:
        try:
            response = await self._ground.api.request(method, path, json=body, headers=headers)
        except httpx.TransportError as error:
            return Answer(sent_at_s, time.time(), None, detail=repr(error))
        told = response.json() if response.content else {}
        if response.is_success:
            kind, command_id = str(response.status_code), response.headers.get("Command-Id")
        else:
            kind, command_id = str(told.get("type", response.status_code)).rpartition("#")[2], told.get("command_id")
        return Answer(sent_at_s, time.time(), kind, command_id, str(told.get("detail", "")))
