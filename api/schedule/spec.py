"""The schedule of a job (`storage.models.ScheduleSpec`) in the form of the API."""

from __future__ import annotations

from typing import Literal

from api.durations import format_duration, format_time
from storage.models import ScheduleSpec

__all__ = ["FoldRule", "GapRule", "Kind", "ScheduleSpec", "render_schedule"]

# The values of `kind`, `dst_gap` and `dst_fold` in the record; mypy holds them together.
Kind = Literal["at", "every", "delay", "cron", "manual"]
GapRule = Literal["run_after", "skip"]
FoldRule = Literal["first", "both"]


def render_schedule(spec: ScheduleSpec) -> dict[str, object]:
    """Return the JSON form of the API; parsing it again gives the same specification."""
    rendered: dict[str, object] = {}
    if spec.at_ms is not None:
        rendered["at"] = format_time(spec.at_ms)
    if spec.every_ms is not None and spec.anchor_ms is not None:
        rendered |= {"every": format_duration(spec.every_ms), "anchor": format_time(spec.anchor_ms)}
    if spec.delay_ms is not None:
        rendered["delay"] = format_duration(spec.delay_ms)
    if spec.expression is not None:
        rendered["cron"] = spec.expression
    if spec.kind == "manual":
        rendered["manual"] = True
    return rendered | _rendered_options(spec)


def _rendered_options(spec: ScheduleSpec) -> dict[str, object]:
    rendered: dict[str, object] = {}
    if spec.timezone is not None:
        rendered["timezone"] = spec.timezone
    if spec.not_before_ms is not None:
        rendered["not_before"] = format_time(spec.not_before_ms)
    if spec.not_after_ms is not None:
        rendered["not_after"] = format_time(spec.not_after_ms)
    if spec.max_runs is not None:
        rendered["max_runs"] = spec.max_runs
    if spec.jitter_ms:
        rendered["jitter"] = format_duration(spec.jitter_ms)
    dst: dict[str, str] = {}
    if spec.dst_gap != "run_after":
        dst["gap"] = spec.dst_gap
    if spec.dst_fold != "first":
        dst["fold"] = spec.dst_fold
    return rendered | ({"dst": dst} if dst else {})
