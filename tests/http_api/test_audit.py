"""The audit: each change leaves one entry, told only to whom it concerns, and without any secret."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
from sqlmodel import Session

from http_api.app import OPERATIONS
from http_api.schemas import PAGE_LIMIT
from hub.audit import By, record
from hub.database import Database
from hub.sqlite import sqlite_url
from tests.end_to_end.desktop import CONFIG
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import feeder_hub
from tests.http_api.conftest import Scene, problem
from tests.http_api.test_people import PASSWORD, browser

CHANGES_NOTHING = {"preview_rollout"}
CHANGES = [each.name for each in OPERATIONS if each.method != "GET" and each.name not in CHANGES_NOTHING]
_numbers = count(1)


@dataclass
class Stage:
    """A scene, an administrator's token, and somebody who is logged in."""

    scene: Scene
    api: httpx.Client
    person: dict[str, Any]
    page: httpx.Client

    @property
    def site(self) -> str:
        return self.scene.site.path()

    def new(self, path: str, **body: Any) -> str:
        """The id of something new."""
        return str(self.api.post(path, json=body).raise_for_status().json()["id"])

    def code(self) -> str:
        return str(self.api.post(self.site + "/claim-code").raise_for_status().json()["code"])

    def login(self) -> str:
        found = self.page.get("/session").raise_for_status().json()["login_id"]
        return str(found)

    def revision(self) -> int:
        assert self.scene.site.put_config().status_code == 200
        return int(self.scene.site.get("/feeders/f1/config/revisions")["items"][0]["revision"])

    def rollout(self) -> dict[str, Any]:
        """One that sends nothing: its site's desktop is away."""
        away = self.scene.farm.new_site().name
        return {"selection": {"sites": [away]}, "change": {"command": "resume"}, "queue_for_s": 600}

    def waiting_rollout(self) -> str:
        return self.new("/rollouts", **self.rollout())

    def paused_rollout(self) -> str:
        rollout = self.waiting_rollout()
        self.api.post(f"/rollouts/{rollout}/pause").raise_for_status()
        return rollout

    def unresolved(self) -> str:
        """A dose whose outcome nobody knows any more."""
        scene = self.scene
        scene.desktop.answer = lambda *_: None
        dose = scene.site.feed("f1", 10, f"key{next(_numbers)}", Prefer="respond-async").json()["command_id"]
        scene.desktop.outcomes[dose] = {"status": "forgotten"}
        return str(scene.site.in_state(dose, "unresolved", within_s=20)["id"])


@pytest.fixture
def stage(scene: Scene) -> Iterator[Stage]:
    api, login = scene.site.api, f"audited{next(_numbers)}"
    roles = [{"role": "admin", "site": None}]
    person = api.post("/people", json={"login": login, "name": "Anna", "password": PASSWORD, "roles": roles}).json()
    with browser(scene.farm) as anna:
        assert anna.log_in(login).status_code == 200
        yield Stage(scene, api, person, anna.client)


Do = Callable[[Stage], httpx.Response]
Make = Callable[[Stage], Any]
NEW = {"name": "Somebody", "password": PASSWORD}


def nothing(_stage: Stage) -> None:
    """Nothing has to be there before."""


def logs_in(stage: Stage) -> httpx.Response:
    return stage.page.post("/session", json={"login": stage.person["login"], "password": PASSWORD})


def takes_a_new_password(stage: Stage) -> httpx.Response:
    return stage.page.put("/session/password", json={"old": PASSWORD, "new": "another good password"})


