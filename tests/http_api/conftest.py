"""One real hub for all tests of the HTTP layer; each test has sites and desktops of its own."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.end_to_end.conftest import running_farm
from tests.end_to_end.desktop import ScriptedDesktop
from tests.end_to_end.farm import Farm, Site


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    # Nobody's life expires here; only the wait for an answer is short.
    directory = tmp_path_factory.mktemp("hub")
    with running_farm(directory, heartbeat_s=3, liveness__ttl_s=15, commands__timeout_s=1.2) as farm:
        yield farm


@dataclass
class Scene:
    """A site whose scripted desktop is alive."""

    farm: Farm
    site: Site
    desktop: ScriptedDesktop
    overlooked: set[str] = field(default_factory=set)

    def send_away(self) -> None:
        """The desktop stays connected and hears everything, but is not alive."""
        self.desktop.leave()
        self.desktop.connect(beating=False)

    def look_away(self) -> None:
        """What was published until now does not count."""
        self.overlooked |= {order.id for order in self.desktop.orders}

    def published(self) -> list[str]:
        """The names of all commands that were published to the site until now; one that is sent again counts once."""
        if self.site.alive():
            # The ping comes behind all that went out before it.
            assert self.site.order("ping").status_code == 200
        else:
            stop = self.site.order("stop_all", Prefer="respond-async").json()["command_id"]
            self.site.settled(stop)
            self.overlooked.add(stop)
        return list({order.id: order.name for order in self.desktop.orders if order.id not in self.overlooked}.values())


@pytest.fixture
def scene(farm: Farm) -> Iterator[Scene]:
    site = farm.new_site()
    desktop = farm.desktop(site)
    yield Scene(farm, site, desktop)
    desktop.leave()


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The body of a problem of that kind, checked for its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"].endswith(f"#{kind}"), body
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def faulty_fields(answer: httpx.Response) -> set[str]:
    return {fault["field"] for fault in problem(answer, 422, "invalid")["faults"]}
