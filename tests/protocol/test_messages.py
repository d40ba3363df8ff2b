"""The contract's messages: the golden payloads read and written, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from hub.protocol.messages import (
    ARGUMENTS,
    Command,
    CommandName,
    Event,
    FeederConfig,
    Heartbeat,
    Offline,
    Reply,
    State,
    encode,
)

GOLDEN = Path(__file__).parent / "golden"
MODELS: dict[str, type[BaseModel]] = {
    "heartbeat": Heartbeat,
    "offline": Offline,
    "config": FeederConfig,
    "state": State,
    "event": Event,
    "command": Command,
    "reply": Reply,
}
ALL = sorted(path.name for path in GOLDEN.glob("*.json"))


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return content


def read(model: type[BaseModel], content: object) -> BaseModel:
    return model.model_validate_json(json.dumps(content))


def changed(name: str, path: str, value: object) -> dict[str, Any]:
    """The golden payload with one field set; `path` is dotted. Ellipsis removes it."""
    content = golden(name)
    *parents, last = path.split(".")
    part = content
    for parent in parents:
        part = part[parent]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return content


@pytest.mark.parametrize("file", ALL)
def test_a_golden_payload_is_read_and_written_again_as_it_was(file: str) -> None:
    payload = (GOLDEN / file).read_text()
    message = MODELS[file.split(".")[0]].model_validate_json(payload)
    assert json.loads(encode(message)) == json.loads(payload)


@pytest.mark.parametrize("file", ALL)
def test_unknown_fields_are_ignored_wherever_they_stand(file: str) -> None:
    def with_more(content: Any) -> Any:
        if isinstance(content, dict):
            return {name: with_more(value) for name, value in content.items()} | {"of_tomorrow": [1, {"x": None}]}
        return [with_more(item) for item in content] if isinstance(content, list) else content

    content = json.loads((GOLDEN / file).read_text())
    model = MODELS[file.split(".")[0]]
    if model is Command:
        more = content | {"of_tomorrow": 1}
        assert read(model, more) == read(model, content)
    elif file != "reply.stop_all.json":  # its feeders are named by their ids, so a name more is a feeder more
        assert read(model, with_more(content)) == read(model, content)


def test_every_command_has_its_arguments_and_a_golden_payload() -> None:
    names = {name for group in CommandName.__args__ for name in getattr(group, "__args__", (group,))}
    assert names == set(ARGUMENTS)
    for name in names:
        ARGUMENTS[name].model_validate_json(json.dumps(golden(f"command.{name}")["args"]))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("heartbeat", "online", False),
        ("heartbeat", "online", "true"),
        ("heartbeat", "online", 1),
        ("heartbeat", "session", ""),
        ("heartbeat", "session", "s" * 65),
        ("heartbeat", "session", 7),
        ("heartbeat", "session", ...),
        ("heartbeat", "seq", "7"),
        ("heartbeat", "seq", 7.5),
        ("heartbeat", "seq", True),
        ("heartbeat", "seq", -1),
        ("heartbeat", "seq", 2**53 + 1),
        ("heartbeat", "sent_at", "2026-03-01T06:00:00"),
        ("heartbeat", "sent_at", "today"),
        ("heartbeat", "interval_s", 0),
        ("heartbeat", "interval_s", "20"),
        ("heartbeat", "journal_id", ...),
        ("heartbeat", "plc", {"connected": "yes"}),
        ("state", "config", ...),
        ("state", "config.meal_g", "250"),
        ("state", "config.meal_g", True),
        ("state", "condition", "dancing"),
        ("state", "control", "hub"),
        ("state", "silo_g", -1),
        ("state", "config_version", 18.5),
        ("event", "id", "not-a-ulid"),
        ("event", "id", "01jabcdefghjkmnpqrstvwxyz1"),
        ("event", "kind", ""),
        ("event", "dispensed_g", -0.1),
        ("event", "at", None),
        ("reply.applied", "status", "done"),
        ("reply.applied", "status", "unknown"),
        ("reply.applied", "config.window", "06:00-19:30"),
        ("reply.dose", "dispensed_g", "249.6"),
        ("reply.report", "outcomes", {}),
        ("reply.stop_all", "feeders", {"F1": {"confirmed": True}}),
        ("reply.stop_all", "feeders", {"f1": True}),
        ("command.feed", "name", "explode"),
        ("command.feed", "args", [250]),
        ("command.feed", "stop_epoch", ...),
        ("command.feed", "expires_at", "2026-03-01 06:00"),
    ],
)
def test_a_field_of_a_wrong_type_or_out_of_its_range_is_refused(name: str, path: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        read(MODELS[name.split(".")[0]], changed(name, path, value))
    assert ".".join(map(str, refused.value.errors()[0]["loc"])).startswith(path)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        FeederConfig.model_validate_json(json.dumps(golden("config")).replace("250", text, 1))
    with pytest.raises(ValidationError):
        Reply.model_validate_json(json.dumps(golden("reply.dose")).replace("249.6", text, 1))


def test_a_will_and_a_heartbeat_are_never_taken_for_each_other() -> None:
    with pytest.raises(ValidationError):
        read(Offline, golden("heartbeat"))
    with pytest.raises(ValidationError):
        read(Heartbeat, golden("offline.will"))


def test_a_report_names_and_answers_at_most_a_hundred_commands() -> None:
    one = golden("reply.report")["outcomes"][0]
    read(Reply, changed("reply.report", "outcomes", [one] * 100))
    with pytest.raises(ValidationError):
        read(Reply, changed("reply.report", "outcomes", [one] * 101))
    read(ARGUMENTS["report"], {"commands": [one["id"]] * 100})
    with pytest.raises(ValidationError):
        read(ARGUMENTS["report"], {"commands": [one["id"]] * 101})


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        ("2026-03-01T06:00:00Z", "2026-03-01T06:00:00.000Z"),
        ("2026-03-01T08:00:00.1239+02:00", "2026-03-01T06:00:00.123Z"),
        ("2026-03-01T06:00:00.9999Z", "2026-03-01T06:00:00.999Z"),
        ("2026-02-28T23:30:00-06:30", "2026-03-01T06:00:00.000Z"),
    ],
)
def test_any_zone_is_read_and_utc_in_milliseconds_is_written(written: str, milliseconds: str) -> None:
    event = read(Event, changed("event", "at", written))
    assert json.loads(encode(event))["at"] == milliseconds


@pytest.mark.parametrize(
    ("start", "end"),
    [("06:00", "19:30"), ("22:00", "04:00"), ("00:00", "24:00"), ("23:59", "00:00"), ("00:00", "00:01")],
)
def test_a_window_may_cross_midnight_or_last_all_day(start: str, end: str) -> None:
    config = read(FeederConfig, changed("config", "window", {"start": start, "end": end}))
    assert isinstance(config, FeederConfig)
    assert (config.window.start, config.window.end) == (start, end)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("06:00", "06:00"),
        ("24:00", "06:00"),
        ("24:00", "24:00"),
        ("6:00", "19:30"),
        ("06:00", "24:01"),
        ("06:60", "19:30"),
        ("06:00:00", "19:30"),
        ("06:00", "19:30\n"),
        ("06:00Z", "19:30"),
        ("", "19:30"),
        (6, "19:30"),
        ("٠٦:٠٠", "19:30"),
    ],
)
def test_a_window_that_is_empty_or_no_time_of_day_is_refused(start: object, end: str) -> None:
    with pytest.raises(ValidationError):
        read(FeederConfig, changed("config", "window", {"start": start, "end": end}))


def test_a_payload_that_is_no_json_object_is_refused() -> None:
    for payload in (b"", b"null", b"[]", b"1", b'"online"', b"{", b"\xff\xfe", b"{'online': true}"):
        for model in MODELS.values():
            with pytest.raises(ValidationError):
                model.model_validate_json(payload)
