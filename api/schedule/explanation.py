"""A schedule in words, its next occurrences, and what about it may surprise.

The sentence is composed of a part for the time of day and a part for the day, so that it is
right for every expression and short for the common ones. The warnings are about schedules
that are valid and do what they say, which may not be what was meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from api.durations import DAY_MS, MINUTE_MS, format_duration
from api.schedule.cron import Ticks, ticks
from api.schedule.fields import DAY, KINDS, MONTH_DAYS_MAX, Fields
from api.schedule.instants import next_occurrence
from api.schedule.spec import ScheduleSpec
from api.schedule.wall import CORRECTION_MS_MIN
from api.schedule.words import describe
from api.schedule.zones import UTC_NAME, Segment, Zone, zone

# One look ahead covers every change of a year, with a month to spare.
WARNED_AHEAD_MS = 396 * DAY_MS
# More often than every minute is more than classic cron could do.
OCCURRENCES_PER_DAY_WARNED = 1_440


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a schedule does. `occurrences` are pairs of an instant (ms) and its local time.

    `expression` is the canonical form of a cron expression, None for the other kinds;
    `warnings` are pairs of a stable code and a sentence.
    """

    expression: str | None
    sentence: str
    occurrences: list[tuple[int, str]]
    warnings: list[tuple[str, str]]


def explain(spec: ScheduleSpec, now_ms: int, count: int = 5) -> Explanation:
    """Describe a schedule as of `now_ms`, with at most `count` nominal occurrences to come.

    Raises:
        Rejected: the zone or the expression is not known to this member.
    """
    local = zone(spec.timezone)
    coming: list[tuple[int, str]] = []
    wanted = min(count, spec.max_runs or count)
    next_ms = next_occurrence(spec, now_ms)
    while next_ms is not None and len(coming) < wanted:
        coming.append((next_ms, local.local(next_ms)))
        next_ms = None if spec.kind == "delay" else next_occurrence(spec, next_ms)
    return Explanation(
        expression=spec.expression,
        sentence=_sentence(spec, local),
        occurrences=coming,
        warnings=warnings(spec, now_ms, over=not coming),
    )


def warnings(spec: ScheduleSpec, now_ms: int, *, over: bool) -> list[tuple[str, str]]:
    """Return what may surprise about a schedule as of `now_ms`, as in `Explanation`.

    `over` says that nothing of it lies ahead.
    """
    return list(_warnings(spec, zone(spec.timezone), now_ms, over=over))


def _sentence(spec: ScheduleSpec, local: Zone) -> str:
    if spec.expression is not None:
        fields = ticks(spec.expression).fields
        return f"{describe(fields)} ({local.name})"
    if spec.at_ms is not None:
        return f"once at {local.local(spec.at_ms)}"
    if spec.every_ms is not None and spec.anchor_ms is not None:
        anchor = local.local(spec.anchor_ms)
        return f"every {format_duration(spec.every_ms)}, in step with {anchor}"
    if spec.delay_ms is not None:
        return f"{format_duration(spec.delay_ms)} after the end of the last run"
    return "only when it is triggered by hand"


def _warnings(
    spec: ScheduleSpec, local: Zone, now_ms: int, *, over: bool
) -> Iterator[tuple[str, str]]:
    if over and spec.kind == "at":
        detail = 'Its time has passed; "catch_up" decides whether it runs all the same.'
        yield "no_occurrence_left", detail
    elif over and spec.kind != "manual":
        yield "no_occurrence_left", "No occurrence lies ahead: the last one has passed."
    if spec.every_ms is not None and spec.every_ms < MINUTE_MS:
        yield from _frequent(DAY_MS // spec.every_ms)
    if spec.expression is not None:
        known = ticks(spec.expression)
        yield from _frequent(known.times.total)
        yield from _day_warnings(known.fields)
        yield from _step_warnings(known.fields)
        yield from _jump_warnings(spec, known, local, now_ms)


def _frequent(per_day: int) -> Iterator[tuple[str, str]]:
    if per_day > OCCURRENCES_PER_DAY_WARNED:
        yield "frequent", f"It occurs {per_day} times a day, more often than once a minute."


def _day_warnings(fields: Fields) -> Iterator[tuple[str, str]]:
    if fields.day.restricted and fields.weekday.restricted:
        detail = "Both day fields are restricted: it occurs on days that match either, not both."
        yield "both_day_fields", detail
        return
    if not fields.day.restricted or fields.day.specials:
        return
    day = fields.day.values[0]
    short = [month for month in fields.month.values if MONTH_DAYS_MAX[month - 1] < day]
    leap_only = day == MONTH_DAYS_MAX[1] and 2 in fields.month.values  # noqa: PLR2004
    if len(fields.day.values) == 1 and (short or leap_only):
        misses = "Most Februaries" if leap_only else "Some months"
        yield "short_month", f"{misses} have no day {day}; L means the last day of a month."


def _step_warnings(fields: Fields) -> Iterator[tuple[str, str]]:
    texts = (fields.second, fields.minute, fields.hour, fields.day, fields.month, fields.weekday)
    for kind, field in zip(KINDS, texts, strict=True):
        step = field.text.removeprefix("*/")
        if step != field.text and step.isdecimal() and (kind is DAY or kind.size % int(step)):
            detail = f"{field.text} in the {kind.label} starts anew at {kind.low} each time round, "
            yield "uneven_step", f"{detail}so its last gap is of another length."


def _jump_warnings(
    spec: ScheduleSpec, known: Ticks, local: Zone, now_ms: int
) -> Iterator[tuple[str, str]]:
    """Warn of the first gap and the first fold within `WARNED_AHEAD_MS` that matter."""
    if not known.fields.fixed:
        if spec.dst_gap != "run_after" or spec.dst_fold != "first":
            detail = 'It follows real time, with "*" in the minute or hour: "dst" has no effect.'
            yield "dst_no_effect", detail
        return
    warned = set[str]()
    for before, after in _jumps(local, now_ms):
        code = "dst_gap" if after.offset_ms > before.offset_ms else "dst_fold"
        walls = [before.end_ms + before.offset_ms, before.end_ms + after.offset_ms]
        tick = known.first_from(min(walls))
        if code not in warned and tick is not None and tick < max(walls):
            warned.add(code)
            yield code, _jump_detail(spec, local, before, after, tick)


def _jumps(local: Zone, now_ms: int) -> Iterator[tuple[Segment, Segment]]:
    segment = local.segment(now_ms)
    while segment.end_ms <= now_ms + WARNED_AHEAD_MS:
        following = local.segment(segment.end_ms)
        if 0 < abs(following.offset_ms - segment.offset_ms) < CORRECTION_MS_MIN:
            yield segment, following
        segment = following


def _jump_detail(
    spec: ScheduleSpec, local: Zone, before: Segment, after: Segment, tick: int
) -> str:
    wall = zone(UTC_NAME).local(tick)[:16].replace("T", " ")
    if after.offset_ms > before.offset_ms:
        then = local.local(before.end_ms)
        does = f"it runs once at {then}" if spec.dst_gap == "run_after" else "it is skipped"
        return f"{wall} does not exist in {local.name}, the clocks go forward: {does}."
    does = "it runs the first time only" if spec.dst_fold == "first" else "it runs both times"
    return f"{wall} exists twice in {local.name}, the clocks go back: {does}."
