"""The cursor of a job: which of its occurrences are decided, and which is next.

Occurrences are decided in their order, each once. `decided_ms` is the last one that has an
outcome, and grows for as long as the job lives, whatever becomes of its schedule; what a
proposer wants to decide has to lie behind it, and has to begin with the cursor. So two
records can never speak of the same occurrence, and none is passed over in silence.
"""

from __future__ import annotations

from consensus.state.commands import Cursor, SkippedRange
from consensus.state.context import Context, replace
from storage.models import JobState, JobStatus, Skip

# Before every occurrence, for instants are not negative.
NOTHING_DECIDED = -1


def decided_until(state: JobState) -> int:
    """Return the last occurrence of a job that has an outcome."""
    return NOTHING_DECIDED if state.decided_ms is None else state.decided_ms


def behind(state: JobState) -> bool:
    """Return whether the cursor names an instant that is decided already.

    A schedule that was edited a moment after its next occurrence had been claimed ahead of
    time may come by the same instant again.
    """
    return state.due_ms is not None and state.due_ms <= decided_until(state)


def last_of(
    state: JobState, launch: Cursor | None, skipped: tuple[SkippedRange, ...]
) -> int | None:
    """Return the last of the occurrences that are to be decided, with those before them.

    None means that they cannot be decided so: they do not begin with the cursor, are not
    in order, overlap, or are decided already. A cursor that is behind is no beginning.
    """
    until_ms = decided_until(state)
    if launch is None and not skipped:
        return until_ms
    spans = [(span.first_ms, span.last_ms) for span in skipped]
    if launch is not None:
        spans.append((launch.due_ms, launch.due_ms))
    spans.sort()
    begins = behind(state) or spans[0][0] == state.due_ms
    if not begins or any(span.count < 1 for span in skipped):
        return None
    for first_ms, last_ms in spans:
        if first_ms <= until_ms or last_ms < first_ms:
            return None
        until_ms = last_ms
    return until_ms


def record(context: Context, job: bytes, skipped: tuple[SkippedRange, ...]) -> None:
    """Write why occurrences are not launched."""
    for span in skipped:
        skip = Skip(span.reason, span.last_ms, span.count, context.clock_ms)
        context.save_skip(job, span.first_ms, skip)


def begin(state: JobState, cursor: Cursor | None) -> JobState:
    """Return the state with the first occurrence of a new schedule."""
    if cursor is None:
        return replace(state, due_ms=None, start_ms=None, first_due_ms=None)
    return replace(
        state, due_ms=cursor.due_ms, start_ms=cursor.start_ms, first_due_ms=cursor.due_ms
    )


def settle(state: JobState, clock_ms: int) -> JobState:
    """Return a job's state as scheduled or as finished, as its cursor and limits say.

    A job that follows its own ends gets its next occurrence here, as soon as it has none
    and nothing of it is live.
    """
    if state.status not in {"scheduled", "finished"}:
        return state
    policy, due_ms, start_ms = state.policy, state.due_ms, state.start_ms
    spent = policy.runs_max is not None and state.launches_total >= policy.runs_max
    if spent:
        due_ms = start_ms = None
    elif due_ms is None and policy.delay_ms is not None and not state.live:
        due_ms = start_ms = _after_end(state, clock_ms, policy.delay_ms)
    open_ended = policy.manual or (policy.delay_ms is not None and bool(state.live))
    going_on = due_ms is not None or (open_ended and not spent)
    status: JobStatus = "scheduled" if going_on else "finished"
    if (status, due_ms, start_ms) == (state.status, state.due_ms, state.start_ms):
        return state
    return replace(state, status=status, due_ms=due_ms, start_ms=start_ms)


def _after_end(state: JobState, clock_ms: int, delay_ms: int) -> int | None:
    due_ms = max(clock_ms + delay_ms, decided_until(state) + 1)
    last_ms = state.policy.not_after_ms
    return due_ms if last_ms is None or due_ms <= last_ms else None
