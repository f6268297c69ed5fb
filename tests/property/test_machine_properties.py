"""The state machine under thousands of random commands, in any order, twice and late."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.state.commands import Batch as CommandBatch
from consensus.state.commands import PutJob, Refused, Result, encode_batch, pack_entry
from consensus.state.context import Effects
from consensus.state.machine import BatchResults, Machine
from storage import keys
from storage.lmdb_store import LmdbStore
from storage.memory_store import MemoryStore
from storage.models import JobPolicy, Run
from tests.support.checks import (
    OF_PROPOSERS,
    all_outcomes,
    all_states,
    check_state,
    check_step,
    everything,
)
from tests.support.random_world import RandomWorld

SEEDS = range(60)
STEPS = 250


class Replica:
    """A machine that applies what a world makes, and keeps the entries."""

    def __init__(self, seed: int) -> None:
        self.store = MemoryStore()
        self.machine = Machine(self.store)
        self.world = RandomWorld(seed, self.store)
        self.entries: list[bytes] = []

    def step(self) -> list[BatchResults]:
        self.entries.append(self.world.entry())
        return apply(self.machine, self.entries[-1])


def apply(machine: Machine, entry: bytes) -> list[BatchResults]:
    """Apply one entry as the next one; no command may meet a fault of ours."""
    effects = Effects()
    results = machine.apply(machine.applied_index + 1, 1, entry, effects)
    machine.finish()
    assert effects.faults == []
    return results


@pytest.mark.parametrize("seed", SEEDS)
def test_the_state_is_whole_after_every_entry(seed: int) -> None:
    """Whatever is proposed: tables agree, what only grows grows, and no end is left."""
    replica = Replica(seed)
    states, outcomes = all_states(replica.store), all_outcomes(replica.store)
    for _ in range(STEPS):
        replica.step()
        check_state(replica.store, replica.machine.counters)
        states_now, outcomes_now = all_states(replica.store), all_outcomes(replica.store)
        check_step(states, states_now, outcomes, outcomes_now)
        states, outcomes = states_now, outcomes_now


def of_commands(replica: Replica) -> dict[bytes, bytes]:
    found = everything(replica.store)
    return {key: value for key, value in found.items() if not key.startswith(OF_PROPOSERS)}


@pytest.mark.parametrize("seed", [100, 101, 102, 103])
def test_what_is_refused_changes_no_byte(seed: int) -> None:
    """An entry whose commands were all refused leaves the state as it was."""
    replica = Replica(seed)
    refused = 0
    for _ in range(STEPS * 2):
        before = of_commands(replica)
        results: list[Result] = [result for _, _, batch in replica.step() for result in batch]
        if results and all(isinstance(result, Refused) for result in results):
            refused += 1
            assert of_commands(replica) == before
    assert refused > 20


def test_the_random_worlds_go_everywhere() -> None:
    """The other tests prove something: every outcome, reason and refusal does occur."""
    counted: set[str] = set()
    for seed in range(10):
        replica = Replica(seed)
        for _ in range(STEPS):
            for _, _, batch in replica.step():
                counted |= {result.code for result in batch if isinstance(result, Refused)}
            outcomes = all_outcomes(replica.store).values()
            counted |= {run.state for run in outcomes if isinstance(run, Run)}
        counted |= set(replica.machine.counters)
    assert counted >= {
        *("jobs", "runs", "runs_live", "retries", "waiting", "queued", "claimed", "running"),
        *("runs.succeeded", "runs.failed", "runs.timed_out", "runs.cancelled", "runs.unknown"),
        *("skipped.missed", "skipped.coalesced", "skipped.skipped_overlap", "skipped.paused"),
        *("skipped.rescheduled", "skipped.deleted"),
        *("not_found", "name_taken", "revision_mismatch", "cursor_moved", "already_running"),
        *("already_ended", "idempotency_key_reused", "lease_expired", "lease_valid", "expired"),
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_members_that_apply_the_same_are_the_same(seed: int, tmp_path: Path) -> None:
    """Two stores, one of them stopped at any entry and continued: equal to the last byte."""
    replica = Replica(seed)
    for _ in range(STEPS):
        replica.step()
    store = LmdbStore(tmp_path, map_bytes=1 << 26)
    machine = Machine(store)
    for place, entry in enumerate(replica.entries):
        if place % 37 == 0:
            # As after a power cut: what was not flushed is lost, and applied again.
            index = machine.applied_index
            if place % 2:
                store.flush()
            store.close()
            store = LmdbStore(tmp_path, map_bytes=1 << 26)
            machine = Machine(store)
            for again in replica.entries[machine.applied_index : index]:
                apply(machine, again)
        apply(machine, entry)
    assert machine.state_hash == replica.machine.state_hash
    assert everything(store) == everything(replica.store)
    store.close()


@pytest.mark.parametrize("seed", [11, 12])
def test_how_entries_are_grouped_makes_no_difference(seed: int) -> None:
    """A member that catches up applies many entries as one unit."""
    replica = Replica(seed)
    for _ in range(STEPS):
        replica.step()
    machine = Machine(store := MemoryStore())
    for index, entry in enumerate(replica.entries, 1):
        machine.apply(index, 1, entry, Effects())
    machine.finish()
    assert everything(store) == everything(replica.store)


def test_a_different_byte_gives_a_different_hash() -> None:
    """The rolling hash tells members apart that were told different things."""
    one, two = Replica(5), Replica(5)
    for replica in (one, two):
        for _ in range(20):
            replica.step()
    assert one.machine.state_hash == two.machine.state_hash
    for replica, text in ((one, "a"), (two, "b")):
        policy = JobPolicy(1, "skip", "at_least_once", 1)
        command = PutJob(keys.JOB * 16, "n", text, b"", policy, None, 0)
        batch = encode_batch(CommandBatch(b"t" * 16, 1, 0, 1 << 60, (command,)))
        apply(replica.machine, pack_entry(replica.world.now_ms, [batch]))
    assert one.machine.state_hash != two.machine.state_hash
