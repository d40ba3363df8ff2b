"""The examples of the OpenAPI document are true: each is sent, and its answer is what the document says."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.end_to_end.farm import Farm, Site
from tests.http_api.conftest import Scene
from tests.http_api.document import resolved


@pytest.fixture(scope="module")
def document(farm: Farm) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{farm.hub.http_url}/api/v1/openapi.json").raise_for_status().json()
    return found


def check_answer(document: dict[str, Any], operation: dict[str, Any], answer: httpx.Response) -> None:
    """Its status, its headers and its body are the documented ones."""
    described = operation["responses"][str(answer.status_code)]
    for name, header in described.get("headers", {}).items():
        if answer.is_success:
            assert name in answer.headers, (operation["operationId"], name)
        if name in answer.headers:
            schema = resolved(document, header)["schema"]
            value = int(answer.headers[name]) if schema["type"] == "integer" else answer.headers[name]
            Draft202012Validator(schema).validate(value)
    for name in ("ETag", "Location", "Link", "Command-Id", "Retry-After"):
        assert (name in answer.headers) <= (name in described.get("headers", {})), (operation["operationId"], name)
    if not answer.content:
        assert "content" not in described
        return
    (media_type, content), *_ = described["content"].items()
    assert answer.headers["Content-Type"] == media_type
    Draft202012Validator(content["schema"] | {"components": document["components"]}).validate(answer.json())


def requests_with_bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], list[Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "requestBody" in operation:
                schema = resolved(document, operation["requestBody"]["content"]["application/json"]["schema"])
                yield path, method, operation, schema.get("examples", [])


def test_every_body_has_an_example(document: dict[str, Any]) -> None:
    for path, method, _, examples in requests_with_bodies(document):
        assert examples, f"{method} {path} shows none"


def path_of(path: str, site: Site, command: str) -> str:
    return path.removeprefix("/api/v1").format(site=site.name, feeder="f1", command=command)


def test_every_example_is_taken_and_answered_as_documented(document: dict[str, Any], scene: Scene) -> None:
    sent = 0
    ping = scene.site.order("ping").json()["id"]
    for path, method, operation, examples in requests_with_bodies(document):
        for example in examples:
            answer = scene.farm.api.request(
                method,
                path_of(path, scene.site, ping),
                json=example,
                headers={"Idempotency-Key": f"{scene.site.name}-{sent}"},
            )
            check_answer(document, operation, answer)
            if path.endswith("/close"):  # nothing here is unresolved
                assert answer.status_code == 409, answer.text
            else:
                assert answer.status_code in (200, 201, 204), (path, example, answer.text)
            sent += 1
    assert sent > 10


def test_an_answer_to_each_call_that_reads_is_as_documented(document: dict[str, Any], scene: Scene) -> None:
    scene.site.put_config(meal_g=260).raise_for_status()
    scene.site.feed("f1", 20, f"{scene.site.name}-dose").raise_for_status()
    ping = scene.site.order("ping").json()["id"]
    for path, methods in document["paths"].items():
        if "get" in methods and path != "/api/v1/events":
            answer = scene.farm.api.get(path_of(path, scene.site, ping)).raise_for_status()
            check_answer(document, methods["get"], answer)


def test_what_goes_on_is_answered_202_with_its_location(document: dict[str, Any], scene: Scene) -> None:
    answer = scene.site.put_config(headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    check_answer(document, document["paths"]["/api/v1/sites/{site}/feeders/{feeder}/config"]["put"], answer)
    link = document["paths"]["/api/v1/sites/{site}/feeders/{feeder}/config"]["put"]["responses"]["202"]["links"]
    assert link["get_command"]["parameters"] == {"command": "$response.body#/command_id"}
    followed = scene.farm.api.get(f"/commands/{answer.json()['command_id']}")
    check_answer(document, document["paths"]["/api/v1/commands/{command}"]["get"], followed)


def test_links_lead_to_calls_that_have_their_parameters(document: dict[str, Any]) -> None:
    by_id = {each["operationId"]: each for methods in document["paths"].values() for each in methods.values()}
    links = [
        (name, link)
        for operation in by_id.values()
        for response in operation["responses"].values()
        for name, link in response.get("links", {}).items()
    ]
    assert links
    for name, link in links:
        needed = {each["name"] for each in by_id[link["operationId"]]["parameters"] if each["required"]}
        assert needed == set(link["parameters"]), name
