"""The OpenAPI 3.1 document, built from the route table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from api.ids import JOB_ID_PATTERN, RUN_ID_PATTERN
from api.jobs.fields import NAME_PATTERN
from api.parameters import Parameter
from api.problems import CONTENT_TYPE, PROBLEMS, RETRIED_CODES
from api.route import Route
from api.schemas import SCHEMAS, TEXT, WHOLE, reference
from api.seats import MEMBER_PATTERN
from storage.limits import IDEMPOTENCY_KEY_CHARS_MAX

_PATH_PART = re.compile(r"\{(\w+)\}")
_PART_PATTERNS = {
    "job": JOB_ID_PATTERN,
    "run": RUN_ID_PATTERN,
    "member": MEMBER_PATTERN,
    "namespace": NAME_PATTERN,
    "name": NAME_PATTERN,
}


def build_document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Return the document of these routes as plain objects."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cronclave",
            "version": version,
            "description": "The HTTP API of a node. Any node answers for the whole cluster.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "x-cronclave-role": route.role,
        "responses": _responses(route),
    }
    parameters = [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        schema = reference(route.request)
        content = {media_type: {"schema": schema} for media_type in route.media_types}
        operation["requestBody"] = {"required": not route.request_optional, "content": content}
    return operation


def operation_id(route: Route) -> str:
    """Return a name for generated clients: the handler's, by what finds the job."""
    name = getattr(route.handler, "__name__", "")
    by_name = "_by_name" if "{namespace}" in route.path else ""
    return f"{'head_' if route.method == 'HEAD' else ''}{name}{by_name}"


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": part,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{_PART_PATTERNS[part]}$"},
        }
        for part in _PATH_PART.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    return [_query_parameter(parameter) for parameter in route.all_parameters]


def _query_parameter(parameter: Parameter) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }
    if parameter.repeatable:
        shown["schema"] = {"type": "array", "items": dict(parameter.schema)}
    return shown


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    headers = []
    if route.method == "POST":
        detail = "The same key and request take effect once, and get the same answer, for 24 h."
        schema = TEXT | {"minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS_MAX}
        headers.append(_header("Idempotency-Key", detail, schema))
    if route.conditional:
        headers.append(_header("If-Match", "Only if the job has this entity tag.", TEXT))
    if route.method == "PUT":
        headers.append(_header("If-None-Match", "`*`: only if the job does not exist.", TEXT))
    return headers


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, schema in sorted(route.answers.items()):
        responses[str(status)] = _answer(route, schema)
    codes: dict[int, list[str]] = {}
    for code in route.all_codes:
        codes.setdefault(PROBLEMS[code][0], []).append(code)
    for status, known in sorted(codes.items()):
        responses[str(status)] = _problem(known)
    return responses


def _answer(route: Route, schema: str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "Done."}
    if route.versioned:
        answer["headers"] = {"X-Cronclave-Index": {"schema": WHOLE}}
    if schema is not None:
        answer["content"] = {route.answer_type: {"schema": reference(schema)}}
    elif route.answer_type != "application/json":
        answer["content"] = {route.answer_type: {"schema": TEXT}}
    return answer


def _problem(codes: list[str]) -> dict[str, Any]:
    titles = "; ".join(f"`{code}`: {PROBLEMS[code][1]}" for code in codes)
    answer: dict[str, Any] = {
        "description": f"{titles}.",
        "content": {CONTENT_TYPE: {"schema": reference("Problem")}},
    }
    if RETRIED_CODES & set(codes):
        answer["headers"] = {"Retry-After": {"schema": WHOLE}}
    return answer
