"""Applying what members report about runs: claims, starts, ends, and losses.

One transaction decides about an occurrence: it writes the run with its fence, or the
reason why there is none, and moves the cursor. So an occurrence can be neither lost nor
doubled, whatever happens between two transactions.
"""

from __future__ import annotations

from consensus.commands import Ended, SkippedRange, Started
from consensus.context import Context, replace
from consensus.transitions import HELD_STATES, advance
from storage import keys
from storage.invariant import invariant
from storage.keys import band_of
from storage.limits import ATTEMPTS_KEPT_MAX, LIVE_RUNS_PER_JOB_MAX, LOST_ATTEMPTS_MAX
from storage.models import Attempt, JobState, Outcome, Run, Skip

RETRIED_OUTCOMES: frozenset[Outcome] = frozenset({"failed", "timed_out"})
FAILED_OUTCOMES: frozenset[Outcome] = frozenset({"failed", "timed_out", "lost", "unknown"})


def record_skip(context: Context, job: bytes, span: SkippedRange) -> None:
    """Write that occurrences are not launched.

    One that has an outcome keeps it: an edited schedule may come by an instant again that
    was decided under the one before.
    """
    key = keys.run_key(job, span.first_ms)
    if context.outcome(key) is not None:
        return
    context.put_outcome(key, Skip(span.reason, span.last_ms, span.count, context.clock_ms))
    context.count(f"skipped.{span.reason}", span.count)


def admit(context: Context, key: bytes, run: Run, state: JobState) -> tuple[JobState, Run] | None:
    """Apply the overlap policy to a new run; None means that there is no room for it.

    The run becomes live, or it waits for those before it. The caller writes it.
    """
    overlap = state.policy.overlap
    if not state.live or (overlap == "allow" and len(state.live) < LIVE_RUNS_PER_JOB_MAX):
        state = replace(state, live=(*state.live, key))
    elif overlap == "cancel_other" or (overlap == "buffer_one" and state.waiting is None):
        state = _displace(context, state) if overlap == "cancel_other" else state
        state, run = replace(state, waiting=key), replace(run, state="waiting")
    else:
        return None
    context.store.put(keys.timeline_key(context.clock_ms, key), b"")
    context.count("runs")
    context.count("runs_live")
    launches = state.launches_total + (run.trigger == "schedule")
    return replace(state, launches_total=launches), run


def _displace(context: Context, state: JobState) -> JobState:
    """Ask all live runs to stop, and end the one that waits."""
    if state.waiting is not None:
        waiting = context.run(state.waiting)
        assert waiting is not None
        _write_end(context, state.waiting, waiting, "cancelled", "A later run took its place.")
        state = replace(state, waiting=None)
    for key in state.live:
        run = context.run(key)
        assert run is not None
        if run.state in HELD_STATES:
            _ask_holder(context, key, run, "A later run takes its place.")
    return state


def queue(context: Context, key: bytes, run: Run) -> None:
    """Write a queued run and enter it into the due table."""
    context.put_outcome(key, run)
    context.put_due(key, run.band, run.start_ms, run.priority)


def _dequeue(context: Context, key: bytes, run: Run) -> None:
    context.delete_due(key, run.band, run.start_ms, run.priority)


def grant(
    context: Context, key: bytes, run: Run, state: JobState, incarnation: bytes, member: str
) -> JobState:
    """Give a queued run to a member, as its next attempt, under a new fence."""
    fence = max(context.index, state.fence + 1)
    granted = replace(
        run,
        state=advance(run.state, "claimed"),
        revision=state.revision,
        number=run.number + 1,
        fence=fence,
        incarnation=incarnation,
        member=member,
        started_ms=None,
    )
    context.put_outcome(key, granted)
    context.store.put(keys.live_key(incarnation, key), b"")
    context.effects.granted.append((incarnation, key))
    return replace(state, fence=fence)


