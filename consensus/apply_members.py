"""Applying what keeps the cluster in order: heartbeats, claims, expiry and cleaning."""

from __future__ import annotations

from consensus import apply_jobs, apply_runs
from consensus.commands import (
    Claim,
    Claimed,
    ClaimOccurrence,
    Clean,
    Cursor,
    Ended,
    Expire,
    Heartbeat,
    Refused,
    Remaining,
    Renewed,
    Report,
    Reported,
    SkippedRange,
)
from consensus.context import Context, replace
from storage import keys, models
from storage.limits import (
    CLAIM_AHEAD_MS_MAX,
    CLEAN_ITEMS_MAX,
    EXPIRE_RUNS_MAX,
)
from storage.models import Incarnation, JobState, Member, Run


def heartbeat(context: Context, command: Heartbeat) -> Renewed | Refused:
    """Renew a lease, or begin one; an incarnation that was given up stays so.

    Incarnations sort by their time of birth, so a message that an earlier life of the
    member sent cannot take the place of the present one.
    """
    before = _member(context, command.member)
    if before is not None:
        known = before.incarnation == command.incarnation
        if (known and before.expired) or command.incarnation < before.incarnation:
            return Refused("lease_expired", "This incarnation's lease is over.")
        if not known and command.supersedes:
            _give_up(context, before.incarnation)
    until_ms = context.clock_ms + command.lease_ms
    member = Member(
        name=command.member,
        incarnation=command.incarnation,
        lease_until_ms=until_ms,
        slots=command.slots,
        http_address=command.http_address,
        version=command.version,
        joined_ms=context.clock_ms if before is None else before.joined_ms,
        labels=command.labels,
        accepting=command.accepting,
        tzdata=command.tzdata,
        running=command.running,
    )
    if before is None or _standing(before) != _standing(member):
        context.effects.members_changed = True
    context.store.put(keys.MEMBER + command.member.encode(), models.encode(member))
    lease = Incarnation(command.member, until_ms)
    context.store.put(keys.INCARNATION + command.incarnation, models.encode(lease))
    return Renewed(until_ms)


def _member(context: Context, name: str) -> Member | None:
    raw = context.store.get(keys.MEMBER + name.encode())
    return None if raw is None else models.decode_member(raw)


def _standing(member: Member) -> tuple[object, ...]:
    """Return what decides about who owns what."""
    return (member.incarnation, member.accepting, member.expired, member.slots, member.labels)


def _incarnation(context: Context, incarnation: bytes) -> Incarnation | None:
    raw = context.store.get(keys.INCARNATION + incarnation)
    return None if raw is None else models.decode_incarnation(raw)


def _give_up(context: Context, incarnation: bytes) -> None:
    """Mark an incarnation as gone; what it held is returned by `expire`."""
    lease = _incarnation(context, incarnation)
    if lease is None:
        return
    record = models.encode(replace(lease, expired=True))
    context.store.put(keys.INCARNATION + incarnation, record)
    member = _member(context, lease.member)
    if member is not None and member.incarnation == incarnation and not member.expired:
        gone = models.encode(replace(member, expired=True))
        context.store.put(keys.MEMBER + lease.member.encode(), gone)
    context.effects.members_changed = True


def expire(context: Context, command: Expire) -> Remaining | Refused:
    """Return up to `EXPIRE_RUNS_MAX` runs of an incarnation whose lease is over."""
    lease = _incarnation(context, command.incarnation)
    if lease is None:
        return Remaining(0, more=False)
    if not lease.expired:
        if lease.lease_until_ms >= context.clock_ms:
            return Refused("lease_valid", "The lease was renewed meanwhile.")
        _give_up(context, command.incarnation)
    prefix = keys.LIVE + command.incarnation
    rows = context.store.scan(prefix, keys.after(prefix), EXPIRE_RUNS_MAX)
    for key, _ in rows:
        apply_runs.lost(context, key[len(prefix) :])
    more = len(rows) == EXPIRE_RUNS_MAX
    if not more:
        context.store.delete(keys.INCARNATION + command.incarnation)
    return Remaining(len(rows), more)


def claim(context: Context, command: Claim) -> Claimed | Refused:
    """Decide what a member wants to launch, item by item."""
    lease = _incarnation(context, command.incarnation)
    if lease is None or lease.expired or lease.lease_until_ms < context.clock_ms:
        return Refused("lease_expired", "Only a member with a valid lease may claim.")
    refusals = []
    for item in command.items:
        if isinstance(item, ClaimOccurrence):
            refusal = _claim_occurrence(context, item, command.incarnation, lease.member)
        else:
            refusal = apply_runs.claim_queued(
                context, item.run, item.start_ms, command.incarnation, lease.member
            )
        refusals.append(refusal)
    return Claimed(tuple(refusals))


