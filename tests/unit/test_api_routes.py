"""The route table, the router, the problems and the OpenAPI document agree."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from api.application import make_application
from api.faults import Fault
from api.openapi import build_document, operation_id
from api.problems import PROBLEMS, REFUSALS, Problem
from api.reference import render_reference
from api.route import Role
from api.routes import ROUTES
from api.schemas import SCHEMAS
from consensus.state.commands import RefusalCode
from tests.support.single import SingleCluster

DOCUMENT: dict[str, Any] = build_document(ROUTES, "0.1.0")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference-api.md"
METHODS_WITH_BODY = {"POST", "PUT", "PATCH"}


def registered() -> set[tuple[str, str]]:
    application = make_application(SingleCluster(), version="0.1.0", registry=CollectorRegistry())
    found = set()
    for route in application.router.routes():
        assert isinstance(route, web.AbstractRoute)
        assert route.resource is not None
        found.add((route.method, route.resource.canonical))
    return found


def test_the_router_knows_the_table_and_nothing_else() -> None:
    """Every route is served, and nothing is served that is not in the table."""
    table = {(route.method, route.path) for route in ROUTES}
    assert len(table) == len(ROUTES)
    assert registered() == table


def test_the_document_describes_the_table_and_nothing_else() -> None:
    """Every route is documented, under its method and path."""
    described = {
        (method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item
    }
    assert described == {(route.method, route.path) for route in ROUTES}


def test_every_operation_has_a_name_a_role_and_an_answer() -> None:
    """Generated clients need unique names, the role check a known role."""
    names = [operation_id(route) for route in ROUTES]
    assert len(set(names)) == len(names)
    for route in ROUTES:
        assert route.role in get_args(Role), route.operation
        assert route.summary, route.operation
        assert route.answers, route.operation
        assert all(200 <= status < 300 for status in route.answers), route.operation
        changes = route.method not in {"GET", "HEAD"}
        asks = route.path.endswith((":validate", ":explain"))
        # A backup changes nothing, but tells everything.
        needs_trust = (changes and not asks) or route.path == "/v1/cluster/backup"
        assert (route.role in ("write", "operate", "admin")) == needs_trust


def test_every_problem_of_a_route_is_documented() -> None:
    """Each code stands at its status, and each known code belongs to some route."""
    documented = set()
    for route in ROUTES:
        responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
        for code in route.all_codes:
            assert f"`{code}`" in responses[str(PROBLEMS[code][0])]["description"]
            documented.add(code)
    # These do not belong to a route: no route was found, or the machine has refused what
    # no route asks for.
    assert set(PROBLEMS) - documented == {"method_not_allowed", "not_claimed"}


def test_every_refusal_of_the_state_machine_has_a_status() -> None:
    """There is one table from refusals to problems, and it is complete."""
    assert set(REFUSALS) == set(get_args(RefusalCode))
    assert set(REFUSALS.values()) <= set(PROBLEMS)
    for code, (status, title) in PROBLEMS.items():
        assert re.fullmatch("[a-z_]+", code)
        assert 400 <= status < 600
        assert title


def test_the_reference_page_is_up_to_date() -> None:
    """The page is written from the table: CRONCLAVE_WRITE_DOCS=1 writes it anew."""
    page = render_reference(ROUTES)
    if os.environ.get("CRONCLAVE_WRITE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_reference_leads_to_a_schema_and_every_schema_is_used() -> None:
    """The document stands by itself."""
    used = set(references(DOCUMENT))
    assert used == {f"#/components/schemas/{name}" for name in SCHEMAS}


def test_the_document_is_plain_json() -> None:
    """Nothing in it depends on this program."""
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert DOCUMENT["openapi"] == "3.1.0"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_bodies_and_path_parts_are_declared(route: Any) -> None:
    """What a path contains and what a method takes is in the document."""
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    declared = {
        parameter["name"]
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "path"
    }
    assert declared == set(re.findall(r"\{(\w+)\}", route.path))
    assert ("requestBody" in operation) == (route.method in METHODS_WITH_BODY)


def test_a_problem_leaves_out_what_it_does_not_have() -> None:
    """`errors` and `revision` are there when they say something."""
    plain = msgspec.json.encode(Problem("not_found", "N.").body(instance="/x", request_id="r"))
    assert set(json.loads(plain)) == {
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "request_id",
    }
    full = Problem("not_found", "N.", errors=[Fault("/a", "b", "C.")], revision=3)
    shown = json.loads(msgspec.json.encode(full.body(instance="/x", request_id="r")))
    assert shown["errors"] == [{"pointer": "/a", "code": "b", "detail": "C."}]
    assert shown["revision"] == 3
