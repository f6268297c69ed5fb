"""Decide when an attempt is told to end and when it is ended. No clock, no process.

There are three reasons to stop an attempt that runs: somebody asked, its timeout passed,
the node's lease runs out. All take the same road: SIGTERM to the process group, a grace,
SIGKILL to everything. The lease differs in that its end is fixed and the road is counted
back from there, so that SIGKILL has done its work before another node may start the job.
The first reason is the one that is reported; a later one can only shorten the grace.
"""

from __future__ import annotations

import enum
import math

from node.runner.limits import KILL_MARGIN_S, LEASE_GRACE_S_MAX
from node.runner.protocol import Cause


class Step(enum.Enum):
    """What is to be done to an attempt now."""

    TERM = enum.auto()
    KILL = enum.auto()


class StopPlan:
    """The way one attempt is stopped. All instants are seconds of one monotonic clock."""

    __slots__ = (
        "_grace_s",
        "_kill_due_s",
        "_must_stop_with_lease",
        "_timeout_due_s",
        "cause",
        "detail",
        "is_killed",
        "is_termed",
    )

    def __init__(
        self, *, now_s: float, timeout_s: float | None, grace_s: float, must_stop_with_lease: bool
    ) -> None:
        self._timeout_due_s = math.inf if timeout_s is None else now_s + timeout_s
        self._grace_s = grace_s
        self._must_stop_with_lease = must_stop_with_lease
        self._kill_due_s = math.inf
        self.cause: Cause = "exited"
        self.detail = ""
        self.is_termed = False
        self.is_killed = False

    @property
    def is_stopping(self) -> bool:
        """Tell whether a reason to stop has come up."""
        return self.cause != "exited"

    def stop(self, now_s: float, cause: Cause, detail: str, grace_s: float | None) -> None:
        """Stop for a reason from outside; `advance` says what to do about it."""
        grace_s = self._grace_s if grace_s is None else grace_s
        self._begin(cause, detail, now_s + grace_s)

    def refuses_to_start(self, now_s: float, lease_until_s: float) -> bool:
        """Tell whether the lease is too short to start: it would be stopped at once.

        This also holds for attempts that may outlive the lease; past its end nothing starts.
        """
        return now_s >= self._lease_term_s(lease_until_s)

    def advance(self, now_s: float, lease_until_s: float) -> Step | None:
        """Return the step that is due, once; None if there is nothing to do."""
        if self.is_killed:
            return None
        if self._must_stop_with_lease and now_s >= self._lease_term_s(lease_until_s):
            detail = "The node's lease ran out."
            self._begin("lease", detail, lease_until_s - KILL_MARGIN_S)
        if now_s >= self._timeout_due_s and not self.is_stopping:
            self._begin("timeout", "It ran longer than its timeout.", now_s + self._grace_s)
        if now_s >= self._kill_due_s:
            self.is_killed = True
            return Step.KILL
        if self.is_stopping and not self.is_termed:
            self.is_termed = True
            return Step.TERM
        return None

    def next_due_s(self, lease_until_s: float) -> float:
        """Return when `advance` has something to do, if nothing else happens before."""
        if self.is_killed:
            return math.inf
        if self.is_stopping and not self.is_termed:
            return -math.inf
        due_s = self._kill_due_s if self.is_stopping else self._timeout_due_s
        if self._must_stop_with_lease:
            # An attempt that is already being stopped had its SIGTERM; what the lease still
            # decides is the latest instant of its SIGKILL.
            kill_s = lease_until_s - KILL_MARGIN_S
            due_s = min(due_s, kill_s if self.is_stopping else self._lease_term_s(lease_until_s))
        return due_s

    def _begin(self, cause: Cause, detail: str, kill_due_s: float) -> None:
        if not self.is_stopping:
            self.cause, self.detail = cause, detail
        self._kill_due_s = min(self._kill_due_s, kill_due_s)

    def _lease_term_s(self, lease_until_s: float) -> float:
        grace_s = min(self._grace_s, LEASE_GRACE_S_MAX) if self._must_stop_with_lease else 0.0
        return lease_until_s - KILL_MARGIN_S - grace_s