def _claim_occurrence(
    context: Context, item: ClaimOccurrence, incarnation: bytes, member: str
) -> str | None:
    state = context.job_state(item.job)
    if state is None or state.status != "scheduled":
        return "stale"
    if state.revision != item.revision or state.due_ms != item.due_ms:
        return "stale"
    if item.launch is not None and item.launch.start_ms > context.clock_ms + CLAIM_AHEAD_MS_MAX:
        return "too_early"
    apply_jobs.clear_cursor(context, item.job, state)
    apply_jobs.record_skipped(context, item.job, item.skipped)
    if item.launch is not None:
        state = _launch(context, item.job, item.launch, state, incarnation, member)
    context.put_job_state(item.job, _move_on(context, item, state))
    return None


def _launch(
    context: Context,
    job: bytes,
    launch: Cursor,
    state: JobState,
    incarnation: bytes,
    member: str,
) -> JobState:
    """Write a run for the occurrence or, where there is no room for it, the reason."""
    key = keys.run_key(job, launch.due_ms)
    if context.outcome(key) is not None:
        # Decided already, under an earlier edition of the schedule.
        return state
    run = Run(
        "queued",
        state.revision,
        "schedule",
        launch.due_ms,
        launch.start_ms,
        context.clock_ms,
        state.policy.priority,
        keys.band_of(state.policy.priority, selective=state.policy.selective),
    )
    admitted = apply_runs.admit(context, key, run, state)
    if admitted is None:
        reason: models.SkipReason = (
            "limit" if state.policy.overlap == "allow" else "skipped_overlap"
        )
        span = SkippedRange(reason, launch.due_ms, launch.due_ms, 1)
        apply_runs.record_skip(context, job, span)
        return state
    state, run = admitted
    if run.state == "queued":
        return apply_runs.grant(context, key, run, state, incarnation, member)
    context.put_outcome(key, run)
    return state


def _move_on(context: Context, item: ClaimOccurrence, state: JobState) -> JobState:
    """Set the cursor to the following occurrence, or finish the job."""
    policy = state.policy
    spent = policy.runs_max is not None and state.launches_total >= policy.runs_max
    if item.following is not None and not spent:
        return apply_jobs.set_cursor(context, item.job, state, item.following)
    state = replace(state, due_ms=None, start_ms=None)
    if policy.delay_ms is None or spent:
        return replace(state, status="finished")
    return apply_runs.follow_delay(context, item.job, state, context.clock_ms)


def report(context: Context, command: Report) -> Reported:
    """Record starts and ends of attempts; a stale fence changes nothing."""
    return Reported(
        tuple(
            apply_runs.ended(context, item)
            if isinstance(item, Ended)
            else apply_runs.started(context, item)
            for item in command.items
        )
    )


def clean(context: Context, command: Clean) -> Remaining:
    """Drop what is older than its retention, a bounded amount at a time."""
    handled = _clean_output(context, command.output_before_ms)
    handled += _clean_answers(context)
    handled += _clean_sessions(context, command.session_before_ms)
    return Remaining(handled, more=handled >= CLEAN_ITEMS_MAX)


def _clean_output(context: Context, before_ms: int) -> int:
    stop = keys.output_age_key(before_ms, b"")
    rows = context.store.scan(keys.OUTPUT_AGE, stop, CLEAN_ITEMS_MAX)
    for key, _ in rows:
        prefix = keys.OUTPUT + keys.age_of(key)[1]
        # A run's output is bounded, but may be more than one page of it.
        chunks = context.store.scan(prefix, keys.after(prefix), CLEAN_ITEMS_MAX)
        for chunk, _ in chunks:
            context.store.delete(chunk)
        if len(chunks) < CLEAN_ITEMS_MAX:
            context.store.delete(key)
    return len(rows)


def _clean_answers(context: Context) -> int:
    stop = keys.answer_age_key(context.clock_ms, b"")
    rows = context.store.scan(keys.ANSWER_AGE, stop, CLEAN_ITEMS_MAX)
    for key, _ in rows:
        context.store.delete(keys.ANSWER + keys.age_of(key)[1])
        context.store.delete(key)
    return len(rows)


def _clean_sessions(context: Context, before_ms: int) -> int:
    stop = keys.after(keys.SESSION)
    handled = 0
    for key, raw in context.store.scan(keys.SESSION, stop, CLEAN_ITEMS_MAX):
        if models.decode_session(raw).seen_ms >= before_ms:
            continue
        prefix = keys.RESULT + key[1:]
        results = context.store.scan(prefix, keys.after(prefix), CLEAN_ITEMS_MAX)
        for result, _ in results:
            context.store.delete(result)
        if len(results) < CLEAN_ITEMS_MAX:
            context.store.delete(key)
        handled += 1
    return handled
