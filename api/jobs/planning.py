"""From a job's definition to what the state machine is asked to decide.

The state machine computes no time. What is due, what comes after it and what becomes of
occurrences that are too late is worked out here, by whoever proposes: the API for new and
changed jobs, the due loop for everything else. All functions are pure.

A cursor is an occurrence by decree: it was worked out by some member under the time zone
data it had, and stays one if another member would not find it again.
"""

from __future__ import annotations

from typing import NamedTuple

from api import schedule
from api.faults import Rejected
from consensus.state import cursor
from consensus.state.commands import ClaimOccurrence, Cursor, SkippedRange
from storage.models import JobDefinition, JobPolicy, JobState, ScheduleSpec, SkipReason

# An occurrence that starts this much after its time is not yet late in the sense of the
# catch-up policy, unless the next one has overtaken it: elections and steals take that
# long, and they are not outages.
LATE_MS = 15_000
# One count is bounded by days that fire. A claim makes do with one, for another claim can
# follow; an edit has to account for everything, and so many cover the whole calendar.
COUNTS_MAX = 64


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
        spec.kind == "manual",
    )


def first_cursor(definition: JobDefinition, job: bytes, now_ms: int) -> Cursor | None:
    """Return the first occurrence of a job that is created or rescheduled now.

    A one-time job that is due in the past is overdue at once: its catch-up policy says
    what becomes of it. All others begin after now.
    """
    spec = definition.schedule
    if spec.kind == "at":
        return _cursor(definition, job, spec.at_ms)
    return _cursor(definition, job, schedule.next_occurrence(spec, now_ms))


def renewed_cursor(
    definition: JobDefinition,
    job: bytes,
    state: JobState,
    skipped: tuple[SkippedRange, ...],
    now_ms: int,
) -> Cursor | None:
    """Return the first occurrence under a new schedule of a job that has had another.

    It lies behind all that is decided, for some may have been claimed ahead of time, or is
    `skipped` with this very change: there a new schedule would have no outcomes.

    Raises:
        OccurrenceDecided: the one time that the new schedule names is such a time.
    """
    decided_ms = max([cursor.decided_until(state), *(span.last_ms for span in skipped)])
    first = first_cursor(definition, job, max(now_ms, decided_ms))
    if first is not None and first.due_ms <= decided_ms:
        raise OccurrenceDecided(decided_ms)
    return first


def _cursor(definition: JobDefinition, job: bytes, due_ms: int | None) -> Cursor | None:
    if due_ms is None:
        return None
    return Cursor(due_ms, schedule.start_ms(definition.schedule, job, due_ms))


def rescheduled(
    old: JobDefinition, state: JobState, now_ms: int, reason: SkipReason = "rescheduled"
) -> tuple[SkippedRange, ...]:
    """Return what is overdue under a schedule that now gives way to another, or to none.

    `reason` says which of the two; what fell into a pause is named after the pause.
    """
    due_ms = state.due_ms
    if cursor.behind(state):
        due_ms = _next(old.schedule, cursor.decided_until(state))
    if due_ms is None or due_ms > now_ms:
        return ()
    return _overdue(old.schedule, state, due_ms, now_ms, reason, COUNTS_MAX).spans


def decide(
    definition: JobDefinition, job: bytes, state: JobState, now_ms: int
) -> ClaimOccurrence | None:
    """Return the claim that decides a scheduled job's cursor as of `now_ms`.

    On time, it launches the cursor's occurrence. An occurrence is late once it should have
    started `LATE_MS` ago or the next one is due; what becomes of late ones is the choice
    of the catch-up policy:

    - skip: none is launched;
    - last: the latest one within the window, the others before it are coalesced;
    - first: the earliest within the window, the others behind it are coalesced;
    - all: each within the window, one claim after the other.

    Those before the window are missed, those of a pause are called `paused`. One that is
    on time is launched in any case, but for "last", where it is the latest. A long outage
    of a busy schedule is worked off in several bounded claims.

    Returns None if there is nothing to decide, or if this member does not know the time
    zone or the expression: then another has to.
    """
    if state.due_ms is None or state.start_ms is None:
        return None
    try:
        return _Plan(definition, job, state, now_ms).decide()
    except Rejected:
        return None


