"""What the API declares about one of its routes."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Literal

from aiohttp import web

from api.calls import JSON, Call
from api.parameters import COMMON, Parameter

Role = Literal["public", "read", "operate", "write", "admin"]
Handler = Callable[[Call], Awaitable[web.StreamResponse]]

# What any request may be answered with, and what any write may in addition.
READ_CODES = (
    "malformed_request",
    "invalid_parameter",
    "internal",
    "index_not_reached",
    "not_ready",
)
WRITE_CODES = ("no_quorum", "overloaded", "outcome_unknown", "not_applied")
BODY_CODES = (
    "malformed_json",
    "unsupported_media_type",
    "body_too_large",
    "body_timeout",
    "invalid_document",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path: who may call it, what goes in, what comes out.

    `request` and the values of `answers` name schemas of `api.schemas`; `codes` are the
    problems beyond those that follow from the method and the body.
    """

    method: str
    path: str
    handler: Handler
    role: Role
    summary: str
    answers: dict[int, str | None]
    codes: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    request: str | None = None
    request_optional: bool = False
    media_types: tuple[str, ...] = (JSON,)
    answer_type: str = JSON
    conditional: bool = False

    @property
    def operation(self) -> str:
        """Return the method and the path template, which name the route everywhere."""
        return f"{self.method} {self.path}"

    @property
    def versioned(self) -> bool:
        """Return whether it shows the replicated state, and not just this process."""
        return self.path.startswith("/v1/")

    @property
    def grows(self) -> bool:
        """Return whether clients add to the state by it, which takes room on disks."""
        return self.role in ("write", "operate")

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        return (*self.parameters, *COMMON) if self.versioned else self.parameters

    @property
    def all_codes(self) -> tuple[str, ...]:
        """Return every problem that the route can answer with."""
        codes = list(self.codes)
        if self.versioned:
            codes += READ_CODES
            codes += ("no_quorum", "outcome_unknown")
        if self.role in ("write", "operate", "admin") and self.method != "GET":
            codes += WRITE_CODES
        if self.grows:
            codes.append("disk_low")
        if self.method == "POST" and self.versioned:
            codes += ("invalid_header", "idempotency_key_reused")
        if self.request is not None:
            codes += BODY_CODES
        if self.conditional:
            codes += ("invalid_header", "precondition_failed", "revision_mismatch")
        return tuple(dict.fromkeys(codes))
