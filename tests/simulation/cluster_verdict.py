"""The judgement over a whole history, when everything is repaired and at rest.

The log that the members agreed on is applied once more, alone and from its beginning, by
a state machine that tells what each command did. From that, from what the clients know and
from what was seen of the launches, every promise is worked out independently and compared
with the state that the cluster ended in.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from api import schedule
from consensus.state import cursor
from consensus.state.commands import (
    Claim,
    Claimed,
    ClaimOccurrence,
    ClaimRun,
    DeleteJob,
    Ended,
    Expire,
    JobDone,
    PutJob,
    Refused,
    Remaining,
    Report,
    Reported,
    RequestKey,
    Result,
    RunDone,
)
from consensus.state.context import Context, Effects
from consensus.state.machine import Machine
from node.ownership import Ownership
from storage import keys, models
from storage.memory_store import MemoryStore
from storage.models import JobState, Run, ScheduleSpec
from tests.simulation.cluster_clients import Wish
from tests.simulation.cluster_oracle import SKEW_MS, ClusterOracle, true_ms
from tests.simulation.raft_oracle import check_configurations

if TYPE_CHECKING:
    from tests.simulation.cluster_world import ClusterWorld

FOREVER_MS = 1 << 60
ROWS_MAX = 1_000_000
OCCURRENCES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """A command that changed a job's definition, or ended the job."""

    command: PutJob | DeleteJob
    at_s: float
    before: JobState | None
    after: JobState

    @property
    def was_spent(self) -> bool:
        """Tell whether the job had launched as often as it may."""
        return self.before is not None and _spent(self.before)


