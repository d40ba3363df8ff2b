"""A hub with its sites and desktops, as most tests need them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.end_to_end.desktop import CONFIG, ScriptedDesktop
from tests.end_to_end.hub_process import HubProcess, SimulatedFarm, until

_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Site:
    """A site of a hub, and how to ask about it with the administrator's token."""

    api: httpx.Client
    name: str
    secret: str
    feeders: list[str]

    def path(self, rest: str = "") -> str:
        return f"/sites/{self.name}{rest}"

    def get(self, rest: str = "") -> Any:
        return self.api.get(self.path(rest)).raise_for_status().json()

    def alive(self) -> bool | None:
        found: bool | None = self.get("/liveness")["alive"]
        return found

    def put_config(
        self, feeder: str = "f1", *, headers: dict[str, str] | None = None, **changed: Any
    ) -> httpx.Response:
        return self.api.put(self.path(f"/feeders/{feeder}/config"), json=CONFIG | changed, headers=headers)

    def feed(self, feeder: str, grams: float, key: str, **headers: str) -> httpx.Response:
        body = {"name": "feed", "args": {"grams": grams}}
        path = self.path(f"/feeders/{feeder}/commands")
        return self.api.post(path, json=body, headers={"Idempotency-Key": key, **headers})

    def order(self, name: str, **headers: str) -> httpx.Response:
        """A command for the whole site."""
        return self.api.post(self.path("/commands"), json={"name": name}, headers=headers)

    def command(self, command_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/commands/{command_id}").raise_for_status().json()
        return found

    def settled(self, command_id: str, within_s: float = 10.0) -> dict[str, Any]:
        return until(lambda: (found := self.command(command_id))["settled_at"] and found, within_s)

    def in_state(self, command_id: str, state: str, within_s: float = 10.0) -> dict[str, Any]:
        return until(lambda: (found := self.command(command_id))["state"] == state and found, within_s)


@dataclass
class Farm:
    """One running hub; its desktops are gone at the end."""

    hub: HubProcess
    api: httpx.Client
    directory: Path
    heartbeat_s: float
    mqtt_port: Callable[[], int]
    desktops: list[ScriptedDesktop] = field(default_factory=list)
    simulated: list[SimulatedFarm] = field(default_factory=list)

    def new_site(self, feeders: int = 2) -> Site:
        body = {"site": f"pond{next(_NUMBERS)}", "feeders": feeders}
        made = self.api.post("/sites", json=body).raise_for_status().json()
        return Site(self.api, made["site"], made["mqtt"]["secret"], made["feeders"])

    def desktop(self, site: Site, *, connected: bool = True) -> ScriptedDesktop:
        """A scripted desktop; connected: it is alive, and its feeders are known."""
        desktop = ScriptedDesktop(self.mqtt_port(), site.name, site.secret, site.feeders, heartbeat_s=self.heartbeat_s)
        self.desktops.append(desktop)
        if connected:
            desktop.connect()
            self.wait_known(site)
        return desktop

    def simulated_farm(self, site: Site) -> SimulatedFarm:
        """A running `feeder-sim desktop`, alive and known."""
        url = f"mqtt://127.0.0.1:{self.mqtt_port()}"
        farm = SimulatedFarm(self.directory, url, site.name, site.secret, len(site.feeders), self.heartbeat_s)
        self.simulated.append(farm)
        farm.start()
        self.wait_known(site)
        return farm

    def wait_known(self, site: Site, within_s: float = 10.0) -> None:
        until(site.alive, within_s)
        until(lambda: all(item["reported"] for item in site.get("/feeders")["items"]), within_s)

    def send_away(self) -> None:
        for desktop in self.desktops:
            desktop.leave()
        for farm in self.simulated:
            farm.discard()
