"""The OpenAPI document: its structure, and that it tells of what is really there."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.end_to_end.farm import Farm
from tests.http_api.conftest import Scene

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@pytest.fixture(scope="module")
def document(farm: Farm) -> dict[str, Any]:
    answer = httpx.get(f"{farm.hub.http_url}/api/v1/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def everywhere(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from everywhere(inner)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"]
    assert document["info"]["version"]
    assert set(document) <= {"openapi", "info", "servers", "paths", "components", "security", "tags"}
    assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = [part["$ref"] for part in everywhere(document) if isinstance(part.get("$ref"), str)]
    assert references
    for reference in set(references):
        assert reference.startswith("#/"), reference
        found: Any = document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name.replace("~1", "/").replace("~0", "~")]
        assert isinstance(found, dict)
    used = {reference.rpartition("/")[2] for reference in references}
    assert used == set(document["components"]["schemas"]), "no schema is there in vain"


def test_every_operation_is_described_whole(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for path, method, operation in operations(document):
        assert method in METHODS
        assert operation["summary"]
        in_path = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        assert all(each["required"] for each in operation["parameters"] if each["in"] == "path")
        assert all("schema" in each for each in operation["parameters"])
        assert ("requestBody" in operation) <= (method in ("put", "patch", "post"))
        needs_no_login = {} in operation.get("security", [])
        assert needs_no_login or {"401", "403"} <= set(operation["responses"])
        assert any(status.startswith("2") for status in operation["responses"])
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
            if status.startswith(("4", "5")):
                assert set(response["content"]) == {"application/problem+json"}


def test_limits_stand_in_the_schemas(document: dict[str, Any]) -> None:
    config = document["components"]["schemas"]["ConfigBody"]["properties"]
    assert (config["meal_g"]["minimum"], config["meal_g"]["maximum"]) == (1, 20_000)
    assert (config["interval_s"]["minimum"], config["interval_s"]["maximum"]) == (60, 86_400)


def test_every_operation_is_really_there(document: dict[str, Any], scene: Scene) -> None:
    api = scene.site.api
    names = {"site": scene.site.name, "feeder": "f1", "command": scene.site.order("ping").json()["id"]}
    assert scene.site.put_config().status_code == 200
    names["revision"] = scene.site.get("/feeders/f1/config/revisions")["items"][0]["revision"]
    body = {"login": "of-the-document", "name": "x", "password": "correct horse battery"}
    names["person"] = api.post("/people", json=body).json()["id"]
    names["token"] = api.post("/tokens", json={"name": "x", "role": "viewer"}).json()["id"]
    names["login"] = names["token"]  # a token has no logins: 403
    listed = sorted(operations(document), key=lambda each: each[1] == "delete")  # what deletes the site comes last
    for path, method, operation in listed:
        if path.endswith("/events") and "feeder" not in path:
            continue  # the stream, which does not end
        url = str(api.base_url).replace("/api/v1/", "") + path.format(**names)
        answer = api.request(method, url)
        assert answer.status_code not in (404, 405), (method, path)
        assert str(answer.status_code) in operation["responses"], (method, path, answer.text)


def test_what_is_there_is_in_the_document(document: dict[str, Any]) -> None:
    told = json.dumps(sorted(document["paths"]))
    for name in ("config", "commands", "liveness", "presence", "events", "credentials", "revisions", "diagnostics"):
        assert f"/{name}" in told
