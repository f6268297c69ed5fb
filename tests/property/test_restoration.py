"""A state that begins anew: nothing waits for the dead, and nothing else has changed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.state.context import Effects
from consensus.state.machine import Machine
from consensus.state.restoration import CLOSED, INDEX_GAP, KEPT, WRITTEN_ANEW, begin_anew
from storage import keys, models
from storage.memory_store import MemoryStore
from storage.models import Run, Skip
from tests.support.builders import Lab
from tests.support.checks import HELD, all_outcomes, all_states, check_state, everything, rows
from tests.support.random_world import RandomWorld


def test_every_table_is_decided_about() -> None:
    """A table that is added has to say whether it belongs to the jobs or to the old cluster."""
    tables = [
        value
        for name, value in vars(keys).items()
        if name.isupper() and isinstance(value, bytes) and len(value) == 1
    ]
    decided = [*KEPT, *CLOSED, *WRITTEN_ANEW]
    assert sorted(decided) == sorted(tables)


def lived(seed: int, steps: int) -> MemoryStore:
    """A state that members and users have made, up to any moment."""
    store = MemoryStore()
    world = RandomWorld(seed, store)
    machine = Machine(store)
    for index in range(1, steps + 1):
        machine.apply(index, 3, world.entry(), Effects())
        machine.finish()
    return store


def copy_of(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    for key, value in everything(store).items():
        copy.put(key, value)
    copy.savepoint()
    return copy


def nothing() -> None:
    """A memory store has no disk to flush to."""


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 120))
def test_every_occurrence_keeps_its_outcome_and_every_live_run_gets_one(
    seed: int, steps: int
) -> None:
    """G5, G10: what was over stays as it was; what was held is queued or ended, with a reason."""
    store = lived(seed, steps)
    before, states = all_outcomes(store), all_states(store)
    closed = begin_anew(store, "new", nothing)
    after = all_outcomes(store)
    assert set(before) == set(after)
    queued = ended = 0
    for key, was in before.items():
        now = after[key]
        if isinstance(was, Skip) or was.state == "ended":
            assert now == was
            continue
        assert isinstance(now, Run)
        if was.state not in HELD:
            # A run that waited may have taken the place of one that was held.
            assert now.state in {was.state, "queued"}
            continue
        assert now.state in {"queued", "ended"}
        past = now.attempts[-1]
        assert (past.number, past.fence, past.member) == (was.number, was.fence, was.member)
        assert "restored from a backup" in past.detail or past.detail == was.cancel_reason
        if states[key[:16]].policy.delivery == "at_most_once" and was.cancel_reason is None:
            assert now.outcome == "unknown"
        queued += now.state == "queued"
        ended += now.state == "ended"
    assert (closed.queued, sum(closed.ended.values())) == (queued, ended)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 120))
def test_every_table_still_says_the_same_and_nothing_of_the_old_members_is_left(
    seed: int, steps: int
) -> None:
    """The derived tables and the counters follow, and jobs and answers stay."""
    store = lived(seed, steps)
    before = {table: rows(store, table) for table in (keys.JOB, keys.NAME, keys.ANSWER)}
    meta = models.decode_meta(everything(store)[keys.META])
    begin_anew(store, "new", nothing)
    machine = Machine(store)
    counters = dict(machine.counters)
    assert counters.pop("restorations") == 1
    check_state(store, counters)
    assert [rows(store, table) for table in CLOSED] == [{}] * len(CLOSED)
    assert before == {table: rows(store, table) for table in before}
    assert machine.applied_index == meta.applied_index + INDEX_GAP
    assert (machine.applied_term, machine.clock_ms) == (meta.applied_term, meta.clock_ms)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_all_members_of_the_new_cluster_begin_with_the_same_bytes(seed: int, steps: int) -> None:
    """G13: and no two restorations under different names pass for each other."""
    store = lived(seed, steps)
    one, other, renamed = copy_of(store), copy_of(store), copy_of(store)
    begin_anew(one, "new", nothing)
    begin_anew(other, "new", nothing)
    begin_anew(renamed, "newer", nothing)
    assert everything(one) == everything(other)
    assert Machine(one).state_hash != Machine(renamed).state_hash
    assert Machine(one).state_hash != Machine(store).state_hash


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_the_new_cluster_goes_on_with_ordinary_commands(seed: int, steps: int) -> None:
    """Every invariant holds after each further entry, and a second restoration works as well."""
    store = lived(seed, steps)
    for number in range(2):
        begin_anew(store, f"new-{number}", nothing)
        world = RandomWorld(seed + 1, store)
        machine = Machine(store)
        world.now_ms = machine.clock_ms
        for _ in range(20):
            machine.apply(machine.applied_index + 1, 4, world.entry(), Effects())
            machine.finish()
        counters = dict(machine.counters)
        assert counters.pop("restorations") == number + 1
        check_state(store, counters)


def test_fences_go_on_growing_above_whatever_the_old_cluster_granted() -> None:
    """A receiver that remembers the highest fence refuses the old attempt, not the new one."""
    lab = Lab()
    job = lab.create()
    lab.pass_ms(1_000)
    run = lab.launch(lab.join(), job)
    lab.start(run)
    old = lab.run(run).fence
    begin_anew(lab.store, "new", nothing)
    lab.machine = Machine(lab.store)
    assert lab.run(run).state == "queued"
    again = lab.claim_and_run(lab.join(1, "b"), run)
    assert lab.run(again).fence > old + INDEX_GAP
    assert lab.run(again).number == 2


def test_the_first_members_of_the_new_cluster_may_have_the_names_of_the_old() -> None:
    """The lives of the old ones are no obstacle, whatever their clocks said."""
    lab = Lab()
    lab.join(number=1 << 60)
    begin_anew(lab.store, "new", nothing)
    lab.machine = Machine(lab.store)
    assert lab.join(number=1)
