"""A refused request in words: the problem document (RFC 9457) with each of its faults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from node.cli.exits import ERROR, OF_STATUS, UNAVAILABLE, CommandFailed
from node.cli.text import printable

SERVER_ERROR = 500


class Refused(CommandFailed):
    """A node answered, and the answer is no; `status` and `code` are the document's."""

    def __init__(self, message: str, exit_status: int, status: int, code: str) -> None:
        super().__init__(message, exit_status)
        self.status = status
        self.code = code


def refused(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """Return the failure that an answer with an error status stands for."""
    problem = _document(body)
    message = "\n".join(_lines(status, headers, problem))
    return Refused(message, OF_STATUS.get(status, ERROR), status, str(problem.get("code", "")))


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _lines(status: int, headers: Mapping[str, str], problem: dict[str, Any]) -> Iterator[str]:
    title = problem.get("title")
    if not title:
        yield f"The answer was HTTP status {status}; is this a Cronclave node?"
        return
    errors = problem.get("errors")
    faults = errors if isinstance(errors, list) else []
    yield printable(f"{title} ({problem.get('code', status)}).")
    if not faults and problem.get("detail"):
        yield printable(str(problem["detail"]))
    for fault in faults:
        if isinstance(fault, dict):
            place = str(fault.get("pointer") or "document")
            yield printable(f"  {place}: {fault.get('detail', fault.get('code', ''))}")
    if OF_STATUS.get(status) == UNAVAILABLE and headers.get("retry-after"):
        yield printable(f"Try again in {headers['retry-after']} s.")
    if status == SERVER_ERROR and problem.get("request_id"):
        yield printable(f"The node's log has more under request {problem['request_id']}.")
