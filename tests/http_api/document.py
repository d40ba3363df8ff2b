"""The OpenAPI document, and a hub that has all that its examples speak of."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.end_to_end.conftest import running_farm
from tests.end_to_end.farm import Farm, Site

LIVE_SITE = "pond7"
ANNA = {"login": "anna", "password": "correct horse battery"}

ROLES = [{"role": "viewer"}]


@dataclass(frozen=True)
class Described:
    """A hub with a site `pond7` whose desktop is alive, one more, `spare`, and a person, `anna`; and its document."""

    farm: Farm
    site: Site
    anna: str
    document: dict[str, Any]

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(path, method, what the document says), in the document's order."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                yield path, method, operation

    def by_id(self) -> dict[str, dict[str, Any]]:
        return {operation["operationId"]: operation for _, _, operation in self.operations()}

    def resolved(self, part: dict[str, Any]) -> dict[str, Any]:
        """What a reference leads to; anything else as it is."""
        while "$ref" in part:
            found: Any = self.document
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name.replace("~1", "/").replace("~0", "~")]
            part = found
        return part

    @contextmanager
    def browser(self) -> Iterator[httpx.Client]:
        """Anna, logged in, as she was made."""
        self.farm.api.put(f"/people/{self.anna}/roles", json={"roles": ROLES}).raise_for_status()
        self.farm.api.put(f"/people/{self.anna}/password", json={"new": ANNA["password"]}).raise_for_status()
        base_url = f"{self.farm.hub.http_url}/api/v1"
        with httpx.Client(base_url=base_url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=30) as client:
            client.post("/session", json=ANNA).raise_for_status()
            yield client


@contextmanager
def described_hub(directory: Path, timeout_s: float = 5) -> Iterator[Described]:
    with running_farm(directory, heartbeat_s=3, liveness__ttl_s=15, commands__timeout_s=timeout_s) as farm:
        api = farm.api
        api.post("/sites", json={"site": "spare", "feeders": 2}).raise_for_status()
        made = api.post("/sites", json={"site": LIVE_SITE, "feeders": 2}).raise_for_status().json()
        site = Site(api, LIVE_SITE, made["mqtt"]["secret"], made["feeders"])
        farm.desktop(site)
        site.put_config().raise_for_status()
        anna = api.post("/people", json={"name": "Anna", "roles": ROLES, **ANNA}).raise_for_status().json()["id"]
        document = api.get("/openapi.json").raise_for_status().json()
        yield Described(farm, site, anna, document)
