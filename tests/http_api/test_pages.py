"""Lists: pages by cursor, complete, without repeats, in their order."""

from typing import Any

import pytest
from ulid import ULID

from tests.end_to_end.desktop import now
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import until
from tests.http_api.conftest import Scene


def pages(scene: Scene, path: str, limit: int) -> list[list[dict[str, Any]]]:
    found = []
    cursor: dict[str, str] = {}
    while True:
        answer = scene.site.api.get(path, params={"limit": limit, **cursor}).raise_for_status().json()
        assert set(answer) == {"items", "next"}
        found.append(answer["items"])
        if answer["next"] is None:
            return found
        cursor = {"cursor": answer["next"]}


@pytest.fixture
def busy(scene: Scene) -> Scene:
    """Seven changes of f1, seven events, eight sessions."""
    for n in range(7):
        assert scene.site.put_config(meal_g=200 + n).status_code == 200
        event = {"id": str(ULID()), "seq": n + 1, "kind": "meal", "at": now(), "planned_g": n, "dispensed_g": n}
        scene.desktop.publish("feeders/f1/events", event)
        scene.desktop.leave()
        scene.desktop.connect()
        scene.farm.wait_known(scene.site)
    until(lambda: len(scene.site.get("/feeders/f1/events")["items"]) == 7)
    return scene


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 500])
def test_every_list_comes_whole_in_pages_of_any_size(busy: Scene, limit: int) -> None:
    for path, name, count in (
        ("/commands", "id", 7),
        ("/feeders/f1/commands", "id", 7),
        ("/feeders/f1/config/revisions", "version", 7),
        ("/feeders/f1/events", "id", 7),
        ("/presence", "session", 8),
    ):
        found = pages(busy, busy.site.path(path), limit)
        names = [item[name] for page in found for item in page]
        assert len(names) == len(set(names)) == count, path
        assert all(len(page) == limit for page in found[:-1])
        assert found[-1], "no empty last page"
        if name != "session":
            assert names == sorted(names, reverse=True), path


def test_sites_and_feeders_come_by_name(busy: Scene, farm: Farm) -> None:
    for path, name in (("/sites", "site"), (busy.site.path("/feeders"), "feeder")):
        names = [item[name] for page in pages(busy, path, 1) for item in page]
        assert names == sorted(names)
        assert len(names) == len(set(names)) > 1


def test_a_page_stays_the_same_when_something_new_comes_before_it(busy: Scene) -> None:
    path = busy.site.path("/commands")
    first = busy.site.api.get(path, params={"limit": 3}).json()
    before = busy.site.api.get(path, params={"limit": 3, "cursor": first["next"]}).json()
    assert busy.site.put_config().status_code == 200
    assert busy.site.api.get(path, params={"limit": 3, "cursor": first["next"]}).json() == before
