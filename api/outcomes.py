"""What became of an occurrence, as the API shows it: a run, or the reason for none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from api.durations import format_time
from api.ids import format_run_id
from storage.keys import split_run
from storage.models import Attempt, JobState, Outcome, Run, RunState, Skip, SkipReason

RUN_OUTCOMES: tuple[str, ...] = get_args(Outcome)
SKIP_REASONS: tuple[str, ...] = get_args(SkipReason)
RUN_STATES: tuple[str, ...] = get_args(RunState)


def render_outcome(run: bytes, record: Run | Skip, state: JobState | None) -> dict[str, Any]:
    """Return a row of a job's history; `state` is that of the job."""
    if isinstance(record, Run):
        return render_run(run, record, state)
    job, scheduled_ms, _, _ = split_run(run)
    return {
        "kind": "skip",
        **_job(job, state),
        "outcome": record.reason,
        "scheduled_at": format_time(scheduled_ms),
        "last_scheduled_at": format_time(record.last_ms),
        "count": record.count,
        "recorded_at": format_time(record.recorded_ms),
    }


def render_run(run: bytes, record: Run, state: JobState | None) -> dict[str, Any]:
    """Return a run without its past attempts."""
    return {
        "kind": "run",
        "id": format_run_id(run),
        **_job(run[:16], state),
        "revision": record.revision,
        "trigger": record.trigger,
        "state": record.state,
        "outcome": record.outcome,
        "scheduled_at": format_time(record.scheduled_ms),
        "start_at": format_time(record.start_ms),
        "created_at": format_time(record.created_ms),
        "started_at": _time(record.started_ms),
        "ended_at": _time(record.ended_ms),
        "priority": record.priority,
        "attempt": record.number,
        "member": record.member or None,
        "fence": record.fence,
        "exit_code": record.exit_code,
        "detail": record.detail,
        "cancel_reason": record.cancel_reason,
        "output_bytes": record.output_bytes,
    }


def render_run_in_full(run: bytes, record: Run, state: JobState | None) -> dict[str, Any]:
    """Return a run with the attempts that are over, the first one first."""
    shown = render_run(run, record, state)
    shown["attempts"] = [_attempt(attempt) for attempt in record.attempts]
    return shown


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "fence": attempt.fence,
        "member": attempt.member,
        "outcome": attempt.outcome,
        "started_at": _time(attempt.started_ms),
        "ended_at": format_time(attempt.ended_ms),
        "exit_code": attempt.exit_code,
        "detail": attempt.detail,
    }


def _job(job: bytes, state: JobState | None) -> dict[str, Any]:
    namespace, name = (None, None) if state is None else (state.namespace, state.name)
    return {"job_id": job.hex(), "namespace": namespace, "name": name}


def _time(time_ms: int | None) -> str | None:
    return None if time_ms is None else format_time(time_ms)


def outcome_filter(query: Mapping[str, Any]) -> Callable[[Run | Skip], bool]:
    """Return what a row must fulfil; `skipped` stands for all reasons there are."""
    wanted = set(query.get("outcome", ()))
    if "skipped" in wanted:
        wanted |= set(SKIP_REASONS)
    if not wanted:
        return lambda record: True

    def passes(record: Run | Skip) -> bool:
        found = record.outcome if isinstance(record, Run) else record.reason
        return found in wanted

    return passes
