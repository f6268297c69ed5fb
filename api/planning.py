"""From a job's definition to what the state machine is asked to decide.

The state machine computes no time. What is due, what comes after it and what becomes of
occurrences that are too late is worked out here, by whoever proposes: the API for new and
changed jobs, the due loop for everything else. All functions are pure.
"""

from __future__ import annotations

from api import schedule
from consensus.commands import ClaimOccurrence, Cursor, SkippedRange
from storage.models import JobDefinition, JobPolicy, JobState, SkipReason


def policy_of(definition: JobDefinition) -> JobPolicy:
    """Return the part of a definition by which the state machine decides."""
    spec = definition.schedule
    return JobPolicy(
        definition.priority,
        definition.overlap,
        definition.delivery,
        definition.retry.attempts_max,
        bool(definition.placement),
        spec.max_runs,
        spec.delay_ms if spec.kind == "delay" else None,
        spec.not_after_ms,
    )


def first_cursor(definition: JobDefinition, job: bytes, now_ms: int) -> Cursor | None:
    """Return the first occurrence of a job that is created or rescheduled now.

    A one-time job that is due in the past is overdue at once: its catch-up policy says
    what becomes of it. All others begin after now.
    """
    spec = definition.schedule
    if spec.kind == "at":
        assert spec.at_ms is not None
        due_ms: int | None = spec.at_ms
    else:
        due_ms = schedule.next_occurrence(spec, now_ms)
    return _cursor(definition, job, due_ms)


def _cursor(definition: JobDefinition, job: bytes, due_ms: int | None) -> Cursor | None:
    if due_ms is None:
        return None
    return Cursor(due_ms, schedule.start_ms(definition.schedule, job, due_ms))


def rescheduled(old: JobDefinition, state: JobState, now_ms: int) -> tuple[SkippedRange, ...]:
    """Return what was overdue under a schedule that is now replaced by another."""
    if state.due_ms is None or state.due_ms > now_ms:
        return ()
    reason: SkipReason = "paused" if state.status == "paused" else "rescheduled"
    missed = schedule.missed_summary(old.schedule, state.due_ms, now_ms, 0)
    last_ms = state.due_ms if missed.last_ms is None else missed.last_ms
    return (SkippedRange(reason, state.due_ms, last_ms, max(1, missed.count)),)


def decide(
    definition: JobDefinition, job: bytes, state: JobState, now_ms: int
) -> ClaimOccurrence | None:
    """Return the claim that decides a scheduled job's cursor as of `now_ms`.

    On time, it launches the cursor's occurrence. Late, the catch-up policy chooses:

    - skip: none of the late ones, on to the first that is not;
    - last: the latest one within the window, the others before it are coalesced;
    - first: the earliest within the window, the others behind it are coalesced;
    - all: each within the window, one claim after the other.

    Occurrences before the window are missed, those of a pause are called `paused`. A long
    outage of a busy schedule is worked off in several bounded claims.
    """
    due_ms = state.due_ms
    if due_ms is None or state.start_ms is None:
        return None
    spec = definition.schedule
    following = schedule.next_occurrence(spec, due_ms) if spec.kind != "delay" else None
    alone = following is None or following > now_ms
    in_time = now_ms - due_ms <= definition.catch_up.window_ms
    policy = definition.catch_up.policy
    on_time = now_ms <= state.start_ms + LATE_MS
    if alone and (on_time or (in_time and policy != "skip")):
        return _claim(job, state, Cursor(due_ms, state.start_ms), (), definition, following)
    return _catch_up(definition, job, state, now_ms)


# An occurrence that starts this much after its time is not yet late in the sense of the
# catch-up policy: elections and steals take that long, and they are not outages.
LATE_MS = 15_000


def _claim(
    job: bytes,
    state: JobState,
    launch: Cursor | None,
    skipped: tuple[SkippedRange, ...],
    definition: JobDefinition,
    following_ms: int | None,
) -> ClaimOccurrence:
    assert state.due_ms is not None
    following = _cursor(definition, job, following_ms)
    return ClaimOccurrence(job, state.revision, state.due_ms, launch, skipped, following)


def _catch_up(
    definition: JobDefinition, job: bytes, state: JobState, now_ms: int
) -> ClaimOccurrence:
    due_ms = state.due_ms
    assert due_ms is not None
    spec, catch_up = definition.schedule, definition.catch_up
    window_ms = max(catch_up.window_ms, LATE_MS)
    late = schedule.missed_summary(spec, due_ms, now_ms - window_ms - 1, 0)
    if late.count:
        # Too old for any policy; what is in the window is decided by the next claim.
        assert late.last_ms is not None
        spans = _spans(state, due_ms, late.last_ms, late.count, "missed")
        following = schedule.next_occurrence(spec, late.last_ms)
        return _claim(job, state, None, spans, definition, following)
    return _within_window(definition, job, state, now_ms)


def _within_window(
    definition: JobDefinition, job: bytes, state: JobState, now_ms: int
) -> ClaimOccurrence:
    due_ms = state.due_ms
    assert due_ms is not None
    spec, policy = definition.schedule, definition.catch_up.policy
    if policy == "all":
        following = schedule.next_occurrence(spec, due_ms)
        launch = _cursor(definition, job, due_ms)
        return _claim(job, state, launch, (), definition, following)
    # The last one is still on time when it is only just due.
    found = schedule.missed_summary(spec, due_ms, now_ms, 2)
    kept = found.kept
    last_ms = kept[-1] if kept else due_ms
    following = schedule.next_occurrence(spec, last_ms)
    if not found.complete:
        assert found.last_ms is not None
        spans = _spans(state, due_ms, found.last_ms, found.count, "coalesced")
        following = schedule.next_occurrence(spec, found.last_ms)
        return _claim(job, state, None, spans, definition, following)
    if policy == "first" and now_ms - last_ms > LATE_MS:
        after_ms = schedule.next_occurrence(spec, due_ms)
        spans = ()
        if found.count > 1 and after_ms is not None:
            spans = _spans(state, after_ms, last_ms, found.count - 1, "coalesced")
        launch = _cursor(definition, job, due_ms)
        return _claim(job, state, launch, spans, definition, following)
    if policy == "skip" and now_ms - last_ms > LATE_MS:
        spans = _spans(state, due_ms, last_ms, found.count, "missed")
        return _claim(job, state, None, spans, definition, following)
    spans = ()
    if found.count > 1:
        before_ms = kept[-2]
        reason: SkipReason = "missed" if policy == "skip" else "coalesced"
        spans = _spans(state, due_ms, before_ms, found.count - 1, reason)
    launch = _cursor(definition, job, last_ms)
    return _claim(job, state, launch, spans, definition, following)


def _spans(
    state: JobState, first_ms: int, last_ms: int, count: int, reason: SkipReason
) -> tuple[SkippedRange, ...]:
    """Return one range, named after the pause if the job was paused all that time."""
    paused_ms, resumed_ms = state.paused_ms, state.resumed_ms
    if (
        paused_ms is not None
        and resumed_ms is not None
        and paused_ms <= first_ms
        and last_ms <= resumed_ms
    ):
        reason = "paused"
    return (SkippedRange(reason, first_ms, last_ms, count),)
