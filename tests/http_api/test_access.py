"""Who may do what: no token, a wrong one, a viewer's, another site's."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from http_api.doorkeeper import REMEMBERED_S
from tests.end_to_end.desktop import CONFIG, NotLetIn
from tests.end_to_end.events import EventStream
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import feeder_hub, until
from tests.http_api.conftest import Scene, problem

ANY_ULID = "01J00000000000000000000000"
Change = tuple[str, str, dict[str, Any] | None]
READS = (
    *("", "/liveness", "/presence", "/diagnostics", "/commands", "/feeders", "/feeders/f1", "/feeders/f1/config"),
    *("/feeders/f1/config/revisions", "/feeders/f1/events", "/feeders/f1/commands"),
)
CHANGES: tuple[Change, ...] = (
    ("PUT", "/feeders/f1/config", CONFIG),
    ("PATCH", "/feeders/f1/config", {"meal_g": 1}),
    ("POST", "/feeders/f1/commands", {"name": "pause"}),
    ("POST", "/commands", {"name": "stop_all"}),
    ("PATCH", "/feeders/f1", {"tags": []}),
)
ADMINISTERS: tuple[Change, ...] = (
    ("PATCH", "", {"name": "mine"}),
    ("POST", "/credentials", None),
    ("POST", "/claim-code", None),
    ("DELETE", "", None),
)


def anonymous(farm: Farm, authorization: str | None) -> httpx.Client:
    headers = {} if authorization is None else {"Authorization": authorization}
    return httpx.Client(base_url=f"{farm.hub.http_url}/api/v1", headers=headers)


@pytest.fixture(scope="module")
def neighbours(farm: Farm) -> Iterator[httpx.Client]:
    """An administrator of another site only."""
    other = farm.new_site()
    with farm.hub.api(farm.hub.new_token("admin", other.name)) as api:
        yield api


@pytest.fixture(scope="module")
def viewer(farm: Farm) -> Iterator[httpx.Client]:
    with farm.hub.api(farm.hub.new_token("viewer")) as api:
        yield api


@pytest.fixture(scope="module")
def operator(farm: Farm) -> Iterator[httpx.Client]:
    with farm.hub.api(farm.hub.new_token("operator")) as api:
        yield api


def test_a_revoked_token_lets_nobody_in_and_its_live_streams_end(farm: Farm) -> None:
    hub = farm.hub
    before = {item["id"] for item in hub.cli_json("token", "list")["items"]}
    token = hub.new_token("viewer")
    [made] = [item for item in hub.cli_json("token", "list")["items"] if item["id"] not in before]
    assert (made["role"], made["site"]) == ("viewer", None)
    with hub.api(token) as api, EventStream(hub, token) as stream:
        assert api.get("/sites").status_code == 200
        revoked = feeder_hub("token", "revoke", made["id"], "--data-dir", hub.data_dir, **hub.settings)
        assert revoked.returncode == 0, revoked.stderr
        until(lambda: api.get("/sites").status_code == 401, REMEMBERED_S + 2)
        assert stream.ended.wait(REMEMBERED_S + 2)
        problem(api.get("/events"), 401, "no-login")


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer fh_wrong", "Basic YTpi", "fh_wrong"])
def test_without_a_right_token_nothing_answers(farm: Farm, scene: Scene, authorization: str | None) -> None:
    with anonymous(farm, authorization) as api:
        for path in READS:
            answer = api.get(scene.site.path(path))
            problem(answer, 401, "no-login")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        for method, path, body in (*CHANGES, *ADMINISTERS):
            problem(api.request(method, scene.site.path(path), json=body), 401, "no-login")
        for path in ("/sites", "/events", f"/commands/{ANY_ULID}"):
            problem(api.get(path), 401, "no-login")
    assert scene.published() == []


def test_a_viewer_reads_and_changes_nothing(viewer: httpx.Client, scene: Scene) -> None:
    for path in READS:
        assert viewer.get(scene.site.path(path)).status_code == 200, path
    for method, path, body in (*CHANGES, *ADMINISTERS):
        problem(viewer.request(method, scene.site.path(path), json=body), 403, "not-allowed")
    problem(viewer.post("/sites", json={"site": "mine"}), 403, "not-allowed")
    assert scene.published() == []


def test_an_operator_changes_feeders_and_no_sites(operator: httpx.Client, scene: Scene) -> None:
    for method, path, body in ADMINISTERS:
        problem(operator.request(method, scene.site.path(path), json=body), 403, "not-allowed")
    problem(operator.post("/sites", json={"site": "mine"}), 403, "not-allowed")
    for method, path, body in CHANGES:
        assert operator.request(method, scene.site.path(path), json=body).status_code == 200, path


def test_a_technician_stops_and_handles_feeders_and_neither_feeds_nor_changes(farm: Farm, scene: Scene) -> None:
    with farm.hub.api(farm.hub.new_token("technician", scene.site.name)) as api:
        commands = scene.site.path("/commands"), scene.site.path("/feeders/f1/commands")
        for name in ("pause", "resume"):
            assert api.post(commands[1], json={"name": name}).status_code == 200, name
        dose = {"name": "feed", "args": {"grams": 100}}
        problem(api.post(commands[1], json=dose, headers={"Idempotency-Key": "k"}), 403, "not-allowed")
        assert api.post(commands[0], json={"name": "stop_all"}).status_code == 200
        problem(api.post(commands[0], json={"name": "release"}), 403, "not-allowed")
        problem(api.patch(scene.site.path(""), json={"name": "mine"}), 403, "not-allowed")
        assert api.post(scene.site.path("/credentials")).status_code == 200


def test_a_site_that_is_not_yours_does_not_exist_for_you(neighbours: httpx.Client, scene: Scene) -> None:
    command = scene.site.order("ping").json()["id"]
    told = [problem(neighbours.get(scene.site.path(path)), 404, "not-found") for path in READS]
    for method, path, body in (*CHANGES, *ADMINISTERS):
        told.append(problem(neighbours.request(method, scene.site.path(path), json=body), 404, "not-found"))
    problem(neighbours.get(f"/commands/{command}"), 404, "not-found")
    problem(neighbours.get("/events", params={"site": scene.site.name}), 404, "not-found")
    assert scene.site.name not in [item["site"] for item in neighbours.get("/sites").json()["items"]]
    assert scene.published() == []

    # Nothing tells it apart from a site that is not there at all.
    missing = problem(neighbours.get("/sites/no-such-site"), 404, "not-found")
    assert told[0] == {**missing, "detail": missing["detail"].replace("no-such-site", scene.site.name)}
    for method, path, body in CHANGES:
        problem(neighbours.request(method, f"/sites/no-such-site{path}", json=body), 404, "not-found")


def test_the_rights_of_a_sites_token_end_at_its_site(neighbours: httpx.Client) -> None:
    problem(neighbours.post("/sites", json={"site": "annexed"}), 403, "not-allowed")


def test_a_site_that_is_not_there_is_not_found_by_anybody(farm: Farm) -> None:
    for path in READS:
        problem(farm.api.get(f"/sites/no-such-site{path}"), 404, "not-found")
    for method, path, body in (*CHANGES, *ADMINISTERS):
        problem(farm.api.request(method, f"/sites/no-such-site{path}", json=body), 404, "not-found")
    problem(farm.api.get(f"/commands/{ANY_ULID}"), 404, "not-found")


def test_credentials_rotated_without_overlap_cut_the_old_connection_and_let_the_new_one_in(scene: Scene) -> None:
    rotated = scene.site.api.post(scene.site.path("/credentials?overlap=0")).raise_for_status().json()
    assert rotated["session_ended"] is True
    assert rotated["mqtt"]["username"] == scene.site.name
    assert scene.site.alive() is False
    scene.desktop.wait_cut_off()
    with pytest.raises(NotLetIn):
        scene.desktop.connect(within_s=0.5)
    scene.desktop.secret = rotated["mqtt"]["secret"]
    scene.desktop.connect()
    scene.farm.wait_known(scene.site)


def test_a_deleted_site_is_gone_with_its_connection(scene: Scene) -> None:
    answer = scene.site.api.delete(scene.site.path())
    assert (answer.status_code, answer.json()) == (
        200,
        {"site": scene.site.name, "session_ended": True, "to_do": None},
    )
    problem(scene.site.api.get(scene.site.path()), 404, "not-found")
    problem(scene.site.put_config(), 404, "not-found")
    scene.desktop.wait_cut_off()