def claim_queued(
    context: Context, key: bytes, start_ms: int, incarnation: bytes, member: str
) -> str | None:
    """Grant a queued run; return why not, or None."""
    run = context.run(key)
    if run is None or run.state != "queued" or run.start_ms != start_ms:
        return "stale"
    job = key[:16]
    state = context.job_state(job)
    assert state is not None
    _dequeue(context, key, run)
    context.put_job_state(job, grant(context, key, run, state, incarnation, member))
    return None


def started(context: Context, item: Started) -> bool:
    """Record that an attempt runs; return whether its fence is the current one."""
    run = context.run(item.run)
    if run is None or run.state != "claimed" or run.fence != item.fence:
        return False
    running = replace(run, state=advance(run.state, "started"), started_ms=item.started_ms)
    context.put_outcome(item.run, running)
    return True


def ended(context: Context, item: Ended) -> bool:
    """Record an attempt's end; return whether its fence is the current one.

    A failed attempt with tries left goes back to the queue, any other ends its run.
    """
    key = item.run
    run = context.run(key)
    if run is None or run.state not in HELD_STATES or run.fence != item.fence:
        return False
    if item.outcome == "lost":
        # Its member gives it back: the lease ran out, or the member is stopping.
        lost(context, key)
        return True
    job = key[:16]
    state = context.job_state(job)
    assert state is not None
    context.store.delete(keys.live_key(run.incarnation, key))
    for sequence, chunk in enumerate(item.output):
        context.store.put(keys.output_key(key, run.number, sequence), chunk)
    if item.output:
        context.store.put(keys.output_age_key(context.clock_ms, key), b"")
    run = replace(run, started_ms=item.started_ms, output_bytes=item.output_bytes)
    again = (
        item.outcome in RETRIED_OUTCOMES
        and item.retry_start_ms is not None
        and run.number < state.policy.attempts_max
        and run.cancel_reason is None
        and state.status != "deleted"
    )
    if again:
        assert item.retry_start_ms is not None
        _return(context, key, run, item, item.retry_start_ms)
    else:
        _finish(context, key, run, state, item)
    return True


def lost(context: Context, key: bytes) -> None:
    """Return the run of a member that is gone, as the job's delivery wants it."""
    run = context.run(key)
    invariant(
        run is not None and run.state in HELD_STATES, "A live entry has no held run.", run=key.hex()
    )
    assert run is not None
    state = context.job_state(key[:16])
    assert state is not None
    losses = sum(attempt.outcome == "lost" for attempt in run.attempts) + 1
    outcome: Outcome = "lost"
    detail = f"Member {run.member} was lost."
    if run.cancel_reason is not None:
        outcome, detail = "cancelled", run.cancel_reason
    elif state.policy.delivery == "at_most_once":
        outcome, detail = "unknown", f"{detail} It may have run, and is not run again."
    end = Ended(key, run.number, run.fence, outcome, run.started_ms, context.clock_ms, None, detail)
    context.store.delete(keys.live_key(run.incarnation, key))
    if outcome == "lost" and losses < LOST_ATTEMPTS_MAX and state.status != "deleted":
        _return(context, key, run, end, context.clock_ms)
    else:
        _finish(context, key, run, state, end)


def _past(run: Run, end: Ended) -> tuple[Attempt, ...]:
    attempt = Attempt(
        run.number,
        run.fence,
        run.member,
        end.started_ms,
        end.ended_ms,
        end.outcome,
        end.exit_code,
        end.detail,
    )
    return (*run.attempts, attempt)[-ATTEMPTS_KEPT_MAX:]


def _return(context: Context, key: bytes, run: Run, end: Ended, start_ms: int) -> None:
    queued = replace(
        run,
        state=advance(run.state, "returned"),
        start_ms=start_ms,
        attempts=_past(run, end),
        incarnation=b"",
        member="",
        started_ms=None,
    )
    queue(context, key, queued)
    context.count("retries")


