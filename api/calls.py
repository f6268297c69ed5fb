"""One request on its way through the API: what it came with, and how it is answered."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from api import idempotency
from api.cluster import Cluster
from api.idempotency import Repeatable
from api.json_text import canonical, parse_json
from api.parameters import format_cursor
from api.problems import Problem, refused
from consensus.errors import NoQuorum
from consensus.state.commands import Command, Refused, RequestKey, Result
from storage.limits import BODY_BYTES_MAX, PROPOSAL_MS_MAX

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
NDJSON = "application/x-ndjson"

REQUEST_ID = web.RequestKey("request_id", str)

PROPOSAL_S = PROPOSAL_MS_MAX / 1_000
# A megabyte over a slow line; longer is somebody who holds a connection open on purpose.
BODY_TIMEOUT_S = 30.0

_encode = msgspec.json.Encoder().encode


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """What all requests share: the cluster, and facts about this program."""

    cluster: Cluster
    version: str
    document: bytes  # the OpenAPI document


@dataclasses.dataclass(slots=True)
class Call:
    """One request; `operation` is its method and route template, `query` is parsed."""

    service: Service
    request: web.Request
    operation: str
    query: Mapping[str, Any]

    @property
    def cluster(self) -> Cluster:
        return self.service.cluster

    def now_ms(self) -> int:
        return self.service.cluster.now_ms()

    def path_part(self, name: str) -> str:
        """Return a variable part of the path, as it was matched by the route."""
        return self.request.match_info[name]

    async def json(self, *media_types: str) -> object:
        """Return the parsed body.

        Raises:
            Problem: it is too large, too slow, of another type, or not JSON.
        """
        check_media_type(self.request, media_types or (JSON,))
        return parse_json(await read_body(self.request, BODY_BYTES_MAX))

    async def optional_object(self) -> dict[str, Any]:
        """Return the body of an action: an object, or nothing at all."""
        if not self.request.body_exists:
            return {}
        body = await read_body(self.request, BODY_BYTES_MAX)
        if not body:
            return {}
        check_media_type(self.request, (JSON,))
        found = parse_json(body)
        if not isinstance(found, dict):
            raise Problem("invalid_document", "The body is an object, or empty.")
        return found

    def repeatable(self) -> Repeatable | None:
        """Return the request's idempotency key, if it has one."""
        return idempotency.read_key(self.request.headers.get(idempotency.HEADER), self.operation)

    def request_key(self, document: object) -> RequestKey | None:
        """Return the key of a request with this body, for the command that carries it out."""
        repeatable = self.repeatable()
        if repeatable is None:
            return None
        return repeatable.request_key(self.request.path.encode() + b"\n" + canonical(document))

    async def propose(self, command: Command) -> Result:
        """Have a command applied and return its result, refusals among them."""
        return (await self.propose_all((command,)))[0]

    async def propose_all(self, commands: Sequence[Command]) -> tuple[Result, ...]:
        """Have commands applied and return their results.

        Raises:
            NoQuorum: this member cannot know what time it is. The commands were worked out
                as of some other time, and would leave out occurrences without a word.
        """
        if not self.cluster.time_confirmed:
            raise NoQuorum("No majority has confirmed this member's time of day.")
        return await self.cluster.propose(commands, timeout_s=PROPOSAL_S)

    async def carry_out(self, command: Command) -> Result:
        """Have a command applied; a refusal is raised as its problem."""
        result = await self.propose(command)
        if isinstance(result, Refused):
            raise refused(result)
        return result


def check_media_type(request: web.Request, allowed: Sequence[str]) -> None:
    """Refuse a body that does not say that it is of an allowed type.

    A missing type is refused as well: a browser sends one without asking first, on behalf
    of any page.
    """
    found = request.headers.get("Content-Type", "")
    if found.partition(";")[0].strip().lower() in allowed:
        return
    raise Problem(
        "unsupported_media_type",
        f"The body is sent with Content-Type: {' or '.join(allowed)}.",
        headers={"Accept": ", ".join(allowed)},
    )


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """Return the body, reading no more than `bytes_max` bytes of it.

    Raises:
        Problem: `body_too_large`, `body_timeout`, or `malformed_request`.
    """
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    if request.content.is_eof():
        # All of it came with the head, as small bodies do; there is nothing to wait for.
        body = request.content.read_nowait()
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    return await _read_slowly(request, bytes_max)


async def _read_slowly(request: web.Request, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while chunk := await request.content.readany():
                size += len(chunk)
                if size > bytes_max:
                    raise _too_large(bytes_max)
                chunks.append(chunk)
    except TimeoutError:
        detail = f"The body was not complete after {BODY_TIMEOUT_S:.0f} s."
        raise Problem("body_timeout", detail) from None
    except web.RequestPayloadError:
        raise Problem("malformed_request", "The body is cut off or badly encoded.") from None
    return b"".join(chunks)


def _too_large(bytes_max: int) -> Problem:
    return Problem("body_too_large", f"The body may have {bytes_max} bytes here.")


def common_headers(cluster: Cluster, request_id: str) -> dict[str, str]:
    """Return what every answer says of itself and of the state that it shows."""
    headers = {
        "X-Request-Id": request_id,
        "X-Cronclave-Index": str(cluster.applied_index),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Server": "cronclave",
    }
    if not cluster.has_quorum:
        headers["X-Cronclave-Stale"] = "true"
    return headers


def answer(
    payload: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON answer."""
    response = web.Response(body=_encode(payload), status=status, headers=headers)
    response.headers["Content-Type"] = JSON
    return response


def answer_page(call: Call, items: Sequence[object], next_key: bytes | None) -> web.Response:
    """Return a page of a list, and where the next one is."""
    if next_key is None:
        return answer({"items": items, "next_cursor": None})
    cursor = format_cursor(next_key)
    address = call.request.rel_url.update_query(cursor=cursor)
    headers = {"Link": f'<{address.raw_path_qs}>; rel="next"'}
    return answer({"items": items, "next_cursor": cursor}, 200, headers)