class OccurrenceDecided(Exception):
    """A job cannot be given a time up to which its occurrences are decided already."""

    def __init__(self, decided_ms: int) -> None:
        super().__init__(f"Decided up to {decided_ms}.")
        self.decided_ms = decided_ms


class _Overdue(NamedTuple):
    """What is skipped, the last of it, and whether it is all that was asked for."""

    spans: tuple[SkippedRange, ...]
    last_ms: int
    complete: bool


class _Plan(NamedTuple):
    """What a claim is worked out from, and the choices of the catch-up policies."""

    definition: JobDefinition
    job: bytes
    state: JobState
    now_ms: int

    def decide(self) -> ClaimOccurrence:
        """Choose what `api.jobs.planning.decide` describes."""
        if cursor.behind(self.state):
            return self.claim(None, (), self._next(cursor.decided_until(self.state)))
        following_ms = self._next(self._due_ms)
        overtaken = following_ms is not None and following_ms <= self.now_ms
        if not overtaken and self.now_ms <= self._present.start_ms + LATE_MS:
            return self.claim(self._present, (), following_ms)
        return self.catch_up(following_ms, overtaken=overtaken)

    def catch_up(self, following_ms: int | None, *, overtaken: bool) -> ClaimOccurrence:
        """Decide a cursor that is late, and what is late behind it."""
        choice = self.definition.catch_up
        if choice.policy == "skip":
            return self.skip(following_ms if overtaken else None)
        oldest_ms = self.now_ms - max(choice.window_ms, LATE_MS)
        if self._present.start_ms < oldest_ms:
            return self.miss(oldest_ms)
        if choice.policy == "all" or following_ms is None or not overtaken:
            return self.claim(self._present, (), following_ms)
        return self.first(following_ms) if choice.policy == "first" else self.last(following_ms)

    def miss(self, oldest_ms: int) -> ClaimOccurrence:
        """Launch nothing that should have started before `oldest_ms`."""
        latest_ms, _ = self._latest(self._due_ms, oldest_ms - 1)
        latest = self._cursor(latest_ms)
        if latest_ms > self._due_ms and latest.start_ms >= oldest_ms:
            return self._skip_until(latest_ms - 1, "missed")
        return self._skip_until(oldest_ms - 1, "missed")

    def skip(self, following_ms: int | None) -> ClaimOccurrence:
        """Launch none that is late, but the latest if it is on time."""
        if following_ms is None:
            return self._skip_until(self._due_ms, "missed")
        latest_ms, complete = self._latest(following_ms, self.now_ms)
        if complete and self._late(latest_ms):
            return self._skip_until(latest_ms, "missed")
        return self._launch_behind(latest_ms, "missed", complete=complete)

    def last(self, following_ms: int) -> ClaimOccurrence:
        """Launch the latest, and coalesce those before it."""
        latest_ms, complete = self._latest(following_ms, self.now_ms)
        return self._launch_behind(latest_ms, "coalesced", complete=complete)

    def first(self, following_ms: int) -> ClaimOccurrence:
        """Launch the earliest, and coalesce those behind it that are late as well."""
        latest_ms, complete = self._latest(following_ms, self.now_ms)
        until_ms = latest_ms if complete and self._late(latest_ms) else latest_ms - 1
        if until_ms < following_ms:
            return self.claim(self._present, (), following_ms)
        overdue = self._overdue(following_ms, until_ms, "coalesced")
        return self.claim(self._present, overdue.spans, self._next(overdue.last_ms))

    def claim(
        self, launch: Cursor | None, skipped: tuple[SkippedRange, ...], following_ms: int | None
    ) -> ClaimOccurrence:
        following = None if following_ms is None else self._cursor(following_ms)
        revision = self.state.revision
        return ClaimOccurrence(self.job, revision, self._due_ms, launch, skipped, following)

    def _skip_until(self, until_ms: int, reason: SkipReason) -> ClaimOccurrence:
        overdue = self._overdue(self._due_ms, until_ms, reason)
        return self.claim(None, overdue.spans, self._next(overdue.last_ms))

    def _launch_behind(
        self, latest_ms: int, reason: SkipReason, *, complete: bool
    ) -> ClaimOccurrence:
        """Skip what lies before the latest occurrence; launch it if its start has come."""
        overdue = self._overdue(self._due_ms, latest_ms - 1, reason)
        launch = self._cursor(latest_ms)
        if complete and overdue.complete and launch.start_ms <= self.now_ms:
            return self.claim(launch, overdue.spans, self._next(latest_ms))
        following_ms = latest_ms if overdue.complete else self._next(overdue.last_ms)
        return self.claim(None, overdue.spans, following_ms)

    @property
    def _due_ms(self) -> int:
        assert self.state.due_ms is not None
        return self.state.due_ms

    @property
    def _present(self) -> Cursor:
        assert self.state.start_ms is not None
        return Cursor(self._due_ms, self.state.start_ms)

    def _cursor(self, due_ms: int) -> Cursor:
        start_ms = schedule.start_ms(self.definition.schedule, self.job, due_ms)
        return Cursor(due_ms, start_ms)

    def _next(self, after_ms: int) -> int | None:
        return _next(self.definition.schedule, after_ms)

    def _late(self, due_ms: int) -> bool:
        """Return whether an occurrence that none has overtaken should long have started."""
        return self.now_ms > self._cursor(due_ms).start_ms + LATE_MS

    def _latest(self, from_ms: int, until_ms: int) -> tuple[int, bool]:
        """Return the last occurrence that is known until then, and whether it is the last.

        `from_ms` is an occurrence.
        """
        found = schedule.missed_summary(self.definition.schedule, from_ms + 1, until_ms, 1)
        return (found.kept[-1] if found.kept else from_ms), found.complete

    def _overdue(self, first_ms: int, until_ms: int, reason: SkipReason) -> _Overdue:
        return _overdue(self.definition.schedule, self.state, first_ms, until_ms, reason, 1)


