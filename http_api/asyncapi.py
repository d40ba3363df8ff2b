"""The AsyncAPI 3 document of the MQTT contract, as a farm's desktop sees it: from the models and topics of the hub."""

import inspect
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from hub.protocol.messages import ARGUMENTS, FEEDER_COMMANDS, Command, Event, Heartbeat, Offline, Reply, State
from hub.protocol.topics import ID_PATTERN, PUBLISHED_BY_SITE, RETAINED, Kind, Topics

_REF: Final = "#/components/schemas/{model}"
_READ: Final[JsonSchemaMode] = "validation"
_BINDING: Final = {"qos": 1, "bindingVersion": "0.2.0"}
_PARAMETERS: Final = {
    "site": f"The site's id, which is the desktop's MQTT user name and client id: {ID_PATTERN}",
    "feeder": f"The feeder's id: {ID_PATTERN}",
    "hub": "The hub process that waits for the reply; a command's `reply_to` is the whole topic",
}
SITE, FEEDER, HUB = "{site}", "{feeder}", "{hub}"
_SAID: Final[Mapping[Kind, tuple[type[BaseModel], ...]]] = {
    Kind.HEARTBEAT: (Heartbeat, Offline),
    Kind.STATE: (State,),
    Kind.EVENTS: (Event,),
    Kind.REPLIES: (Reply,),
}
"""What a desktop publishes on topics of each kind."""


def asyncapi_document(topics: Topics, version: str) -> dict[str, Any]:
    """The whole document as JSON data."""
    models: list[type[BaseModel]] = [
        Command,
        *dict.fromkeys(ARGUMENTS.values()),
        *(model for said in _SAID.values() for model in said),
    ]
    _, definitions = models_json_schema([(model, _READ) for model in models], ref_template=_REF)
    channels = _channels(topics)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Feeder Hub: a farm's desktop",
            "version": version,
            "description": (
                "What the desktop of a farm sends and receives. JSON, UTF-8; numbers are JSON numbers, times RFC 3339 "
                "in UTC. Fields that are not known are ignored. docs/desktop-developer.md says what it all means."
            ),
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"mqtt": _server("mqtt", "1883", topics), "mqtts": _server("mqtts", "8883", topics)},
        "channels": channels,
        "operations": _operations(channels),
        "components": {
            "schemas": definitions["$defs"],
            "messages": _messages(),
            "securitySchemes": {
                "credentials": {"type": "userPassword", "description": "What `feeder-hub site add` printed."}
            },
        },
    }


def _server(protocol: str, port: str, topics: Topics) -> dict[str, Any]:
    return {
        "host": "{host}:{port}",
        "protocol": protocol,
        "protocolVersion": "3.1.1",
        "variables": {"host": {"default": "localhost"}, "port": {"default": port}},
        "security": [{"$ref": "#/components/securitySchemes/credentials"}],
        "bindings": {
            "mqtt": {
                "clientId": SITE,
                "cleanSession": True,
                "lastWill": {
                    "topic": topics.heartbeat(SITE),
                    "qos": 1,
                    "retain": True,
                    "message": '{"online": false, "session": "new for each connection"}',
                },
                "bindingVersion": "0.2.0",
            }
        },
    }


def _channels(topics: Topics) -> dict[str, Any]:
    site_commands = [name for name in ARGUMENTS if name not in FEEDER_COMMANDS]
    return {
        "heartbeat": _channel(topics.heartbeat(SITE), _names(Kind.HEARTBEAT)),
        "state": _channel(topics.state(SITE, FEEDER), _names(Kind.STATE)),
        "events": _channel(topics.events(SITE, FEEDER), _names(Kind.EVENTS)),
        "replies": _channel(topics.replies(SITE, HUB), _names(Kind.REPLIES)),
        "feeder_commands": _channel(topics.commands(SITE, FEEDER), [n for n in ARGUMENTS if n in FEEDER_COMMANDS]),
        "site_commands": _channel(topics.commands(SITE), site_commands),
    }


def _names(kind: Kind) -> list[str]:
    return [model.__name__.lower() for model in _SAID[kind]]


def _channel(address: str, messages: list[str]) -> dict[str, Any]:
    return {
        "address": address,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "parameters": {name: {"description": text} for name, text in _PARAMETERS.items() if f"{{{name}}}" in address},
    }


def _operations(channels: Mapping[str, Any]) -> dict[str, Any]:
    operations: dict[str, Any] = {}
    for kind in Kind:
        if kind in PUBLISHED_BY_SITE and kind is not Kind.REPLIES:
            operations[f"send_{kind}"] = {
                "action": "send",
                "channel": {"$ref": f"#/channels/{kind}"},
                "bindings": {"mqtt": {**_BINDING, "retain": kind in RETAINED}},
            }
    reply = {
        "address": {"location": "$message.payload#/reply_to"},
        "channel": {"$ref": "#/channels/replies"},
    }
    for channel in ("feeder_commands", "site_commands"):
        for name in channels[channel]["messages"]:
            operations[f"receive_{name}"] = {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{channel}"},
                "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"}],
                "reply": reply,
                "bindings": {"mqtt": _BINDING},
            }
    return operations


def _messages() -> dict[str, Any]:
    """One for each model that a desktop says, and one for each command."""
    said = {
        model.__name__.lower(): _message(model, {"$ref": _REF.format(model=model.__name__)})
        for models in _SAID.values()
        for model in models
    }
    return said | {name: _command(name, arguments) for name, arguments in ARGUMENTS.items()}


def _command(name: str, arguments: type[BaseModel]) -> dict[str, Any]:
    args = {"$ref": _REF.format(model=arguments.__name__)}
    narrowed: dict[str, Any] = {"type": "object", "properties": {"name": {"const": name}, "args": args}}
    if any(field.is_required() for field in arguments.model_fields.values()):
        narrowed["required"] = ["args"]
    message = _message(arguments, {"allOf": [{"$ref": _REF.format(model="Command")}, narrowed]})
    return message | {"name": name, "correlationId": {"location": "$message.payload#/id"}}


def _message(model: type[BaseModel], payload: dict[str, Any]) -> dict[str, Any]:
    return {"name": model.__name__, "summary": inspect.getdoc(model), "payload": payload}
