"""Every way in which a request can fail, and the document that says so (RFC 9457).

The codes are the contract: programs read them, so they never change their meaning. Each
has its status and title in one table, and what the cluster can refuse is mapped to them
in two others. Nothing else in the API chooses a status for a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from api.faults import Fault
from consensus.errors import (
    CommandTooLarge,
    ConsensusError,
    NoQuorum,
    OutcomeUnknown,
    Overloaded,
)
from consensus.state.commands import Refused

CONTENT_TYPE = "application/problem+json"
# An election takes less than two seconds and a full queue drains faster still, so a
# client that waits one second usually needs to ask once more only.
RETRY_AFTER_S = 1

# code: (status, title)
PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed_request": (400, "The request cannot be read"),
    "malformed_json": (400, "The body is not valid JSON"),
    "invalid_parameter": (400, "A parameter is not valid"),
    "invalid_header": (400, "A header is not valid"),
    "token_invalid": (403, "The token is not valid"),
    "not_found": (404, "There is no such resource"),
    "output_expired": (404, "The output is not kept any more"),
    "method_not_allowed": (405, "The method is not allowed here"),
    "body_timeout": (408, "The body did not arrive in time"),
    "name_taken": (409, "The name is taken"),
    "already_running": (409, "The job is running already"),
    "already_ended": (409, "The run has ended already"),
    "occurrence_decided": (409, "The occurrence is decided already"),
    "changed_meanwhile": (409, "The job keeps changing"),
    "members_invalid": (409, "The cluster cannot have these members"),
    "not_claimed": (409, "The claim is not valid"),
    "revision_mismatch": (412, "The job is at another revision"),
    "precondition_failed": (412, "The precondition does not hold"),
    "body_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "The content type is not supported"),
    "other_member": (421, "Another member has to be asked"),
    "invalid_document": (422, "The document is not valid"),
    "idempotency_key_reused": (422, "The idempotency key belongs to another request"),
    "overloaded": (429, "Too many requests wait already"),
    "internal": (500, "The node failed to answer"),
    "no_quorum": (503, "The cluster has no quorum"),
    "disk_low": (503, "The node's disk is almost full"),
    "not_ready": (503, "The node is not ready"),
    "not_applied": (503, "The cluster did not get to it in time"),
    "index_not_reached": (503, "The node has not reached that index"),
    "outcome_unknown": (504, "It is not known whether the request took effect"),
}
RETRIED_CODES = frozenset(
    {"overloaded", "no_quorum", "disk_low", "not_ready", "not_applied", "index_not_reached"}
)

# What the state machine refuses, by its own codes.
REFUSALS: dict[str, str] = {
    "not_found": "not_found",
    "name_taken": "name_taken",
    "revision_mismatch": "revision_mismatch",
    "cursor_moved": "changed_meanwhile",
    "already_running": "already_running",
    "already_ended": "already_ended",
    "idempotency_key_reused": "idempotency_key_reused",
    "lease_expired": "not_claimed",
    "lease_valid": "not_claimed",
    "level_unsupported": "not_claimed",
    "member_removed": "not_claimed",
    "token_invalid": "token_invalid",
    "members_invalid": "members_invalid",
    "expired": "not_applied",
    "internal": "internal",
}

# What the consensus layer raises, and what a client can do about it.
_CONSENSUS: dict[type[ConsensusError], tuple[str, str]] = {
    NoQuorum: (
        "no_quorum",
        "No majority of the members can be reached from here; nothing was changed."
        " Try again, or ask another member.",
    ),
    Overloaded: ("overloaded", "Nothing was changed. Try again a little later."),
    CommandTooLarge: (
        "body_too_large",
        "The request does not fit into one entry of the log; nothing was changed.",
    ),
    OutcomeUnknown: (
        "outcome_unknown",
        "The request was sent to the cluster and no answer came in time: it may have taken"
        " effect, or may yet. Repeat it with the same Idempotency-Key, or look before you"
        " repeat it.",
    ),
}


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document; `errors` names every fault of the request at once."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[Fault] | msgspec.UnsetType = msgspec.UNSET
    revision: int | msgspec.UnsetType = msgspec.UNSET


class Problem(Exception):
    """A request that fails, in the words of its answer."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        revision: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.revision = revision
        self.headers = dict(headers or {})
        if code in RETRIED_CODES:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))

    @property
    def status(self) -> int:
        return PROBLEMS[self.code][0]

    def body(self, *, instance: str, request_id: str) -> ProblemBody:
        """Return the document; `instance` is the path that was asked for."""
        status, title = PROBLEMS[self.code]
        return ProblemBody(
            type=f"urn:cronclave:problem:{self.code}",
            title=title,
            status=status,
            detail=self.detail,
            instance=instance,
            code=self.code,
            request_id=request_id,
            errors=list(self.errors) or msgspec.UNSET,
            revision=msgspec.UNSET if self.revision is None else self.revision,
        )


def invalid_document(faults: Sequence[Fault]) -> Problem:
    """Return the problem of a document that can be read and does not make sense."""
    return Problem("invalid_document", summary(faults), errors=faults)


def invalid_parameters(faults: Sequence[Fault]) -> Problem:
    return Problem("invalid_parameter", summary(faults), errors=faults)


def summary(faults: Sequence[Fault]) -> str:
    """Return one sentence for people who read nothing but the detail."""
    first = f"{faults[0].pointer}: {faults[0].detail}" if faults[0].pointer else faults[0].detail
    return first if len(faults) == 1 else f"{len(faults)} faults; the first is {first}"


def refused(refusal: Refused) -> Problem:
    """Return the problem for what the state machine has refused."""
    return Problem(REFUSALS[refusal.code], refusal.detail, revision=refusal.revision)


def not_carried_out(error: ConsensusError) -> Problem:
    """Return the problem for a command that did not get through, or may not have."""
    code, detail = _CONSENSUS.get(type(error), ("internal", "The cluster failed to answer."))
    return Problem(code, detail)


def as_plain(body: ProblemBody) -> dict[str, Any]:
    """Return the document as plain objects, to stand inside another one."""
    plain: dict[str, Any] = msgspec.to_builtins(body)
    return plain
