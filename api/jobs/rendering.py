"""A job as the API shows it: what was said about it, then what the cluster knows of it.

Members that have their default value are left out, so that a document shows what somebody
decided. What only the cluster sets is always there.
"""

from __future__ import annotations

from typing import Any

from api.durations import format_duration, format_time
from api.ids import format_run_id
from api.schedule import render_schedule
from storage.models import CatchUp, JobDefinition, JobState, Retry, ScheduleSpec

_DEFAULT = JobDefinition(schedule=ScheduleSpec(kind="manual"), action={})


def render_definition(namespace: str, name: str, definition: JobDefinition) -> dict[str, Any]:
    """Return the document that `api.jobs.document.parse_job` turns into this definition."""
    shown: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "schedule": render_schedule(definition.schedule),
        "action": definition.action,
    }
    for field in ("description", "priority"):
        if (value := getattr(definition, field)) != getattr(_DEFAULT, field):
            shown[field] = value
    if definition.timeout_ms is not None:
        shown["timeout"] = format_duration(definition.timeout_ms)
    if definition.retry != _DEFAULT.retry:
        shown["retry"] = _retry(definition.retry)
    for field in ("overlap", "delivery"):
        if (value := getattr(definition, field)) != getattr(_DEFAULT, field):
            shown[field] = value
    if definition.catch_up != _DEFAULT.catch_up:
        shown["catch_up"] = _catch_up(definition.catch_up)
    if definition.placement:
        shown["placement"] = {"labels": definition.placement}
    if definition.labels:
        shown["labels"] = definition.labels
    if definition.output_bytes_max != _DEFAULT.output_bytes_max:
        shown["output_limit"] = definition.output_bytes_max
    return shown


def _retry(retry: Retry) -> dict[str, object]:
    default = _DEFAULT.retry
    shown: dict[str, object] = {}
    if retry.attempts_max != default.attempts_max:
        shown["max_attempts"] = retry.attempts_max
    if retry.backoff_ms != default.backoff_ms:
        shown["backoff"] = format_duration(retry.backoff_ms)
    if retry.backoff_ms_max != max(default.backoff_ms_max, retry.backoff_ms):
        shown["max_backoff"] = format_duration(retry.backoff_ms_max)
    if retry.jitter != default.jitter:
        shown["jitter"] = retry.jitter
    return shown


def _catch_up(catch_up: CatchUp) -> dict[str, object]:
    default = _DEFAULT.catch_up
    shown: dict[str, object] = {}
    if catch_up.policy != default.policy:
        shown["policy"] = catch_up.policy
    if catch_up.window_ms != default.window_ms:
        shown["window"] = format_duration(catch_up.window_ms)
    return shown


def render_job(job: bytes, definition: JobDefinition, state: JobState) -> dict[str, Any]:
    """Return a job with all that the cluster knows of it."""
    shown = render_definition(state.namespace, state.name, definition)
    shown["id"] = job.hex()
    shown["revision"] = state.revision
    shown["status"] = state.status
    shown["paused"] = state.status == "paused"
    shown["created_at"] = format_time(state.created_ms)
    shown["updated_at"] = format_time(state.updated_ms)
    shown["next_run_at"] = next_run_at(state)
    shown["last_run"] = _last_run(state)
    return shown


def next_run_at(state: JobState) -> str | None:
    """Return the next occurrence, which is a nominal instant; a start may be later by jitter."""
    if state.status != "scheduled" or state.due_ms is None:
        return None
    return format_time(state.due_ms)


def _last_run(state: JobState) -> dict[str, object] | None:
    if state.last_run is None:
        return None
    return {"id": format_run_id(state.last_run), "outcome": state.last_outcome}
