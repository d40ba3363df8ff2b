"""Tags and search by HTTP, ETags of sites and feeders, and the way from page to page."""

from typing import Any

import httpx
import pytest

from tests.end_to_end.farm import Farm, Site
from tests.http_api.conftest import faulty_fields, problem


@pytest.fixture
def site(farm: Farm) -> Site:
    return farm.new_site(feeders=5)


def walk(api: httpx.Client, path: str, **params: Any) -> list[dict[str, Any]]:
    """Every item, from page to page by the header alone."""
    items: list[dict[str, Any]] = []
    answer = api.get(path, params=params).raise_for_status()
    while True:
        items += answer.json()["items"]
        if "next" not in answer.links:
            assert answer.json()["next"] is None
            return items
        answer = api.get(httpx.URL(api.base_url).join(answer.links["next"]["url"])).raise_for_status()


def test_the_link_leads_through_every_page_and_keeps_the_search(farm: Farm, site: Site) -> None:
    assert farm.api.patch(site.path(), json={"tags": ["walk", "x.y:1"]}).status_code == 200
    found = walk(farm.api, "/feeders", tag="walk,x.y:1", limit=2)
    assert [item["feeder"] for item in found] == ["f1", "f2", "f3", "f4", "f5"]
    assert {item["site"] for item in found} == {site.name}
    assert [item["feeder"] for item in walk(farm.api, site.path("/feeders"), q="F", limit=1)] == site.feeders


def test_a_page_without_a_next_one_has_no_link(farm: Farm, site: Site) -> None:
    answer = farm.api.get(site.path("/feeders"))
    assert answer.json()["next"] is None
    assert "Link" not in answer.headers


def test_sites_are_found_by_tag_and_by_a_part_of_the_name(farm: Farm, site: Site) -> None:
    name = f"Østre {site.name} brygge"
    changed = farm.api.patch(site.path(), json={"name": name, "tags": ["salmon", site.name]}).raise_for_status().json()
    assert (changed["name"], changed["tags"]) == (name, sorted(["salmon", site.name]))
    for query in ({"tag": site.name}, {"tag": f"salmon,{site.name}"}, {"q": f"østre {site.name.upper()} b"}):
        found = farm.api.get("/sites", params=query).raise_for_status().json()["items"]
        assert [item["site"] for item in found] == [site.name], query
    assert farm.api.get("/sites", params={"tag": f"{site.name},none"}).json()["items"] == []


def test_nobody_finds_feeders_or_tags_of_a_site_that_is_not_his(farm: Farm, site: Site) -> None:
    other = farm.new_site()
    for each in (site, other):
        assert farm.api.patch(each.path("/feeders/f1"), json={"tags": ["shared"]}).status_code == 200
    with farm.hub.api(farm.hub.new_token("viewer", other.name)) as api:
        assert [item["site"] for item in walk(api, "/feeders", tag="shared")] == [other.name]
        assert {item["site"] for item in walk(api, "/feeders")} == {other.name}
        assert walk(api, "/feeders", q=site.name, limit=1) == []


def test_a_feeders_tags_are_set_and_removed(farm: Farm, site: Site) -> None:
    path = site.path("/feeders/f2")
    assert farm.api.patch(path, json={"tags": ["b", "a"]}).json()["tags"] == ["a", "b"]
    assert [item["feeder"] for item in farm.api.get(site.path("/feeders?tag=a")).json()["items"]] == ["f2"]
    assert farm.api.patch(path, json={}).json()["tags"] == ["a", "b"], "what is not named stays"
    assert farm.api.patch(path, json={"tags": []}).json()["tags"] == []


@pytest.mark.parametrize("rest", ["", "/feeders/f1"])
def test_what_somebody_else_has_changed_meanwhile_is_not_written_over(farm: Farm, site: Site, rest: str) -> None:
    path = site.path(rest)
    etag = farm.api.get(path).headers["ETag"]
    first = farm.api.patch(path, json={"tags": ["mine"]}, headers={"If-Match": etag})
    assert first.status_code == 200
    second = farm.api.patch(path, json={"tags": ["his"]}, headers={"If-Match": etag})
    problem(second, 412, "changed")
    assert second.headers["ETag"] == first.headers["ETag"] == farm.api.get(path).headers["ETag"] != etag
    assert farm.api.get(path).json()["tags"] == ["mine"]
    again = farm.api.patch(path, json={"tags": ["his"]}, headers={"If-Match": second.headers["ETag"]})
    assert again.json()["tags"] == ["his"]
    assert farm.api.patch(path, json={"tags": []}, headers={"If-Match": "*"}).status_code == 200


@pytest.mark.parametrize("tags", [["UPPER"], ["a,b"], ["a b"], [""], ["-a"], ["x" * 51], ["a"] * 21, "a", [1]])
def test_a_tag_is_a_plain_word_and_there_are_not_too_many(farm: Farm, site: Site, tags: object) -> None:
    for path in (site.path(), site.path("/feeders/f1")):
        assert all(field.startswith("tags") for field in faulty_fields(farm.api.patch(path, json={"tags": tags})))


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/sites", {"tag": "a,,b"}, "query.tag"),
        ("/sites", {"tag": ""}, "query.tag"),
        ("/sites", {"q": ""}, "query.q"),
        ("/sites", {"q": "a\0"}, "query.q"),
        ("/sites", {"condition": "jammed"}, "query.condition"),
        ("/feeders", {"condition": "tired"}, "query.condition"),
        ("/feeders", {"limit": 501}, "query.limit"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(farm: Farm, path: str, query: dict[str, str], field: str) -> None:
    assert faulty_fields(farm.api.get(path, params=query)) == {field}


@pytest.mark.parametrize("cursor", ["x", "x/", "/x", "x/y/z", "../..", "A/b"])
def test_a_cursor_that_no_page_gave_is_refused(farm: Farm, cursor: str) -> None:
    problem(farm.api.get("/feeders", params={"cursor": cursor}), 422, "invalid")
