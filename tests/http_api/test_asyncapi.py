"""The AsyncAPI document: valid, whole, and true of what a hub and a desktop really say to each other."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft7Validator

from hub.protocol.messages import ARGUMENTS
from hub.protocol.topics import Kind
from tests.end_to_end.external import NeedsProgram
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import Child, environment, until

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "protocol" / "golden"
OFFICIAL = json.loads((HERE / "asyncapi" / "3.0.0.json").read_text())


@pytest.fixture(scope="module")
def document(farm: Farm) -> dict[str, Any]:
    answer = httpx.get(f"{farm.hub.http_url}/api/v1/asyncapi.json").raise_for_status()
    assert answer.headers["Content-Type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def faults(document: dict[str, Any], message: str, payload: object) -> list[str]:
    """What the document says against a payload of that message."""
    schema = document["components"]["messages"][message]["payload"] | {"components": document["components"]}
    return [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(payload)]


def message_of(payload: dict[str, Any], kind: str) -> str:
    """Which message of the document a payload is, by the kind of its topic."""
    match kind:
        case "commands":
            return str(payload["name"])
        case "heartbeat":
            return "heartbeat" if payload["online"] else "offline"
        case "replies":
            return "reply"
    return kind.removesuffix("s")


def channel_of(document: dict[str, Any], topic: str) -> str:
    """The one channel whose address the topic fits."""
    found = [
        name
        for name, channel in document["channels"].items()
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", channel["address"]), topic)
    ]
    assert len(found) == 1, (topic, found)
    return found[0]


def test_it_is_valid_by_the_official_schema(document: dict[str, Any]) -> None:
    Draft7Validator.check_schema(OFFICIAL)
    assert [f"{error.json_path}: {error.message}" for error in Draft7Validator(OFFICIAL).iter_errors(document)] == []
    broken = document | {"channels": {"x": {"adress": "y"}}}
    assert not Draft7Validator(OFFICIAL).is_valid(broken)


def test_its_schemas_are_schemas_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
    for reference in re.findall(r'"\$ref": "(.*?)"', json.dumps(document)):
        found: Any = document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def test_every_topic_and_every_command_of_the_contract_is_there(document: dict[str, Any]) -> None:
    ends = {channel["address"].split("/")[-1].replace("{hub}", "replies") for channel in document["channels"].values()}
    assert ends == {str(kind) for kind in Kind}
    received = {name.removeprefix("receive_") for name in document["operations"] if name.startswith("receive_")}
    assert received == set(ARGUMENTS)


@pytest.mark.parametrize("file", sorted(path.name for path in GOLDEN.glob("*.json") if path.name != "config.json"))
def test_golden_payloads_fit_and_damaged_ones_do_not(document: dict[str, Any], file: str) -> None:
    payload = json.loads((GOLDEN / file).read_text())
    name = file.removesuffix(".json")
    message = name.removeprefix("command.") if name.startswith("command.") else name.split(".")[0]
    assert faults(document, message, payload) == []
    needed = next(name for name in ("id", "session", "journal_id") if name in payload)
    assert faults(document, message, payload | {needed: 5})
    if name.startswith("command."):
        other = "feed" if message != "feed" else "ping"
        assert faults(document, other, payload), "a command is none of another name"


def test_what_a_hub_and_a_desktop_really_say_fits(
    document: dict[str, Any], farm: Farm, needs_program: NeedsProgram, tmp_path: Path
) -> None:
    site = farm.new_site()
    login = farm.hub.cli_json("monitor", "add", site.name, "--site", site.name)["mqtt"]
    command = [
        *(needs_program("mosquitto_sub"), "-h", "127.0.0.1", "-p", str(farm.hub.mqtt_port), "-v", "-q", "1"),
        *("-u", login["username"], "-P", login["secret"], "-t", f"fh/v1/{site.name}/#"),
    ]
    reader = Child(command, tmp_path / "heard", environment({}))

    def heard() -> dict[str, list[tuple[str, dict[str, Any]]]]:
        """By message, (channel, payload)."""
        found = defaultdict(list)
        for text in reader.output.read_text().splitlines():
            topic, _, payload = text.partition(" ")
            told = json.loads(payload) if payload.endswith("}") else None  # the last line may not be whole yet
            if told is not None:
                kind = topic.split("/")[3] if topic.split("/")[3] != "feeders" else topic.split("/")[5]
                found[message_of(told, kind)].append((channel_of(document, topic), told))
        return found

    try:
        desktop = farm.simulated_farm(site)
        until(lambda: heard()["heartbeat"])
        site.put_config(meal_g=300).raise_for_status()
        site.feed("f1", 20, "dose").raise_for_status()
        path = site.path("/feeders/f1/commands")
        for name in ("pause", "resume", "calibrate"):
            assert "Command-Id" in farm.api.post(path, json={"name": name}).headers, "it was sent"
        for name in ("stop_all", "release", "ping", "report"):
            assert "Command-Id" in site.order(name).headers
        until(lambda: heard()["ack_events"], within_s=15)
        desktop.stop()
        until(lambda: heard()["offline"])
        told = heard()
    finally:
        reader.stop()
    assert set(told) == set(document["components"]["messages"]), "every message was said"
    for message, said in told.items():
        for channel, payload in said:
            assert message in document["channels"][channel]["messages"], (channel, message)
            assert faults(document, message, payload) == [], (message, payload)
