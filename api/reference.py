"""The reference page of the HTTP API, written from the route table and the schemas.

`docs/reference-api.md` is what this module returns; a test compares the two, and writes
the page anew when it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from api.calls import JSON
from api.problems import PROBLEMS
from api.route import Route
from api.schemas import SCHEMAS

_INTRODUCTION = """\
# HTTP API

This page is written from the route table; `GET /openapi.json` of any node says the same to \
programs.

A `{job}` is the id of a job, 32 hexadecimal digits. Every route of a job exists a second time \
with `{namespace}/{name}` in its place; `PUT` by name creates the job if it does not exist.

Every answer carries `X-Request-Id` (yours, if you sent one) and `X-Cronclave-Index`, the log \
index that it shows, and without a quorum `X-Cronclave-Stale: true`. Every route below `/v1` takes \
`min_index` (answer once this index is applied here) and `consistency` (`local` or \
`linearizable`). A `POST` with an `Idempotency-Key` takes effect once and gets the same answer for \
24 hours. Lists take `limit` and `cursor`, and answer with `items`, `next_cursor` and a `Link`.

Times are RFC 3339, in UTC with milliseconds on the way out; durations are `90s`, `1h30m`, `250ms`.
"""

_COMMON = frozenset({"min_index", "consistency", "limit", "cursor"})


def render_reference(routes: Sequence[Route]) -> str:
    """Return the page as Markdown."""
    sections = [
        _INTRODUCTION,
        "## Routes\n\n" + _table(("route", "role", "answers", "what it does"), _routes(routes)),
        "## Parameters\n\n" + _table(("parameter", "of", "meaning"), _parameters(routes)),
        "## A job\n\n" + _table(("member", "form", "default"), _members("Job")),
        "What only the cluster sets: "
        + ", ".join(f"`{name}`" for name in _only_shown())
        + ". These may be sent back where a job is replaced, as they were read.\n",
        "## Problems\n\nEvery failure is an `application/problem+json` document (RFC 9457) with"
        " a `code`, a `request_id` and, in `errors`, each fault with its pointer.\n\n"
        + _table(("code", "status", "meaning"), _problems()),
    ]
    return "\n".join(sections)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _routes(routes: Sequence[Route]) -> Iterator[Sequence[str]]:
    for route in routes:
        if "{namespace}" in route.path or route.method == "HEAD":
            continue
        answers = ", ".join(_answer(route, status) for status in route.answers)
        yield f"`{route.operation}`", route.role, answers, _sentence(route)


def _answer(route: Route, status: int) -> str:
    schema = route.answers[status]
    kind = schema or ("" if route.answer_type == JSON else route.answer_type)
    return f"{status} {kind}".strip()


def _sentence(route: Route) -> str:
    conditional = "; honours `If-Match`" if route.conditional else ""
    return f"{route.summary}{conditional}".replace("|", "\\|")


def _parameters(routes: Sequence[Route]) -> Iterator[Sequence[str]]:
    for route in routes:
        if "{namespace}" in route.path:
            continue
        for parameter in route.parameters:
            if parameter.name not in _COMMON:
                several = " May be repeated." if parameter.repeatable else ""
                detail = f"{parameter.description}{several}{_choices(parameter.schema)}"
                yield f"`{parameter.name}`", f"`{route.operation}`", detail


def _choices(schema: Any) -> str:
    if "enum" not in schema:
        return ""
    return " One of " + ", ".join(f"`{choice}`" for choice in schema["enum"]) + "."


def _members(name: str) -> Iterator[Sequence[str]]:
    schema = SCHEMAS[name]
    for member, form in schema["properties"].items():
        required = "required" if member in schema["required"] else ""
        default = form.get("default", required)
        shown = default if default == required else f"`{default}`"
        yield f"`{member}`", _form(form), shown


def _form(schema: dict[str, Any]) -> str:
    """Return a schema in words, as far as a table has room for them."""
    if "$ref" in schema:
        return "one of " + ", ".join(
            f"`{one['required'][0]}`" for one in SCHEMAS["Schedule"]["oneOf"]
        )
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "minimum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    if schema["type"] == "object" and schema.get("properties"):
        return "object: " + ", ".join(f"`{name}`" for name in schema["properties"])
    return str(schema.get("description", schema["type"])).removesuffix(".")


def _only_shown() -> list[str]:
    shown = SCHEMAS["ShownJob"]["properties"]
    return [name for name in shown if shown[name].get("readOnly")]


def _problems() -> Iterator[Sequence[str]]:
    for code, (status, title) in PROBLEMS.items():
        yield f"`{code}`", str(status), title
