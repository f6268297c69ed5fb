"""Every occurrence has exactly one outcome, whatever happens to the job and to its members."""

from __future__ import annotations

import random

import pytest

from api import schedule
from api.jobs import planning
from api.schedule import wall as schedule_wall
from storage import keys
from storage.models import CatchUp, Run, ScheduleSpec
from tests.support.builders import definition
from tests.support.planned_job import (
    DAY_MS,
    HOUR_MS,
    POLICIES,
    PlannedJob,
    any_definition,
    any_leap_ms,
    any_schedule,
)

# A week before clocks go back in Europe and two before they do in America.
BEGIN_MS = 1_792_300_000_000
STEPS = 60


def live(job: PlannedJob, chance: random.Random) -> None:
    """Let something happen to a job, then let time go by."""
    lab, state = job.lab, job.lab.state(job.job)
    event = chance.random()
    if event < 0.05:
        job.edit(any_definition(chance, any_schedule(chance, job.now_ms)))
    elif event < 0.08:
        job.edit(any_definition(chance, job.definition.schedule))
    elif event < 0.12:
        job.pause()
    elif event < 0.30:
        job.resume()
    elif event < 0.34 and (job.definition.overlap == "allow" or not state.live):
        lab.trigger(job.job, chance.randrange(1 << 30))
    if chance.random() < 0.85:
        job.work()
    job.end_runs(chance)
    lab.pass_ms(any_leap_ms(chance))


@pytest.mark.parametrize("seed", range(150))
def test_every_occurrence_has_exactly_one_outcome(seed: int) -> None:
    """From the creation on: launched as a run, or covered by one range with the right count."""
    chance = random.Random(seed)
    now_ms = BEGIN_MS + chance.randrange(14 * DAY_MS)
    job = PlannedJob(any_definition(chance, any_schedule(chance, now_ms)), now_ms)
    for _ in range(STEPS):
        live(job, chance)
    job.resume()
    job.work()
    job.check()
    job.lab.pass_ms(any_leap_ms(chance))
    job.delete()
    job.check()


@pytest.mark.parametrize("seed", range(30))
def test_a_count_that_is_bounded_is_taken_up_where_it_ended(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of years is worked off in several claims, and nothing falls between two."""
    monkeypatch.setattr(schedule_wall, "DAYS_SCANNED_MAX", 3)
    monkeypatch.setattr(schedule_wall, "SPAN_SCANNED_MS_MAX", 20 * DAY_MS)
    chance = random.Random(seed)
    expression = chance.choice(("0 3 * * *", "0 5 * * 1", "0 0 1 * *", "30 */8 * * *"))
    spec = ScheduleSpec(kind="cron", expression=expression, timezone="Europe/Berlin")
    window_ms = chance.choice((0, 2 * DAY_MS, 50 * DAY_MS))
    catch_up = CatchUp(policy=chance.choice(POLICIES), window_ms=window_ms)
    job = PlannedJob(definition(spec, catch_up=catch_up), BEGIN_MS)
    for _ in range(6):
        if chance.random() < 0.3:
            job.pause()
        job.lab.pass_ms(chance.randrange(60 * DAY_MS))
        job.resume()
        job.work()
        job.check()
    job.lab.pass_ms(90 * DAY_MS)
    job.edit(definition(ScheduleSpec(kind="manual")))
    job.check()


@pytest.mark.parametrize("end", ["edit", "delete"])
def test_what_lies_behind_a_cursor_that_is_behind_is_accounted_for(end: str) -> None:
    """Edited just after a claim ahead of time, paused for a while, and then edited again."""

    def every_second(anchor_ms: int) -> ScheduleSpec:
        return ScheduleSpec(kind="every", every_ms=1_000, anchor_ms=anchor_ms)

    job = PlannedJob(definition(every_second(BEGIN_MS + 900)), BEGIN_MS)
    job.work()
    job.pause()
    job.edit(definition(every_second(BEGIN_MS + 400)))
    job.lab.pass_ms(10_000)
    if end == "edit":
        job.edit(definition(every_second(BEGIN_MS + 500)))
    else:
        job.delete()
    job.check()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(8))
def test_the_catch_up_policy_says_what_is_launched_late(policy: str, seed: int) -> None:
    """Compared with what the policy promises, occurrence by occurrence."""
    chance = random.Random(f"{policy} {seed}")
    every_ms = chance.choice((20_000, 60_000, 600_000))
    window_ms = chance.choice((0, 5 * 60_000, HOUR_MS))
    spec = ScheduleSpec(kind="every", every_ms=every_ms, anchor_ms=BEGIN_MS)
    catch_up = CatchUp(policy=policy, window_ms=window_ms)  # type: ignore[arg-type]
    wanted = definition(spec, overlap="allow", catch_up=catch_up)
    job = PlannedJob(wanted, BEGIN_MS)
    job.lab.pass_ms(chance.randrange(2 * HOUR_MS))
    job.work()
    job.check()
    now_ms = job.now_ms
    due = schedule.occurrences(spec, BEGIN_MS, now_ms, 100_000)
    fresh = [last for last in due[-1:] if now_ms - last <= planning.LATE_MS]
    oldest_ms = now_ms - max(window_ms, planning.LATE_MS)
    late = [at for at in due if at >= oldest_ms and at not in fresh]
    expected = {
        "skip": fresh,
        "last": (late + fresh)[-1:],
        "first": late[:1] + fresh,
        "all": late + fresh,
    }[policy]
    assert launched(job, now_ms) == expected


def launched(job: PlannedJob, until_ms: int) -> list[int]:
    """Return the occurrences that were launched, in order."""
    prefix = keys.OUTCOME + job.job
    rows = job.lab.store.scan(prefix, keys.after(prefix), 100_000)
    found = [keys.split_run(key[1:])[1] for key, _ in rows]
    runs = [at for at in found if isinstance(job.lab.outcome(keys.run_key(job.job, at)), Run)]
    return [at for at in runs if at <= until_ms]


@pytest.mark.parametrize("seed", range(30))
def test_a_job_that_follows_its_own_ends_goes_on_for_ever(seed: int) -> None:
    """Through outages, pauses, skips and failures, it has a next time or a live run."""
    chance = random.Random(seed)
    spec = ScheduleSpec(kind="delay", delay_ms=chance.choice((1_000, 30_000)))
    catch_up = CatchUp(policy=chance.choice(POLICIES), window_ms=chance.choice((0, 60_000)))
    job = PlannedJob(definition(spec, catch_up=catch_up), BEGIN_MS)
    for _ in range(STEPS):
        if chance.random() < 0.1:
            job.pause()
        elif chance.random() < 0.3:
            job.resume()
        job.work()
        job.end_runs(chance)
        job.lab.pass_ms(any_leap_ms(chance))
        state = job.lab.state(job.job)
        assert state.status == "paused" or state.due_ms is not None or state.live
    job.resume()
    job.work()
    outcomes = [item for item, _ in job.claimed]
    assert outcomes
    counted = sum(1 if item.launch else item.skipped[0].count for item in outcomes)
    assert counted == len({item.due_ms for item in outcomes}) == len(outcomes)
