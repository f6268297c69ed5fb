"""Changing jobs: from what a request wants to a command, and again if somebody was faster.

A change is worked out against this member's copy of the state, which may lag, and is
checked by the state machine against the revision that was seen. So two rules:

* What the copy alone says is no reason to refuse. Before a change is answered with "there
  is no such job" or "the precondition does not hold", the copy is brought up to date.
* A change without a precondition that is overtaken by another is worked out again, a
  bounded number of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from api.calls import PROPOSAL_S, Call
from api.conditions import Conditions
from api.durations import format_time
from api.faults import Rejected
from api.ids import parse_job_id
from api.jobs.document import JobRequest
from api.jobs.planning import (
    OccurrenceDecided,
    first_cursor,
    policy_of,
    renewed_cursor,
    rescheduled,
)
from api.problems import Problem, refused
from consensus.state.commands import Command, DeleteJob, JobDone, PutJob, Refused, RequestKey
from storage import keys, models
from storage.clock import new_id
from storage.models import JobDefinition, JobState
from storage.store import View

# Each try loses only to a change that was carried out, so even under contention some
# client gets ahead; who loses five times in a row is told to come again.
TRIES_MAX = 5
# Refusals after which the same request may succeed once the state has been read again.
_OVERTAKEN = frozenset({"name_taken", "revision_mismatch", "cursor_moved", "not_found"})


class Target(NamedTuple):
    """The job of an address: by its id, or by namespace and name."""

    job: bytes | None
    namespace: str = ""
    name: str = ""

    @property
    def described(self) -> str:
        if self.job is not None:
            return f"with the id {self.job.hex()}"
        return f"named {self.namespace}/{self.name}"


class Current(NamedTuple):
    """A job as this member sees it."""

    job: bytes
    state: JobState
    definition: JobDefinition


class Change(NamedTuple):
    """A change that was made, and what it was made of."""

    done: JobDone
    command: Command
    request: JobRequest | None


def target_of(call: Call) -> Target:
    """Return the job that the address names.

    Raises:
        Problem: `not_found`, if the text cannot be the id of any job.
    """
    parts = call.request.match_info
    if "job" not in parts:
        return Target(None, parts["namespace"], parts["name"])
    job = parse_job_id(parts["job"])
    if job is None:
        raise Problem(
            "not_found",
            "The address names no job: the id of a job has 32 hexadecimal digits in lower"
            " case; a job by its name is /v1/jobs/{namespace}/{name}.",
        )
    return Target(job)


def find_job(view: View, target: Target) -> bytes | None:
    """Return the id that a target stands for; whether it exists is not looked at."""
    if target.job is not None:
        return target.job
    return view.get(keys.name_key(target.namespace, target.name))


def read_state(view: View, job: bytes) -> JobState | None:
    """Return the state of a job, also of one that was deleted."""
    raw = view.get(keys.JOB_STATE + job)
    return None if raw is None else models.decode_job_state(raw)


def read_current(view: View, target: Target) -> Current | None:
    """Return the job as it is now, None if there is none or it was deleted."""
    job = find_job(view, target)
    if job is None:
        return None
    raw = view.get(keys.JOB + job)
    state = read_state(view, job)
    if raw is None or state is None or state.status == "deleted":
        return None
    return Current(job, state, models.decode_definition(raw))


def no_such_job(target: Target) -> Problem:
    return Problem("not_found", f"There is no job {target.described}.")


async def fresh_current(call: Call, target: Target) -> Current | None:
    """Return the job as of now, after all that was acknowledged before."""
    await call.cluster.barrier(timeout_s=PROPOSAL_S)
    return read_current(call.cluster.view, target)


def creation(job: bytes, request: JobRequest, now_ms: int, key: RequestKey | None = None) -> PutJob:
    """Return the command that creates a job as of `now_ms`."""
    definition = request.definition
    return PutJob(
        job,
        request.namespace,
        request.name,
        request.encoded,
        policy_of(definition),
        first_cursor(definition, job, now_ms),
        0,
        request=key,
    )


def replacement(current: Current, request: JobRequest, now_ms: int) -> PutJob:
    """Return the command that replaces a job's definition as of `now_ms`.

    A schedule that stays the same keeps its cursor, so that nothing overdue is lost by a
    change of, say, the description.

    Raises:
        Problem: it is to run once, at a time that is decided already.
    """
    job, state, before = current
    definition = request.definition
    keep = definition.schedule == before.schedule
    # What follows its own ends has no next occurrence while it runs.
    follows = definition.schedule.kind == "delay" and bool(state.live)
    skipped = () if keep else rescheduled(before, state, now_ms)
    try:
        first = None if keep or follows else renewed_cursor(definition, job, state, skipped, now_ms)
    except OccurrenceDecided as decided:
        raise Problem(
            "occurrence_decided",
            "What becomes of this job's occurrences is decided up to "
            f"{format_time(decided.decided_ms)}; choose a later time, or create another job.",
        ) from decided
    return PutJob(
        job,
        request.namespace,
        request.name,
        request.encoded,
        policy_of(definition),
        first,
        state.revision,
        keep_cursor=keep,
        seen_due_ms=state.due_ms,
        skipped=skipped,
    )


def deletion(current: Current, now_ms: int, *, conditional: bool) -> DeleteJob:
    """Return the command that deletes a job, with what is overdue as of `now_ms`."""
    job, state, definition = current
    try:
        skipped = rescheduled(definition, state, now_ms, "deleted")
    except Rejected:
        # This member does not know the job's zone; the state machine records the cursor's
        # own occurrence, and nobody has to wait for an upgrade to get rid of a job.
        skipped = ()
    expected = state.revision if conditional else None
    return DeleteJob(job, expected, None, state.due_ms, skipped)


async def change(
    call: Call,
    target: Target,
    conditions: Conditions,
    work_out: Callable[[Current | None], tuple[Command, JobRequest | None]],
    *,
    creates: bool = False,
) -> Change:
    """Carry out what `work_out` makes of the job as it is, if the conditions hold.

    Raises:
        Problem: the job does not exist (unless `creates`), a condition does not hold, or
            others were faster every time.
    """
    detail = ""
    for _ in range(TRIES_MAX):
        current = await checked(call, target, conditions, creates=creates)
        command, request = work_out(current)
        result = await call.propose(command)
        if isinstance(result, JobDone):
            return Change(result, command, request)
        assert isinstance(result, Refused)
        if result.code not in _OVERTAKEN:
            raise refused(result)
        detail = result.detail
    raise Problem(
        "changed_meanwhile",
        f"Others changed the job {TRIES_MAX} times while this change was worked out"
        f" ({detail}) Nothing was changed by it; try again.",
    )


async def checked(
    call: Call, target: Target, conditions: Conditions, *, creates: bool
) -> Current | None:
    current = read_current(call.cluster.view, target)
    if not _acceptable(current, conditions, creates=creates):
        current = await fresh_current(call, target)
    if _acceptable(current, conditions, creates=creates):
        return current
    if current is None and not creates:
        raise no_such_job(target)
    raise unmet(current, conditions)


def _acceptable(current: Current | None, conditions: Conditions, *, creates: bool) -> bool:
    if current is None and not creates:
        return False
    return conditions.met_by(None if current is None else current.state.revision)


def unmet(current: Current | None, conditions: Conditions) -> Problem:
    """Return the problem of a condition that does not hold for the job as it is."""
    if current is None:
        return Problem("precondition_failed", "The job does not exist, as If-Match demands.")
    revision = current.state.revision
    detail = f"The job exists and is at revision {revision}."
    code = "precondition_failed" if conditions.revisions is None else "revision_mismatch"
    return Problem(code, detail, revision=revision)


def new_job(call: Call) -> bytes:
    return new_id(call.cluster.environment, call.now_ms())


async def act(
    call: Call, target: Target, command: Callable[[bytes], Command], *, repeated: bool
) -> object:
    """Carry out an action on a job, which is found by its id or by its name.

    `repeated` says that the request has an idempotency key. Then it may be an old one
    about a name that has gone since; the state machine knows its answer, whatever job the
    command names.

    Raises:
        Problem: there is no such job, or the action was refused.
    """
    job = find_job(call.cluster.view, target)
    refusal: Refused | None = None
    for _ in range(TRIES_MAX):
        if job is None:
            await call.cluster.barrier(timeout_s=PROPOSAL_S)
            job = find_job(call.cluster.view, target)
        if job is None and not repeated:
            raise no_such_job(target)
        result = await call.propose(command(job or bytes(16)))
        if not isinstance(result, Refused):
            return result
        refusal, before = result, job
        job = find_job(call.cluster.view, target)
        if result.code != "not_found" or job == before:
            break
    assert refusal is not None
    raise no_such_job(target) if refusal.code == "not_found" else refused(refusal)
