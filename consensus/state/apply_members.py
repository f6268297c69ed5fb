"""Applying what keeps the cluster in order: heartbeats, reports, expiry and cleaning."""

from __future__ import annotations

from consensus.state import apply_levels, apply_runs, apply_seats
from consensus.state.commands import (
    BATCH_PATIENCE_MS,
    Clean,
    Ended,
    Expire,
    Heartbeat,
    Refused,
    Remaining,
    Renewed,
    Report,
    Reported,
)
from consensus.state.context import Context, replace
from storage import keys, models
from storage.limits import CLEAN_ITEMS_MAX, EXPIRE_RUNS_MAX
from storage.models import Incarnation, Member

# Far longer than a batch is proposed again.
SESSION_KEPT_MS_MIN = 20 * BATCH_PATIENCE_MS


def heartbeat(context: Context, command: Heartbeat) -> Renewed | Refused:
    """Renew a lease, or begin one; an incarnation that was given up stays so.

    Incarnations sort by their time of birth, so a message that an earlier life of the
    member sent cannot take the place of the present one.
    """
    members = apply_seats.configuration_of(context.store)
    if members is not None and members.seat(command.member) is None:
        return Refused("member_removed", f"{command.member!r} is no member of this cluster.")
    before = _member(context, command.member)
    if before is not None and not before.leaving:
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
        joined_ms=context.clock_ms if before is None or before.leaving else before.joined_ms,
        labels=command.labels,
        accepting=command.accepting,
        tzdata=command.tzdata,
        running=command.running,
        level=command.level,
    )
    apply_levels.found(context, command)
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
        member = _member(context, lease.member)
        if member is not None and member.leaving and member.incarnation == command.incarnation:
            context.store.delete(keys.MEMBER + lease.member.encode())
            context.effects.members_changed = True
    return Remaining(len(rows), more)


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
    handled = (
        _clean_output(context, command.output_before_ms),
        _clean_answers(context),
        _clean_sessions(context, command.session_before_ms),
        apply_seats.clean_tokens(context),
    )
    return Remaining(sum(handled), more=max(handled) >= CLEAN_ITEMS_MAX)


def _clean_output(context: Context, before_ms: int) -> int:
    stop = keys.output_age_key(before_ms, b"")
    rows = context.store.scan(keys.OUTPUT_AGE, stop, CLEAN_ITEMS_MAX)
    for key, _ in rows:
        prefix = keys.OUTPUT + keys.age_of(key)[1]
        # What one attempt may have written is bounded, but may be more than one page.
        if _drop(context, prefix) < CLEAN_ITEMS_MAX:
            context.store.delete(key)
    return len(rows)


def _clean_answers(context: Context) -> int:
    stop = keys.answer_age_key(context.clock_ms, b"")
    rows = context.store.scan(keys.ANSWER_AGE, stop, CLEAN_ITEMS_MAX)
    for key, _ in rows:
        expires_ms, key_hash = keys.age_of(key)
        raw = context.store.get(keys.ANSWER + key_hash)
        # A key that was used again after its time has a new answer, with an age of its own.
        if raw is not None and models.decode_answer(raw).expires_ms == expires_ms:
            context.store.delete(keys.ANSWER + key_hash)
        context.store.delete(key)
    return len(rows)


def _clean_sessions(context: Context, before_ms: int) -> int:
    # However wrong the proposer's clock is: a session is kept for as long as one of its
    # batches could come again.
    before_ms = min(before_ms, context.clock_ms - SESSION_KEPT_MS_MIN)
    handled = 0
    for key, raw in context.store.scan(keys.SESSION, keys.after(keys.SESSION), CLEAN_ITEMS_MAX):
        if models.decode_session(raw).seen_ms < before_ms:
            handled += 1
            dropped = _drop(context, keys.RESULT + key[1:])
            handled += dropped
            if dropped < CLEAN_ITEMS_MAX:
                context.store.delete(key)
    return handled


def _drop(context: Context, prefix: bytes) -> int:
    """Delete up to `CLEAN_ITEMS_MAX` rows whose keys begin with `prefix`."""
    rows = context.store.scan(prefix, keys.after(prefix), CLEAN_ITEMS_MAX)
    for key, _ in rows:
        context.store.delete(key)
    return len(rows)
