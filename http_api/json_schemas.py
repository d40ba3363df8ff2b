"""What models say in JSON Schema beyond what pydantic makes of them."""

from collections.abc import Callable
from typing import Any, Final

from hub.protocol.messages import ARGUMENTS, NoArguments

_OF_THE_HUBS_OWN: Final = frozenset({"ping", "report"})
"""Commands whose arguments the hub itself makes."""


def without_null(schema: dict[str, Any]) -> None:
    """In a merge patch null takes a field away, and a config without it is none: what is optional is no null."""
    for name, described in schema["properties"].items():
        described.pop("default", None)
        schema["properties"][name] = not_null(described)


def not_null(described: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of what is optional, without the null that Python has for it when it is not there."""
    choices: list[dict[str, Any]] = [one for one in described.get("anyOf", ()) if one != {"type": "null"}]
    if len(choices) != 1:
        return described
    return choices[0] | {name: value for name, value in described.items() if name != "anyOf"}


def arguments_by_name(*names: str) -> Callable[[dict[str, Any]], None]:
    """States in the JSON Schema of a command's body which arguments each name has."""

    def state(schema: dict[str, Any]) -> None:
        schema["properties"]["args"].pop("additionalProperties", None)
        schema["oneOf"] = [
            {
                "title": name,
                "properties": {"name": {"const": name}, "args": arguments},
                "required": ["name", *(["args"] if "required" in arguments else [])],
            }
            for name in names
            for arguments in [_arguments(name)]
        ]

    return state


def _arguments(name: str) -> dict[str, Any]:
    model = ARGUMENTS[name] if name not in _OF_THE_HUBS_OWN else NoArguments
    described = model.model_json_schema()
    return {
        "type": "object",
        **{key: described[key] for key in ("properties", "required") if described.get(key)},
        "additionalProperties": False,
    }