class Reference(Machine):
    """A state machine that keeps what its commands did."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.at_s = 0.0
        self.events: defaultdict[bytes, list[Event]] = defaultdict(list)
        self.seen: Counter[str] = Counter()
        # The results of commands with an idempotency key, each time that one was applied.
        self.answers: defaultdict[bytes, list[Result]] = defaultdict(list)

    def _apply_command(self, context: Context, command: Any) -> Result:
        before = context.find_job(command.job) if isinstance(command, PutJob | DeleteJob) else None
        result = super()._apply_command(context, command)
        request: RequestKey | None = getattr(command, "request", None)
        known = () if request is None else self.answers[request.key_hash]
        first = all(isinstance(answer, Refused) for answer in known)
        if request is not None:
            self.answers[request.key_hash].append(result)
        self._count(context, command, result)
        if first and isinstance(command, PutJob | DeleteJob) and isinstance(result, JobDone):
            after = context.job(command.job)
            self.events[command.job].append(Event(command, self.at_s, before, after))
        return result

    def _count(self, context: Context, command: Any, result: Result) -> None:
        """Count what shows that a run was eventful enough to mean something."""
        if isinstance(command, Expire) and isinstance(result, Remaining):
            self.seen["expired runs"] += result.handled
        elif isinstance(command, Claim) and isinstance(result, Claimed):
            granted = result.refusals.count(None)
            raw = context.store.get(keys.INCARNATION + command.incarnation)
            assert raw is not None
            ranked = Ownership(models.decode_incarnation(raw).member)
            rows = context.store.scan(keys.MEMBER, keys.after(keys.MEMBER), 100)
            ranked.update(models.decode_member(member) for _, member in rows)
            partitions = [_partition(item) for item in command.items]
            self.seen["claims"] += granted
            self.seen["steals"] += sum(
                refusal is None and ranked.rank(partition) not in (0, None)
                for partition, refusal in zip(partitions, result.refusals, strict=True)
            )
        elif isinstance(command, Report) and isinstance(result, Reported):
            ends = zip(command.items, result.accepted, strict=True)
            for item, accepted in ends:
                if isinstance(item, Ended):
                    self.seen["ends accepted" if accepted else "ends refused"] += 1


def _partition(item: ClaimOccurrence | ClaimRun) -> int:
    return keys.partition_of(item.job if isinstance(item, ClaimOccurrence) else item.run[:16])


@dataclass(slots=True)
class Era:
    """A time of one schedule. What lies at its edges may have an outcome or not."""

    spec: ScheduleSpec
    may_from_ms: float
    must_from_ms: float
    must_until_ms: float = FOREVER_MS
    may_until_ms: float = FOREVER_MS
    occurrences: list[int] = field(default_factory=list)

    def work_out(self) -> None:
        """List the occurrences, one by one."""
        next_ms = schedule.next_occurrence(self.spec, max(0, int(self.may_from_ms) - 1))
        while next_ms is not None and next_ms <= self.may_until_ms:
            self.occurrences.append(next_ms)
            if len(self.occurrences) > OCCURRENCES_MAX:
                raise AssertionError("A simulated schedule has an end.")
            next_ms = schedule.next_occurrence(self.spec, next_ms)


class History:
    """Everything that is known at the end, for the judges below."""

    def __init__(self, oracle: ClusterOracle, wishes: list[Wish]) -> None:
        self.oracle = oracle
        self.wishes = wishes
        self.store = MemoryStore()
        self.reference = Reference(self.store)
        for index, applied in sorted(oracle.by_index.items()):
            self.reference.at_s = applied.at_s
            self.reference.apply(
                index, applied.term, applied.command, Effects(), applied.configuration
            )
            self.reference.finish()
            oracle.require(
                self.reference.state_hash == applied.state_hash,
                f"The state after entry {index} is not what the log says.",
            )
        # Per request: before which time of day it was certainly not worked out.
        self.asked_ms = {
            wish.key.key_hash: true_ms(wish.began_s) - SKEW_MS - wish.doubt_ms for wish in wishes
        }

    def rows(self, table: bytes) -> list[tuple[bytes, bytes]]:
        return [(k[1:], v) for k, v in self.store.scan(table, keys.after(table), ROWS_MAX)]

    def runs(self) -> list[tuple[bytes, Run]]:
        found = ((key, models.decode_outcome(raw)) for key, raw in self.rows(keys.OUTCOME))
        return [(key, run) for key, run in found if isinstance(run, Run)]


def judge(world: ClusterWorld) -> None:
    """Judge a world that has come to rest.

    Raises:
        SafetyViolated: a promise was broken.
    """
    history = History(world.oracle, world.wishes)
    world.oracle.counts += history.reference.seen
    judge_members(world, history)
    judge_wishes(history)
    judge_occurrences(history)
    judge_runs(history)


def judge_members(world: ClusterWorld, history: History) -> None:
    """All members hold the same state, which is that of the log applied alone."""
    oracle = world.oracle
    check_configurations(world.seats.first, oracle.configurations)
    world.seats.count_changes()
    for name, life in world.lives.items():
        index = life.node.applied_index
        applied = oracle.by_index.get(index)
        oracle.require(applied is not None, f"{name} has applied {index}, and nobody saw it.")
        assert applied is not None
        digest = life.node.replica.machine.state_hash
        oracle.require(digest == applied.state_hash, f"{name} has a state of its own.")


# --- What users were told -------------------------------------------------------------------


def judge_wishes(history: History) -> None:
    """What was accepted took effect once, what was certainly not applied never did."""
    oracle, answers = history.oracle, history.reference.answers
    for wish in history.wishes:
        found = answers[wish.key.key_hash]
        effective = [answer for answer in found if not isinstance(answer, Refused)]
        name = f"{wish.kind} {wish.key.key_hash!r} of {wish.job.hex()}"
        if wish.known == "accepted":
            oracle.require(effective, f"{name} was accepted and is not in the log.")
            oracle.require(
                effective[0] == wish.result,
                f"{name} was answered {wish.result}, and came to {effective[0]}.",
            )
        elif wish.known in ("not applied", "refused"):
            oracle.require(not effective, f"{name} was {wish.known}, and took effect.")
        oracle.require(
            all(answer == effective[0] for answer in effective),
            f"{name} took effect with different answers: {effective}.",
        )
    _judge_effects(history)


def _judge_effects(history: History) -> None:
    """Count in the final state what the wishes must have left there."""
    oracle = history.oracle
    manual = {key for key, run in history.runs() if run.trigger == "manual"}
    names = Counter(models.decode_job_state(raw).name for _, raw in history.rows(keys.JOB_STATE))
    expected: set[bytes] = set()
    unsure: set[bytes] = set()
    for wish in history.wishes:
        if wish.kind == "trigger" and isinstance(wish.result, RunDone):
            expected.add(wish.result.run)
        elif wish.kind == "trigger" and wish.known == "unknown":
            answers = history.reference.answers[wish.key.key_hash]
            unsure |= {answer.run for answer in answers if isinstance(answer, RunDone)}
        elif wish.kind == "create":
            there = names[wish.key.key_hash.decode()]
            wanted = {"accepted": {1}, "unknown": {0, 1}}.get(wish.known, {0})
            oracle.require(
                there in wanted,
                f"The creation {wish.key.key_hash!r} was {wish.known}; there are {there} of it.",
            )
    oracle.require(expected <= manual, f"Accepted triggers are lost: {expected - manual}")
    extra = manual - expected - unsure
    oracle.require(not extra, f"Nobody has asked for the manual runs {extra}.")


# --- Occurrences ----------------------------------------------------------------------------


def judge_occurrences(history: History) -> None:
    """Every occurrence of every job has exactly one outcome, from its creation to the end."""
    for key, raw in history.rows(keys.JOB_STATE):
        state = models.decode_job_state(raw)
        if state.policy.manual or state.policy.delay_ms is not None:
            continue
        _judge_job(history, key, state)


def eras_of(history: History, job: bytes, state: JobState) -> list[Era]:
    """Work out from the commands which schedule was in force when.

    Whoever asked had a clock of its own, which may be off by the permitted skew; so what
    lies between asking and being applied may belong to either side.
    """
    eras: list[Era] = []
    for event in history.reference.events[job]:
        command = event.command
        request = command.request
        assert request is not None
        asked_ms = history.asked_ms[request.key_hash]
        made_ms = true_ms(event.at_s) + SKEW_MS
        if eras and not (isinstance(command, PutJob) and command.keep_cursor):
            decided_ms = cursor.decided_until(event.after)
            eras[-1].must_until_ms = decided_ms if event.was_spent else max(asked_ms, decided_ms)
            eras[-1].may_until_ms = max(made_ms, decided_ms)
        if isinstance(command, PutJob) and not command.keep_cursor:
            spec = models.decode_definition(command.definition).schedule
            if spec.kind == "at":
                assert spec.at_ms is not None
                asked_ms, made_ms = min(asked_ms, spec.at_ms), min(made_ms, spec.at_ms)
            # What was claimed ahead of time under the schedule before is decided, and
            # nothing before it is any more.
            made_ms = max(made_ms, cursor.decided_until(event.after) + 1)
            eras.append(Era(spec, asked_ms, made_ms))
    if _spent(state) and eras:
        eras[-1].must_until_ms = min(eras[-1].must_until_ms, cursor.decided_until(state))
    for era in eras:
        era.work_out()
    return eras


def _spent(state: JobState) -> bool:
    return state.policy.runs_max is not None and state.launches_total >= state.policy.runs_max


def _judge_job(history: History, job: bytes, state: JobState) -> None:
    oracle = history.oracle
    eras = eras_of(history, job, state)
    outcomes: Counter[int] = Counter()
    for first_ms, last_ms, count in _records(history, job):
        covered = _covered(eras, first_ms, last_ms, count)
        oracle.require(
            covered is not None,
            f"Job {job.hex()} has an outcome for {count} occurrences from {first_ms} to"
            f" {last_ms}, which are none: {eras}.",
        )
        outcomes.update(covered or ())
    doubled = [due_ms for due_ms, count in outcomes.items() if count > 1]
    oracle.require(not doubled, f"Job {job.hex()} has two outcomes for {doubled}.")
    for era in eras:
        silent = [
            due_ms
            for due_ms in era.occurrences
            if era.must_from_ms <= due_ms <= era.must_until_ms and not outcomes[due_ms]
        ]
        oracle.require(
            not silent,
            f"Job {job.hex()} has no outcome for {silent[:9]} ({len(silent)} of"
            f" {len(era.occurrences)}): {state}, {history.reference.events[job]}.",
        )


def _records(history: History, job: bytes) -> list[tuple[int, int, int]]:
    """Return the outcomes of a job's occurrences as (first, last, how many)."""
    found = []
    prefix = keys.OUTCOME + job
    for key, raw in history.store.scan(prefix, keys.after(prefix), ROWS_MAX):
        _, first_ms, trigger, _ = keys.split_run(key[1:])
        if trigger == keys.TRIGGER_SCHEDULE:
            outcome = models.decode_outcome(raw)
            if isinstance(outcome, Run):
                found.append((first_ms, first_ms, 1))
            else:
                found.append((first_ms, outcome.last_ms, outcome.count))
    return found


