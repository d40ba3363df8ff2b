"""Looks at what the hub says of every site's liveness, several times a second, and holds it against the pulses."""

import asyncio
import time
from typing import Final

import httpx

from tests.chaos.ground import Ground
from tests.chaos.pulse import fault_in

_LOOK_EVERY_S: Final = 0.2


class Watch:
    """looks: answers of the hub that were judged. unknown: of these, that it is not known. faults: what was wrong."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.looks = 0
        self.unknown = 0
        self.faults: list[str] = []

    async def look_on(self) -> None:
        """Until it is cancelled."""
        began_s = time.monotonic()
        while True:
            asked_s = time.monotonic()
            try:
                told = (await self._ground.get("/sites"))["items"]
            except httpx.HTTPError:
                told = []  # the hub is away, or says that it does not know
            answered_s = time.monotonic()
            alive = {item["site"]: item["liveness"]["alive"] for item in told}
            for site in self._ground.sites:
                if site.name not in alive:
                    continue
                self.looks += 1
                self.unknown += alive[site.name] is None
                fault = fault_in(alive[site.name], asked_s, answered_s, site.sent, site.heard)
                if fault is not None:
                    self.faults.append(f"{site.name}: {fault}, {asked_s - began_s:.1f} s after the beginning")
            await asyncio.sleep(_LOOK_EVERY_S)
