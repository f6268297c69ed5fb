"""The action that does nothing: for trials, measurements, and dependencies of the future.

`{"type": "noop", "duration": "2s", "outcome": "failed"}` waits, then ends as it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from api.durations import parse_duration
from api.faults import Fault, Rejected, shown
from node.executors.fields import check_fields
from node.executors.protocol import Attempt, AttemptResult, Services

OUTCOMES = ("succeeded", "failed")


def _outcome(value: object) -> object:
    if value not in OUTCOMES:
        raise Rejected(
            "invalid_value", f"{shown(value)} is no outcome; use one of {', '.join(OUTCOMES)}."
        )
    return value


def _duration(value: object) -> object:
    return parse_duration(value, minimum_ms=0)


class NoopExecutor:
    """Waits for the given duration and reports the given outcome."""

    def __init__(self, services: Services) -> None:
        del services

    async def start(self) -> None:
        """Nothing is needed."""

    async def stop(self) -> None:
        """Nothing is held."""

    def validate(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
        return check_fields(
            action, pointer, {}, {"duration": _duration, "outcome": _outcome}
        ).faults

    async def run(self, attempt: Attempt) -> AttemptResult:
        attempt.on_started()
        duration = attempt.action.get("duration")
        if duration is not None and (duration_ms := parse_duration(duration, minimum_ms=0)):
            done, _ = await asyncio.wait({attempt.stop}, timeout=duration_ms / 1000)
            if done:
                return stopped(attempt)
        outcome = attempt.action.get("outcome", "succeeded")
        return AttemptResult(outcome=outcome, exit_code=0 if outcome == "succeeded" else 1)


def stopped(attempt: Attempt) -> AttemptResult:
    """Return the result of an attempt that was told to stop, and did."""
    reason = attempt.stop.result()
    if reason == "timeout":
        return AttemptResult(outcome="timed_out", detail="The timeout was reached.")
    if reason == "lease":
        return AttemptResult(outcome="failed", detail="The member's lease ran out.")
    if reason == "drain":
        return AttemptResult(outcome="failed", detail="The member was stopping.")
    return AttemptResult(outcome="cancelled", detail="It was cancelled.")
