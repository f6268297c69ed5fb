"""Applying claims: which member launches what, or why nobody does.

One transaction decides about an occurrence: it writes the run with its fence, or the
reason why there is none, and moves the cursor. So an occurrence can be neither lost nor
doubled, whatever happens between two transactions.
"""

from __future__ import annotations

from typing import NamedTuple

from consensus.state import apply_runs, cursor
from consensus.state.commands import Claim, Claimed, ClaimOccurrence, ClaimRun, Refused
from consensus.state.context import Context, band_under, replace
from consensus.state.transitions import HELD_STATES, advance
from storage import keys, models
from storage.limits import CLAIM_AHEAD_MS_MAX, LIVE_RUNS_PER_JOB_MAX
from storage.models import JobState, Run, Skip, SkipReason


class Holder(NamedTuple):
    """Who is granted what it has claimed."""

    incarnation: bytes
    member: str


def claim(context: Context, command: Claim) -> Claimed | Refused:
    """Decide what a member wants to launch, item by item."""
    raw = context.store.get(keys.INCARNATION + command.incarnation)
    lease = None if raw is None else models.decode_incarnation(raw)
    if lease is None or lease.expired or lease.lease_until_ms < context.clock_ms:
        return Refused("lease_expired", "Only a member with a valid lease may claim.")
    if lease.leaving:
        return Refused("member_removed", f"{lease.member!r} is no member of this cluster.")
    holder = Holder(command.incarnation, lease.member)
    return Claimed(
        tuple(
            _claim_occurrence(context, item, holder)
            if isinstance(item, ClaimOccurrence)
            else _claim_queued(context, item, holder)
            for item in command.items
        )
    )


def _claim_queued(context: Context, item: ClaimRun, holder: Holder) -> str | None:
    """Grant a queued run; return why not, or None."""
    run = context.find_run(item.run)
    if run is None or run.state != "queued" or run.start_ms != item.start_ms:
        return "stale"
    if run.start_ms > context.clock_ms + CLAIM_AHEAD_MS_MAX:
        return "too_early"
    job = item.run[: keys.JOB_ID_BYTES]
    state = context.job(job)
    if _blocked(context, item.run, state):
        return "overlap"
    granted = _granted(context, run, state, holder)
    context.save_run(item.run, run, granted)
    context.save_job(job, state, replace(state, fence=granted.fence))
    return None


def _blocked(context: Context, key: bytes, state: JobState) -> bool:
    """Return whether a held run stands in the way of a queued one.

    They can only meet where the overlap policy was changed while several runs were live.
    """
    if state.policy.overlap == "allow" or len(state.live) == 1:
        return False
    return any(context.run(other).state in HELD_STATES for other in state.live if other != key)


def _claim_occurrence(context: Context, item: ClaimOccurrence, holder: Holder) -> str | None:
    """Decide a job's cursor and move it on; return why not, or None."""
    before = context.find_job(item.job)
    if before is None or before.status != "scheduled":
        return "stale"
    if before.revision != item.revision or before.due_ms != item.due_ms:
        return "stale"
    launch = item.launch
    if launch is not None and launch.start_ms > context.clock_ms + CLAIM_AHEAD_MS_MAX:
        return "too_early"
    state = _decided(before, item)
    if state is None:
        return "invalid"
    cursor.record(context, item.job, item.skipped)
    if launch is not None:
        state = _launch(context, item, state, holder)
    context.save_job(item.job, before, cursor.settle(state, context.clock_ms))
    return None


def _decided(before: JobState, item: ClaimOccurrence) -> JobState | None:
    """Return the state with its cursor behind what an item decides; None if it cannot be.

    A cursor that is behind only moves on: its instant has an outcome already.
    """
    until_ms = cursor.last_of(before, item.launch, item.skipped)
    following = None if before.policy.delay_ms is not None else item.following
    if until_ms is None or (following is not None and following.due_ms <= until_ms):
        return None
    nothing = item.launch is None and not item.skipped
    if nothing != cursor.behind(before):
        return None
    moved = replace(
        before,
        due_ms=None if following is None else following.due_ms,
        start_ms=None if following is None else following.start_ms,
        decided_ms=until_ms,
    )
    return replace(moved, first_due_ms=moved.due_ms) if nothing else moved


def _launch(context: Context, item: ClaimOccurrence, state: JobState, holder: Holder) -> JobState:
    """Write a run for the occurrence or, where there is no room for it, the reason."""
    launch = item.launch
    assert launch is not None
    policy = state.policy
    key = keys.run_key(item.job, launch.due_ms)
    run = Run(
        "queued",
        state.revision,
        "schedule",
        launch.due_ms,
        max(launch.start_ms, launch.due_ms),
        context.clock_ms,
        policy.priority,
        band_under(policy),
    )
    admitted = admit(context, key, run, state)
    if admitted is None:
        reason: SkipReason = "limit" if policy.overlap == "allow" else "skipped_overlap"
        skip = Skip(reason, launch.due_ms, 1, context.clock_ms)
        context.save_skip(item.job, launch.due_ms, skip)
        return state
    state, run = admitted
    fence = state.fence
    if run.state == "queued":
        run = _granted(context, run, state, holder)
        fence = run.fence
    context.save_run(key, None, run)
    return replace(state, fence=fence, launches_total=state.launches_total + 1)


def _granted(context: Context, run: Run, state: JobState, holder: Holder) -> Run:
    """Return a queued run as its holder's next attempt, under a new fence."""
    return replace(
        run,
        state=advance(run.state, "claimed"),
        revision=state.revision,
        number=run.number + 1,
        fence=max(context.index, state.fence + 1),
        incarnation=holder.incarnation,
        member=holder.member,
    )


def admit(context: Context, key: bytes, run: Run, state: JobState) -> tuple[JobState, Run] | None:
    """Apply the overlap policy to a new run; None means that there is no room for it.

    The run becomes live, or it waits for those before it. The caller writes it.
    """
    overlap = state.policy.overlap
    if overlap == "cancel_other" and state.live:
        state = apply_runs.end_unheld(context, state, "A later run took its place.")
        apply_runs.ask_holders(context, state, "A later run takes its place.")
    room = overlap == "allow" and len(state.live) < LIVE_RUNS_PER_JOB_MAX
    if room or not state.live:
        return replace(state, live=(*state.live, key)), run
    if overlap == "cancel_other" or (overlap == "buffer_one" and state.waiting is None):
        return replace(state, waiting=key), replace(run, state="waiting")
    return None
