"""One job, a due loop and a machine, under a clock that outages leap over.

What should have been is worked out beside it, occurrence by occurrence, and compared with
what the cluster says it was.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from typing import NamedTuple

import msgspec

from api import schedule
from api.jobs import planning
from consensus.state import cursor
from consensus.state.commands import ClaimOccurrence, DeleteJob, JobDone, PutJob
from storage import keys, models
from storage.models import CatchUp, CatchUpPolicy, JobDefinition, Overlap, Run, ScheduleSpec, Skip
from tests.support.builders import Lab, definition

HORIZON_MS = 1_000
LEASE_MS = 1 << 50
SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
# So many claims decide whatever an outage has left; more would be no progress.
CLAIMS_MAX = 2_000
# So many occurrences of one schedule are worked out.
OCCURRENCES_MAX = 200_000


class Era(NamedTuple):
    """A time of one schedule: its occurrences behind `after_ms`, and up to `until_ms`."""

    spec: ScheduleSpec
    after_ms: int
    until_ms: int


class PlannedJob:
    """A job and everything that happens to it."""

    def __init__(self, wanted: JobDefinition, now_ms: int) -> None:
        self.lab = Lab()
        self.lab.now_ms = now_ms
        self.holder = self.lab.join(lease_ms=LEASE_MS)
        self.definition = wanted
        self.eras: list[Era] = []
        self.after_ms = now_ms
        self.claimed: list[tuple[ClaimOccurrence, int]] = []
        self.pauses: list[tuple[int, int]] = []
        put = self.lab.put(
            policy=planning.policy_of(wanted), definition=models.encode(wanted), cursor=None
        )
        self.job = put.job
        self._begin_era()
        first = planning.first_cursor(wanted, put.job, now_ms)
        self.lab.expect(JobDone, msgspec.structs.replace(put, cursor=first))

    @property
    def now_ms(self) -> int:
        return self.lab.now_ms

    def _begin_era(self) -> None:
        spec, now_ms = self.definition.schedule, self.lab.now_ms
        self.after_ms = now_ms
        if spec.kind == "at" and spec.at_ms is not None:
            self.after_ms = min(now_ms, spec.at_ms - 1)
        if self.lab.store.get(keys.JOB_STATE + self.job) is not None:
            # An instant that is decided already is not decided again under a new schedule.
            decided_ms = cursor.decided_until(self.lab.state(self.job))
            self.after_ms = max(self.after_ms, decided_ms)

    # --- What users do -----------------------------------------------------------------

    def edit(self, wanted: JobDefinition) -> None:
        """Replace the definition, as the API does."""
        state, now_ms = self.lab.state(self.job), self.now_ms
        keep = wanted.schedule == self.definition.schedule
        skipped = () if keep else planning.rescheduled(self.definition, state, now_ms)
        try:
            first = (
                None if keep
                else planning.renewed_cursor(wanted, self.job, state, skipped, now_ms)
            )  # fmt: skip
        except planning.OccurrenceDecided:
            return
        command = PutJob(
            self.job,
            state.namespace,
            state.name,
            models.encode(wanted),
            planning.policy_of(wanted),
            first,
            state.revision,
            keep_cursor=keep,
            seen_due_ms=state.due_ms,
            skipped=skipped,
        )
        self.lab.expect(JobDone, command)
        if not keep:
            self.end_era(state)
        self.definition = wanted
        if not keep:
            self._begin_era()

    def end_era(self, state: models.JobState) -> None:
        """Note how far the present schedule had to be accounted for."""
        # Some may have been claimed ahead of time.
        until_ms = max(self.now_ms, cursor.decided_until(state))
        if state.due_ms is None:
            # Its last run, or its last time, was the end of it.
            until_ms = cursor.decided_until(state)
        self.eras.append(Era(self.definition.schedule, self.after_ms, until_ms))

    def delete(self) -> None:
        state = self.lab.state(self.job)
        spans = planning.rescheduled(self.definition, state, self.now_ms, "deleted")
        self.lab.expect(JobDone, DeleteJob(self.job, None, None, state.due_ms, spans))
        self.end_era(state)

    def pause(self) -> None:
        if self.lab.state(self.job).status != "paused":
            self.lab.pause(self.job)
            self.pauses.append((self.now_ms, 1 << 60))

    def resume(self) -> None:
        if self.lab.state(self.job).status == "paused":
            self.lab.pause(self.job, paused=False)
            self.pauses[-1] = (self.pauses[-1][0], self.now_ms)

    # --- What the member does ------------------------------------------------------------

    def work(self) -> None:
        """Claim whatever there is to be claimed, as the due loop does."""
        for _ in range(CLAIMS_MAX):
            if not self._claim():
                return
        raise AssertionError("The due loop makes no progress.")

    def _claim(self) -> bool:
        lab, now_ms = self.lab, self.now_ms
        for start_ms, subject in lab.due():
            if start_ms > now_ms + HORIZON_MS:
                return False
            if subject != self.job:
                assert lab.claim_run(self.holder, subject) is None
                return True
            state = lab.state(self.job)
            if start_ms > now_ms and state.live and self.definition.overlap != "allow":
                continue
            item = planning.decide(self.definition, self.job, state, now_ms)
            assert item is not None
            assert lab.claim(self.holder, item) == (None,)
            self._check_progress(state, item)
            self.claimed.append((item, now_ms))
            return True
        return False

    def _check_progress(self, before: models.JobState, item: ClaimOccurrence) -> None:
        after = self.lab.state(self.job)
        assert before.due_ms is not None
        assert cursor.decided_until(after) >= before.due_ms
        assert after.due_ms is None or after.due_ms > before.due_ms
        assert len(item.skipped) <= 3

    def end_runs(self, chance: random.Random) -> None:
        """Let some of the held runs come to their end, if their time has come."""
        for run in self.lab.held(self.holder):
            if self.lab.run(run).start_ms <= self.now_ms and chance.random() < 0.6:
                self.lab.end(run, chance.choice(("succeeded", "failed")))

    # --- What must be so -------------------------------------------------------------------

    def check(self) -> None:
        """Every occurrence has exactly one outcome, and nothing else has one."""
        state = self.lab.state(self.job)
        eras = list(self.eras)
        if state.status != "deleted":
            decided_ms = cursor.decided_until(state)
            if state.status == "scheduled" and state.due_ms is not None:
                # What is not decided lies ahead, at least its start does.
                assert state.start_ms is not None
                assert state.start_ms > self.now_ms
                decided_ms = state.due_ms - 1
            eras.append(Era(self.definition.schedule, self.after_ms, decided_ms))
        expected = [due_ms for era in eras for due_ms in occurrences_of(era)]
        assert expected == sorted(set(expected))
        assert self.accounted(expected) == len(expected)
        self._check_reasons()
        self._check_launches()

    def accounted(self, expected: list[int]) -> int:
        """Return how many occurrences have an outcome, after checking each outcome."""
        count = 0
        prefix = keys.OUTCOME + self.job
        for key, raw in self.lab.store.scan(prefix, keys.after(prefix), OCCURRENCES_MAX):
            _, first_ms, trigger, _ = keys.split_run(key[1:])
            if trigger != keys.TRIGGER_SCHEDULE:
                continue
            outcome = models.decode_outcome(raw)
            if isinstance(outcome, Run):
                covered, last_ms = 1, first_ms
            else:
                covered, last_ms = outcome.count, outcome.last_ms
            low, high = bisect_left(expected, first_ms), bisect_right(expected, last_ms)
            assert high - low == covered, outcome
            assert (expected[low], expected[high - 1]) == (first_ms, last_ms)
            count += covered
        return count

    def _check_reasons(self) -> None:
        prefix = keys.OUTCOME + self.job
        for key, raw in self.lab.store.scan(prefix, keys.after(prefix), OCCURRENCES_MAX):
            outcome = models.decode_outcome(raw)
            if isinstance(outcome, Skip) and outcome.reason == "paused":
                first_ms = keys.split_run(key[1:])[1]
                assert any(
                    begin_ms <= first_ms and outcome.last_ms <= end_ms
                    for begin_ms, end_ms in self.pauses
                )

    def _check_launches(self) -> None:
        for item, now_ms in self.claimed:
            if item.launch is not None:
                assert item.launch.due_ms <= item.launch.start_ms <= now_ms + HORIZON_MS


def occurrences_of(era: Era) -> list[int]:
    """Work out the occurrences of an era, one by one."""
    found: list[int] = []
    next_ms = schedule.next_occurrence(era.spec, era.after_ms)
    while next_ms is not None and next_ms <= era.until_ms:
        found.append(next_ms)
        assert len(found) < OCCURRENCES_MAX
        next_ms = schedule.next_occurrence(era.spec, next_ms)
    return found


# --- By chance ------------------------------------------------------------------------------

CRONS = ("* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "15 9-17 * * 1-5")
ZONES = (None, "Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
POLICIES: tuple[CatchUpPolicy, ...] = ("skip", "last", "first", "all")
OVERLAPS: tuple[Overlap, ...] = ("skip", "allow", "buffer_one", "cancel_other")


def any_schedule(chance: random.Random, now_ms: int) -> ScheduleSpec:
    """Return a schedule by the clock; those that follow their own ends have none."""
    bounds = {
        "not_before_ms": chance.choice((None, None, None, now_ms + 20 * SECOND_MS)),
        "not_after_ms": chance.choice((None, None, None, now_ms + chance.randrange(DAY_MS))),
        "max_runs": chance.choice((None, None, None, chance.randrange(1, 20))),
        "jitter_ms": chance.choice((0, 0, 700, 90_000)),
    }
    kind = chance.choice(("every", "every", "cron", "cron", "at"))
    if kind == "at":
        at_ms = now_ms + chance.randrange(-2 * HOUR_MS, 2 * HOUR_MS)
        return ScheduleSpec(kind="at", at_ms=at_ms, jitter_ms=bounds["jitter_ms"] or 0)
    if kind == "every":
        every_ms = chance.choice((SECOND_MS, 7_300, MINUTE_MS, HOUR_MS + 1))
        anchor_ms = now_ms + chance.randrange(-HOUR_MS, HOUR_MS)
        return msgspec.structs.replace(
            ScheduleSpec(kind="every", every_ms=every_ms, anchor_ms=anchor_ms), **bounds
        )
    spec = ScheduleSpec(kind="cron", expression=chance.choice(CRONS))
    return msgspec.structs.replace(spec, timezone=chance.choice(ZONES), **bounds)


def any_definition(chance: random.Random, spec: ScheduleSpec) -> JobDefinition:
    window_ms = chance.choice((0, 5 * SECOND_MS, MINUTE_MS, 10 * MINUTE_MS))
    if spec.every_ms != SECOND_MS and chance.random() < 0.3:
        window_ms = 3 * HOUR_MS
    return definition(
        spec,
        overlap=chance.choice(OVERLAPS),
        catch_up=CatchUp(policy=chance.choice(POLICIES), window_ms=window_ms),
    )


def any_leap_ms(chance: random.Random) -> int:
    """Return how long nothing happens: mostly a moment, now and then an outage."""
    if chance.random() < 0.75:
        return chance.choice((100, 400, 900, 2_500))
    return chance.choice((10 * SECOND_MS, MINUTE_MS, 20 * MINUTE_MS, 5 * HOUR_MS))
