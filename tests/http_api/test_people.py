"""People by HTTP: logging in and out, what cookies are taken from, roles at several sites, tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
import pytest

from http_api.doorkeeper import COOKIE, REMEMBERED_S
from hub.login_throttle import OF_BOTH
from tests.end_to_end.events import EventStream
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import feeder_hub, until
from tests.http_api.conftest import Scene, problem

PASSWORD = "correct horse battery"
_numbers = count(1)


class Browser:
    """One that sends what a page of the hub sends."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def log_in(self, login: str, password: str = PASSWORD) -> httpx.Response:
        return self.client.post("/session", json={"login": login, "password": password})


@contextmanager
def browser(farm: Farm, **headers: str) -> Iterator[Browser]:
    with httpx.Client(
        base_url=f"{farm.hub.http_url}/api/v1", headers={"Sec-Fetch-Site": "same-origin"} | headers, timeout=30
    ) as client:
        yield Browser(client)


@pytest.fixture(scope="module")
def admin(farm: Farm) -> Iterator[httpx.Client]:
    with farm.hub.api() as api:
        yield api


def person(admin: httpx.Client, *roles: dict[str, Any]) -> dict[str, Any]:
    login = f"person{next(_numbers)}"
    body = {"login": login, "name": "Somebody", "password": PASSWORD, "roles": list(roles)}
    made = admin.post("/people", json=body)
    assert made.status_code == 201, made.text
    told: dict[str, Any] = made.json()
    assert admin.get(made.headers["Location"].removeprefix("/api/v1")).json() == told
    return told


def at(site: str | None, role: str) -> dict[str, Any]:
    return {"role": role, "site": site}


def test_who_logs_in_may_do_what_the_roles_say_where_they_say_it(admin: httpx.Client, scene: Scene) -> None:
    other = scene.farm.new_site()
    who = person(admin, at(scene.site.name, "operator"), at(other.name, "viewer"))
    with browser(scene.farm) as anna:
        told = anna.log_in(who["login"])
        assert told.status_code == 200, told.text
        cookie = told.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Path=/" in cookie
        assert told.json()["actor"] == f"person:{who['login']}"
        assert {item["site"] for item in anna.client.get("/sites").json()["items"]} == {scene.site.name, other.name}
        pause = {"name": "pause"}
        assert anna.client.post(scene.site.path("/feeders/f1/commands"), json=pause).status_code == 200
        problem(anna.client.post(other.path("/feeders/f1/commands"), json=pause), 403, "not-allowed")
        problem(anna.client.get("/people"), 403, "not-allowed")
        problem(anna.client.get(scene.farm.new_site().path("")), 404, "not-found")
        assert anna.client.delete("/session").status_code == 204
        problem(anna.client.get("/session"), 401, "no-login")


@pytest.mark.parametrize(("login", "password"), [("nobody", PASSWORD), (None, PASSWORD + "x"), (None, "")])
def test_a_wrong_login_and_a_wrong_password_are_refused_alike(
    admin: httpx.Client, farm: Farm, login: str | None, password: str
) -> None:
    who = person(admin)
    with browser(farm) as anna:
        refused = anna.log_in(login or who["login"], password)
        problem(refused, 401, "wrong-login")
        assert "Set-Cookie" not in refused.headers


def test_who_tries_too_often_has_to_wait_and_others_log_in_meanwhile(admin: httpx.Client, farm: Farm) -> None:
    who, other = person(admin, at(None, "viewer")), person(admin, at(None, "viewer"))
    with browser(farm) as anna:
        for _ in range(OF_BOTH.tries):
            problem(anna.log_in(who["login"], "wrong"), 401, "wrong-login")
        refused = anna.log_in(who["login"])
        problem(refused, 429, "too-many-calls")
        assert 0 < int(refused.headers["Retry-After"]) <= OF_BOTH.within_s
        assert anna.log_in(other["login"]).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
    ],
)
def test_a_page_of_somebody_else_changes_nothing_with_the_cookie(
    admin: httpx.Client, scene: Scene, headers: dict[str, str]
) -> None:
    who = person(admin, at(None, "admin"))
    with browser(scene.farm) as anna:
        anna.log_in(who["login"])
        cookie = anna.client.cookies[COOKIE]
    with httpx.Client(base_url=f"{scene.farm.hub.http_url}/api/v1", cookies={COOKIE: cookie}, headers=headers) as evil:
        assert evil.get("/session").status_code == 200
        problem(evil.post(scene.site.path("/commands"), json={"name": "stop_all"}), 403, "other-origin")
        problem(evil.delete("/session"), 403, "other-origin")
        if headers:
            body = {"login": who["login"], "password": PASSWORD}
            problem(evil.post("/session", json=body), 403, "other-origin")
    assert scene.published() == []


