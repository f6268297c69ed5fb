"""Applying what becomes of runs: starts, ends, losses and cancellations.

A fence decides whether a report still counts. Whatever ends a run also frees its place
in the job, and gives that place to the run that waits for it, in the same transaction.
"""

from __future__ import annotations

from consensus.state import cursor
from consensus.state.commands import Ended, Started
from consensus.state.context import Context, band_under, replace
from consensus.state.transitions import HELD_STATES, advance
from storage import keys
from storage.limits import ATTEMPTS_KEPT_MAX, LOST_ATTEMPTS_MAX
from storage.models import Attempt, JobPolicy, JobState, Outcome, Run

RETRIED_OUTCOMES: frozenset[Outcome] = frozenset({"failed", "timed_out"})
FAILED_OUTCOMES: frozenset[Outcome] = frozenset({"failed", "timed_out", "lost", "unknown"})


# --- Reports --------------------------------------------------------------------------------


def started(context: Context, item: Started) -> bool:
    """Record that an attempt runs; return whether its fence is the current one."""
    run = context.find_run(item.run)
    if run is None or run.state != "claimed" or run.fence != item.fence:
        return False
    running = replace(run, state=advance(run.state, "started"), started_ms=item.started_ms)
    context.save_run(item.run, run, running)
    return True


def ended(context: Context, item: Ended) -> bool:
    """Record an attempt's end; return whether its fence is the current one.

    A failed attempt with tries left goes back to the queue, any other ends its run. One
    that its member gives back (`lost`) is decided about as if the member were gone, but
    for an attempt that has certainly not begun.
    """
    key = item.run
    run = context.find_run(key)
    if run is None or run.state not in HELD_STATES or run.fence != item.fence:
        return False
    if item.outcome == "lost":
        _return_lost(context, key, run, item.detail, certain=item.unstarted)
        return True
    _keep_output(context, item, run)
    state = context.job(key[: keys.JOB_ID_BYTES])
    if _tried_again(run, state, item):
        assert item.retry_start_ms is not None
        _requeue(context, key, run, state, item, item.retry_start_ms)
    else:
        _finish(context, key, run, state, item)
    return True


def _tried_again(run: Run, state: JobState, item: Ended) -> bool:
    return (
        item.outcome in RETRIED_OUTCOMES
        and item.retry_start_ms is not None
        and run.number < state.policy.attempts_max
        and run.cancel_reason is None
        and state.status != "deleted"
    )


def _keep_output(context: Context, item: Ended, run: Run) -> None:
    for sequence, chunk in enumerate(item.output):
        context.store.put(keys.output_key(item.run, run.number, sequence), chunk)
    if item.output:
        # Each attempt's output ages by itself.
        attempt = item.run + run.number.to_bytes(2, "big")
        context.store.put(keys.output_age_key(context.clock_ms, attempt), b"")


def lost(context: Context, key: bytes, reason: str | None = None) -> None:
    """Return the run of a member that is gone, as the job's delivery wants it."""
    run = context.run(key)
    detail = f"Member {run.member} was lost." if reason is None else reason
    _return_lost(context, key, run, detail, certain=False)


def _return_lost(context: Context, key: bytes, run: Run, detail: str, *, certain: bool) -> None:
    """Return an attempt that nobody sees the end of; `certain` if it never began."""
    state = context.job(key[: keys.JOB_ID_BYTES])
    losses = sum(attempt.outcome == "lost" for attempt in run.attempts) + 1
    outcome: Outcome = "lost"
    if run.cancel_reason is not None:
        outcome, detail = "cancelled", run.cancel_reason
    elif state.policy.delivery == "at_most_once" and not certain:
        outcome, detail = "unknown", f"{detail} It may have run, and is not run again."
    end = Ended(key, run.number, run.fence, outcome, run.started_ms, context.clock_ms, None, detail)
    if outcome == "lost" and losses < LOST_ATTEMPTS_MAX and state.status != "deleted":
        _requeue(context, key, run, state, end, context.clock_ms)
    else:
        _finish(context, key, run, state, end)


def _past(run: Run, end: Ended) -> tuple[Attempt, ...]:
    """Return the attempts of a run that are over, with the one that has just ended."""
    attempt = Attempt(
        run.number,
        run.fence,
        run.member,
        _started_ms(run, end),
        end.ended_ms,
        end.outcome,
        end.exit_code,
        end.detail,
    )
    return (*run.attempts, attempt)[-ATTEMPTS_KEPT_MAX:]


def _started_ms(run: Run, end: Ended) -> int | None:
    return run.started_ms if end.started_ms is None else end.started_ms


