"""What applying a command works with: the store, the cluster's time, and its effects.

Effects tell the node what to look at again; they are hints about the state just written
and are never replicated. A member that missed them (because it was down) finds the same
in the store.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import msgspec

from storage import keys, models
from storage.models import JobState, Run, Skip
from storage.store import Store


@dataclasses.dataclass(slots=True)
class Effects:
    """What a batch of applied commands has set in motion."""

    # (partition, band, start_ms) of new due entries.
    due: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    # Runs granted to an incarnation, as (incarnation, run).
    granted: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    # Runs whose holder should stop them, as (incarnation, run).
    cancelled: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    # Runs that came to their end, with their outcome.
    ended: list[tuple[bytes, str]] = dataclasses.field(default_factory=list)
    # A member came, went, or changed what it takes on.
    members_changed: bool = False

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
        """Forget everything since `mark`."""
        del self.due[mark[0] :], self.granted[mark[1] :]
        del self.cancelled[mark[2] :], self.ended[mark[3] :]
        self.members_changed = mark[4]


class Context:
    """One entry's application. `clock_ms` is the cluster's time, `index` the entry's."""

    __slots__ = ("clock_ms", "counted", "effects", "index", "store")

    def __init__(self, store: Store, index: int, clock_ms: int, effects: Effects) -> None:
        self.store = store
        self.index = index
        self.clock_ms = clock_ms
        self.effects = effects
        self.counted: Counter[str] = Counter()

    def job_state(self, job: bytes) -> JobState | None:
        raw = self.store.get(keys.JOB_STATE + job)
        return None if raw is None else models.decode_job_state(raw)

    def put_job_state(self, job: bytes, state: JobState) -> None:
        self.store.put(keys.JOB_STATE + job, models.encode(state))

    def outcome(self, key: bytes) -> Run | Skip | None:
        raw = self.store.get(keys.OUTCOME + key)
        return None if raw is None else models.decode_outcome(raw)

    def run(self, key: bytes) -> Run | None:
        found = self.outcome(key)
        return found if isinstance(found, Run) else None

    def put_outcome(self, key: bytes, record: Run | Skip) -> None:
        self.store.put(keys.OUTCOME + key, models.encode(record))

    def count(self, name: str, change: int = 1) -> None:
        self.counted[name] += change

    def put_due(self, subject: bytes, band: int, start_ms: int, priority: int) -> None:
        self.store.put(keys.due_key(subject, band, start_ms, priority), b"")
        self.effects.due.append((keys.partition_of(subject[:16]), band, start_ms))

    def delete_due(self, subject: bytes, band: int, start_ms: int, priority: int) -> None:
        self.store.delete(keys.due_key(subject, band, start_ms, priority))


replace = msgspec.structs.replace
