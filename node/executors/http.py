"""The action that sends an HTTP request.

`{"type": "http", "method": "POST", "url": "https://...", "headers": {...}, "body": "...",
"expect_status": ["2xx"], "connect_timeout": "5s"}`. The attempt's identity travels in
headers, among them `Idempotency-Key`, which stays the same over the attempts of a run, and
`Cronclave-Fence`, which grows with them: a receiver that keeps the highest fence it has
seen can refuse an older one. The answer's body becomes the attempt's output.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from api.durations import parse_duration
from api.faults import Fault, Rejected, shown
from node.executors.fields import check_fields, text, texts_by_name
from node.executors.noop import stopped
from node.executors.protocol import Attempt, AttemptResult, Services
from node.output import OutputCapture

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
URL_CHARS_MAX = 2_048
HEADERS_MAX = 64
HEADER_CHARS_MAX = 4_096
BODY_CHARS_MAX = 32_768
EXPECTED_MAX = 16
CONNECT_MS = 10_000
REQUEST_MS = 300_000  # where a job names no timeout of its own
# An answer is read to its end so that the connection can be used again, but not for ever.
ANSWER_BYTES_MAX = 16 * 1_048_576
CONNECTIONS_MAX = 1_000
REDIRECTS_MAX = 5

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RANGE = re.compile(r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?")


def _method(value: object) -> object:
    if value not in METHODS:
        raise Rejected("invalid_value", f"{shown(value)} is no method; use {', '.join(METHODS)}.")
    return value


def _url(value: object) -> object:
    url = str(text(URL_CHARS_MAX)(value))
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError as error:
        raise Rejected("invalid_url", f"{shown(url)} is no URL: {error}.") from None
    if not usable or any(character <= " " for character in url):
        raise Rejected("invalid_url", f'{shown(url)} is no URL such as "https://host/path".')
    if parts.username is not None or parts.password is not None:
        raise Rejected("invalid_url", "Credentials do not belong into a URL; use a header.")
    return url


def _headers(value: object) -> object:
    headers = texts_by_name(HEADERS_MAX, HEADER_CHARS_MAX)(value)
    assert isinstance(headers, dict)
    for name, content in headers.items():
        if not _TOKEN.fullmatch(name) or "\r" in content or "\n" in content:
            raise Rejected("invalid_header", f"{shown(name)} is not a header that can be sent.")
        if name.lower().startswith("cronclave-"):
            raise Rejected("reserved_name", f"{shown(name)} is set by Cronclave itself.")
    return headers


def _expected(value: object) -> object:
    if not isinstance(value, list) or not value or len(value) > EXPECTED_MAX:
        raise Rejected(
            "wrong_type", f'A list such as ["2xx", 304] is expected, not {shown(value)}.'
        )
    for item in value:
        known = isinstance(item, (int, str)) and not isinstance(item, bool)
        if not known or not _RANGE.fullmatch(str(item)):
            raise Rejected(
                "invalid_value", f'{shown(item)} is no status: use 204, "2xx" or "200-204".'
            )
    return value


def _boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise Rejected("wrong_type", f"true or false is expected, not {shown(value)}.")
    return value


def expects(expected: list[Any], status: int) -> bool:
    """Return whether a status is among those that an action counts as success."""
    for item in expected:
        matched = _RANGE.fullmatch(str(item))
        assert matched is not None
        hundreds, first, last = matched.groups()
        if hundreds is not None:
            if status // 100 == int(hundreds):
                return True
        elif int(first) <= status <= int(last or first):
            return True
    return False


class HttpExecutor:
    """Sends requests over one pool of connections."""

    def __init__(self, services: Services) -> None:
        del services
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # Environment variables must not route a job's request through some proxy.
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, ttl_dns_cache=10)
        self._session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers={"User-Agent"},
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    def validate(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
        optional = {
            "method": _method,
            "headers": _headers,
            "body": text(BODY_CHARS_MAX),
            "expect_status": _expected,
            "connect_timeout": parse_duration,
            "follow_redirects": _boolean,
        }
        return check_fields(action, pointer, {"url": _url}, optional).faults

    async def run(self, attempt: Attempt) -> AttemptResult:
        attempt.on_started()
        request = asyncio.ensure_future(self._request(attempt))
        await asyncio.wait((request, attempt.stop), return_when=asyncio.FIRST_COMPLETED)
        if request.done():
            return request.result()
        request.cancel()
        await asyncio.wait({request})
        return stopped(attempt)

    async def _request(self, attempt: Attempt) -> AttemptResult:
        action = attempt.action
        assert self._session is not None
        connect_ms = parse_duration(action.get("connect_timeout", "10s"))
        total_ms = REQUEST_MS if attempt.timeout_ms is None else attempt.timeout_ms
        body = action.get("body")
        try:
            async with self._session.request(
                action.get("method", "GET"),
                action["url"],
                headers=_all_headers(action, attempt.identity),
                data=None if body is None else body.encode(),
                allow_redirects=action.get("follow_redirects", False),
                max_redirects=REDIRECTS_MAX,
                timeout=aiohttp.ClientTimeout(total=total_ms / 1000, connect=connect_ms / 1000),
            ) as answer:
                return await _read(answer, action, attempt.output_bytes_max)
        except aiohttp.ConnectionTimeoutError:
            detail = f"No connection within {connect_ms} ms."
            return AttemptResult(outcome="timed_out", detail=detail)
        except TimeoutError:
            return AttemptResult(outcome="timed_out", detail=f"No answer within {total_ms} ms.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            detail = f"The request failed: {type(error).__name__}: {error}"
            return AttemptResult(outcome="failed", detail=detail[:500])


async def _read(
    answer: aiohttp.ClientResponse, action: Mapping[str, Any], bytes_max: int
) -> AttemptResult:
    capture = OutputCapture(bytes_max)
    async for chunk in answer.content.iter_any():
        capture.append(chunk)
        if capture.total > ANSWER_BYTES_MAX:
            answer.close()
            break
    good = expects(action.get("expect_status", ["2xx"]), answer.status)
    return AttemptResult(
        outcome="succeeded" if good else "failed",
        exit_code=answer.status,
        detail=""
        if good
        else f"The status was {answer.status} {answer.reason or ''}".rstrip() + ".",
        output=capture.render(),
        output_bytes=capture.total,
    )


def _all_headers(action: Mapping[str, Any], identity: Mapping[str, str]) -> dict[str, str]:
    headers = {"User-Agent": "Cronclave"}
    headers.update(action.get("headers", {}))
    for name, value in identity.items():
        # CRONCLAVE_SCHEDULED_AT becomes Cronclave-Scheduled-At.
        headers[name.replace("_", "-").title()] = value
    headers["Idempotency-Key"] = identity["CRONCLAVE_IDEMPOTENCY_KEY"]
    return headers
