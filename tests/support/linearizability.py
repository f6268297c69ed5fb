"""Is there one order of all operations that explains every answer?

The order may not contradict time: what was answered before something else was called
comes before it. Jobs are independent, so each is checked by itself. The search is that of
Wing and Gong, with Lowe's memory of what has been tried: a set of operations done, with
the state they lead to. It grows without bound on histories that are wrong, so the cheap
checks come first, which name what is wrong as well, and the search has a budget. Who runs
out of it has not been shown to be right, and fails.

What has to hold of a history for this to work: every written value is unique, and there
are at most `OPERATIONS_MAX` operations on a job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.support.histories import Kind, Operation, Outcome, by_key

# Beyond this, concurrency and unknown outcomes may make one job's search take minutes.
OPERATIONS_MAX = 200
# Pairs of operations done and state, for one job; a good history needs some thousands.
BUDGET = 300_000

# Nothing, or (revision, value).
State = tuple[int, str] | None


class NotLinearizable(AssertionError):
    """No order explains what the clients saw."""


class Undecided(AssertionError):
    """The search has run out of its budget, or cannot begin; that is no success."""


def check(operations: Iterable[Operation], budget: int = BUDGET) -> None:
    """Check every job's history.

    Raises:
        NotLinearizable: with the job, the reason, and its operations.
        Undecided: the history is too large, or does not keep to the rules.
    """
    for key, history in by_key(list(operations)).items():
        try:
            check_one(history, budget)
        except (NotLinearizable, Undecided) as error:
            lines = "\n".join(map(str, history))
            raise type(error)(f"Job {key}: {error}\n{lines}") from None


def check_one(history: Sequence[Operation], budget: int = BUDGET) -> None:
    """Check the history of one job; see `check`."""
    _check_rules(history)
    effective = [one for one in history if one.outcome is not Outcome.UNDONE]
    _check_values(effective)
    _check_revisions(effective)
    # An unknown read says nothing.
    told = [one for one in effective if one.writes or one.outcome is not Outcome.UNKNOWN]
    _search(told, budget)


def _check_rules(history: Sequence[Operation]) -> None:
    if len(history) > OPERATIONS_MAX:
        raise Undecided(f"{len(history)} operations are more than {OPERATIONS_MAX}.")
    written = [one.value for one in history if one.kind in (Kind.CREATE, Kind.REPLACE)]
    if len(set(written)) < len(written):
        raise Undecided("A value was written twice.")
    for one in history:
        if one.called_s > one.returned_s:
            raise Undecided(f"It ended before it began: {one}")


# --- What is wrong at first sight ---------------------------------------------------------


def _check_values(history: Sequence[Operation]) -> None:
    """What is read was written, before the read had ended, and at one revision only."""
    written = {one.value: one for one in history if one.kind in (Kind.CREATE, Kind.REPLACE)}
    revisions: dict[str | None, int | None] = {}
    for one in history:
        if one.outcome is not Outcome.DONE or one.kind is Kind.DELETE:
            continue
        source = written.get(one.value)
        if source is None:
            raise NotLinearizable(f"A value was read that nobody wrote: {one}")
        if source.outcome not in (Outcome.DONE, Outcome.UNKNOWN):
            raise NotLinearizable(f"A value was read whose write was refused: {one}")
        if source.called_s > one.returned_s:
            raise NotLinearizable(f"A value was read before it was written: {one}")
        if revisions.setdefault(one.value, one.revision) != one.revision:
            raise NotLinearizable(f"A value was seen at two revisions: {one}")


def _check_revisions(history: Sequence[Operation]) -> None:
    """Without a delete, revisions never fall, and what was there does not go away."""
    if any(one.kind is Kind.DELETE for one in history):
        return
    highest, ended = 0, sorted(history, key=lambda one: one.returned_s)
    position = 0
    for one in sorted(history, key=lambda one: one.called_s):
        while ended[position].returned_s < one.called_s:
            seen = ended[position]
            if seen.outcome is Outcome.DONE:
                highest = max(highest, seen.revision or 0)
            position += 1
        if one.outcome is Outcome.DONE and (one.revision or 0) < highest:
            raise NotLinearizable(f"Revision {highest} was seen before: {one}")
        if one.outcome is Outcome.ABSENT and highest:
            raise NotLinearizable(f"Revision {highest} was acknowledged and is gone: {one}")


# --- The model ----------------------------------------------------------------------------


class _Impossible(Exception):
    """In this state the operation would have been answered otherwise."""


def step(state: State, one: Operation) -> State:
    """Return the state after an operation.

    Raises:
        _Impossible: the answer that it got cannot have been given in this state.
    """
    match one.outcome:
        case Outcome.ABSENT:
            return _unless(state is not None, state)
        case Outcome.PRESENT:
            return _unless(state is None, state)
        case Outcome.MISMATCH:
            return _unless(state is not None and state[0] == one.expected, state)
    if one.kind is Kind.READ:
        return _unless(state != _told(one), state)
    return _write(state, one)


def _write(state: State, one: Operation) -> State:
    revision = 0 if state is None else state[0]
    after: State = None
    _unless(one.expected is not None and (state is None or revision != one.expected), state)
    match one.kind:
        case Kind.CREATE:
            _unless(state is not None, state)
        case Kind.DELETE:
            return _unless(state is None, after)
    assert one.value is not None
    after = (revision + 1, one.value)
    return _unless(one.revision is not None and after[0] != one.revision, after)


def _told(one: Operation) -> State:
    if one.revision is None or one.value is None:
        return None
    return one.revision, one.value


def _unless(impossible: bool, state: State) -> State:
    if impossible:
        raise _Impossible
    return state


# --- The search ---------------------------------------------------------------------------


def _search(history: Sequence[Operation], budget: int) -> None:
    """Find an order, deepest first; operations are bits of a set."""
    certain = sum(1 << bit for bit, one in enumerate(history) if one.outcome is not Outcome.UNKNOWN)
    seen: set[tuple[int, State]] = {(0, None)}
    stack: list[tuple[int, State]] = [(0, None)]
    furthest = 0
    while stack:
        done, state = stack.pop()
        if done & certain == certain:
            return
        if (done & certain).bit_count() > (furthest & certain).bit_count():
            furthest = done
        for bit in reversed(_next(history, done)):
            try:
                reached = (done | 1 << bit, step(state, history[bit]))
            except _Impossible:
                continue
            if reached not in seen:
                seen.add(reached)
                stack.append(reached)
        if len(seen) > budget:
            raise Undecided(f"More than {budget} ways were tried.")
    left = [str(one) for bit, one in enumerate(history) if not furthest >> bit & 1]
    raise NotLinearizable("No order explains it; the best one ends before: " + "; ".join(left[:5]))


def _next(history: Sequence[Operation], done: int) -> list[int]:
    """Return what may come next: whatever was called before anything left has returned."""
    limit_s = float("inf")
    found: list[int] = []
    for bit, one in enumerate(history):
        if done >> bit & 1:
            continue
        if one.called_s > limit_s:
            break
        limit_s = min(limit_s, one.returned_s)
        found.append(bit)
    return [bit for bit in found if history[bit].called_s <= limit_s]
