"""Applying what users ask for: put, delete, pause, resume and run a job, cancel a run."""

from __future__ import annotations

from consensus import apply_runs
from consensus.commands import (
    CancelRun,
    Cursor,
    DeleteJob,
    JobDone,
    PauseJob,
    PutJob,
    Refused,
    RunDone,
    SkippedRange,
    TriggerJob,
)
from consensus.context import Context, replace
from storage import keys
from storage.keys import band_of
from storage.models import JobState, Run


def put_job(context: Context, command: PutJob) -> JobDone | Refused:
    """Create or replace a job; see `consensus.commands.PutJob`."""
    holder = context.store.get(keys.name_key(command.namespace, command.name))
    if holder is None:
        return _create(context, command)
    if command.expected_revision == 0 or holder != command.job:
        return Refused("name_taken", f"{command.namespace}/{command.name} exists already.")
    state = _expected(context, command.job, command.expected_revision)
    return state if isinstance(state, Refused) else _replace(context, command, state)


def _create(context: Context, command: PutJob) -> JobDone | Refused:
    if command.expected_revision != 0:
        return Refused("not_found", f"{command.namespace}/{command.name} does not exist.")
    state = JobState(
        command.namespace,
        command.name,
        1,
        "scheduled",
        context.clock_ms,
        context.clock_ms,
        command.policy,
    )
    context.store.put(keys.name_key(command.namespace, command.name), command.job)
    context.store.put(keys.JOB + command.job, command.definition)
    context.put_job_state(command.job, set_cursor(context, command.job, state, command.cursor))
    context.count("jobs")
    return JobDone(command.job, 1, context.clock_ms, context.clock_ms, created=True)


def _replace(context: Context, command: PutJob, state: JobState) -> JobDone | Refused:
    if not command.keep_cursor and state.due_ms != command.seen_due_ms:
        return Refused("cursor_moved", "The job was launched meanwhile.", state.revision)
    job = command.job
    clear_cursor(context, job, state)
    cursor = command.cursor
    if command.keep_cursor:
        cursor = _cursor_of(state)
    else:
        record_skipped(context, job, command.skipped)
    status = state.status
    if status == "finished" and cursor is not None:
        status = "scheduled"
    changed = replace(
        state,
        revision=state.revision + 1,
        status=status,
        updated_ms=context.clock_ms,
        policy=command.policy,
    )
    context.store.put(keys.JOB + job, command.definition)
    context.put_job_state(job, set_cursor(context, job, changed, cursor))
    return JobDone(job, changed.revision, state.created_ms, context.clock_ms)


def delete_job(context: Context, command: DeleteJob) -> JobDone | Refused:
    """Take a job out of service; its history stays readable by its id.

    Live attempts come to their end. Runs that only wait are cancelled.
    """
    job = command.job
    state = _expected(context, job, command.expected_revision)
    if isinstance(state, Refused):
        return state
    clear_cursor(context, job, state)
    if state.due_ms is not None and state.due_ms <= context.clock_ms:
        late = SkippedRange("deleted", state.due_ms, state.due_ms, 1)
        record_skipped(context, job, (late,))
    context.store.delete(keys.name_key(state.namespace, state.name))
    gone = replace(
        state,
        revision=state.revision + 1,
        status="deleted",
        updated_ms=context.clock_ms,
        due_ms=None,
        start_ms=None,
    )
    context.put_job_state(job, gone)
    for run in (*state.live, *((state.waiting,) if state.waiting else ())):
        apply_runs.cancel_unless_held(context, run, "The job was deleted.")
    context.count("jobs", -1)
    return JobDone(job, gone.revision, state.created_ms, context.clock_ms)


