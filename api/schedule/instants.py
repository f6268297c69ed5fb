"""When a schedule occurs: the next time, a list of times, and what an outage missed.

Pure functions from a specification and instants to instants. An occurrence is nominal: it
exists whether or not anybody was awake, and it is part of a run's identity. Jitter moves
the start alone. An interval is arithmetic from its anchor and cannot drift; only cron
knows of time zones, and leaves them to `api.schedule.wall`.
"""

from __future__ import annotations

from hashlib import blake2b

from api.durations import TIME_MS_MAX
from api.schedule.cron import ticks
from api.schedule.spec import ScheduleSpec
from api.schedule.wall import JumpRule, Missed, count_instants, next_instant
from api.schedule.zones import zone
from storage.invariant import invariant

NONE_MISSED = Missed(count=0, first_ms=None, last_ms=None, kept=[])


def next_occurrence(
    spec: ScheduleSpec, after_ms: int, *, last_end_ms: int | None = None
) -> int | None:
    """Return the first nominal occurrence strictly after `after_ms`, or None.

    A `delay` occurs that long after `last_end_ms`. If no run has ended yet, or that instant
    has passed without being taken (a pause, an outage), it counts from `after_ms`, so that the
    chain never breaks.

    Raises:
        Rejected: the zone or the expression is not known to this member.
    """
    if spec.kind == "delay":
        return _next_delayed(spec, after_ms, last_end_ms)
    first_ms = 0 if spec.not_before_ms is None else spec.not_before_ms
    found_ms = _next_unbounded(spec, max(after_ms, first_ms - 1))
    return found_ms if found_ms is not None and found_ms <= _last_ms(spec) else None


def _last_ms(spec: ScheduleSpec) -> int:
    return TIME_MS_MAX if spec.not_after_ms is None else spec.not_after_ms


def _next_unbounded(spec: ScheduleSpec, after_ms: int) -> int | None:
    if spec.kind == "at":
        return spec.at_ms if spec.at_ms is not None and spec.at_ms > after_ms else None
    if spec.kind == "every":
        every_ms, anchor_ms = _interval(spec)
        return after_ms + every_ms - (after_ms - anchor_ms) % every_ms
    if spec.kind == "cron" and after_ms < TIME_MS_MAX:
        return next_instant(ticks(_expression(spec)), zone(spec.timezone), _rule(spec), after_ms)
    return None


def _next_delayed(spec: ScheduleSpec, after_ms: int, last_end_ms: int | None) -> int | None:
    invariant(spec.delay_ms is not None, "A delay schedule has its delay.", spec=spec)
    delay_ms = spec.delay_ms or 0
    found_ms = after_ms + delay_ms
    if last_end_ms is not None and last_end_ms + delay_ms > after_ms:
        found_ms = last_end_ms + delay_ms
    if spec.not_before_ms is not None:
        found_ms = max(found_ms, spec.not_before_ms)
    return found_ms if found_ms <= _last_ms(spec) else None


def _interval(spec: ScheduleSpec) -> tuple[int, int]:
    invariant(spec.every_ms and spec.anchor_ms is not None, "An interval is complete.", spec=spec)
    return spec.every_ms or 0, spec.anchor_ms or 0


def _expression(spec: ScheduleSpec) -> str:
    invariant(spec.expression, "A cron schedule has its expression.", spec=spec)
    return spec.expression or ""


def _rule(spec: ScheduleSpec) -> JumpRule:
    fixed = ticks(_expression(spec)).fields.fixed
    return JumpRule(
        gap_runs_after=fixed and spec.dst_gap == "run_after",
        fold_runs_once=fixed and spec.dst_fold == "first",
    )


def start_ms(spec: ScheduleSpec, job_seed: bytes, occurrence_ms: int) -> int:
    """Return when to start the run of an occurrence: at it, or up to `jitter_ms` later.

    Every member gets the same answer, from a hash of the job and the occurrence. A start
    always lies before the next occurrence, so starts keep their order.
    """
    if not spec.jitter_ms:
        return occurrence_ms
    room_ms = spec.jitter_ms + 1
    following_ms = None if spec.kind == "delay" else _next_unbounded(spec, occurrence_ms)
    if following_ms is not None:
        room_ms = min(room_ms, following_ms - occurrence_ms)
    text = job_seed + occurrence_ms.to_bytes(8, "big", signed=True)
    digest = blake2b(text, digest_size=8, person=b"jitter").digest()
    return occurrence_ms + int.from_bytes(digest, "big") % room_ms


def occurrences(spec: ScheduleSpec, after_ms: int, until_ms: int, limit: int) -> list[int]:
    """Return the first `limit` occurrences after `after_ms` and not after `until_ms`.

    Of a `delay` only the first is known, for the others hang on the ends of runs.
    """
    found: list[int] = []
    next_ms = next_occurrence(spec, after_ms)
    while next_ms is not None and next_ms <= until_ms and len(found) < limit:
        found.append(next_ms)
        next_ms = None if spec.kind == "delay" else next_occurrence(spec, next_ms)
    return found


def missed_summary(spec: ScheduleSpec, from_ms: int, until_ms: int, keep_last: int) -> Missed:
    """Count the nominal occurrences in [`from_ms`, `until_ms`]; list the last `keep_last`.

    Exact, and cheap however long the outage: an interval is divided, cron is counted by
    days. If `complete` is false, ask again from `resume_ms`. A `delay` or `manual` schedule
    has no occurrences of its own that could be missed.
    """
    invariant(keep_last >= 0, "A number to keep is not negative.", keep_last=keep_last)
    from_ms = max(from_ms, 0 if spec.not_before_ms is None else spec.not_before_ms)
    until_ms = min(until_ms, _last_ms(spec))
    if from_ms > until_ms:
        return NONE_MISSED
    if spec.kind == "cron":
        known, rule = ticks(_expression(spec)), _rule(spec)
        return count_instants(known, zone(spec.timezone), rule, from_ms, until_ms, keep_last)
    if spec.kind == "every":
        return _missed_intervals(*_interval(spec), from_ms, until_ms, keep_last)
    if spec.at_ms is not None and from_ms <= spec.at_ms <= until_ms:
        return _missed_range(range(spec.at_ms, spec.at_ms + 1), keep_last)
    return NONE_MISSED


def _missed_intervals(
    every_ms: int, anchor_ms: int, from_ms: int, until_ms: int, keep_last: int
) -> Missed:
    first_ms = from_ms + (anchor_ms - from_ms) % every_ms
    return _missed_range(range(first_ms, until_ms + 1, every_ms), keep_last)


def _missed_range(instants: range, keep_last: int) -> Missed:
    if not instants:
        return NONE_MISSED
    return Missed(
        count=len(instants),
        first_ms=instants[0],
        last_ms=instants[-1],
        kept=list(instants[max(0, len(instants) - keep_last) :]),
    )
