"""A cluster of one member in memory: the real state machine under a clock that is set.

Everything a request does to the state passes the real codecs and the real machine; what
is missing is agreement, the disk, and time that passes by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from api.cluster import ClusterStatus
from api.faults import Fault
from api.jobs.planning import policy_of
from consensus import features
from consensus.errors import ConsensusError, NoQuorum, Overloaded
from consensus.state import commands
from consensus.state.commands import (
    Batch,
    Claim,
    ClaimOccurrence,
    ClaimRun,
    Command,
    Cursor,
    Ended,
    Heartbeat,
    PutJob,
    Report,
    Result,
    Started,
)
from consensus.state.context import Effects
from consensus.state.machine import Machine
from storage import keys, models
from storage.clock import new_id
from storage.memory_store import MemoryStore
from storage.models import JobDefinition, JobState, Outcome, Run, ScheduleSpec
from storage.snapshot_memory import MemorySource

START_MS = 1_764_000_000_000  # 2025-11-24T16:00:00Z
INCARNATION = bytes(15) + b"\x01"
LEASE_MS = 10_000_000_000


class SetEnvironment:
    """Time that stands still until a test moves it, and chance from a seed."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.now_ms = START_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_s(self) -> float:
        return self.now_ms / 1_000


class SingleBackup:
    """A backup of a store in memory; with `failure`, that is raised behind the first chunk."""

    def __init__(self, view: MemoryStore, environment: SetEnvironment) -> None:
        rows = view.scan(b"", b"\xff", 1_000_000)
        source = MemorySource(lambda: rows, cluster="test", environment=environment)
        stream = source.open(lambda _: b"", 1_000)
        assert stream is not None
        self.stream = stream
        self.index = stream.header.index
        self.failure: Exception | None = None
        self.closed = False
        self._taken = 0

    async def next_chunk(self) -> bytes | None:
        self._taken += 1
        if self.failure is not None and self._taken > 1:
            raise self.failure
        return self.stream.next_chunk()

    def close(self) -> None:
        self.closed = True