def _covered(eras: list[Era], first_ms: int, last_ms: int, count: int) -> list[int] | None:
    """Return the occurrences that an outcome speaks of; None if there are no such."""
    for era in eras:
        known = era.occurrences
        low, high = bisect_left(known, first_ms), bisect_right(known, last_ms)
        if high - low == count and (known[low], known[high - 1]) == (first_ms, last_ms):
            return known[low:high]
    return None


# --- Runs -----------------------------------------------------------------------------------


def judge_runs(history: History) -> None:
    """Nothing is held for ever, and what is recorded of an attempt is what was seen of it."""
    oracle = history.oracle
    oracle.require(not history.rows(keys.LIVE), "Runs are held by somebody at the end.")
    for key, run in history.runs():
        oracle.require(run.state == "ended", f"Run {key.hex()} stays {run.state}.")
        for attempt in run.attempts:
            _judge_attempt(history, key, attempt)


def _judge_attempt(history: History, key: bytes, attempt: models.Attempt) -> None:
    """An end that only the attempt itself can have come to was seen."""
    oracle = history.oracle
    launch = oracle.by_fence.get((key[:16], attempt.fence))
    seen = "nothing" if launch is None else f"{launch.exit_code}, {launch.cause}"
    right = {
        "succeeded": launch is not None and launch.exit_code == 0,
        "failed": launch is not None and launch.exit_code == 1,
        "timed_out": launch is not None and launch.cause == "timeout",
    }
    oracle.require(
        right.get(attempt.outcome, True),
        f"Run {key.hex()} #{attempt.number} is recorded as {attempt.outcome}"
        f" ({attempt.detail}), and what was seen is {seen}.",
    )