def _next(spec: ScheduleSpec, after_ms: int) -> int | None:
    """Return the next occurrence; of a job that follows its own ends it is not known yet."""
    return None if spec.kind == "delay" else schedule.next_occurrence(spec, after_ms)


def _overdue(
    spec: ScheduleSpec,
    state: JobState,
    first_ms: int,
    until_ms: int,
    reason: SkipReason,
    counts_max: int,
) -> _Overdue:
    """Return the occurrences from `first_ms`, which is one, until `until_ms`, by reasons."""
    spans: list[SkippedRange] = []
    ask_ms = last_ms = first_ms
    for named, end_ms in _by_reason(state, until_ms, reason):
        if end_ms < ask_ms:
            continue
        counted = _counted(spec, ask_ms, end_ms, counts_max, decreed=ask_ms == first_ms)
        if counted.total:
            last_ms = counted.last_ms
            spans.append(SkippedRange(named, counted.first_ms, last_ms, counted.total))
        if not counted.complete:
            return _Overdue(tuple(spans), last_ms, complete=False)
        ask_ms = end_ms + 1
    return _Overdue(tuple(spans), last_ms, complete=True)


class _Counted(NamedTuple):
    """How many occurrences there are between two instants; without any, no first and last."""

    total: int
    first_ms: int
    last_ms: int
    complete: bool


def _counted(
    spec: ScheduleSpec, from_ms: int, until_ms: int, counts_max: int, *, decreed: bool
) -> _Counted:
    """Count what lies in [`from_ms`, `until_ms`]; `decreed` says that `from_ms` is one."""
    count, first_ms, last_ms = int(decreed), from_ms, from_ms
    ask_ms = from_ms + count
    complete = False
    for _ in range(counts_max):
        found = schedule.missed_summary(spec, ask_ms, until_ms, 0)
        if found.first_ms is not None and found.last_ms is not None:
            first_ms = first_ms if count else found.first_ms
            last_ms, count = found.last_ms, count + found.count
        if found.resume_ms is None:
            complete = True
            break
        ask_ms = found.resume_ms
    return _Counted(count, first_ms, last_ms, complete)


def _by_reason(state: JobState, until_ms: int, reason: SkipReason) -> list[tuple[SkipReason, int]]:
    """Return the last pause, and what lies before and behind it, as (reason, end)."""
    paused_ms = state.paused_ms
    resumed_ms = until_ms if state.status == "paused" else state.resumed_ms
    if paused_ms is None or resumed_ms is None:
        return [(reason, until_ms)]
    ends: list[tuple[SkipReason, int]] = [
        (reason, paused_ms - 1),
        ("paused", resumed_ms),
        (reason, until_ms),
    ]
    return [(named, min(end_ms, until_ms)) for named, end_ms in ends]