class SingleCluster:
    """An `api.cluster.Cluster` whose proposals are applied before they return."""

    def __init__(self) -> None:
        self.environment = SetEnvironment()
        self.registry = CollectorRegistry()
        self.view = MemoryStore()
        self.backups: list[SingleBackup] = []
        self.backups_refused = False
        self.backup_failure: Exception | None = None
        self.machine = Machine(self.view)
        self.effects = Effects()
        self.has_quorum = True
        self.time_confirmed = True
        self.missing: list[str] = []
        # What the next proposals end with, None for what they would end with anyway.
        self.failures: list[ConsensusError | None] = []
        # What others do just before the next proposals, and what the next barriers reveal.
        self.before_next: list[Callable[[SingleCluster], object]] = []
        self.at_barrier: list[Callable[[SingleCluster], object]] = []
        self.proposals = 0
        self.barriers = 0
        self.left = 0
        self.refusal: str | None = None
        self._sequence = 0

    def now_ms(self) -> int:
        return self.environment.wall_ms()

    @property
    def applied_index(self) -> int:
        return self.machine.applied_index

    async def propose(self, wishes: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        assert timeout_s > 0
        self.proposals += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        if not self.has_quorum:
            raise NoQuorum
        if self.before_next:
            self.before_next.pop(0)(self)
        return self.apply(*wishes)

    def apply(self, *wishes: Command) -> tuple[Result, ...]:
        """Apply commands as one entry at the present time."""
        self._sequence += 1
        now_ms = self.environment.now_ms
        batch = Batch(bytes(16), self._sequence, self._sequence, now_ms + 10_000, tuple(wishes))
        entry = commands.pack_entry(now_ms, [commands.encode_batch(batch)])
        index = self.machine.applied_index + 1
        ((_, _, results),) = self.machine.apply(index, 1, entry, self.effects)
        self.machine.finish()
        return commands.decode_results(commands.encode_result(results))

    async def barrier(self, *, timeout_s: float) -> None:
        assert timeout_s > 0
        self.barriers += 1
        if not self.has_quorum:
            raise NoQuorum
        if self.at_barrier:
            self.at_barrier.pop(0)(self)

    async def wait_applied(self, index: int, *, timeout_s: float) -> bool:
        assert timeout_s > 0
        return self.machine.applied_index >= index

    def write_refusal(self) -> str | None:
        return self.refusal

    def leave(self) -> None:
        self.left += 1

    async def open_backup(self) -> SingleBackup:
        if self.backups_refused:
            raise Overloaded("A backup is being taken from this member already.")
        backup = SingleBackup(self.view, self.environment)
        backup.failure = self.backup_failure
        self.backups.append(backup)
        return backup

    def status(self) -> ClusterStatus:
        return ClusterStatus(
            cluster="test",
            member="alpha",
            role="leader",
            leader="alpha",
            term=1,
            commit_index=self.applied_index,
            applied_index=self.applied_index,
            has_quorum=self.has_quorum,
            caught_up=True,
            clock_ms=self.machine.clock_ms,
            clock_offset_ms=0,
            state_hash=self.machine.state_hash.hex(),
            voters=("alpha",),
            counters=dict(self.machine.counters),
            slots=8,
            slots_used=0,
            feature_level=features.in_force(self.view),
            feature_level_supported=features.CURRENT,
        )

    def readiness(self) -> list[str]:
        return self.missing

    def validate_action(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
        if action.get("type") not in ("noop", "http", "command"):
            detail = 'An action has a "type": "noop", "http" or "command".'
            return [Fault(f"{pointer}/type", "unknown_value", detail)]
        return []

    def metrics_text(self) -> bytes:
        return generate_latest(self.registry)

    # What a member would do with the jobs, one step at a time.

    def advance(self, milliseconds: int) -> None:
        self.environment.now_ms += milliseconds

    def heartbeat(self, member: str = "alpha", incarnation: bytes = INCARNATION) -> None:
        beat = Heartbeat(
            member, incarnation, LEASE_MS, 8, "http://alpha:7700", "0.1.0", "2026a", {}, True, 0
        )
        self.apply(beat)

    def state(self, job: bytes) -> JobState:
        raw = self.view.get(keys.JOB_STATE + job)
        assert raw is not None
        return models.decode_job_state(raw)

    def run(self, run: bytes) -> Run:
        raw = self.view.get(keys.OUTCOME + run)
        assert raw is not None
        found = models.decode_outcome(raw)
        assert isinstance(found, Run)
        return found

    def create_plain(self, name: str) -> bytes:
        """Create an hourly job, as another member would; return its id."""
        definition = JobDefinition(
            schedule=ScheduleSpec(kind="every", every_ms=3_600_000, anchor_ms=START_MS),
            action={"type": "noop"},
        )
        job = new_id(self.environment)
        due_ms = self.environment.now_ms + 3_600_000
        put = PutJob(
            job,
            "default",
            name,
            models.encode(definition),
            policy_of(definition),
            Cursor(due_ms, due_ms),
            0,
        )
        self.apply(put)
        return job

    def launch(self, job: bytes, following: Cursor | None = None) -> bytes:
        """Claim a job's present occurrence and return the key of its run."""
        state = self.state(job)
        assert state.due_ms is not None
        assert state.start_ms is not None
        launched = Cursor(state.due_ms, state.start_ms)
        item = ClaimOccurrence(job, state.revision, state.due_ms, launched, (), following)
        self.apply(Claim(INCARNATION, (item,)))
        return keys.run_key(job, state.due_ms)

    def claim_run(self, run: bytes) -> None:
        """Claim a queued run."""
        self.apply(Claim(INCARNATION, (ClaimRun(run, self.run(run).start_ms),)))

    def start(self, run: bytes) -> None:
        record = self.run(run)
        now_ms = self.environment.now_ms
        self.apply(Report((Started(run, record.number, record.fence, now_ms),)))

    def end(
        self,
        run: bytes,
        outcome: Outcome = "succeeded",
        *,
        output: tuple[bytes, ...] = (),
        retry_start_ms: int | None = None,
    ) -> None:
        record = self.run(run)
        now_ms = self.environment.now_ms
        item = Ended(
            run,
            record.number,
            record.fence,
            outcome,
            now_ms,
            now_ms,
            0 if outcome == "succeeded" else 1,
            "",
            retry_start_ms,
            output,
            sum(len(chunk) for chunk in output),
        )
        self.apply(Report((item,)))
