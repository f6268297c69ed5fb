"""What a schedule will do next, as the answer to its creation shows it.

Working out an expression's occurrences and warnings costs more than all the rest of
creating a job, and many jobs share an expression, so its forecast is remembered. It holds
until its first occurrence, and for an hour at most, because the warnings look a certain
time ahead. Of the other kinds both are little more than a division.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from api import schedule
from api.durations import HOUR_MS, TIME_MS_MAX, format_time
from api.schedule import start_ms
from api.schedule.zones import zone
from storage.models import JobDefinition, JobState, ScheduleSpec

SHOWN_NEXT = 5
REMEMBERED_MAX = 2_048


class Forecast(NamedTuple):
    """The next occurrences in the API's form, and what may surprise about a schedule."""

    next_runs: list[str]
    warnings: list[dict[str, str]]


class _Remembered(NamedTuple):
    from_ms: int
    until_ms: int
    forecast: Forecast


_remembered: dict[ScheduleSpec, _Remembered] = {}


def forecast(spec: ScheduleSpec, now_ms: int) -> Forecast:
    """Return the next occurrences after `now_ms` and the warnings about a schedule."""
    if spec.kind != "cron":
        return _forecast(spec, now_ms)[0]
    known = _remembered.get(spec)
    if known is not None and known.from_ms <= now_ms < known.until_ms:
        return known.forecast
    found, first_ms = _forecast(spec, now_ms)
    if len(_remembered) >= REMEMBERED_MAX:
        # The oldest goes; which one goes matters little as long as one does.
        del _remembered[next(iter(_remembered))]
    hour_end_ms = now_ms - now_ms % HOUR_MS + HOUR_MS
    _remembered[spec] = _Remembered(now_ms, min(first_ms, hour_end_ms), found)
    return found


def _forecast(spec: ScheduleSpec, now_ms: int) -> tuple[Forecast, int]:
    count = min(SHOWN_NEXT, spec.max_runs or SHOWN_NEXT)
    coming = schedule.occurrences(spec, now_ms, TIME_MS_MAX, count)
    found = schedule.warnings(spec, now_ms, over=not coming)
    warnings = [{"code": code, "detail": detail} for code, detail in found]
    first_ms = coming[0] if coming else TIME_MS_MAX
    return Forecast([format_time(at_ms) for at_ms in coming], warnings), first_ms


def upcoming(
    job: bytes, definition: JobDefinition, state: JobState, now_ms: int, count: int
) -> list[dict[str, Any]]:
    """Return a job's next occurrences, beginning with the one its cursor stands at.

    For a paused job they are those it would have if it were resumed now.
    """
    spec = definition.schedule
    if spec.max_runs is not None:
        count = min(count, max(0, spec.max_runs - state.launches_total))
    if state.status == "finished" or spec.kind == "manual":
        return []
    paused = state.status == "paused"
    due_ms = schedule.next_occurrence(spec, now_ms) if paused else state.due_ms
    items: list[dict[str, Any]] = []
    while due_ms is not None and len(items) < count:
        items.append(_occurrence(job, spec, due_ms))
        due_ms = None if spec.kind == "delay" else schedule.next_occurrence(spec, due_ms)
    return items


def _occurrence(job: bytes, spec: ScheduleSpec, due_ms: int) -> dict[str, Any]:
    return {
        "scheduled_at": format_time(due_ms),
        "local": zone(spec.timezone).local(due_ms),
        "start_at": format_time(start_ms(spec, job, due_ms)),
    }


def explanation(spec: ScheduleSpec, now_ms: int, count: int) -> Mapping[str, Any]:
    """Return all that can be said about a schedule."""
    explained = schedule.explain(spec, now_ms, count)
    return {
        "schedule": schedule.render_schedule(spec),
        "sentence": explained.sentence,
        "next_runs": [
            {"scheduled_at": format_time(at_ms), "local": local}
            for at_ms, local in explained.occurrences
        ],
        "warnings": [{"code": code, "detail": detail} for code, detail in explained.warnings],
    }