def test_an_old_browser_that_only_names_its_origin_is_let_in(admin: httpx.Client, farm: Farm) -> None:
    who = person(admin, at(None, "viewer"))
    with httpx.Client(base_url=f"{farm.hub.http_url}/api/v1", headers={"Origin": farm.hub.http_url}) as old:
        assert old.post("/session", json={"login": who["login"], "password": PASSWORD}).status_code == 200
        assert old.delete("/session").status_code == 204


def test_a_new_password_ends_the_other_logins_and_not_this_one(admin: httpx.Client, farm: Farm) -> None:
    who = person(admin, at(None, "viewer"))
    with browser(farm) as here, browser(farm, **{"User-Agent": "phone"}) as there:
        here.log_in(who["login"])
        there.log_in(who["login"])
        items = here.client.get("/session/logins").json()["items"]
        assert [item["is_this"] for item in items].count(True) == 1
        assert {item["agent"] for item in items} > {"phone"}
        body = {"old": PASSWORD, "new": "another good password"}
        problem(here.client.put("/session/password", json=body | {"old": "wrong"}), 401, "wrong-login")
        problem(here.client.put("/session/password", json=body | {"new": "short"}), 422, "invalid")
        assert here.client.put("/session/password", json=body).status_code == 204
        assert here.client.get("/sites").status_code == 200
        problem(there.client.get("/sites"), 401, "no-login")
        problem(there.log_in(who["login"]), 401, "wrong-login")
        assert there.log_in(who["login"], body["new"]).status_code == 200


def test_one_ends_a_login_that_one_has_elsewhere(admin: httpx.Client, farm: Farm) -> None:
    who, other = person(admin, at(None, "viewer")), person(admin, at(None, "viewer"))
    with browser(farm) as here, browser(farm) as there, browser(farm) as stranger:
        for one, login in ((here, who), (there, who), (stranger, other)):
            one.log_in(login["login"])
        lost = there.client.get("/session").json()["login_id"]
        problem(stranger.client.delete(f"/session/logins/{lost}"), 404, "not-found")
        assert here.client.delete(f"/session/logins/{lost}").status_code == 204
        problem(there.client.get("/session"), 401, "no-login")
        assert here.client.get("/session").status_code == 200


def test_a_token_has_no_password_and_no_logins(admin: httpx.Client) -> None:
    assert admin.get("/session").json()["login_id"] is None
    problem(admin.get("/session/logins"), 403, "not-allowed")
    body = {"old": PASSWORD, "new": "another good password"}
    problem(admin.put("/session/password", json=body), 403, "not-allowed")


def test_rights_that_are_taken_away_count_at_once_and_end_the_stream(admin: httpx.Client, scene: Scene) -> None:
    who = person(admin, at(scene.site.name, "operator"))
    with browser(scene.farm) as anna:
        anna.log_in(who["login"])
        cookie = anna.client.cookies[COOKIE]
        with EventStream(scene.farm.hub, cookie=f"{COOKIE}={cookie}") as stream:
            assert admin.put(f"/people/{who['id']}/roles", json={"roles": []}).status_code == 200
            problem(anna.client.get(scene.site.path("")), 404, "not-found")
            assert stream.ended.wait(2 * REMEMBERED_S + 2)


