"""Schedules: specifications, what they mean, and what they will do.

Everything about when a job occurs is in this package, as pure functions: instants come in as
arguments, whole milliseconds since the Unix epoch in UTC, and nothing reads a clock. The
member that plans a job computes its next occurrence and sends it through the log as a number;
the others never compute it themselves.
"""

from __future__ import annotations

from api.schedule.explanation import Explanation, explain, warnings
from api.schedule.instants import missed_summary, next_occurrence, occurrences, start_ms
from api.schedule.parse import parse_schedule
from api.schedule.spec import ScheduleSpec, render_schedule
from api.schedule.wall import Missed

__all__ = [
    "Explanation",
    "Missed",
    "ScheduleSpec",
    "explain",
    "missed_summary",
    "next_occurrence",
    "occurrences",
    "parse_schedule",
    "render_schedule",
    "start_ms",
    "warnings",
]