HOW: dict[str, tuple[str, Make, Callable[[Stage, Any], httpx.Response]]] = {
    # operation: (the entry's action, what has to be there before, the call)
    "create_site": ("create_site", nothing, lambda s, _: s.api.post("/sites", json={"site": f"new{next(_numbers)}"})),
    "patch_site": ("patch_site", nothing, lambda s, _: s.api.patch(s.site, json={"name": "Pond"})),
    "delete_site": ("delete_site", nothing, lambda s, _: s.api.delete(s.site)),
    "patch_feeder": (
        "patch_feeder",
        nothing,
        lambda s, _: s.api.patch(s.site + "/feeders/f1", json={"tags": ["south"]}),
    ),
    "start_rollout": ("start_rollout", Stage.rollout, lambda s, body: s.api.post("/rollouts", json=body)),
    "pause_rollout": ("pause_rollout", Stage.waiting_rollout, lambda s, id_: s.api.post(f"/rollouts/{id_}/pause")),
    "resume_rollout": ("resume_rollout", Stage.paused_rollout, lambda s, id_: s.api.post(f"/rollouts/{id_}/resume")),
    "cancel_rollout": ("cancel_rollout", Stage.waiting_rollout, lambda s, id_: s.api.post(f"/rollouts/{id_}/cancel")),
    "make_claim_code": ("make_claim_code", nothing, lambda s, _: s.api.post(s.site + "/claim-code")),
    "claim_site": ("claim_site", Stage.code, lambda s, code: s.api.post("/claims", json={"code": code})),
    "rotate_credentials": ("rotate_credentials", nothing, lambda s, _: s.api.post(s.site + "/credentials")),
    "put_config": ("set_config", nothing, lambda s, _: s.scene.site.put_config(meal_g=270)),
    "patch_config": (
        "set_config",
        nothing,
        lambda s, _: s.api.patch(s.site + "/feeders/f1/config", json={"meal_g": 280}),
    ),
    "restore_revision": (
        "set_config",
        Stage.revision,
        lambda s, number: s.api.post(f"{s.site}/feeders/f1/config/revisions/{number}/restore"),
    ),
    "command_feeder": (
        "pause",
        nothing,
        lambda s, _: s.api.post(s.site + "/feeders/f1/commands", json={"name": "pause"}),
    ),
    "command_site": ("stop_all", nothing, lambda s, _: s.api.post(s.site + "/commands", json={"name": "stop_all"})),
    "close_command": (
        "close_command",
        Stage.unresolved,
        lambda s, command: s.api.post(f"/commands/{command}/close", json={"remark": "It was fed."}),
    ),
    "log_in": ("log_in", nothing, lambda s, _: logs_in(s)),
    "log_out": ("log_out", nothing, lambda s, _: s.page.delete("/session")),
    "change_password": ("change_password", nothing, lambda s, _: takes_a_new_password(s)),
    "end_login": ("end_login", Stage.login, lambda s, login: s.page.delete(f"/session/logins/{login}")),
    "create_person": (
        "create_person",
        nothing,
        lambda s, _: s.api.post("/people", json={"login": f"new{next(_numbers)}", **NEW}),
    ),
    "patch_person": ("patch_person", nothing, lambda s, _: s.api.patch(at(s), json={"name": "Anna B."})),
    "set_roles": ("set_roles", nothing, lambda s, _: s.api.put(at(s) + "/roles", json={"roles": []})),
    "set_password": (
        "set_password",
        nothing,
        lambda s, _: s.api.put(at(s) + "/password", json={"new": "another good password"}),
    ),
    "delete_person": ("delete_person", nothing, lambda s, _: s.api.delete(at(s))),
    "create_token": ("create_token", nothing, lambda s, _: s.api.post("/tokens", json={"name": "x", "role": "viewer"})),
    "revoke_token": (
        "revoke_token",
        lambda s: s.new("/tokens", name="x", role="viewer"),
        lambda s, token: s.api.delete(f"/tokens/{token}"),
    ),
}
"""How each operation that changes something is called with success: a new one belongs here too."""


def at(stage: Stage) -> str:
    return f"/people/{stage.person['id']}"


def audit(api: httpx.Client, **query: object) -> list[dict[str, Any]]:
    """The newest first."""
    found: list[dict[str, Any]] = api.get("/audit", params=query).raise_for_status().json()["items"]  # type: ignore[arg-type]  # texts and numbers
    return found


