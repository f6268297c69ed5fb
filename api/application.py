"""The HTTP application of a node: the routes, and what is common to all requests.

Every request passes one middleware. It names the request, waits for the log index that
the client has seen, turns every failure into a problem document, and writes the headers
that every answer carries. A failure that nobody foresaw is logged with its traceback under
the request's id, and the client learns the id and nothing else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from api.calls import PROPOSAL_S, REQUEST_ID, Call, Service, common_headers
from api.cluster import Cluster
from api.faults import Rejected, shortened
from api.ids import JOB_ID_PATTERN
from api.metrics import UNMATCHED, ApiMetrics
from api.openapi import build_document
from api.parameters import NO_QUERY, Parameter, parse_query
from api.problems import CONTENT_TYPE, Problem, not_carried_out
from api.route import Handler, Route
from api.routes import ROUTES
from consensus.errors import ConsensusError
from storage.limits import BATCH_BODY_BYTES_MAX

logger = logging.getLogger("cronclave.api")

OPERATION = web.RequestKey("operation", str)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_REQUEST_ID_BITS = 64
_JOB_ACTION = re.compile(r"\{job\}/")
# A namespace never looks like a job's id, so these two never match the same address.
_JOB_PART = f"{{job:{JOB_ID_PATTERN}}}/"
_NAMESPACE_PART = f"{{namespace:(?!{JOB_ID_PATTERN}/)[^/]+}}"

_encode = msgspec.json.Encoder().encode


def make_application(
    cluster: Cluster, *, version: str, registry: CollectorRegistry
) -> web.Application:
    """Return the application of a node; its metrics are created on `registry`."""
    document = _encode(build_document(ROUTES, version))
    service = Service(cluster, version, document)
    middleware = _Middleware(cluster, ApiMetrics(registry))
    application = web.Application(
        middlewares=[middleware.handle], client_max_size=BATCH_BODY_BYTES_MAX
    )
    for route in ROUTES:
        application.router.add_route(route.method, router_path(route), _bound(route, service))
    return application


def router_path(route: Route) -> str:
    """Return a path as the router understands it."""
    path = _JOB_ACTION.sub(lambda _: _JOB_PART, route.path)
    return path.replace("{namespace}", _NAMESPACE_PART)


def _bound(route: Route, service: Service) -> Any:
    declared = {parameter.name: parameter for parameter in route.all_parameters}
    operation, handler = route.operation, route.handler

    async def handle(request: web.Request) -> web.StreamResponse:
        request[OPERATION] = operation
        if route.grows and (refusal := service.cluster.write_refusal()) is not None:
            raise Problem("disk_low", f"{refusal} Nothing was changed; ask another member.")
        if not request.query_string:
            return await handler(Call(service, request, operation, NO_QUERY))
        return await _with_query(service, request, operation, handler, declared)

    return handle


async def _with_query(
    service: Service,
    request: web.Request,
    operation: str,
    handler: Handler,
    declared: Mapping[str, Parameter],
) -> web.StreamResponse:
    query = parse_query(declared, request.query)
    min_index = query.get("min_index")
    if min_index is not None:
        await _wait_applied(service.cluster, min_index)
    if query.get("consistency") == "linearizable":
        await service.cluster.barrier(timeout_s=PROPOSAL_S)
    return await handler(Call(service, request, operation, query))


async def _wait_applied(cluster: Cluster, index: int) -> None:
    if cluster.applied_index >= index:
        return
    if not await cluster.wait_applied(index, timeout_s=PROPOSAL_S):
        raise Problem(
            "index_not_reached",
            f"This member has applied log index {cluster.applied_index}, and {index} did not"
            f" arrive within {PROPOSAL_S:.0f} s.",
        )


class _Middleware:
    """What happens around every request."""

    def __init__(self, cluster: Cluster, metrics: ApiMetrics) -> None:
        self._cluster = cluster
        self._metrics = metrics

    @web.middleware
    async def handle(self, request: web.Request, handler: Any) -> web.StreamResponse:
        started_s = self._cluster.environment.monotonic_s()
        request_id = self._request_id(request)
        request[REQUEST_ID] = request_id
        try:
            response: web.StreamResponse = await handler(request)
        except Problem as problem:
            response = _problem_response(request, problem)
        except ConsensusError as error:
            response = _problem_response(request, not_carried_out(error))
        except web.HTTPException as error:
            response = _problem_response(request, _http_problem(request, error))
        except Rejected as rejected:
            response = _problem_response(request, _unknown_here(rejected))
        except ConnectionError:
            # The client has gone; nobody reads the answer.
            response = _problem_response(request, Problem("malformed_request", "It is cut off."))
        except Exception:
            logger.exception("Request %s failed: %s", request_id, request.get(OPERATION))
            detail = f"The node's log says more about it under the request id {request_id}."
            response = _problem_response(request, Problem("internal", detail))
        self._finish(response, request_id)
        seconds = self._cluster.environment.monotonic_s() - started_s
        self._metrics.observe(request.get(OPERATION, UNMATCHED), response.status, seconds)
        return response

    def _request_id(self, request: web.Request) -> str:
        given = request.headers.get("X-Request-Id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return f"{self._cluster.environment.random.getrandbits(_REQUEST_ID_BITS):016x}"

    def _finish(self, response: web.StreamResponse, request_id: str) -> None:
        if not response.prepared:
            response.headers.update(common_headers(self._cluster, request_id))


def _problem_response(request: web.Request, problem: Problem) -> web.Response:
    body = problem.body(instance=shortened(request.path), request_id=request[REQUEST_ID])
    headers = problem.headers | {"Content-Type": CONTENT_TYPE}
    return web.Response(body=_encode(body), status=problem.status, headers=headers)


def _unknown_here(rejected: Rejected) -> Problem:
    """Return the problem of a stored job whose zone or expression is not known here.

    That happens while members are upgraded to newer time zone data one after the other.
    """
    return Problem("not_ready", f"{rejected.detail} Upgrade this member, or ask another one.")


def _http_problem(request: web.Request, error: web.HTTPException) -> Problem:
    """Return the problem for what the router or the server itself has refused."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{shortened(request.method)} is not allowed here; use {allowed}."
        return Problem("method_not_allowed", detail, headers={"Allow": allowed})
    if isinstance(error, web.HTTPNotFound):
        detail = "Nothing is at this address; GET /openapi.json lists what there is."
        return Problem("not_found", detail)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem("body_too_large", "The body is too large.")
    return Problem("malformed_request", f"The request cannot be served: {error.reason}.")
