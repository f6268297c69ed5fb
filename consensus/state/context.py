"""What applying a command works with: the store, the cluster's time, and its effects.

A job's state and a run are the records that count. The due table, the runs of each
incarnation, the timeline and the counters only repeat what these records say, in an order
that answers a question; so they are written in one place, from the record before and the
record after, and no command can forget one of them.

Effects tell the node what to look at again; they are hints about the state just written
and are never replicated. A member that missed them (because it was down) finds the same
in the store.
"""

from __future__ import annotations

import dataclasses

import msgspec

from consensus import features
from consensus.state.transitions import HELD_STATES
from storage import keys, models
from storage.invariant import InvariantViolated
from storage.keys import band_of
from storage.models import JobPolicy, JobState, Run, Skip
from storage.store import Store

replace = msgspec.structs.replace


@dataclasses.dataclass(slots=True)
class Effects:
    """What a batch of applied commands has set in motion."""

    # (partition, band, start_ms) of due entries that are new or worth another look.
    due: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    # Runs granted to an incarnation, as (incarnation, run).
    granted: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    # Runs whose holder should stop them, as (incarnation, run).
    cancelled: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    # Runs that came to their end, with their outcome.
    ended: list[tuple[bytes, str]] = dataclasses.field(default_factory=list)
    # A member came, went, or changed what it takes on.
    members_changed: bool = False
    # What applying a command has raised, as (index, text): a fault of ours, to be logged.
    faults: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def mark(self) -> tuple[int, int, int, int, bool]:
        """Return where the effects stand, for `reset`."""
        return (
            len(self.due),
            len(self.granted),
            len(self.cancelled),
            len(self.ended),
            self.members_changed,
        )

    def reset(self, mark: tuple[int, int, int, int, bool]) -> None:
        """Forget everything since `mark`, faults excepted."""
        del self.due[mark[0] :], self.granted[mark[1] :]
        del self.cancelled[mark[2] :], self.ended[mark[3] :]
        self.members_changed = mark[4]


class Context:
    """One entry's application. `clock_ms` is the cluster's time, `index` the entry's.

    `counted` gathers what the counters change by; the machine takes it over when the
    command has succeeded.
    """

    __slots__ = ("clock_ms", "counted", "effects", "index", "store")

    def __init__(self, store: Store, index: int, clock_ms: int, effects: Effects) -> None:
        self.store = store
        self.index = index
        self.clock_ms = clock_ms
        self.effects = effects
        self.counted: dict[str, int] = {}

    def count(self, name: str, change: int = 1) -> None:
        self.counted[name] = self.counted.get(name, 0) + change

    @property
    def level(self) -> int:
        """Return the feature level in force, by which newer forms may be written."""
        return features.in_force(self.store)

    # --- Jobs --------------------------------------------------------------------------

    def find_job(self, job: bytes) -> JobState | None:
        """Return a job's state, also a deleted job's."""
        raw = self.store.get(keys.JOB_STATE + job)
        return None if raw is None else models.decode_job_state(raw)

    def job(self, job: bytes) -> JobState:
        """Return the state of a job that must exist, because it has runs."""
        state = self.find_job(job)
        if state is None:
            raise InvariantViolated(f"A run belongs to a job (job={job.hex()}).")
        return state

    def save_job(self, job: bytes, before: JobState | None, after: JobState) -> None:
        """Write a job's state, and its due entry where that is another than before."""
        self.store.put(keys.JOB_STATE + job, models.encode(after))
        was = None if before is None else _due_of(job, before)
        now = _due_of(job, after)
        if was == now:
            return
        if was is not None:
            self.store.delete(was)
        if now is not None:
            self.store.put(now, b"")
            self.look_again(job, after)

    def look_again(self, job: bytes, state: JobState) -> None:
        """Hint that a job's due entry, if it has one, is worth a look."""
        if state.status == "scheduled" and state.start_ms is not None:
            place = (keys.partition_of(job), band_under(state.policy), state.start_ms)
            self.effects.due.append(place)

    # --- Runs --------------------------------------------------------------------------

    def find_run(self, key: bytes) -> Run | None:
        raw = self.store.get(keys.OUTCOME + key)
        found = None if raw is None else models.decode_outcome(raw)
        return found if isinstance(found, Run) else None

    def run(self, key: bytes) -> Run:
        """Return a run that must exist, because another record names it."""
        run = self.find_run(key)
        if run is None:
            raise InvariantViolated(f"A record names a run that exists (run={key.hex()}).")
        return run

    def save_run(self, key: bytes, before: Run | None, after: Run) -> None:
        """Write a run, and move it between the tables that its state belongs in."""
        store = self.store
        store.put(keys.OUTCOME + key, models.encode(after))
        if before is None:
            store.put(keys.timeline_key(after.created_ms, key), b"")
            self.count("runs")
            self.count("runs_live")
        else:
            self._leave(key, before, after)
        self._enter(key, before, after)

    def _leave(self, key: bytes, before: Run, after: Run) -> None:
        if before.state == "queued":
            self.store.delete(keys.due_key(key, before.band, before.start_ms, before.priority))
        elif before.state in HELD_STATES and after.state not in HELD_STATES:
            self.store.delete(keys.live_key(before.incarnation, key))

    def _enter(self, key: bytes, before: Run | None, after: Run) -> None:
        state = after.state
        if state == "queued":
            self.store.put(keys.due_key(key, after.band, after.start_ms, after.priority), b"")
            due = (keys.partition_of(key[: keys.JOB_ID_BYTES]), after.band, after.start_ms)
            self.effects.due.append(due)
        elif state == "claimed" and (before is None or before.state != "claimed"):
            self.store.put(keys.live_key(after.incarnation, key), b"")
            self.effects.granted.append((after.incarnation, key))
        elif state == "ended":
            self.effects.ended.append((key, str(after.outcome)))
            self.count(f"runs.{after.outcome}")
            self.count("runs_live", -1)

    # --- Skipped occurrences -------------------------------------------------------------

    def save_skip(self, job: bytes, first_ms: int, skip: Skip) -> None:
        """Write that occurrences from `first_ms` on are not launched, and why."""
        self.store.put(keys.OUTCOME + keys.run_key(job, first_ms), models.encode(skip))
        self.count(f"skipped.{skip.reason}", skip.count)


def _due_of(job: bytes, state: JobState) -> bytes | None:
    """Return the key of the due entry that a job's state implies."""
    if state.status != "scheduled" or state.start_ms is None:
        return None
    policy = state.policy
    return keys.due_key(job, band_under(policy), state.start_ms, policy.priority)


def band_under(policy: JobPolicy) -> int:
    """Return the band in which the runs and the cursor of a job stand."""
    return band_of(policy.priority, selective=policy.selective)
