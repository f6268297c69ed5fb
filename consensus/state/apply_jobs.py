"""Applying what users ask for: put, delete, pause, resume and run a job, cancel a run."""

from __future__ import annotations

from consensus.state import apply_runs, cursor
from consensus.state.apply_claims import admit
from consensus.state.commands import (
    CancelRun,
    DeleteJob,
    JobDone,
    PauseJob,
    PutJob,
    Refused,
    RunDone,
    SkippedRange,
    TriggerJob,
)
from consensus.state.context import Context, band_under, replace
from storage import keys
from storage.models import JobState, Run


def put_job(context: Context, command: PutJob) -> JobDone | Refused:
    """Create or replace a job; see `consensus.state.commands.PutJob`."""
    holder = context.store.get(keys.name_key(command.namespace, command.name))
    if holder is None:
        return _create(context, command)
    if command.expected_revision == 0 or holder != command.job:
        return Refused("name_taken", f"{command.namespace}/{command.name} exists already.")
    state = _expected(context, command.job, command.expected_revision)
    return state if isinstance(state, Refused) else _replace(context, command, state)


def _create(context: Context, command: PutJob) -> JobDone | Refused:
    job, clock_ms = command.job, context.clock_ms
    if command.expected_revision != 0:
        return Refused("not_found", f"{command.namespace}/{command.name} does not exist.")
    if context.store.get(keys.JOB_STATE + job) is not None:
        return Refused("name_taken", "A job with this id exists, or existed, under another name.")
    state = JobState(
        command.namespace, command.name, 1, "scheduled", clock_ms, clock_ms, command.policy
    )
    context.store.put(keys.name_key(command.namespace, command.name), job)
    context.store.put(keys.JOB + job, command.definition)
    state = cursor.settle(cursor.begin(state, command.cursor), clock_ms)
    context.save_job(job, None, state)
    context.count("jobs")
    return JobDone(job, 1, clock_ms, clock_ms, created=True)


def _replace(context: Context, command: PutJob, before: JobState) -> JobDone | Refused:
    job, clock_ms = command.job, context.clock_ms
    state = replace(
        before, revision=before.revision + 1, updated_ms=clock_ms, policy=command.policy
    )
    if not command.keep_cursor:
        until_ms = cursor.last_of(before, None, command.skipped)
        if before.due_ms != command.seen_due_ms or until_ms is None:
            return Refused("cursor_moved", "The job was launched meanwhile.", before.revision)
        cursor.record(context, job, command.skipped)
        if command.skipped:
            state = replace(state, decided_ms=until_ms)
        state = cursor.begin(state, command.cursor)
    context.store.put(keys.JOB + job, command.definition)
    state = cursor.settle(_rearranged(context, before, state), clock_ms)
    context.save_job(job, before, state)
    # Entries that stay where they are may be another member's by now, for all that the key
    # of an entry says of a placement is whether there is one.
    context.look_again(job, state)
    apply_runs.look_again(context, state)
    return JobDone(job, state.revision, state.created_ms, clock_ms)


def _rearranged(context: Context, before: JobState, state: JobState) -> JobState:
    """Apply a new policy to the runs that there are already."""
    policy = state.policy
    if policy.overlap == "allow":
        # Nothing would ever make room for it, while others go on beside it.
        state = apply_runs.promote(context, state)
    if (policy.priority, policy.selective) != (before.policy.priority, before.policy.selective):
        apply_runs.move_queued(context, state, policy)
    return state


def delete_job(context: Context, command: DeleteJob) -> JobDone | Refused:
    """Take a job out of service; its history stays readable by its id.

    Live attempts come to their end. Runs that only wait are cancelled.
    """
    job, clock_ms = command.job, context.clock_ms
    before = _expected(context, job, command.expected_revision)
    if isinstance(before, Refused):
        return before
    overdue = _overdue_deleted(context, command, before)
    if isinstance(overdue, Refused):
        return overdue
    state = apply_runs.end_unheld(context, overdue, "The job was deleted.")
    state = replace(
        state,
        revision=before.revision + 1,
        status="deleted",
        updated_ms=clock_ms,
        due_ms=None,
        start_ms=None,
    )
    context.store.delete(keys.name_key(before.namespace, before.name))
    context.save_job(job, before, state)
    context.count("jobs", -1)
    return JobDone(job, state.revision, state.created_ms, clock_ms)