def pause_job(context: Context, command: PauseJob) -> JobDone | Refused:
    """Pause or resume; a job that is in the wanted state already is left as it is."""
    job = command.job
    state = _expected(context, job, command.expected_revision)
    if isinstance(state, Refused):
        return state
    if command.paused == (state.status == "paused"):
        return JobDone(job, state.revision, state.created_ms, state.updated_ms)
    clock_ms = context.clock_ms
    changed = replace(state, revision=state.revision + 1, updated_ms=clock_ms)
    if command.paused:
        clear_cursor(context, job, state)
        changed = replace(changed, status="paused", paused_ms=clock_ms, resumed_ms=None)
    else:
        # The cursor has stood still: what fell due meanwhile is overdue now, and the
        # catch-up policy decides about it as about any other lateness.
        changed = replace(changed, status="scheduled", resumed_ms=clock_ms)
        changed = set_cursor(context, job, changed, _cursor_of(state))
        changed = apply_runs.follow_delay(context, job, changed, clock_ms)
    context.put_job_state(job, changed)
    return JobDone(job, changed.revision, state.created_ms, clock_ms)


def trigger_job(context: Context, command: TriggerJob) -> RunDone | Refused:
    """Queue a manual run, unless the overlap policy forbids it."""
    state = context.job_state(command.job)
    if state is None or state.status == "deleted":
        return Refused("not_found", "There is no such job.")
    key = keys.run_key(command.job, command.at_ms, keys.TRIGGER_MANUAL, command.nonce)
    if context.outcome(key) is not None:
        return Refused("already_running", "This manual run exists already.")
    run = Run(
        "queued",
        state.revision,
        "manual",
        command.at_ms,
        context.clock_ms,
        context.clock_ms,
        state.policy.priority,
        band_of(state.policy.priority, selective=state.policy.selective),
    )
    admitted = apply_runs.admit(context, key, run, state)
    if admitted is None:
        return Refused(
            "already_running",
            f"A run of this job is live, and its overlap policy is {state.policy.overlap!r}.",
            state.revision,
        )
    state, run = admitted
    context.put_job_state(command.job, state)
    if run.state == "queued":
        apply_runs.queue(context, key, run)
    else:
        context.put_outcome(key, run)
    return RunDone(key, run.state)


def cancel_run(context: Context, command: CancelRun) -> RunDone | Refused:
    """End a run: at once while nobody holds it, else by asking its holder."""
    run = context.run(command.run)
    if run is None:
        return Refused("not_found", "There is no such run.")
    if run.state == "ended":
        return Refused("already_ended", f"The run ended as {run.outcome!r}.")
    run = apply_runs.cancel(context, command.run, run, command.reason)
    return RunDone(command.run, run.state)


def _expected(context: Context, job: bytes, revision: int | None) -> JobState | Refused:
    state = context.job_state(job)
    if state is None or state.status == "deleted":
        return Refused("not_found", "There is no such job.")
    if revision is not None and revision != state.revision:
        return Refused(
            "revision_mismatch",
            f"The job is at revision {state.revision}, not {revision}.",
            state.revision,
        )
    return state


def _cursor_of(state: JobState) -> Cursor | None:
    if state.due_ms is None or state.start_ms is None:
        return None
    return Cursor(state.due_ms, state.start_ms)


def set_cursor(context: Context, job: bytes, state: JobState, cursor: Cursor | None) -> JobState:
    """Return the state with its cursor moved; while scheduled, it enters the due table."""
    if cursor is None:
        return replace(state, due_ms=None, start_ms=None)
    if state.status == "scheduled":
        policy = state.policy
        band = band_of(policy.priority, selective=policy.selective)
        context.put_due(job, band, cursor.start_ms, policy.priority)
    return replace(state, due_ms=cursor.due_ms, start_ms=cursor.start_ms)


def clear_cursor(context: Context, job: bytes, state: JobState) -> None:
    """Take the cursor's due entry out, if there is one."""
    if state.status == "scheduled" and state.start_ms is not None:
        policy = state.policy
        band = band_of(policy.priority, selective=policy.selective)
        context.delete_due(job, band, state.start_ms, policy.priority)


def record_skipped(context: Context, job: bytes, skipped: tuple[SkippedRange, ...]) -> None:
    for span in skipped:
        apply_runs.record_skip(context, job, span)
