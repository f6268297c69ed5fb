"""A state machine in memory, and short ways to tell it what a test is about."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from consensus.state.commands import (
    Batch,
    Claim,
    Claimed,
    ClaimOccurrence,
    ClaimRun,
    Command,
    Cursor,
    Ended,
    Expire,
    Heartbeat,
    JobDone,
    PauseJob,
    PutJob,
    Refused,
    Renewed,
    Report,
    Reported,
    Result,
    RunDone,
    SkippedRange,
    Started,
    TriggerJob,
    encode_batch,
    pack_entry,
)
from consensus.state.context import Effects
from consensus.state.machine import Machine
from storage import keys, models
from storage.memory_store import MemoryStore
from storage.models import (
    JobDefinition,
    JobPolicy,
    JobState,
    Member,
    Outcome,
    Run,
    ScheduleSpec,
    Skip,
)
from storage.store import Store

NOW_MS = 1_000_000_000
SESSION = b"session-" * 2
LEASE_MS = 5_000
FIRST_DUE_MS = NOW_MS + 1_000
STEP_MS = 1_000

R = TypeVar("R")


def policy(**changed: Any) -> JobPolicy:
    """Return a policy that is plain but for what is changed."""
    plain = JobPolicy(50, "skip", "at_least_once", 1)
    return msgspec.structs.replace(plain, **changed)


def definition(schedule: ScheduleSpec, **changed: Any) -> JobDefinition:
    return JobDefinition(schedule=schedule, action={"type": "noop"}, **changed)


def incarnation(number: int, member: str = "a") -> bytes:
    """Return the `number`-th life of a member; later ones sort behind earlier ones."""
    return number.to_bytes(8, "big") + member.encode().ljust(8, b"-")


def batch(sequence: int, *wanted: Command, **changed: Any) -> bytes:
    plain = Batch(SESSION, sequence, 0, 1 << 60, tuple(wanted))
    return encode_batch(msgspec.structs.replace(plain, **changed))


class Lab:
    """One machine, a clock that a test moves, and a proposer that never fails."""

    def __init__(self, store: Store | None = None) -> None:
        self.store: Store = MemoryStore() if store is None else store
        self.machine = Machine(self.store)
        self.now_ms = NOW_MS
        self.effects = Effects()
        self._sequence = 0
        self._jobs = 0

    # --- Applying ------------------------------------------------------------------------

    def enter(self, *batches: bytes) -> list[tuple[Result, ...]]:
        """Apply one entry of packed batches; its effects replace the last ones."""
        entry = pack_entry(self.now_ms, list(batches))
        self.effects = Effects()
        found = self.machine.apply(self.machine.applied_index + 1, 1, entry, self.effects)
        self.machine.finish()
        return [results for _, _, results in found]

    def apply(self, command: Command) -> Result:
        """Apply one command as an entry of its own; return its result."""
        self._sequence += 1
        return self.enter(batch(self._sequence, command, floor=self._sequence))[0][0]

    def expect(self, kind: type[R], command: Command) -> R:
        result = self.apply(command)
        assert isinstance(result, kind), result
        return result

    def refused(self, command: Command) -> str:
        """Apply a command that is to be refused, without a trace; return the code."""
        before = self.everything()
        code = self.expect(Refused, command).code
        assert self.everything() == before
        return code

    def pass_ms(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    # --- Jobs ----------------------------------------------------------------------------

    def put(self, name: str = "job", due_ms: int | None = FIRST_DUE_MS, **changed: Any) -> PutJob:
        """Return the creation of a job."""
        self._jobs += 1
        cursor = None if due_ms is None else Cursor(due_ms, due_ms)
        job = b"j" + self._jobs.to_bytes(15, "big")
        plain = PutJob(job, "tests", name, b"definition", policy(), cursor, 0)
        return msgspec.structs.replace(plain, **changed)

    def create(self, name: str = "job", due_ms: int | None = FIRST_DUE_MS, **changed: Any) -> bytes:
        """Create a job with a policy that is plain but for what is changed."""
        return self.expect(JobDone, self.put(name, due_ms, policy=policy(**changed))).job

    def edit(self, job: bytes, due_ms: int | None = None, **changed: Any) -> PutJob:
        """Return the replacement of a job as it is now, by another first occurrence."""
        state = self.state(job)
        cursor = None if due_ms is None else Cursor(due_ms, due_ms)
        plain = PutJob(
            job,
            state.namespace,
            state.name,
            b"changed",
            state.policy,
            cursor,
            state.revision,
            seen_due_ms=state.due_ms,
        )
        return msgspec.structs.replace(plain, **changed)

    def pause(self, job: bytes, *, paused: bool = True) -> JobDone:
        return self.expect(JobDone, PauseJob(job, paused))

    def trigger(self, job: bytes, nonce: int = 0) -> bytes:
        return self.expect(RunDone, TriggerJob(job, self.now_ms, nonce)).run

    # --- Members -------------------------------------------------------------------------

    def heartbeat(self, number: int = 1, member: str = "a", **changed: Any) -> Heartbeat:
        plain = Heartbeat(
            member,
            incarnation(number, member),
            LEASE_MS,
            10,
            "http://a",
            "1",
            "2026a",
            {},
            accepting=True,
            running=0,
        )
        return msgspec.structs.replace(plain, **changed)

    def join(self, number: int = 1, member: str = "a", **changed: Any) -> bytes:
        """Begin or renew a member's lease; return its incarnation."""
        beat = self.heartbeat(number, member, **changed)
        self.expect(Renewed, beat)
        return beat.incarnation

    def lose(self, holder: bytes) -> None:
        """Let a member's lease run out, and the cluster notice."""
        self.pass_ms(LEASE_MS + 1)
        self.apply(Expire(holder))

    # --- Claims --------------------------------------------------------------------------

    def occurrence(self, job: bytes, /, **changed: Any) -> ClaimOccurrence:
        """Return what launches the job's cursor and moves it on by a second."""
        state = self.state(job)
        assert state.due_ms is not None
        assert state.start_ms is not None
        following = Cursor(state.due_ms + STEP_MS, state.due_ms + STEP_MS)
        launch = Cursor(state.due_ms, state.start_ms)
        plain = ClaimOccurrence(job, state.revision, state.due_ms, launch, (), following)
        return msgspec.structs.replace(plain, **changed)

    def claim(self, holder: bytes, *items: ClaimOccurrence | ClaimRun) -> tuple[str | None, ...]:
        return self.expect(Claimed, Claim(holder, items)).refusals

    def launch(self, holder: bytes, job: bytes, **changed: Any) -> bytes:
        """Claim the job's cursor, which must be granted; return the run's key."""
        item = self.occurrence(job, **changed)
        assert self.claim(holder, item) == (None,)
        assert item.launch is not None
        return keys.run_key(job, item.launch.due_ms)

    def claim_run(self, holder: bytes, run: bytes) -> str | None:
        """Claim a queued run as it stands."""
        return self.claim(holder, ClaimRun(run, self.run(run).start_ms))[0]

    def claim_and_run(self, holder: bytes, run: bytes) -> bytes:
        """Claim a queued run, which must be granted; return its key."""
        assert self.claim_run(holder, run) is None
        return run

    # --- Reports -------------------------------------------------------------------------

    def start(self, run: bytes) -> bool:
        record = self.run(run)
        return self.report(Started(run, record.number, record.fence, self.now_ms))

    def end(self, run: bytes, outcome: Outcome = "succeeded", **changed: Any) -> bool:
        """Report the end of a run's present attempt; return whether it was accepted."""
        record = self.run(run)
        plain = Ended(run, record.number, record.fence, outcome, self.now_ms, self.now_ms)
        return self.report(msgspec.structs.replace(plain, **changed))

    def report(self, item: Started | Ended) -> bool:
        return self.expect(Reported, Report((item,))).accepted[0]

    # --- Looking -------------------------------------------------------------------------

    def state(self, job: bytes) -> JobState:
        raw = self.store.get(keys.JOB_STATE + job)
        assert raw is not None
        return models.decode_job_state(raw)

    def outcome(self, run: bytes) -> Run | Skip | None:
        raw = self.store.get(keys.OUTCOME + run)
        return None if raw is None else models.decode_outcome(raw)

    def run(self, run: bytes) -> Run:
        found = self.outcome(run)
        assert isinstance(found, Run), found
        return found

    def skip(self, job: bytes, due_ms: int) -> Skip:
        found = self.outcome(keys.run_key(job, due_ms))
        assert isinstance(found, Skip), found
        return found

    def member(self, name: str = "a") -> Member:
        raw = self.store.get(keys.MEMBER + name.encode())
        assert raw is not None
        return models.decode_member(raw)

    def due(self) -> list[tuple[int, bytes]]:
        """Return (start_ms, job or run) of all due entries, in order of their times."""
        found = [keys.split_due(keys.DUE + key) for key in self.rows(keys.DUE)]
        return sorted((start_ms, subject) for _, _, start_ms, _, subject in found)

    def held(self, holder: bytes) -> list[bytes]:
        """Return the runs that stand with an incarnation."""
        return [key[16:] for key in self.rows(keys.LIVE) if key.startswith(holder)]

    def rows(self, table: bytes) -> dict[bytes, bytes]:
        """Return a table, without the byte that names it."""
        found = self.store.scan(table, keys.after(table), 1_000_000)
        return {key[1:]: value for key, value in found}

    def everything(self) -> dict[bytes, bytes]:
        """Return the state, without what the machine notes about itself and its proposers."""
        about = (keys.SESSION, keys.RESULT, keys.META)
        found = self.store.scan(b"\x00", b"\xff", 1_000_000)
        return {key: value for key, value in found if not key.startswith(about)}


def skipped(reason: Any, first_ms: int, last_ms: int | None = None, count: int = 1) -> SkippedRange:
    return SkippedRange(reason, first_ms, first_ms if last_ms is None else last_ms, count)