def _overdue_deleted(context: Context, command: DeleteJob, before: JobState) -> JobState | Refused:
    """Give what is overdue its outcome, as counted by the proposer.

    Who has counted under another cursor has to count again: of several occurrences that
    are overdue, this one knows the first alone.
    """
    due_ms, skipped = before.due_ms, command.skipped
    until_ms = cursor.last_of(before, None, skipped)
    if skipped and (until_ms is None or command.seen_due_ms != due_ms):
        return Refused("cursor_moved", "The job was launched meanwhile.", before.revision)
    if not skipped or until_ms is None:
        if due_ms is None or due_ms > context.clock_ms or cursor.behind(before):
            return before
        skipped, until_ms = (SkippedRange("deleted", due_ms, due_ms, 1),), due_ms
    cursor.record(context, command.job, skipped)
    return replace(before, decided_ms=until_ms)


def pause_job(context: Context, command: PauseJob) -> JobDone | Refused:
    """Pause or resume; a job that is in the wanted state already is left as it is."""
    job, clock_ms = command.job, context.clock_ms
    before = _expected(context, job, command.expected_revision)
    if isinstance(before, Refused):
        return before
    if command.paused == (before.status == "paused"):
        return JobDone(job, before.revision, before.created_ms, before.updated_ms)
    state = replace(before, revision=before.revision + 1, updated_ms=clock_ms)
    if command.paused:
        state = replace(state, status="paused", paused_ms=clock_ms, resumed_ms=None)
    else:
        # The cursor has stood still: what fell due meanwhile is overdue now, and the
        # catch-up policy decides about it as about any other lateness.
        state = cursor.settle(replace(state, status="scheduled", resumed_ms=clock_ms), clock_ms)
    context.save_job(job, before, state)
    return JobDone(job, state.revision, state.created_ms, clock_ms)


def trigger_job(context: Context, command: TriggerJob) -> RunDone | Refused:
    """Queue a manual run, unless the overlap policy forbids it."""
    job, clock_ms = command.job, context.clock_ms
    before = context.find_job(job)
    if before is None or before.status == "deleted":
        return Refused("not_found", "There is no such job.")
    policy = before.policy
    key = keys.run_key(job, command.at_ms, keys.TRIGGER_MANUAL, command.nonce)
    if context.find_run(key) is not None:
        return Refused("already_running", "This manual run exists already.")
    run = Run(
        "queued",
        before.revision,
        "manual",
        command.at_ms,
        clock_ms,
        clock_ms,
        policy.priority,
        band_under(policy),
    )
    admitted = admit(context, key, run, before)
    if admitted is None:
        return Refused(
            "already_running",
            f"{len(before.live)} runs of this job are live, and its overlap policy is"
            f" {policy.overlap!r}.",
            before.revision,
        )
    state, run = admitted
    context.save_run(key, None, run)
    context.save_job(job, before, state)
    return RunDone(key, run.state)


def cancel_run(context: Context, command: CancelRun) -> RunDone | Refused:
    """End a run: at once while nobody holds it, else by asking its holder."""
    run = context.find_run(command.run)
    if run is None:
        return Refused("not_found", "There is no such run.")
    if run.state == "ended":
        return Refused("already_ended", f"The run ended as {run.outcome!r}.")
    return RunDone(command.run, apply_runs.cancel(context, command.run, run, command.reason))


def _expected(context: Context, job: bytes, revision: int | None) -> JobState | Refused:
    state = context.find_job(job)
    if state is None or state.status == "deleted":
        return Refused("not_found", "There is no such job.")
    if revision is not None and revision != state.revision:
        return Refused(
            "revision_mismatch",
            f"The job is at revision {state.revision}, not {revision}.",
            state.revision,
        )
    return state
