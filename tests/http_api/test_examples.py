"""The examples of the OpenAPI document are true: each is sent, and its answer is what the document says."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.http_api.document import Described, described_hub

NEVER_ENDS = "follow_events"
NOT_DONE = {"close_command": (409,), "claim_site": (404,)}
"""Nothing here is unresolved, and nobody has made that code."""
OF_ONESELF = "/api/v1/session"
"""Calls below it are about a person who is logged in; all others are made with a token."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    with described_hub(tmp_path_factory.mktemp("hub")) as described:
        yield described


def check_answer(hub: Described, operation: dict[str, Any], answer: httpx.Response) -> None:
    """Its status, its headers and its body are the documented ones."""
    described = operation["responses"][str(answer.status_code)]
    headers = {name: hub.resolved(header)["schema"] for name, header in described.get("headers", {}).items()}
    for name, schema in headers.items():
        if answer.is_success and name != "Link":  # the last page has none
            assert name in answer.headers, (operation["operationId"], name)
        if name in answer.headers:
            value = int(answer.headers[name]) if schema["type"] == "integer" else answer.headers[name]
            Draft202012Validator(schema).validate(value)
    for name in hub.document["components"]["headers"]:
        assert (name in answer.headers) <= (name in headers), (operation["operationId"], name)
    if not answer.content:
        assert "content" not in described
        return
    (media_type, content), *_ = described["content"].items()
    assert answer.headers["Content-Type"] == media_type
    Draft202012Validator(content["schema"] | {"components": hub.document["components"]}).validate(answer.json())


def with_bodies(hub: Described) -> Iterator[tuple[str, str, dict[str, Any], list[Any]]]:
    for path, method, operation in hub.operations():
        if "requestBody" in operation:
            schema = hub.resolved(operation["requestBody"]["content"]["application/json"]["schema"])
            yield path, method, operation, schema.get("examples", [])


def names_of(hub: Described) -> dict[str, str]:
    """What stands for each parameter of a path."""
    ping = hub.site.order("ping").raise_for_status().json()["id"]
    rollout = {"selection": {"feeders": [f"{hub.site.name}/f1"]}, "change": {"command": "resume"}}
    started = hub.farm.api.post("/rollouts", json=rollout).raise_for_status().json()["id"]
    return {"site": hub.site.name, "feeder": "f1", "command": ping, "person": hub.anna, "rollout": started}


def test_every_body_has_an_example(hub: Described) -> None:
    for path, method, _, examples in with_bodies(hub):
        assert examples, f"{method} {path} shows none"


def test_every_example_is_taken_and_answered_as_documented(hub: Described) -> None:
    names, sent = names_of(hub), 0
    with hub.browser() as browser:
        for path, method, operation, examples in with_bodies(hub):
            for example in examples:
                client = browser if path.startswith(OF_ONESELF) else hub.farm.api
                url = f"{hub.farm.hub.http_url}{path.format(**names)}"
                answer = client.request(method, url, json=example, headers={"Idempotency-Key": f"example-{sent}"})
                check_answer(hub, operation, answer)
                expected = NOT_DONE.get(operation["operationId"], (200, 201, 204))
                assert answer.status_code in expected, (path, example, answer.text)
                sent += 1
    assert sent > 20


def test_each_call_that_reads_is_answered_as_documented(hub: Described) -> None:
    hub.site.put_config(meal_g=260).raise_for_status()
    hub.site.feed("f2", 20, "dose").raise_for_status()
    names = names_of(hub)
    with hub.browser() as browser:
        for path, method, operation in hub.operations():
            if method == "get" and operation["operationId"] != NEVER_ENDS:
                client = browser if path.startswith(OF_ONESELF) else hub.farm.api
                answer = client.get(f"{hub.farm.hub.http_url}{path.format(**names)}").raise_for_status()
                check_answer(hub, operation, answer)


def test_what_goes_on_is_answered_202_with_where_to_ask(hub: Described) -> None:
    answer = hub.site.put_config(headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    put = hub.by_id()["put_config"]
    check_answer(hub, put, answer)
    link = put["responses"]["202"]["links"]["get_command"]
    assert link["parameters"] == {"command": "$response.body#/command_id"}
    followed = hub.farm.api.get(f"/commands/{answer.json()['command_id']}")
    check_answer(hub, hub.by_id()["get_command"], followed)
    hub.site.settled(answer.json()["command_id"])


def test_links_lead_to_calls_that_have_their_parameters(hub: Described) -> None:
    by_id = hub.by_id()
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
