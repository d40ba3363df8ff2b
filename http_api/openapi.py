"""The OpenAPI 3.1 document, made from the declarations and models that route and validate the calls."""

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from http_api import problems
from http_api.doorkeeper import COOKIE
from http_api.json_schemas import not_null
from http_api.links import links_of
from http_api.operations import ULID_NAMES, Operation
from http_api.problems import Problem
from http_api.schemas import Page, ProblemView
from hub.protocol.topics import ID_PATTERN, ULID_PATTERN
from hub.rights import RIGHTS, Right

Refs = Mapping[Any, dict[str, Any]]
"""(model, mode) -> where its schema stands."""

_REF: Final = "#/components/schemas/{model}"
_PATH_PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "site": {"type": "string", "pattern": ID_PATTERN, "examples": ["pond7"]},
    "feeder": {"type": "string", "pattern": ID_PATTERN, "examples": ["f1"]},
    **{name: {"type": "string", "pattern": ULID_PATTERN} for name in sorted(ULID_NAMES)},
    "revision": {"type": "integer", "minimum": 1},
}
_HEADERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "If-Match": ("the ETag of what the change is made upon", {}),
    "If-None-Match": ("an ETag; 304 if it is still that one", {}),
    "Idempotency-Key": (
        "a new one for each order; the same one when a request is repeated. Needed for `feed`",
        {"pattern": r"^[\x21-\x7e]{1,200}$"},
    ),
    "Prefer": ("`respond-async` (202 at once) or `wait=N` (at most N seconds)", {"examples": ["wait=5"]}),
    "Last-Event-ID": ("the id of the last event seen; what came after it is sent first", {}),
}
"""Headers of requests: what they mean, and what their schema has beside `type: string`."""
_SENT_HEADERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "ETag": ("names the config as it is now: for If-Match, If-None-Match", {"type": "string"}),
    "Location": ("where to ask", {"type": "string", "format": "uri-reference"}),
    "Link": ('the next page: `<…>; rel="next"`', {"type": "string"}),
    "Command-Id": ("of the command that was made", {"type": "string", "pattern": ULID_PATTERN}),
    "Retry-After": ("seconds", {"type": "integer", "minimum": 0}),
    "Set-Cookie": ("the login, for browsers", {"type": "string"}),
    "WWW-Authenticate": ("how to log in", {"type": "string"}),
}
_OF_STATUS: Final[Mapping[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
"""Headers that such an answer has whatever the call."""


def document(operations: Sequence[Operation], version: str, prefix: str) -> dict[str, Any]:
    """The whole document as JSON data."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ProblemView, "serialization")]
    for operation in operations:
        models += [(model, "serialization") for _, model in operation.answers.values() if model is not None]
        if operation.body is not None:
            models.append((operation.body, "validation"))
    refs, definitions = models_json_schema(list(dict.fromkeys(models)), ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(prefix + operation.path, {})[operation.method.lower()] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Feeder Hub",
            "version": version,
            "description": "Fish farms, fed from afar: every command ends in a known truth, read back from the PLC.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"login": []}],
        "tags": _tags(operations),
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "headers": {
                name: {"description": text, "schema": schema} for name, (text, schema) in _SENT_HEADERS.items()
            },
            "examples": {kind.slug: _example(kind) for kind in _kinds(operations)},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`feeder-hub token add` makes one. It may be revoked; 401 then.",
                },
                "login": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Of who has logged in."},
            },
        },
    }


def _tags(operations: Sequence[Operation]) -> list[dict[str, Any]]:
    """One for each file of calls, with what it says of itself."""
    modules = dict.fromkeys(operation.handle.__module__ for operation in operations)
    return [{"name": _tag(module), "description": inspect.getdoc(sys.modules[module]) or ""} for module in modules]


def _tag(module: str) -> str:
    return module.rpartition(".")[2]


def _operation(operation: Operation, refs: Refs) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [_tag(operation.handle.__module__)],
        "summary": operation.summary,
        "description": " ".join(filter(None, [inspect.getdoc(operation.handle), _who_may(operation)])),
        "parameters": _parameters(operation),
        "responses": _responses(operation, refs),
    }
    if operation.right is None:
        described["security"] = [{}, {"token": []}, {"login": []}]
    if operation.body is not None:
        schema = refs[operation.body, "validation"]
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _who_may(operation: Operation) -> str:
    if operation.right is None:
        return "Needs no right."
    where = "hub-wide" if operation.hub_wide else "at the site" if "{site}" in operation.path else "at some site"
    return f"Needs the right to `{operation.right}` {where}: {_roles(operation.right)}."


def _roles(right: Right) -> str:
    return ", ".join(role for role, rights in RIGHTS.items() if right in rights)


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    for name, schema in operation.query.model_json_schema().get("properties", {}).items():
        described = {key: value for key, value in not_null(schema).items() if (key, value) != ("default", None)}
        parameters.append({"name": name, "in": "query", "required": False, "schema": described})
    for name in operation.headers:
        meaning, more = _HEADERS[name]
        described = {"name": name, "in": "header", "required": False, "description": meaning}
        parameters.append(described | {"schema": {"type": "string", **more}})
    return parameters


def _responses(operation: Operation, refs: Refs) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, (description, model) in operation.answers.items():
        responses[str(status)] = {"description": description}
        if model is not None:
            schema = refs[model, "serialization"]
            responses[str(status)]["content"] = {operation.media_type: {"schema": schema}}
            if operation.as_csv:
                responses[str(status)]["content"]["text/csv"] = {"schema": {"type": "string"}}
    for kind in _problems(operation):
        described = responses.setdefault(
            str(kind.status),
            {
                "description": HTTPStatus(kind.status).phrase + ":",
                "content": {problems.MEDIA_TYPE: {"schema": refs[ProblemView, "serialization"], "examples": {}}},
            },
        )
        described["description"] += f" `{kind.slug}` ({kind.title})"
        examples = described["content"][problems.MEDIA_TYPE]["examples"]
        examples[kind.slug] = {"$ref": f"#/components/examples/{kind.slug}"}
    for text, response in responses.items():
        number = int(text)
        names = [*operation.sends.get(number, ()), *_OF_STATUS.get(number, ())]
        if operation.method == "GET" and _is_page(operation.answers.get(number, ("", None))[1]):
            names.append("Link")
        if names:
            response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
        _, model = operation.answers.get(number, ("", None))
        if links := links_of(model):
            response["links"] = links
    return responses


def _is_page(model: type[BaseModel] | None) -> bool:
    return model is not None and issubclass(model, Page)


def _problems(operation: Operation) -> list[Problem]:
    possible = [problems.INVALID, problems.TOO_MANY, *operation.problems]
    if operation.right is not None:
        possible = [problems.NO_LOGIN, problems.NOT_ALLOWED, *possible]
    if operation.body is not None:
        possible += [problems.TOO_LARGE, problems.REQUEST_TIMEOUT]
    if problems.DATABASE_UNREACHABLE not in possible:
        possible.append(problems.DATABASE_UNREACHABLE)
    return list(dict.fromkeys(possible))


def _kinds(operations: Sequence[Operation]) -> list[Problem]:
    return list(dict.fromkeys(kind for operation in operations for kind in _problems(operation)))


def _example(kind: Problem) -> dict[str, Any]:
    body = {"type": kind.type, "title": kind.title, "status": kind.status, "detail": "What is wrong, and what to do."}
    return {"summary": kind.title, "value": body}