def since(api: httpx.Client, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """What came after that entry, the newest first."""
    items = audit(api)
    return items[: [item["id"] for item in items].index(entry["id"])]


def token(scene: Scene, role: str) -> str:
    """A token of the scene's site."""
    made = scene.site.api.post("/tokens", json={"name": role, "role": role, "site": scene.site.name})
    return str(made.raise_for_status().json()["token"])


@pytest.mark.parametrize("operation", CHANGES)
def test_every_operation_that_changes_something_leaves_one_entry(stage: Stage, operation: str) -> None:
    assert operation in HOW, f"say in HOW how {operation} is called, and see that it leaves an entry"
    action, make, call = HOW[operation]
    made = make(stage)
    [newest] = audit(stage.api, limit=1)
    answer = call(stage, made)
    assert answer.is_success, answer.text
    [entry] = since(stage.api, newest)
    assert entry["action"] == action
    if operation == "claim_site":
        assert (entry["actor"], entry["site"]) == ("claim-code", stage.scene.site.name)
    else:
        assert entry["actor"] in ("token:first-admin", f"person:{stage.person['login']}")
        assert entry["caller_id"]
    assert entry["address"] == "127.0.0.1"
    if "{site}" in next(each.path for each in OPERATIONS if each.name == operation):
        assert entry["site"] == stage.scene.site.name


def test_the_table_knows_no_operation_that_is_not_there() -> None:
    assert set(HOW) <= set(CHANGES)


def test_an_entry_tells_what_was_so_before_and_after_and_what_became_of_it(scene: Scene) -> None:
    assert scene.site.put_config(meal_g=250).status_code == 200
    assert scene.site.put_config(meal_g=260).status_code == 200
    [last, first] = audit(scene.site.api, site=scene.site.name, action="set_config")
    assert (last["before"]["meal_g"], last["after"]) == (250, CONFIG | {"meal_g": 260})
    assert first["after"]["meal_g"] == 250
    assert (last["outcome"], last["target"]) == ("applied", "f1")
    assert last["command_id"] == scene.site.get("/feeders/f1/commands")["items"][0]["id"]
    assert scene.site.feed("f1", 10, "once").status_code == 200
    assert scene.site.feed("f1", 10, "once").status_code == 200
    [dose] = audit(scene.site.api, site=scene.site.name, action="feed")
    assert (dose["before"], dose["after"], dose["outcome"]) == (None, {"grams": 10}, "applied")
    scene.site.api.patch(scene.site.path(), json={"name": "Pond", "time_zone": "Europe/Oslo"}).raise_for_status()
    [renamed] = audit(scene.site.api, site=scene.site.name, action="patch_site")
    assert renamed["before"]["time_zone"] == "UTC"
    assert renamed["after"] == {"name": "Pond", "time_zone": "Europe/Oslo", "tags": [], "feeders": ["f1", "f2"]}


def test_what_changes_nothing_and_what_is_refused_leaves_no_entry(scene: Scene) -> None:
    api, path = scene.site.api, scene.site.path
    [newest] = audit(api, limit=1)
    assert scene.site.order("ping").status_code == 200
    problem(scene.site.put_config(meal_g=-1), 422, "invalid")
    problem(api.patch(path(), json={"time_zone": "Atlantis"}), 422, "invalid")
    problem(api.post("/sites", json={"site": scene.site.name}), 409, "already-exists")
    scene.send_away()
    problem(scene.site.put_config(), 409, "desktop-offline")
    assert since(api, newest) == []


def test_a_refused_login_is_told_with_its_address_and_without_what_was_typed(stage: Stage) -> None:
    api, login = stage.api, stage.person["login"]
    with browser(stage.scene.farm) as stranger:
        problem(stranger.log_in(login, "not the password"), 401, "wrong-login")
        problem(stranger.log_in("a-password-in-the-wrong-field"), 401, "wrong-login")
    problem(stage.page.put("/session/password", json={"old": "wrong", "new": PASSWORD + "x"}), 401, "wrong-login")
    own, unknown, known = audit(api, limit=3)
    assert (known["action"], known["actor"], known["outcome"]) == ("log_in", f"person:{login}", "refused")
    assert known["address"] == "127.0.0.1"
    assert known["caller_id"] == stage.person["id"]
    assert (unknown["action"], unknown["actor"], unknown["outcome"]) == ("log_in", "unknown", "refused")
    assert (own["action"], own["actor"], own["outcome"]) == ("change_password", f"person:{login}", "refused")
    assert "wrong-field" not in str([own, unknown, known])


def test_no_secret_stands_in_it(stage: Stage) -> None:
    api, secrets = stage.api, [PASSWORD, "another good password", stage.page.cookies["feeder_hub_login"]]
    made = api.post("/sites", json={"site": f"secret{next(_numbers)}"}).json()
    rotated = api.post(f"/sites/{made['site']}/credentials").json()
    token = api.post("/tokens", json={"name": "x", "role": "admin"}).json()["token"]
    secrets += [made["mqtt"]["secret"], rotated["mqtt"]["secret"], token]
    assert takes_a_new_password(stage).status_code == 204
    assert api.put(at(stage) + "/password", json={"new": PASSWORD}).status_code == 204
    secrets.append(str(stage.scene.farm.hub.cli_json("monitor", "add", f"m{next(_numbers)}")["mqtt"]["secret"]))
    login = f"secret{next(_numbers)}"
    secrets.append(str(stage.scene.farm.hub.cli_json("person", "add", login)["password"]))
    told = api.get("/audit", headers={"Accept": "text/csv"}).text
    assert login in told
    assert [secret for secret in secrets if secret in told] == []
    assert "$argon2" not in told
    assert "$7$" not in told


def test_an_administrator_of_a_site_reads_the_entries_of_that_site_only(scene: Scene) -> None:
    other = scene.farm.new_site()
    assert scene.site.put_config().status_code == 200
    with scene.farm.hub.api(token(scene, "admin")) as local:
        found = audit(local)
        assert {"create_site", "set_config", "create_token"} <= {entry["action"] for entry in found}
        assert {entry["site"] for entry in found} == {scene.site.name}
        assert audit(local, site=scene.site.name) == found
        problem(local.get("/audit", params={"site": other.name}), 404, "not-found")
        problem(local.get("/audit", params={"site": "no-such-site"}), 404, "not-found")
        table = local.get("/audit", headers={"Accept": "text/csv"}).text
        assert {row["site"] for row in csv.DictReader(io.StringIO(table))} == {scene.site.name}
    for role in ("viewer", "operator", "technician"):
        with scene.farm.hub.api(token(scene, role)) as lesser:
            problem(lesser.get("/audit"), 403, "not-allowed")
            problem(lesser.get("/audit", headers={"Accept": "text/csv"}), 403, "not-allowed")


def test_a_deleted_sites_story_stays_and_is_not_told_to_who_gets_its_name(scene: Scene) -> None:
    api, name = scene.site.api, scene.site.name
    assert scene.site.put_config().status_code == 200
    assert api.delete(scene.site.path()).status_code == 200
    told = audit(api, site=name)
    assert [entry["action"] for entry in told] == ["delete_site", "set_config", "create_site"]
    assert told[0]["before"]["feeders"] == ["f1", "f2"]
    assert told[1]["outcome"] is None
    api.post("/sites", json={"site": name}).raise_for_status()
    with scene.farm.hub.api(token(scene, "admin")) as local:
        assert [entry["action"] for entry in audit(local)] == ["create_token", "create_site"]
    assert [entry["action"] for entry in audit(api, site=name)][2:] == ["delete_site", "set_config", "create_site"]


def test_pages_lead_through_all_of_it_once_and_filters_narrow_it(scene: Scene) -> None:
    api, name = scene.site.api, scene.site.name
    for grams in (251, 252, 253):
        assert scene.site.put_config(meal_g=grams).status_code == 200
    whole = audit(api, site=name)
    paged: list[dict[str, Any]] = []
    query: dict[str, Any] = {"site": name, "limit": 2}
    while True:
        page = api.get("/audit", params=query).raise_for_status().json()
        paged += page["items"]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert paged == whole
    assert [entry["id"] for entry in whole] == sorted((entry["id"] for entry in whole), reverse=True)
    assert [entry["action"] for entry in audit(api, site=name, action="create_site")] == ["create_site"]
    assert audit(api, site=name, actor="token:nobody") == []
    assert audit(api, site=name, actor="token:first-admin") == whole
    assert audit(api, actor="token:first-admin", action="set_config", limit=3) == whole[:3]
    for wrong in ({"cursor": "x"}, {"limit": 0}, {"unknown": 1}, {"site": "A"}):
        problem(api.get("/audit", params=wrong), 422, "invalid")


def test_the_table_has_every_page_and_no_cell_is_a_formula(scene: Scene) -> None:
    api = scene.site.api
    formula = '=HYPERLINK("http://evil.example";"x")'
    token = api.post("/tokens", json={"name": formula, "role": "admin"}).raise_for_status().json()["token"]
    with scene.farm.hub.api(token) as script:
        assert script.patch(scene.site.path(), json={"name": '-1+1|x\r\n,;"'}).status_code == 200
    answer = api.get("/audit", params={"site": scene.site.name, "limit": 1}, headers={"Accept": "text/csv"})
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "attachment" in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    as_json = audit(api, site=scene.site.name)
    assert [row["id"] for row in rows] == [entry["id"] for entry in as_json]
    assert rows[0]["actor"] == f"token:{formula}"
    assert '"-1+1|x\\r\\n,;\\""' in rows[0]["after"]
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert api.head("/audit", headers={"Accept": "text/csv"}).headers["Content-Type"].startswith("text/csv")
    weighed = {"Accept": "application/json, text/csv;q=0.5"}
    assert api.get("/audit", headers=weighed).headers["Content-Type"] == "application/json"


def test_a_table_has_more_rows_than_a_page_may_have(scene: Scene) -> None:
    with contextlib.closing(Database(sqlite_url(scene.farm.hub.data_dir))) as database:

        def work(session: Session) -> None:
            for n in range(2 * PAGE_LIMIT + 1):
                record(session, By("token:plan"), "feed", site=scene.site.name, target="f1", after={"grams": n})

        database.write_now(work)
    query = {"site": scene.site.name, "action": "feed"}
    with scene.site.api.stream("GET", "/audit", params=query, headers={"Accept": "text/csv"}) as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        rows = list(csv.DictReader(answer.iter_lines()))
    assert sorted(int(json.loads(row["after"])["grams"]) for row in rows) == list(range(2 * PAGE_LIMIT + 1))
    assert len({row["id"] for row in rows}) == len(rows)
    begun = {**query, "cursor": rows[2 * PAGE_LIMIT - 2]["id"]}
    rest = scene.site.api.get("/audit", params=begun, headers={"Accept": "text/csv"}).text
    assert [row["id"] for row in csv.DictReader(io.StringIO(rest))] == [row["id"] for row in rows[-2:]]


def test_what_is_changed_on_the_command_line_is_in_it_too(farm: Farm) -> None:
    hub, n = farm.hub, next(_numbers)

    def run(*arguments: str) -> None:
        done = feeder_hub(*arguments, "--data-dir", hub.data_dir, **hub.settings)
        assert done.returncode == 0, done.stderr

    [newest] = audit(farm.api, limit=1)
    run("site", "add", f"cli{n}")
    run("token", "add", "--role", "viewer", "--site", f"cli{n}")
    run("token", "revoke", audit(farm.api, limit=1)[0]["target"])
    run("monitor", "add", f"cli{n}", "--site", f"cli{n}")
    run("monitor", "remove", f"cli{n}")
    run("person", "add", f"cli{n}")
    run("person", "roles", f"cli{n}", "--role", f"viewer@cli{n}")
    run("person", "password", f"cli{n}")
    run("person", "remove", f"cli{n}")
    told = since(farm.api, newest)[::-1]
    assert [(entry["action"], entry["site"]) for entry in told] == [
        ("create_site", f"cli{n}"),
        ("create_token", f"cli{n}"),
        ("revoke_token", f"cli{n}"),
        ("create_monitor", f"cli{n}"),
        ("delete_monitor", f"cli{n}"),
        ("create_person", None),
        ("set_roles", None),
        ("set_password", None),
        ("delete_person", None),
    ]
    assert {entry["actor"].partition(":")[0] for entry in told} == {"cli"}
    assert {entry["target"] for entry in told[3:]} == {f"cli{n}"}
    assert told[6]["after"]["roles"] == [{"role": "viewer", "site": f"cli{n}"}]
    assert told[0]["address"] == ""