def _requeue(
    context: Context, key: bytes, run: Run, state: JobState, end: Ended, start_ms: int
) -> None:
    """Put a run that is to be tried again into the queue, as its job stands now.

    It may have been claimed ahead of time, and starts before its instant in no case.
    """
    queued = replace(
        run,
        state=advance(run.state, "returned"),
        start_ms=max(start_ms, run.start_ms, context.clock_ms),
        priority=state.policy.priority,
        band=band_under(state.policy),
        incarnation=b"",
        member="",
        started_ms=None,
        output_bytes=end.output_bytes,
        attempts=_past(run, end),
    )
    context.save_run(key, run, queued)
    context.count("retries")


def _finish(context: Context, key: bytes, run: Run, state: JobState, end: Ended) -> None:
    """End a run with its present attempt, and free its place."""
    over = replace(
        run,
        state=advance(run.state, "ended"),
        started_ms=_started_ms(run, end),
        ended_ms=end.ended_ms,
        outcome=end.outcome,
        exit_code=end.exit_code,
        detail=end.detail,
        output_bytes=end.output_bytes,
        attempts=_past(run, end),
    )
    context.save_run(key, run, over)
    _release(context, key, state, end.outcome)


def _cancel(context: Context, key: bytes, run: Run, detail: str) -> None:
    """End a run that nobody holds."""
    over = replace(
        run,
        state=advance(run.state, "ended"),
        ended_ms=context.clock_ms,
        outcome="cancelled",
        detail=detail,
    )
    context.save_run(key, run, over)


def _release(context: Context, key: bytes, before: JobState, outcome: Outcome) -> None:
    """Free the place of a run that is over, and give it to the one that waits."""
    job = key[: keys.JOB_ID_BYTES]
    failures = 0 if outcome == "succeeded" else before.failures_consecutive
    state = replace(
        before,
        live=tuple(other for other in before.live if other != key),
        waiting=None if before.waiting == key else before.waiting,
        last_run=key,
        last_outcome=outcome,
        failures_consecutive=failures + (outcome in FAILED_OUTCOMES),
    )
    if not state.live:
        state = cursor.settle(promote(context, state), context.clock_ms)
    context.save_job(job, before, state)
    if not state.live:
        # The next occurrence may have been waiting for this end to know its lot.
        context.look_again(job, state)


# --- Making room ----------------------------------------------------------------------------


def promote(context: Context, state: JobState) -> JobState:
    """Let the run that waits, if there is one, take its place among the live ones."""
    key = state.waiting
    if key is None:
        return state
    run = context.run(key)
    start_ms = max(run.start_ms, context.clock_ms)
    context.save_run(
        key, run, replace(run, state=advance(run.state, "promoted"), start_ms=start_ms)
    )
    return replace(state, live=(*state.live, key), waiting=None)


def end_unheld(context: Context, state: JobState, detail: str) -> JobState:
    """End the runs of a job that nobody holds; the held ones are what is left of `live`."""
    held = []
    for key in (*state.live, *((state.waiting,) if state.waiting else ())):
        run = context.run(key)
        if run.state in HELD_STATES:
            held.append(key)
        else:
            _cancel(context, key, run, detail)
    return replace(state, live=tuple(held), waiting=None)


def ask_holders(context: Context, state: JobState, reason: str) -> None:
    """Ask for the end of all live runs of a job that has no queued ones."""
    for key in state.live:
        _ask_holder(context, key, context.run(key), reason)


def move_queued(context: Context, state: JobState, policy: JobPolicy) -> None:
    """Let the queued runs of a job stand where its new policy wants them."""
    band = band_under(policy)
    for key in state.live:
        run = context.run(key)
        if run.state == "queued":
            context.save_run(key, run, replace(run, priority=policy.priority, band=band))


def look_again(context: Context, state: JobState) -> None:
    """Hint that the queued runs of a job are worth another look."""
    if not state.policy.selective:
        return
    for key in state.live:
        run = context.run(key)
        if run.state == "queued":
            place = (keys.partition_of(key[: keys.JOB_ID_BYTES]), run.band, run.start_ms)
            context.effects.due.append(place)


def cancel(context: Context, key: bytes, run: Run, reason: str) -> str:
    """End a run that nobody holds, ask the holder of one that is held; return its state."""
    if run.state in HELD_STATES:
        _ask_holder(context, key, run, reason)
        return run.state
    state = context.job(key[: keys.JOB_ID_BYTES])
    _cancel(context, key, run, reason)
    _release(context, key, state, "cancelled")
    return "ended"


def _ask_holder(context: Context, key: bytes, run: Run, reason: str) -> None:
    if run.cancel_reason is None:
        context.save_run(key, run, replace(run, cancel_reason=reason))
    context.effects.cancelled.append((run.incarnation, key))
