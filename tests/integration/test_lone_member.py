"""One member runs real jobs: schedules, executors, retries, overlap, cancellation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from consensus.state.commands import CancelRun, PauseJob, RunDone, TriggerJob
from storage import keys
from storage.models import JobDefinition, Retry, Run, ScheduleSpec, Skip
from tests.support.lone_member import LoneMember, lone_member

# An interval, and how many occurrences in a row show that none is skipped.
FAST_MS, IN_A_ROW = 300, 6
# What is due so far ahead is claimed at once and starts after whatever a test does with it,
# also when the machine stands still in between.
AHEAD_MS = 5_000


def at(member: LoneMember, delay_ms: int, action: dict[str, Any], **more: Any) -> JobDefinition:
    """Return a one-time job that is due in a moment."""
    at_ms = member.node.environment.wall_ms() + delay_ms
    return JobDefinition(schedule=ScheduleSpec(kind="at", at_ms=at_ms), action=action, **more)


async def test_a_command_runs_at_its_time_and_its_output_is_kept(tmp_path: Path) -> None:
    """A one-time command starts not before its instant; what it prints can be read."""
    async with lone_member(tmp_path) as member:
        script = 'echo "$CRONCLAVE_JOB $CRONCLAVE_ATTEMPT"; echo "$CRONCLAVE_FENCE"'
        job = await member.put(
            "hello", at(member, 200, {"type": "command", "argv": ["/bin/sh", "-c", script]})
        )
        run = await member.ended(job)
        assert (run.outcome, run.exit_code, run.number) == ("succeeded", 0, 1)
        assert run.started_ms is not None
        assert run.started_ms >= run.scheduled_ms
        output = member.node.view.get(keys.output_key(keys.run_key(job, run.scheduled_ms), 1))
        assert output == f"default/hello 1\n{run.fence}\n".encode()


async def test_a_request_carries_its_identity_and_its_answer_is_judged(tmp_path: Path) -> None:
    """An HTTP action sends fence and idempotency key; an unexpected status is a failure."""
    seen: list[Any] = []

    async def sink(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.Response(status=200 if request.path == "/good" else 500, text="body")

    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", sink)
    server = web.AppRunner(application)
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    port = server.addresses[0][1]
    try:
        async with lone_member(tmp_path) as member:
            url = f"http://127.0.0.1:{port}"
            good = await member.put("good", at(member, 0, {"type": "http", "url": f"{url}/good"}))
            bad = await member.put("bad", at(member, 0, {"type": "http", "url": f"{url}/bad"}))
            assert (await member.ended(good)).outcome == "succeeded"
            failed = await member.ended(bad)
            assert (failed.outcome, failed.exit_code) == ("failed", 500)
            assert {headers["Cronclave-Job"] for headers in seen} == {"default/good", "default/bad"}
            assert all(headers["Cronclave-Run"] == headers["Idempotency-Key"] for headers in seen)
            assert str(failed.fence) in {headers["Cronclave-Fence"] for headers in seen}
    finally:
        await server.cleanup()


async def test_a_failed_run_is_tried_again_as_often_as_the_job_says(tmp_path: Path) -> None:
    """Attempts are counted within one run; the last failure is its outcome."""
    async with lone_member(tmp_path) as member:
        job = await member.put(
            "flaky",
            at(
                member,
                0,
                {"type": "noop", "outcome": "failed"},
                retry=Retry(attempts_max=3, backoff_ms=50, jitter=False),
            ),
        )
        run = await member.ended(job)
        assert (run.outcome, run.number) == ("failed", 3)
        assert [attempt.number for attempt in run.attempts] == [1, 2, 3]
        fences = [attempt.fence for attempt in run.attempts]
        assert fences == sorted(set(fences))


async def test_an_interval_job_skips_what_overlaps_and_says_so(tmp_path: Path) -> None:
    """Every occurrence has one outcome: a run, or the reason why there is none."""
    async with lone_member(tmp_path) as member:
        now_ms = member.node.environment.wall_ms()
        job = await member.put(
            "slow",
            JobDefinition(
                schedule=ScheduleSpec(kind="every", every_ms=200, anchor_ms=now_ms),
                action={"type": "noop", "duration": "500ms"},
            ),
        )

        def overlapped() -> int:
            return sum(
                outcome.count
                for outcome in member.outcomes(job)
                if isinstance(outcome, Skip) and outcome.reason == "skipped_overlap"
            )

        await member.until(lambda: overlapped() >= 2 and len(member.runs(job)) >= 2)


async def test_a_fast_interval_job_misses_nothing(tmp_path: Path) -> None:
    """Looking ahead is no reason to skip: what ends in time makes room for the next."""
    async with lone_member(tmp_path) as member:
        now_ms = member.node.environment.wall_ms()
        job = await member.put(
            "fast",
            JobDefinition(
                schedule=ScheduleSpec(kind="every", every_ms=FAST_MS, anchor_ms=now_ms),
                action={"type": "noop"},
            ),
        )

        def misses_nothing() -> bool:
            # Before it the machine may have stood still for longer than from one to the next.
            latest = member.outcomes(job)[-IN_A_ROW:]
            times = [run.scheduled_ms for run in latest if isinstance(run, Run)]
            first_ms = times[0] if times else 0
            return times == [first_ms + FAST_MS * place for place in range(IN_A_ROW)]

        await member.until(misses_nothing)


async def test_a_running_command_is_cancelled(tmp_path: Path) -> None:
    """Cancelling ends the whole process group, and the run says why it ended."""
    async with lone_member(tmp_path) as member:
        action = {"type": "command", "argv": ["/bin/sh", "-c", "sleep 60"]}
        job = await member.put("long", at(member, 0, action))
        await member.until(lambda: any(run.state == "running" for run in member.runs(job)))
        key = keys.run_key(job, member.runs(job)[0].scheduled_ms)
        await member.propose(CancelRun(key, "No longer needed."))
        assert (await member.ended(job)).outcome == "cancelled"


async def test_a_manual_run_starts_at_once(tmp_path: Path) -> None:
    """A job without a schedule runs when it is triggered."""
    async with lone_member(tmp_path) as member:
        manual = JobDefinition(schedule=ScheduleSpec(kind="manual"), action={"type": "noop"})
        job = await member.put("manual", manual)
        result = await member.propose(TriggerJob(job, member.node.environment.wall_ms(), 7))
        assert isinstance(result, RunDone)
        run = await member.ended(job)
        assert (run.outcome, run.trigger) == ("succeeded", "manual")


async def test_a_paused_job_does_not_start_although_it_was_claimed(tmp_path: Path) -> None:
    """Pausing counts up to the last moment before the start."""
    async with lone_member(tmp_path, horizon_ms=AHEAD_MS) as member:
        job = await member.put("late", at(member, AHEAD_MS, {"type": "noop"}))
        await member.until(lambda: any(run.state == "claimed" for run in member.runs(job)))
        await member.propose(PauseJob(job, paused=True))
        run = await member.ended(job)
        assert (run.outcome, run.started_ms) == ("cancelled", None)


async def test_a_timeout_ends_an_attempt(tmp_path: Path) -> None:
    """An attempt that takes longer than its job allows is stopped and says so."""
    async with lone_member(tmp_path) as member:
        noop = await member.put(
            "noop", at(member, 0, {"type": "noop", "duration": "60s"}, timeout_ms=100)
        )
        command = {"type": "command", "argv": ["/bin/sleep", "60"]}
        slow = await member.put("command", at(member, 0, command, timeout_ms=100))
        outcomes = await asyncio.gather(member.ended(noop), member.ended(slow))
        assert [run.outcome for run in outcomes] == ["timed_out", "timed_out"]


async def test_with_one_slot_the_higher_priority_goes_first(tmp_path: Path) -> None:
    """What is ready waits for slots in order of its priority."""
    async with lone_member(tmp_path, slots=1, horizon_ms=1) as member:
        blocker = await member.put("blocker", at(member, 0, {"type": "noop", "duration": "1h"}))
        await member.until(lambda: len(member.runs(blocker)) == 1)
        jobs = {
            priority: await member.put(
                f"p{priority}", at(member, 0, {"type": "noop"}, priority=priority)
            )
            for priority in (10, 50, 90)
        }
        key = keys.run_key(blocker, member.runs(blocker)[0].scheduled_ms)
        await member.propose(CancelRun(key, "All others wait."))
        for job in jobs.values():
            await member.ended(job)
        fences = {priority: member.runs(job)[0].fence for priority, job in jobs.items()}
        assert fences[90] < fences[50] < fences[10]


async def test_what_ended_is_still_there_after_a_restart(tmp_path: Path) -> None:
    """The state on disk is complete when a member was stopped."""
    async with lone_member(tmp_path) as member:
        job = await member.put("once", at(member, 0, {"type": "noop"}))
        before = await member.ended(job)
        index = member.node.applied_index
    async with lone_member(tmp_path) as member:
        assert member.node.applied_index >= index
        assert member.runs(job) == [before]