def _finish(context: Context, key: bytes, run: Run, state: JobState, end: Ended) -> None:
    past = _past(run, end)
    _write_end(
        context,
        key,
        replace(run, attempts=past),
        end.outcome,
        end.detail,
        end.exit_code,
        end.ended_ms,
    )
    _release(context, key, state, end.outcome)


def _write_end(
    context: Context,
    key: bytes,
    run: Run,
    outcome: Outcome,
    detail: str,
    exit_code: int | None = None,
    ended_ms: int | None = None,
) -> None:
    over = replace(
        run,
        state=advance(run.state, "ended"),
        ended_ms=context.clock_ms if ended_ms is None else ended_ms,
        outcome=outcome,
        exit_code=exit_code,
        detail=detail,
    )
    context.put_outcome(key, over)
    context.effects.ended.append((key, outcome))
    context.count(f"runs.{outcome}")
    context.count("runs_live", -1)


def _release(context: Context, key: bytes, state: JobState, outcome: Outcome) -> None:
    """Free the place of a run that is over, and give it to the one that waits."""
    job = key[:16]
    failures = 0 if outcome == "succeeded" else state.failures_consecutive
    failures += outcome in FAILED_OUTCOMES
    state = replace(
        state,
        live=tuple(other for other in state.live if other != key),
        waiting=None if state.waiting == key else state.waiting,
        last_run=key,
        last_outcome=outcome,
        failures_consecutive=failures,
    )
    if not state.live and state.waiting is not None:
        state = _promote(context, state)
    state = follow_delay(context, job, state, context.clock_ms)
    context.put_job_state(job, state)
    if state.start_ms is not None and not state.live:
        # The next occurrence may have been waiting for this end to know its lot.
        band = band_of(state.policy.priority, selective=state.policy.selective)
        context.effects.due.append((keys.partition_of(job), band, state.start_ms))


def _promote(context: Context, state: JobState) -> JobState:
    key = state.waiting
    assert key is not None
    run = context.run(key)
    assert run is not None
    start_ms = max(run.start_ms, context.clock_ms)
    queued = replace(run, state=advance(run.state, "promoted"), start_ms=start_ms)
    queue(context, key, queued)
    return replace(state, live=(key,), waiting=None)


def follow_delay(context: Context, job: bytes, state: JobState, end_ms: int) -> JobState:
    """Set the next occurrence of a job that is due a fixed delay after its last end."""
    policy = state.policy
    if policy.delay_ms is None or state.due_ms is not None or state.live:
        return state
    due_ms = end_ms + policy.delay_ms
    if state.status != "scheduled":
        return state
    if policy.not_after_ms is not None and due_ms > policy.not_after_ms:
        return replace(state, status="finished")
    band = band_of(policy.priority, selective=policy.selective)
    context.put_due(job, band, due_ms, policy.priority)
    return replace(state, due_ms=due_ms, start_ms=due_ms)


def cancel(context: Context, key: bytes, run: Run, reason: str) -> Run:
    """End a run that nobody holds; ask the holder of one that somebody does."""
    if run.state in HELD_STATES:
        return _ask_holder(context, key, run, reason)
    state = context.job_state(key[:16])
    assert state is not None
    if run.state == "queued":
        _dequeue(context, key, run)
    _write_end(context, key, run, "cancelled", reason)
    _release(context, key, state, "cancelled")
    return replace(run, state="ended", outcome="cancelled")


def cancel_unless_held(context: Context, key: bytes, reason: str) -> None:
    """Cancel a run that is queued or waiting, and let one that is held come to its end."""
    run = context.run(key)
    assert run is not None
    if run.state not in HELD_STATES:
        cancel(context, key, run, reason)


def _ask_holder(context: Context, key: bytes, run: Run, reason: str) -> Run:
    if run.cancel_reason is None:
        run = replace(run, cancel_reason=reason)
        context.put_outcome(key, run)
    context.effects.cancelled.append((run.incarnation, key))
    return run
