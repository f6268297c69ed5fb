"""The state machine under thousands of random commands, in any order, twice and late."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consensus.commands import (
    Batch,
    CancelRun,
    Claim,
    ClaimOccurrence,
    ClaimRun,
    Clean,
    Cursor,
    DeleteJob,
    Ended,
    Expire,
    Heartbeat,
    PauseJob,
    PutJob,
    Refused,
    Report,
    RequestKey,
    SkippedRange,
    Started,
    TriggerJob,
    encode_batch,
    pack_entry,
)
from consensus.context import Effects
from consensus.machine import Machine
from storage import keys, models
from storage.lmdb_store import LmdbStore
from storage.memory_store import MemoryStore
from storage.models import JobPolicy, Run
from storage.store import Store
from tests.support.checks import check_state, everything, rows

SEEDS = range(60)
STEPS = 250


@dataclass
class World:
    """A machine, and random members that work with it."""

    chance: random.Random
    store: Store
    machine: Machine
    now_ms: int = 1_000_000
    jobs: list[bytes] = field(default_factory=list)
    incarnations: list[bytes] = field(default_factory=list)
    batches: list[bytes] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    sequence: int = 0

    @classmethod
    def of(cls, seed: int, store: Store) -> World:
        return cls(random.Random(seed), store, Machine(store))

    # --- Commands ------------------------------------------------------------------------

    def command(self) -> Any:
        makers = [
            (self.put, 4), (self.delete, 1), (self.pause, 2), (self.trigger, 2), (self.cancel, 2),
            (self.claim, 20), (self.report, 12), (self.heartbeat, 4), (self.expire, 1),
            (self.clean, 1),
        ]  # fmt: skip
        return self.chance.choices([m for m, _ in makers], [w for _, w in makers])[0]()

    def job(self) -> bytes:
        return self.chance.choice(self.jobs) if self.jobs else bytes(16)

    def state(self, job: bytes) -> models.JobState | None:
        raw = self.store.get(keys.JOB_STATE + job)
        return None if raw is None else models.decode_job_state(raw)

    def request(self) -> RequestKey | None:
        if self.chance.random() < 0.8:
            return None
        return RequestKey(bytes([self.chance.randrange(4)]) * 16, self.chance.randbytes(1))

    def cursor(self) -> Cursor:
        due_ms = self.now_ms + self.chance.randrange(-5_000, 5_000)
        return Cursor(due_ms, due_ms + self.chance.choice((0, 0, 100)))

    def put(self) -> PutJob:
        chance = self.chance
        policy = JobPolicy(
            chance.randrange(101),
            chance.choice(("skip", "allow", "buffer_one", "cancel_other")),
            chance.choice(("at_least_once", "at_most_once")),
            chance.randrange(1, 4),
            chance.random() < 0.2,
            chance.choice((None, None, 3)),
            chance.choice((None, None, None, 700)),
        )
        cursor = None if chance.random() < 0.1 else self.cursor()
        known = self.state(job := self.job())
        if known is None or chance.random() < 0.5:
            job = chance.randbytes(16)
            self.jobs = [*self.jobs, job][-8:]
            return PutJob(job, "n", f"j{chance.randrange(6)}", b"d", policy, cursor, 0,
                          request=self.request())  # fmt: skip
        spans: tuple[SkippedRange, ...] = ()
        if known.due_ms is not None and known.due_ms <= self.now_ms:
            spans = (SkippedRange("rescheduled", known.due_ms, known.due_ms, 1),)
        return PutJob(
            job, known.namespace, known.name, b"d2", policy, cursor,
            known.revision + chance.choice((0, 0, 0, 1)),
            keep_cursor=chance.random() < 0.4, seen_due_ms=known.due_ms, skipped=spans,
        )  # fmt: skip

    def delete(self) -> DeleteJob:
        return DeleteJob(self.job(), request=self.request())

    def pause(self) -> PauseJob:
        return PauseJob(self.job(), self.chance.random() < 0.4, request=self.request())

    def trigger(self) -> TriggerJob:
        return TriggerJob(self.job(), self.now_ms, self.chance.randrange(5), self.request())

    def a_run(self, *states: str) -> tuple[bytes, Run] | None:
        found = [
            (key, run)
            for key, raw in rows(self.store, keys.OUTCOME).items()
            if isinstance(run := models.decode_outcome(raw), Run) and run.state in states
        ]
        return self.chance.choice(found) if found else None

    def cancel(self) -> CancelRun:
        found = self.a_run("queued", "waiting", "claimed", "running", "ended")
        return CancelRun(found[0] if found else bytes(29), "why not")

    def claim(self) -> Claim:
        items = tuple(self.claim_item() for _ in range(self.chance.randrange(1, 4)))
        return Claim(self.incarnation(), items)

    def claim_item(self) -> ClaimOccurrence | ClaimRun:
        chance = self.chance
        if chance.random() < 0.3 and (found := self.a_run("queued")):
            return ClaimRun(found[0], found[1].start_ms + chance.choice((0, 0, 0, 1)))
        job = self.job()
        state = self.state(job)
        if state is None or state.due_ms is None or state.start_ms is None:
            return ClaimOccurrence(job, 1, 5, None, (), None)
        due_ms, start_ms = state.due_ms, state.start_ms
        skipped: tuple[SkippedRange, ...] = ()
        launch: Cursor | None = Cursor(due_ms, start_ms)
        if chance.random() < 0.2:
            skipped, launch = (SkippedRange("missed", due_ms, due_ms + 50, 3),), None
        following = None
        if chance.random() < 0.9:
            later_ms = due_ms + chance.randrange(100, 3_000)
            following = Cursor(later_ms, later_ms)
        revision = state.revision + chance.choice((0, 0, 0, 0, 1))
        return ClaimOccurrence(job, revision, due_ms, launch, skipped, following)

    def report(self) -> Report:
        return Report(tuple(self.report_item() for _ in range(self.chance.randrange(1, 4))))

    def report_item(self) -> Started | Ended:
        chance = self.chance
        found = self.a_run("claimed", "running") or self.a_run("ended", "queued", "waiting")
        key, run = found or (bytes(29), None)
        fence = (run.fence if run else 0) - chance.choice((0, 0, 0, 0, 1))
        number = run.number if run else 1
        if chance.random() < 0.3:
            return Started(key, number, fence, self.now_ms)
        outcome: models.Outcome = chance.choice(
            ("succeeded", "failed", "timed_out", "cancelled", "lost")
        )
        retry_ms = self.now_ms + 100 if chance.random() < 0.7 else None
        output = (b"out",) if chance.random() < 0.3 else ()
        return Ended(key, number, fence, outcome, None, self.now_ms, 1, "", retry_ms, output, 3)

    def incarnation(self) -> bytes:
        return self.chance.choice(self.incarnations) if self.incarnations else bytes(16)

    def heartbeat(self) -> Heartbeat:
        chance = self.chance
        if len(self.incarnations) < 3 or chance.random() < 0.2:
            member = chance.randrange(3)
            born = self.now_ms.to_bytes(8, "big") + bytes([member]) + chance.randbytes(7)
            self.incarnations = [*self.incarnations, born][-4:]
            incarnation = born
        else:
            incarnation = self.incarnation()
        return Heartbeat(
            f"n{incarnation[8]}", incarnation, chance.choice((1_000, 60_000)), 5, "", "", "", {}, accepting=True, running=0,
            supersedes=chance.random() < 0.5,
        )  # fmt: skip

    def expire(self) -> Expire:
        return Expire(self.incarnation())

    def clean(self) -> Clean:
        return Clean(self.now_ms - 3_000, self.now_ms - 60_000)

    # --- Applying ------------------------------------------------------------------------

    def step(self) -> None:
        chance = self.chance
        self.now_ms += chance.choice((0, 1, 50, 400))
        if self.batches and chance.random() < 0.1:
            packed = chance.choice(self.batches[-10:])
        else:
            self.sequence += 1
            commands = tuple(self.command() for _ in range(chance.randrange(1, 4)))
            deadline_ms = self.now_ms + chance.choice((*(5_000,) * 9, -5_000))
            floor = max(0, self.sequence - 20)
            packed = encode_batch(Batch(b"s" * 16, self.sequence, floor, deadline_ms, commands))
            self.batches.append(packed)
        self.apply(pack_entry(self.now_ms, [packed]))

    def apply(self, entry: bytes) -> list[Any]:
        self.entries.append(entry)
        return apply(self.machine, entry)


def apply(machine: Machine, entry: bytes) -> list[Any]:
    """Apply one entry as the next one, and return the results of its only batch."""
    results = machine.apply(machine.applied_index + 1, 1, entry, Effects())
    machine.finish()
    for _, _, batch in results:
        for result in batch:
            assert not (isinstance(result, Refused) and result.code == "internal"), result
    return list(results[0][2])


@pytest.mark.parametrize("seed", SEEDS)
def test_derived_tables_agree_after_every_entry(seed: int) -> None:
    """Whatever members propose, the state stays whole and no command meets a fault of ours."""
    world = World.of(seed, MemoryStore())
    for _ in range(STEPS):
        world.step()
        check_state(world.store, dict(world.machine.counters))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_members_that_apply_the_same_are_the_same(seed: int, tmp_path: Path) -> None:
    """Two stores, one of them stopped at any entry and continued: equal to the last byte."""
    world = World.of(seed, MemoryStore())
    for _ in range(STEPS):
        world.step()
    store = LmdbStore(tmp_path, map_bytes=1 << 26)
    machine = Machine(store)
    for place, entry in enumerate(world.entries):
        if place % 37 == 0:
            # As after a power cut: what was not flushed is lost, and applied again.
            index = machine.applied_index
            if place % 2:
                store.flush()
            store.close()
            store = LmdbStore(tmp_path, map_bytes=1 << 26)
            machine = Machine(store)
            for again in world.entries[machine.applied_index : index]:
                apply(machine, again)
        apply(machine, entry)
    assert machine.state_hash == world.machine.state_hash
    assert everything(store) == everything(world.store)
    store.close()


def test_nothing_leaves_the_end() -> None:
    """A run that has ended is never changed again."""
    world = World.of(99, MemoryStore())
    ended: dict[bytes, bytes] = {}
    for _ in range(STEPS * 2):
        world.step()
        outcomes = rows(world.store, keys.OUTCOME)
        for key, raw in ended.items():
            assert outcomes[key] == raw
        for key, raw in outcomes.items():
            outcome = models.decode_outcome(raw)
            if not isinstance(outcome, Run) or outcome.state == "ended":
                ended[key] = raw
    assert len(ended) > 20


def test_a_different_byte_gives_a_different_hash() -> None:
    """The rolling hash tells members apart that were told different things."""
    one, two = (World.of(5, MemoryStore()) for _ in range(2))
    for world in (one, two):
        for _ in range(20):
            world.step()
    assert one.machine.state_hash == two.machine.state_hash
    for world, text in ((one, "a"), (two, "b")):
        command = PutJob(
            b"j" * 16, "n", text, b"", JobPolicy(1, "skip", "at_least_once", 1), None, 0
        )
        batch = encode_batch(Batch(b"t" * 16, 1, 0, 1 << 60, (command,)))
        world.apply(pack_entry(world.now_ms, [batch]))
    assert one.machine.state_hash != two.machine.state_hash
