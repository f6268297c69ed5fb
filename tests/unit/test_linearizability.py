"""The checker itself: it accepts what one order explains, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.histories import NEVER_S, History, Kind, Operation, Outcome
from tests.support.linearizability import (
    OPERATIONS_MAX,
    NotLinearizable,
    State,
    Undecided,
    _Impossible,
    check,
    check_one,
    step,
)

CREATE, REPLACE, DELETE, READ = Kind.CREATE, Kind.REPLACE, Kind.DELETE, Kind.READ
DONE, UNKNOWN = Outcome.DONE, Outcome.UNKNOWN
ABSENT, PRESENT, MISMATCH = Outcome.ABSENT, Outcome.PRESENT, Outcome.MISMATCH


def op(
    span: tuple[float, float],
    kind: Kind,
    outcome: Outcome = DONE,
    *,
    value: str | None = None,
    revision: int | None = None,
    expected: int | None = None,
) -> Operation:
    called_s, returned_s = span
    return Operation(
        key="j",
        kind=kind,
        outcome=outcome,
        called_s=called_s,
        returned_s=NEVER_S if outcome is UNKNOWN else returned_s,
        value=value,
        revision=revision,
        expected=expected,
    )


CREATED = op((0, 1), CREATE, value="a", revision=1)
REPLACED = op((2, 3), REPLACE, value="b", revision=2, expected=1)

GOOD: dict[str, list[Operation]] = {
    "nothing at all": [],
    "one after the other": [
        op((0, 1), READ, ABSENT),
        op((2, 3), CREATE, value="a", revision=1),
        op((4, 5), READ, value="a", revision=1),
        op((6, 7), REPLACE, value="b", revision=2, expected=1),
        op((8, 9), DELETE, expected=2),
        op((10, 11), READ, ABSENT),
        op((12, 13), REPLACE, value="c", revision=1),
    ],
    "a read beside a write sees what was": [
        CREATED,
        op((2, 9), REPLACE, value="b", revision=2),
        op((3, 4), READ, value="a", revision=1),
    ],
    "a read beside a write sees what will be": [
        CREATED,
        op((2, 9), REPLACE, value="b", revision=2),
        op((3, 4), READ, value="b", revision=2),
    ],
    "one of two conditional writes loses": [
        CREATED,
        REPLACED,
        op((2, 3), REPLACE, MISMATCH, value="c", expected=1),
    ],
    "one of two creations loses": [CREATED, op((0, 1), CREATE, PRESENT, value="b")],
    "an unknown write that took effect": [
        CREATED,
        op((2, 0), REPLACE, UNKNOWN, value="b"),
        op((8, 9), READ, value="b", revision=2),
    ],
    "an unknown write that never did": [
        CREATED,
        op((2, 0), REPLACE, UNKNOWN, value="b"),
        op((8, 9), READ, value="a", revision=1),
    ],
    "an unknown write that takes effect late": [
        CREATED,
        op((2, 0), REPLACE, UNKNOWN, value="b"),
        op((4, 5), READ, value="a", revision=1),
        op((6, 7), READ, value="b", revision=2),
    ],
    "an unknown deletion": [
        CREATED,
        op((2, 0), DELETE, UNKNOWN),
        op((4, 5), READ, value="a", revision=1),
        op((6, 7), READ, ABSENT),
    ],
    "a read that failed says nothing": [CREATED, op((2, 0), READ, UNKNOWN)],
    "a write that was turned away": [
        CREATED,
        op((2, 3), REPLACE, Outcome.UNDONE, value="b"),
        op((4, 5), READ, value="a", revision=1),
    ],
}

BAD: dict[str, tuple[list[Operation], str]] = {
    "a value from nowhere": (
        [CREATED, op((2, 3), READ, value="x", revision=1)],
        "nobody wrote",
    ),
    "a value of a write that was refused": (
        [
            CREATED,
            op((2, 3), REPLACE, MISMATCH, value="b", expected=7),
            op((4, 5), READ, value="b", revision=2),
        ],
        "was refused",
    ),
    "a value of a write that was turned away": (
        [
            CREATED,
            op((2, 3), REPLACE, Outcome.UNDONE, value="b"),
            op((4, 5), READ, value="b", revision=2),
        ],
        "nobody wrote",
    ),
    "a value from the future": (
        [op((0, 1), READ, value="a", revision=1), op((2, 3), CREATE, value="a", revision=1)],
        "before it was written",
    ),
    "one value at two revisions": (
        [CREATED, op((2, 3), READ, value="a", revision=2)],
        "two revisions",
    ),
    "a stale read": (
        [CREATED, REPLACED, op((4, 5), READ, value="a", revision=1)],
        "Revision 2 was seen before",
    ),
    "a lost write": ([CREATED, op((2, 3), READ, ABSENT)], "acknowledged and is gone"),
    "reads that go back and forth": (
        [
            CREATED,
            op((2, 20), REPLACE, value="b", revision=2),
            op((3, 4), READ, value="b", revision=2),
            op((5, 6), READ, value="a", revision=1),
        ],
        "Revision 2 was seen before",
    ),
    "two winners of one revision": (
        [CREATED, REPLACED, op((2, 3), REPLACE, value="c", revision=2, expected=1)],
        "No order",
    ),
    "two creations": ([CREATED, op((0, 1), CREATE, value="b", revision=1)], "No order"),
    "a job that outlives its deletion": (
        [CREATED, op((2, 3), DELETE), op((4, 5), READ, value="a", revision=1)],
        "No order",
    ),
    "a stale read where deletions were": (
        [
            CREATED,
            REPLACED,
            op((4, 5), READ, value="a", revision=1),
            op((6, 7), DELETE),
        ],
        "No order",
    ),
    "a refusal without a reason": (
        [CREATED, op((2, 3), REPLACE, MISMATCH, value="b", expected=1)],
        "No order",
    ),
    "a creation refused by nothing": ([op((0, 1), CREATE, PRESENT, value="a")], "No order"),
    "an unknown write that comes and goes": (
        [
            CREATED,
            op((2, 0), REPLACE, UNKNOWN, value="b"),
            op((4, 5), READ, value="b", revision=2),
            op((6, 7), READ, value="a", revision=1),
        ],
        "Revision 2 was seen before",
    ),
}


@pytest.mark.parametrize("what", GOOD)
def test_what_one_order_explains_is_accepted(what: str) -> None:
    """Unknown outcomes may have happened, may happen later, or never."""
    check(GOOD[what])


@pytest.mark.parametrize("what", BAD)
def test_what_no_order_explains_is_refused(what: str) -> None:
    """With the reason, the job, and all that was done to it."""
    history, reason = BAD[what]
    with pytest.raises(NotLinearizable, match=f"(?s)^Job j: .*{reason}.*{history[0].kind} j"):
        check(history)


def test_jobs_are_checked_each_by_itself() -> None:
    """An order over all jobs follows from one for each."""
    good, (bad, _) = GOOD["one after the other"], BAD["a stale read"]
    check([replace(one, key=key) for key in ("x", "y") for one in good])
    with pytest.raises(NotLinearizable, match=r"^Job y"):
        check([*(replace(one, key="x") for one in good), *(replace(one, key="y") for one in bad)])


def test_a_search_without_an_end_is_no_success() -> None:
    """Who runs out of the budget, or brings a history that cannot be judged, fails."""
    beside = [op((0, 100), REPLACE, value=f"v{n}", revision=n + 1) for n in range(12)]
    check_one([*beside, op((101, 102), READ, value="v11", revision=12)])
    unknown = [op((0, 100), REPLACE, UNKNOWN, value=f"u{n}") for n in range(12)]
    with pytest.raises(Undecided, match="More than 50 ways"):
        check_one([*unknown, op((101, 102), CREATE, value="x", revision=13)], budget=50)
    with pytest.raises(Undecided, match="more than"):
        check_one([op((0, 1), READ, ABSENT)] * (OPERATIONS_MAX + 1))
    with pytest.raises(Undecided, match="twice"):
        check_one([CREATED, replace(CREATED, called_s=5, returned_s=6)])
    with pytest.raises(Undecided, match="before it began"):
        check_one([op((3, 2), READ, ABSENT)])


def test_a_history_is_recorded_as_the_clients_see_it() -> None:
    """What is never answered stays open, and so does what nobody knows."""
    clock = iter(range(100))
    history = History(lambda: float(next(clock)))
    first = history.begin("j", CREATE, value="a", client="c1")
    history.begin("j", REPLACE, value="b", client="c2")
    history.end(first, DONE, revision=1)
    read = history.begin("j", READ, client="c1")
    history.end(read, DONE, revision=1, value="a")
    lost = history.begin("j", DELETE)
    history.end(lost, UNKNOWN)
    assert history.count("j") == 4
    assert [
        (one.kind, one.value, one.called_s, one.returned_s, one.outcome) for one in history.close()
    ] == [
        (CREATE, "a", 0, 2, DONE),
        (READ, "a", 3, 4, DONE),
        (DELETE, None, 5, NEVER_S, UNKNOWN),
        (REPLACE, "b", 1, NEVER_S, UNKNOWN),
    ]
    check(history.close())


# --- Generated histories ------------------------------------------------------------------


def answered(state: State, kind: Kind, value: str, expected: int | None) -> Operation:
    """Return the operation as a correct cluster answers it in this state."""
    present, revision = state is not None, state[0] if state else 0
    one = op((0, 0), kind, value=value, expected=expected)
    if kind is READ:
        told = replace(one, value=state[1], revision=revision) if state else None
        return told or replace(one, outcome=ABSENT, value=None)
    if kind is CREATE:
        one = replace(one, expected=None)
        return replace(one, outcome=PRESENT) if present else replace(one, revision=1)
    if kind is DELETE:
        one = replace(one, value=None)
        if not present:
            return replace(one, outcome=ABSENT)
    if expected is not None and (not present or expected != revision):
        return replace(one, outcome=MISMATCH)
    return one if kind is DELETE else replace(one, revision=revision + 1)


@st.composite
def executions(
    draw: st.DrawFn, overlap: float = 3.0, first: tuple[Kind, ...] = (), unknown: bool = True
) -> list[Operation]:
    """A history around one order: each takes effect at its number, somewhere in its span."""
    state: State = None
    history = []
    kinds = st.sampled_from([CREATE, REPLACE, REPLACE, REPLACE, READ, READ, DELETE])
    rest = draw(st.lists(kinds, min_size=1, max_size=40))
    for number, kind in enumerate((*first, *rest), 1):
        around = st.sampled_from([None, None, 0, 1])
        offset = draw(around)
        # Those that come first are plain changes at the revision that there is.
        offset = 0 if number <= len(first) else offset
        expected = None if offset is None or state is None else state[0] + offset
        one = answered(state, kind, f"v{number}", expected)
        spans = st.floats(0, overlap) if overlap else st.just(0.0)
        called_s, returned_s = number - draw(spans), number + draw(spans)
        one = replace(one, called_s=called_s, returned_s=returned_s)
        if unknown and one.writes and draw(st.integers(0, 9)) == 0:
            # Nobody heard the answer, whatever it was; or it has never arrived.
            if one.outcome is DONE and draw(st.booleans()):
                state = step(state, one)
            one = replace(one, outcome=UNKNOWN, revision=None, returned_s=NEVER_S)
        else:
            state = step(state, one)
        history.append(one)
    return history


@given(executions())
@settings(max_examples=200)
def test_every_real_execution_is_accepted(history: list[Operation]) -> None:
    """However its operations overlap, and whatever of it nobody heard."""
    check(history)


def stale_read(history: list[Operation], place: int) -> list[Operation]:
    """Let a read show what there was before the last acknowledged change."""
    damages = []
    changes: list[Operation] = []
    for number, one in enumerate(history):
        if one.writes and one.outcome is DONE:
            changes.append(one)
        elif one.kind is READ and len(changes) >= 2 and changes[-2].kind is not DELETE:
            old = changes[-2]
            damages.append((number, replace(one, outcome=DONE, value=old.value,
                                            revision=old.revision)))  # fmt: skip
    number, stale = damages[place % len(damages)]
    return [*history[:number], stale, *history[number + 1 :]]


def lost_update(history: list[Operation], place: int) -> list[Operation]:
    """Let another conditional change win against a revision that is over."""
    # Behind a deletion the same revision comes once more.
    until = next((n for n, one in enumerate(history) if one.kind is DELETE), len(history))
    wins = [one for one in history[:until] if one.kind is REPLACE and one.outcome is DONE]
    one = [win for win in wins if win.expected][-1 - place % 2 :][0]
    also = replace(one, value="other", called_s=until + 0.5, returned_s=until + 0.5)
    return [*history[:until], also, *history[until:]]


def swapped(history: list[Operation], place: int) -> list[Operation]:
    """Exchange what two reads have shown."""
    reads = [n for n, one in enumerate(history) if one.kind is READ and one.outcome is DONE]
    pairs = [(a, b) for a in reads for b in reads if a < b and history[a].value != history[b].value]
    a, b = pairs[place % len(pairs)]
    result = list(history)
    result[a] = replace(history[a], value=history[b].value, revision=history[b].revision)
    result[b] = replace(history[b], value=history[a].value, revision=history[a].revision)
    return result


# Enough for each damage to have something that it can be done to.
FIRST = (CREATE, READ, REPLACE, READ)


@pytest.mark.parametrize("damage", [stale_read, lost_update, swapped])
@given(data=st.data())
@settings(max_examples=60)
def test_every_damage_to_a_real_execution_is_refused(
    damage: Callable[[list[Operation], int], list[Operation]], data: st.DataObject
) -> None:
    """Operations do not overlap here, so that there is one order and no excuse."""
    history = data.draw(executions(overlap=0, first=FIRST, unknown=False))
    damaged = damage(history, data.draw(st.integers(0, 50)))
    with pytest.raises(NotLinearizable):
        check(damaged)


def explained(history: list[Operation]) -> bool:
    """Decide by trying every order of every choice of unknown operations."""
    sure = [one for one in history if one.outcome is not UNKNOWN]
    unsure = [one for one in history if one.outcome is UNKNOWN and one.writes]
    for chosen in range(1 << len(unsure)):
        some = [one for bit, one in enumerate(unsure) if chosen >> bit & 1]
        if any(_plausible(order) for order in permutations([*sure, *some])):
            return True
    return False


def _plausible(order: tuple[Operation, ...]) -> bool:
    state: State = None
    for place, one in enumerate(order):
        if any(later.returned_s < one.called_s for later in order[place + 1 :]):
            return False
        try:
            state = step(state, one)
        except _Impossible:
            return False
    return True


@given(data=st.data())
@settings(max_examples=400)
def test_the_search_finds_what_trying_every_order_finds(data: st.DataObject) -> None:
    """On small histories with arbitrary answers, both agree in every case."""
    count = data.draw(st.integers(1, 5))
    history = []
    for number in range(count):
        kind = data.draw(st.sampled_from([CREATE, REPLACE, READ, DELETE]))
        called_s = data.draw(st.integers(0, 8))
        value = data.draw(st.sampled_from(["v0", "v1", "v2"])) if kind is READ else f"v{number}"
        outcomes = {
            CREATE: [DONE, PRESENT, UNKNOWN],
            REPLACE: [DONE, DONE, MISMATCH, UNKNOWN],
            READ: [DONE, ABSENT],
            DELETE: [DONE, ABSENT, MISMATCH, UNKNOWN],
        }
        outcome = data.draw(st.sampled_from(outcomes[kind]))
        expected = None
        if outcome is MISMATCH or (kind in (REPLACE, DELETE) and data.draw(st.booleans())):
            expected = data.draw(st.integers(1, 3))
        revision = None
        if outcome is DONE and kind is not DELETE:
            revision = data.draw(st.integers(1, 3))
        one = op(
            (called_s, called_s + data.draw(st.integers(0, 6))),
            kind,
            outcome,
            value=None if kind is DELETE or (kind is READ and outcome is ABSENT) else value,
            revision=revision,
            expected=expected,
        )
        history.append(one)
    try:
        check(history)
        found = True
    except NotLinearizable:
        found = False
    assert found == explained(history)
