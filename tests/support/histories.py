"""What clients did to jobs, as they saw it: the material that a checker judges.

A job is a register with a revision: it is absent, or it holds a value at a revision. An
operation is over when its answer came. One whose answer never came, or said that nobody
knows, may take effect at any later time, so it stays open until the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

NEVER_S = float("inf")


class Kind(StrEnum):
    CREATE = "create"  # only if there is no such job
    REPLACE = "replace"  # at `expected`, or whatever there is, or even if there is nothing
    DELETE = "delete"  # at `expected`, or whatever there is
    READ = "read"


class Outcome(StrEnum):
    DONE = "done"
    # Refused, and by that a statement about the job: it was absent, it was present, or it
    # was not at the expected revision.
    ABSENT = "absent"
    PRESENT = "present"
    MISMATCH = "mismatch"
    # Certainly without effect, and without a statement.
    UNDONE = "undone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation on one job; times are seconds on one clock of all clients.

    `value` is what was written or read, `revision` the one that the answer named.
    """

    key: str
    kind: Kind
    outcome: Outcome
    called_s: float
    returned_s: float
    value: str | None = None
    expected: int | None = None
    revision: int | None = None
    client: str = ""
    # The answer's own words, for whoever reads the history.
    detail: str = ""

    @property
    def writes(self) -> bool:
        return self.kind is not Kind.READ

    def __str__(self) -> str:
        end = "?" if self.returned_s == NEVER_S else f"{self.returned_s:.4f}"
        at = "" if self.expected is None else f" at {self.expected}"
        return (
            f"{self.called_s:.4f} to {end} {self.client}: {self.kind} {self.key}{at} "
            f"{self.value} -> {self.outcome} revision {self.revision} {self.detail}"
        )


@dataclass(slots=True)
class Call:
    """An operation that has begun."""

    key: str
    kind: Kind
    client: str
    value: str | None
    expected: int | None
    called_s: float


@dataclass(slots=True)
class History:
    """All operations of one run; `now_s` reads the clock that all clients share."""

    now_s: Callable[[], float]
    operations: list[Operation] = field(default_factory=list)
    _open: list[Call] = field(default_factory=list)

    def begin(
        self,
        key: str,
        kind: Kind,
        *,
        client: str = "",
        value: str | None = None,
        expected: int | None = None,
    ) -> Call:
        """Note that an operation is about to be sent."""
        call = Call(key, kind, client, value, expected, self.now_s())
        self._open.append(call)
        return call

    def end(
        self,
        call: Call,
        outcome: Outcome,
        *,
        revision: int | None = None,
        value: str | None = None,
        detail: str = "",
    ) -> None:
        """Note the answer; `value` is what a read has shown."""
        self._open.remove(call)
        returned_s = NEVER_S if outcome is Outcome.UNKNOWN else self.now_s()
        self.operations.append(_operation(call, outcome, returned_s, revision, value, detail))

    def close(self) -> list[Operation]:
        """Return all operations; those still open will never be answered."""
        rest = [_operation(call, Outcome.UNKNOWN, NEVER_S, None, None, "") for call in self._open]
        return [*self.operations, *rest]

    def count(self, key: str) -> int:
        """Return how many operations a job has seen."""
        ended = sum(one.key == key for one in self.operations)
        return ended + sum(one.key == key for one in self._open)


def _operation(
    call: Call,
    outcome: Outcome,
    returned_s: float,
    revision: int | None,
    value: str | None,
    detail: str,
) -> Operation:
    return Operation(
        key=call.key,
        kind=call.kind,
        outcome=outcome,
        called_s=call.called_s,
        returned_s=returned_s,
        value=call.value if value is None else value,
        expected=call.expected,
        revision=revision,
        client=call.client,
        detail=detail,
    )


def by_key(operations: list[Operation]) -> dict[str, list[Operation]]:
    """Return the operations of each job, in the order in which they were called."""
    found: dict[str, list[Operation]] = defaultdict(list)
    for operation in sorted(operations, key=lambda one: one.called_s):
        found[operation.key].append(operation)
    return found


def summary(operations: list[Operation]) -> dict[str, Any]:
    """Return how many operations of each kind had which outcome."""
    counts: dict[str, int] = defaultdict(int)
    for operation in operations:
        counts[f"{operation.kind} {operation.outcome}"] += 1
    return dict(sorted(counts.items()))