def test_who_is_taken_away_is_out_at_once(admin: httpx.Client, farm: Farm) -> None:
    who = person(admin, at(None, "admin"))
    with browser(farm) as anna:
        anna.log_in(who["login"])
        assert admin.delete(f"/people/{who['id']}").status_code == 204
        problem(anna.client.get("/sites"), 401, "no-login")
    problem(admin.get(f"/people/{who['id']}"), 404, "not-found")


def test_a_person_is_changed_by_administrators_of_the_whole_hub_only(admin: httpx.Client, scene: Scene) -> None:
    who = person(admin, at(scene.site.name, "admin"))
    assert admin.patch(f"/people/{who['id']}", json={"name": "Anna B."}).json()["name"] == "Anna B."
    problem(
        admin.post("/people", json={"login": who["login"], "name": "x", "password": PASSWORD}), 409, "already-exists"
    )
    assert admin.put(f"/people/{who['id']}/password", json={"new": "another good password"}).status_code == 204
    with browser(scene.farm) as anna:
        assert anna.log_in(who["login"], "another good password").status_code == 200
        problem(anna.client.put(f"/people/{who['id']}/roles", json={"roles": [at(None, "admin")]}), 403, "not-allowed")
    listed: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = admin.get("/people", params={"limit": 2} | ({} if cursor is None else {"cursor": cursor})).json()
        listed += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
    assert [item["login"] for item in listed] == sorted(item["login"] for item in listed)
    assert who["id"] in {item["id"] for item in listed}


def test_an_administrator_of_a_site_makes_and_revokes_its_tokens_and_no_others(
    admin: httpx.Client, scene: Scene
) -> None:
    site, other = scene.site.name, scene.farm.new_site().name
    with scene.farm.hub.api(scene.farm.hub.new_token("admin", site)) as local:
        made = local.post("/tokens", json={"name": "plan", "role": "operator", "site": site, "expires_in_days": 1})
        assert made.status_code == 201, made.text
        with scene.farm.hub.api(made.json()["token"]) as script:
            assert script.get(scene.site.path("")).status_code == 200
            until(lambda: used(local, made.json()["id"]), 5)
            assert local.delete(f"/tokens/{made.json()['id']}").status_code == 204
            problem(script.get(scene.site.path("")), 401, "no-login")
        problem(local.post("/tokens", json={"name": "x", "role": "admin"}), 403, "not-allowed")
        problem(local.post("/tokens", json={"name": "x", "role": "admin", "site": other}), 404, "not-found")
        foreign = admin.post("/tokens", json={"name": "x", "role": "viewer", "site": other}).json()
        assert {item["site"] for item in local.get("/tokens").json()["items"]} == {site}
        problem(local.delete(f"/tokens/{foreign['id']}"), 404, "not-found")
        assert admin.delete(f"/tokens/{foreign['id']}").status_code == 204


def used(api: httpx.Client, token_id: str) -> bool:
    [token] = [item for item in api.get("/tokens").json()["items"] if item["id"] == token_id]
    return token["last_used_at"] is not None


def test_the_command_line_makes_people_who_log_in(farm: Farm) -> None:
    hub = farm.hub
    site = farm.new_site().name
    made = hub.cli_json("person", "add", "cli-anna", "--role", f"operator@{site}", "--role", "viewer")
    with browser(farm) as anna:
        told = anna.log_in("cli-anna", made["password"]).json()
        assert told["roles"] == [at(None, "viewer"), at(site, "operator")]
        [item] = [item for item in hub.cli_json("person", "list")["items"] if item["login"] == "cli-anna"]
        assert item["id"] == made["id"] == told["id"]
        for arguments in (("roles", "cli-anna"), ("password", "cli-anna"), ("remove", "cli-anna")):
            done = feeder_hub("person", *arguments, "--data-dir", hub.data_dir, **hub.settings)
            assert done.returncode == 0, done.stderr
        until(lambda: anna.client.get("/session").status_code == 401, REMEMBERED_S + 2)
    wrong = feeder_hub("person", "add", "x", "--role", "king", "--data-dir", hub.data_dir, **hub.settings)
    assert wrong.returncode == 2
    assert "viewer, operator, technician, admin" in " ".join(wrong.stderr.split())
