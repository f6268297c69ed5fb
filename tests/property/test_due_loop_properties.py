"""Whatever a member may claim, it finds, whatever has happened to jobs, labels and runs."""

from __future__ import annotations

import random

import msgspec
import pytest

from api.jobs import planning
from consensus.state.commands import Expire, JobDone, PauseJob, TriggerJob
from consensus.state.transitions import HELD_STATES
from storage import keys, models
from storage.models import CatchUp, JobDefinition, Outcome, ScheduleSpec
from tests.support.builders import definition
from tests.support.looker import Looker

STEPS = 60
OUTCOMES: tuple[Outcome, ...] = ("succeeded", "failed", "lost")
LABELS: tuple[dict[str, str], ...] = ({}, {"disk": "fast"}, {"disk": "slow"})
PLACEMENTS = (*LABELS, {"disk": "none"})
# So many looks find everything there is; a member that has not done by then never will.
LOOKS_MAX = 100
# Longer than a refused claim waits for its next try.
REST_MS = 300


class Household:
    """One member with jobs to which anything may happen."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.looker = Looker()
        self.labels: dict[str, str] = {}
        self.life = 1
        self.jobs: list[bytes] = []

    @property
    def now_ms(self) -> int:
        return self.looker.lab.now_ms

    # --- What happens ----------------------------------------------------------------------

    def live(self) -> None:
        chance, job = self.chance, self.chance.choice(self.jobs or [b""])
        event = chance.random()
        if event < 0.25 or not self.jobs:
            self.create()
        elif event < 0.45:
            self.change(job)
        elif event < 0.65:
            self.looker.lab.apply(TriggerJob(job, self.now_ms, chance.getrandbits(32)))
        elif event < 0.75:
            self.looker.lab.expect(JobDone, PauseJob(job, chance.random() < 0.5))
        elif event < 0.85:
            # It was restarted before anybody noticed that it was gone.
            self.life += 1
            self.labels = chance.choice(LABELS)
            last = self.looker.incarnation
            self.renew()
            self.looker.lab.apply(Expire(last))
        else:
            self.end_runs()
        self.looker.hear_of_jobs()
        self.looker.lab.pass_ms(chance.choice((0, 100, 700, 2_500)))
        self.renew()

    def renew(self) -> None:
        looker = self.looker
        looker.incarnation = looker.lab.join(self.life, labels=self.labels, supersedes=True)
        looker.hear_of_members()

    def any_definition(self) -> JobDefinition:
        chance, now_ms = self.chance, self.now_ms
        spec = chance.choice(
            (
                ScheduleSpec(kind="manual"),
                ScheduleSpec(kind="at", at_ms=now_ms + chance.randrange(-2_000, 3_000)),
                ScheduleSpec(kind="every", every_ms=2_000, anchor_ms=now_ms),
            )
        )
        return self.any_rest(spec)

    def any_rest(self, spec: ScheduleSpec) -> JobDefinition:
        chance = self.chance
        return definition(
            spec,
            priority=chance.choice((0, 50, 100)),
            overlap=chance.choice(("skip", "allow", "buffer_one", "cancel_other")),
            catch_up=CatchUp(policy=chance.choice(("skip", "last", "first", "all"))),
            placement=chance.choice(PLACEMENTS),
        )

    def create(self) -> None:
        wanted = self.any_definition()
        put = self.looker.lab.put(
            f"job-{len(self.jobs)}",
            due_ms=None,
            definition=models.encode(wanted),
            policy=planning.policy_of(wanted),
        )
        first = planning.first_cursor(wanted, put.job, self.now_ms)
        put = msgspec.structs.replace(put, cursor=first)
        self.jobs.append(self.looker.lab.expect(JobDone, put).job)

    def change(self, job: bytes) -> None:
        """Change everything but the schedule."""
        wanted = self.any_rest(self.definition(job).schedule)
        content, policy = models.encode(wanted), planning.policy_of(wanted)
        edit = self.looker.lab.edit(job, keep_cursor=True, definition=content, policy=policy)
        self.looker.lab.expect(JobDone, edit)

    def end_runs(self) -> None:
        lab, retry_ms = self.looker.lab, self.now_ms + self.chance.choice((0, 1_500))
        for run in lab.held(self.looker.incarnation):
            if self.chance.random() < 0.7:
                lab.end(run, self.chance.choice(OUTCOMES), retry_start_ms=retry_ms)
                self.looker.hear_of_jobs()

    # --- What must be so -------------------------------------------------------------------

    async def look(self) -> None:
        """Look for as long as there is something to be had, and once more a little later."""
        for _ in range(LOOKS_MAX):
            before = len(self.looker.claimed)
            await self.looker.look()
            claimed = self.looker.claimed[before:]
            for job in claimed:
                assert self.is_placed_here(job)
            if not claimed:
                break
        self.looker.lab.pass_ms(REST_MS)
        self.renew()
        await self.looker.look()

    def is_placed_here(self, job: bytes) -> bool:
        return self.definition(job).placement.items() <= self.labels.items()

    def definition(self, job: bytes) -> JobDefinition:
        raw = self.looker.lab.store.get(keys.JOB + job)
        assert raw is not None
        return models.decode_definition(raw)

    def check(self) -> None:
        """Nothing is left that was due at the last look and may be claimed here.

        Runs that came together while their job allowed it wait for those that are held.
        """
        lab = self.looker.lab
        for start_ms, subject in lab.due():
            job = subject[: keys.JOB_ID_BYTES]
            wanted = self.definition(job)
            if start_ms > self.now_ms - REST_MS or not self.is_placed_here(job):
                continue
            held = any(lab.run(run).state in HELD_STATES for run in lab.state(job).live)
            assert len(subject) > keys.JOB_ID_BYTES, wanted
            assert held, wanted
            assert wanted.overlap != "allow", wanted


@pytest.mark.parametrize("seed", range(60))
async def test_nothing_that_may_be_claimed_here_is_left(seed: int) -> None:
    """Placements, labels, priorities and policies change, runs end and are tried again."""
    house = Household(seed)
    for _ in range(STEPS):
        house.live()
        await house.look()
        house.check()
    assert house.looker.claimed
