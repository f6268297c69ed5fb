"""Random members and users at work with one state machine, from a seed.

What they propose is worked out from the state as it is then, and arrives when chance wants:
at once, much later, behind what came after it, twice, or never. Most of it makes sense,
some of it is stale or wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from consensus.state import cursor
from consensus.state.commands import (
    Batch,
    CancelRun,
    Claim,
    ClaimOccurrence,
    ClaimRun,
    Clean,
    Command,
    Cursor,
    DeleteJob,
    Ended,
    Expire,
    Heartbeat,
    PauseJob,
    PutJob,
    Report,
    RequestKey,
    SkippedRange,
    Started,
    TriggerJob,
    encode_batch,
    pack_entry,
)
from storage import keys, models
from storage.models import JobPolicy, JobState, Outcome, Overlap, Run
from storage.store import View
from tests.support.checks import rows

JOBS = 8
SESSIONS = 3
IN_FLIGHT_MAX = 12
OVERLAPS: tuple[Overlap, ...] = ("skip", "allow", "buffer_one", "cancel_other")
OUTCOMES: tuple[Outcome, ...] = ("succeeded", "failed", "timed_out", "cancelled", "lost")


class RandomWorld:
    """Makes entries for a state that it only looks at."""

    def __init__(self, seed: int, view: View) -> None:
        self.chance = random.Random(seed)
        self.now_ms = 1_000_000
        self._view = view
        self._jobs: list[bytes] = []
        self._incarnations: list[bytes] = []
        self._in_flight: list[tuple[int, int, bytes]] = []
        self._sequences = [0] * SESSIONS
        self._floors = [0] * SESSIONS

    def entry(self) -> bytes:
        """Return what is agreed upon next."""
        chance = self.chance
        self.now_ms += chance.choice((0, 1, 50, 400))
        for _ in range(chance.randrange(3)):
            self._propose()
        batches = []
        while self._in_flight and chance.random() < 0.7:
            place = chance.randrange(len(self._in_flight))
            batches.append(self._in_flight[place][2])
            if chance.random() < 0.8:
                del self._in_flight[place]
        while len(self._in_flight) > IN_FLIGHT_MAX:
            del self._in_flight[0]
        stamp_ms = self.now_ms - chance.choice((0, 0, 0, 30))
        return pack_entry(stamp_ms, batches)

    def _propose(self) -> None:
        chance = self.chance
        session = chance.randrange(SESSIONS)
        self._sequences[session] += 1
        sequence = self._sequences[session]
        if chance.random() < 0.3:
            own = (number for place, number, _ in self._in_flight if place == session)
            self._floors[session] = max(self._floors[session], min(own, default=sequence))
        elif chance.random() < 0.02:
            self._floors[session] = sequence
        wanted: tuple[Any, ...] = tuple(self._command() for _ in range(chance.randrange(1, 4)))
        deadline_ms = self.now_ms + chance.choice((*(5_000,) * 9, -5_000))
        name = bytes([session]) * 16
        batch = Batch(name, sequence, self._floors[session], deadline_ms, wanted)
        self._in_flight.append((session, sequence, encode_batch(batch)))

    def _command(self) -> Command:
        makers: list[tuple[Callable[[], Command], int]] = [
            (self._put, 4),
            (self._delete, 1),
            (self._pause, 2),
            (self._trigger, 2),
            (self._cancel, 2),
            (self._claim, 20),
            (self._report, 12),
            (self._heartbeat, 4),
            (self._expire, 1),
            (self._clean, 1),
        ]
        weights = [weight for _, weight in makers]
        return self.chance.choices([make for make, _ in makers], weights)[0]()

    # --- What there is ---------------------------------------------------------------------

    def _job(self) -> bytes:
        return self.chance.choice(self._jobs) if self._jobs else bytes(16)

    def _state(self, job: bytes) -> JobState | None:
        raw = self._view.get(keys.JOB_STATE + job)
        return None if raw is None else models.decode_job_state(raw)

    def _run(self, *states: str) -> tuple[bytes, Run] | None:
        found = [
            (key, run)
            for key, raw in rows(self._view, keys.OUTCOME).items()
            if isinstance(run := models.decode_outcome(raw), Run) and run.state in states
        ]
        return self.chance.choice(found) if found else None

    def _incarnation(self) -> bytes:
        return self.chance.choice(self._incarnations) if self._incarnations else bytes(16)

    # --- What users want -------------------------------------------------------------------

    def _request(self) -> RequestKey | None:
        if self.chance.random() < 0.8:
            return None
        return RequestKey(bytes([self.chance.randrange(4)]) * 16, self.chance.randbytes(1))

    def _cursor(self) -> Cursor | None:
        if self.chance.random() < 0.1:
            return None
        due_ms = self.now_ms + self.chance.randrange(-5_000, 5_000)
        return Cursor(due_ms, due_ms + self.chance.choice((0, 0, 100)))

    def _policy(self) -> JobPolicy:
        chance = self.chance
        return JobPolicy(
            chance.randrange(101),
            chance.choice(OVERLAPS),
            chance.choice(("at_least_once", "at_most_once")),
            chance.randrange(1, 4),
            chance.random() < 0.2,
            chance.choice((None, None, 3)),
            chance.choice((None, None, None, 700)),
            chance.choice((None, None, self.now_ms + 2_000)),
            chance.random() < 0.1,
        )

    def _put(self) -> PutJob:
        chance = self.chance
        known = self._state(job := self._job())
        policy, first = self._policy(), self._cursor()
        if known is None or chance.random() < 0.5:
            job = job if chance.random() < 0.05 else chance.randbytes(16)
            self._jobs = [*self._jobs, job][-JOBS:]
            name = f"j{chance.randrange(6)}"
            return PutJob(job, "n", name, b"d", policy, first, 0, request=self._request())
        return PutJob(
            job,
            known.namespace,
            known.name,
            b"d2",
            policy,
            first,
            known.revision + chance.choice((0, 0, 0, 1)),
            keep_cursor=chance.random() < 0.4,
            seen_due_ms=known.due_ms,
            skipped=self._overdue(known, "rescheduled"),
        )

    def _overdue(self, state: JobState, reason: Any) -> tuple[SkippedRange, ...]:
        due_ms = state.due_ms
        if due_ms is None or due_ms > self.now_ms or cursor.behind(state):
            return ()
        length_ms = self.chance.choice((0, 0, 40))
        first = SkippedRange(reason, due_ms, due_ms + length_ms, 1 + (length_ms > 0))
        second = SkippedRange("paused", due_ms + length_ms + 1, due_ms + length_ms + 9, 2)
        return (first, second) if self.chance.random() < 0.3 else (first,)

    def _delete(self) -> DeleteJob:
        job = self._job()
        state = self._state(job)
        if state is None or self.chance.random() < 0.5:
            return DeleteJob(job, request=self._request())
        return DeleteJob(job, None, None, state.due_ms, self._overdue(state, "deleted"))

    def _pause(self) -> PauseJob:
        return PauseJob(self._job(), self.chance.random() < 0.4, request=self._request())

    def _trigger(self) -> TriggerJob:
        return TriggerJob(self._job(), self.now_ms, self.chance.randrange(5), self._request())

    def _cancel(self) -> CancelRun:
        found = self._run("queued", "waiting", "claimed", "running", "ended")
        return CancelRun(found[0] if found else bytes(29), "why not")

    # --- What members want -----------------------------------------------------------------

    def _claim(self) -> Claim:
        items = tuple(self._claim_item() for _ in range(self.chance.randrange(1, 4)))
        return Claim(self._incarnation(), items)

    def _claim_item(self) -> ClaimOccurrence | ClaimRun:
        chance = self.chance
        if chance.random() < 0.3 and (found := self._run("queued")):
            return ClaimRun(found[0], found[1].start_ms + chance.choice((0, 0, 0, 1)))
        job = self._job()
        state = self._state(job)
        if state is None or state.due_ms is None or state.start_ms is None:
            return ClaimOccurrence(job, 1, 5, None, (), None)
        due_ms = state.due_ms
        revision = state.revision + chance.choice((0, 0, 0, 0, 1))
        later_ms = due_ms + chance.randrange(100, 3_000)
        if cursor.behind(state) and chance.random() < 0.8:
            later_ms = cursor.decided_until(state) + chance.randrange(1, 500)
            return ClaimOccurrence(job, revision, due_ms, None, (), Cursor(later_ms, later_ms))
        following = Cursor(later_ms, later_ms) if chance.random() < 0.9 else None
        launch, skipped = self._decision(due_ms, state.start_ms)
        return ClaimOccurrence(job, revision, due_ms, launch, skipped, following)

    def _decision(
        self, due_ms: int, start_ms: int
    ) -> tuple[Cursor | None, tuple[SkippedRange, ...]]:
        kind = self.chance.choice(("on_time",) * 6 + ("missed", "last", "first", "wrong"))
        present, later = Cursor(due_ms, start_ms), Cursor(due_ms + 60, due_ms + 60)
        if kind == "missed":
            return None, (SkippedRange("missed", due_ms, due_ms + 50, 3),)
        if kind == "last":
            return later, (SkippedRange("coalesced", due_ms, due_ms + 50, 3),)
        if kind == "first":
            return present, (SkippedRange("coalesced", due_ms + 10, due_ms + 50, 3),)
        if kind == "wrong":
            return later, (SkippedRange("coalesced", due_ms, due_ms + 90, 3),)
        return present, ()

    def _report(self) -> Report:
        return Report(tuple(self._report_item() for _ in range(self.chance.randrange(1, 4))))

    def _report_item(self) -> Started | Ended:
        chance = self.chance
        found = self._run("claimed", "running") or self._run("ended", "queued", "waiting")
        key, run = found or (bytes(29), None)
        fence = (run.fence if run else 0) - chance.choice((0, 0, 0, 0, 1))
        number = run.number if run else 1
        if chance.random() < 0.3:
            return Started(key, number, fence, self.now_ms)
        return Ended(
            key,
            number,
            fence,
            chance.choice(OUTCOMES),
            chance.choice((None, self.now_ms)),
            self.now_ms,
            1,
            "",
            self.now_ms + 100 if chance.random() < 0.7 else None,
            (b"out",) if chance.random() < 0.3 else (),
            3,
            chance.random() < 0.3,
        )

    def _heartbeat(self) -> Heartbeat:
        chance = self.chance
        if len(self._incarnations) < 3 or chance.random() < 0.2:
            member = chance.randrange(3)
            born = self.now_ms.to_bytes(8, "big") + bytes([member]) + chance.randbytes(7)
            self._incarnations = [*self._incarnations, born][-4:]
            incarnation = born
        else:
            incarnation = self._incarnation()
        return Heartbeat(
            f"n{incarnation[8]}",
            incarnation,
            chance.choice((1_000, 60_000)),
            5,
            "",
            "",
            "",
            {},
            accepting=chance.random() < 0.8,
            running=0,
            supersedes=chance.random() < 0.5,
        )

    def _expire(self) -> Expire:
        return Expire(self._incarnation())

    def _clean(self) -> Clean:
        return Clean(self.now_ms - 3_000, self.now_ms - 60_000)
