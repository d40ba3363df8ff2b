"""The OpenAPI 3.1 document, made from the declarations and models that route and validate the calls."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from http_api import problems
from http_api.doorkeeper import COOKIE
from http_api.operations import Operation
from http_api.schemas import ProblemView
from hub.protocol.topics import ID_PATTERN, ULID_PATTERN

Refs = Mapping[Any, dict[str, Any]]
"""(model, mode) -> where its schema stands."""

_REF: Final = "#/components/schemas/{model}"
_PATH_PARAMETERS: Final = {
    "site": {"type": "string", "pattern": ID_PATTERN},
    "feeder": {"type": "string", "pattern": ID_PATTERN},
    **{name: {"type": "string", "pattern": ULID_PATTERN} for name in ("command", "person", "login", "token")},
    "revision": {"type": "integer", "minimum": 1},
}
_HEADERS: Final = {
    "If-Match": "the ETag of what is changed, as it was read",
    "If-None-Match": "an ETag; 304 if the config is still that one",
    "Idempotency-Key": "a new one for each order; the same one when a request is repeated. Needed for `feed`",
    "Prefer": "`respond-async` (202 at once) or `wait=N` (at most N seconds)",
    "Last-Event-ID": "the id of the last event seen; what came after it is sent first",
}


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
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "login": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


def _operation(operation: Operation, refs: Refs) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.handle.__name__,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation, refs),
    }
    if operation.right is None:
        described["security"] = [{}, {"token": []}, {"login": []}]
    if operation.body is not None:
        schema = refs[operation.body, "validation"]
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    for name, schema in operation.query.model_json_schema().get("properties", {}).items():
        parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    for name in operation.headers:
        described = {"name": name, "in": "header", "required": False, "description": _HEADERS[name]}
        parameters.append(described | {"schema": {"type": "string"}})
    return parameters


def _responses(operation: Operation, refs: Refs) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, (description, model) in operation.answers.items():
        responses[str(status)] = {"description": description}
        if model is not None:
            responses[str(status)]["content"] = {"application/json": {"schema": refs[model, "serialization"]}}
            if operation.as_csv:
                responses[str(status)]["content"]["text/csv"] = {"schema": {"type": "string"}}
    possible = [problems.INVALID, *operation.problems]
    if operation.right is not None:
        possible += [problems.NO_LOGIN, problems.NOT_ALLOWED]
    if operation.body is not None:
        possible.append(problems.TOO_LARGE)
    for kind in possible:
        described = responses.setdefault(
            str(kind.status),
            {
                "description": HTTPStatus(kind.status).phrase + ":",
                "content": {problems.MEDIA_TYPE: {"schema": refs[ProblemView, "serialization"]}},
            },
        )
        described["description"] += f" `{kind.slug}` ({kind.title})"
    return responses
