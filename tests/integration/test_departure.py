"""A member that is told to stop puts everything down before it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from storage import keys, models
from storage.lmdb_store import LmdbStore
from storage.models import Delivery, JobDefinition, Run, ScheduleSpec
from tests.support.lone_member import LoneMember, lone_member

SLEEP = {"type": "command", "argv": ["/bin/sleep", "60"]}
LONG_S = 60.0
# What is due so far ahead is claimed at once, and does not start before a test is over.
AHEAD_MS = 60_000


def at(
    member: LoneMember, delay_ms: int, action: Mapping[str, Any], delivery: Delivery
) -> JobDefinition:
    at_ms = member.node.environment.wall_ms() + delay_ms
    schedule = ScheduleSpec(kind="at", at_ms=at_ms)
    return JobDefinition(schedule=schedule, action=dict(action), delivery=delivery)


async def in_state(member: LoneMember, job: bytes, state: str) -> Run:
    """Wait until the job's run is in a state, or beyond it, and return it."""
    states = (state, "ended")
    await member.until(lambda: any(run.state in states for run in member.runs(job)))
    return member.runs(job)[0]


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
async def test_what_was_granted_ahead_of_time_is_given_back_as_not_begun(
    tmp_path: Path, delivery: Delivery
) -> None:
    """It waits for another member at once, whatever its delivery, and keeps its instant."""
    async with lone_member(tmp_path, horizon_ms=AHEAD_MS) as member:
        job = await member.put("soon", at(member, AHEAD_MS, {"type": "noop"}, delivery))
        claimed = await in_state(member, job, "claimed")
        await member.node.departure.drain(LONG_S)
        (run,) = member.runs(job)
        assert (run.state, run.start_ms) == ("queued", claimed.start_ms)
        assert [(end.outcome, end.started_ms) for end in run.attempts] == [("lost", None)]
        assert member.node.worker.held_count == 0


async def test_nothing_is_claimed_any_more_and_what_is_granted_late_is_given_back(
    tmp_path: Path,
) -> None:
    """A claim may be on its way while the member begins to drain."""
    async with lone_member(tmp_path) as member:
        job = await member.put("soon", at(member, 900, {"type": "noop"}, "at_least_once"))
        member.node.worker.draining = True
        await member.until(
            lambda: any(run.state == "queued" and run.attempts for run in member.runs(job))
        )
        await member.node.departure.drain(LONG_S)
        assert member.node.due_loop.run_once() == 0
        assert member.node.readiness() == ["This member is draining, and takes nothing more."]
        (known,) = member.node.members()
        assert not known.accepting


async def test_what_runs_comes_to_its_end(tmp_path: Path) -> None:
    """Within the grace nothing is stopped, and its end is reported before the member goes."""
    async with lone_member(tmp_path) as member:
        action = {"type": "noop", "duration": "1500ms"}
        job = await member.put("short", at(member, 0, action, "at_least_once"))
        await in_state(member, job, "running")
        await member.node.departure.drain(LONG_S)
        (run,) = member.runs(job)
        assert (run.state, run.outcome, run.number) == ("ended", "succeeded", 1)


@pytest.mark.parametrize(
    ("delivery", "state", "outcome"),
    [("at_least_once", "queued", None), ("at_most_once", "ended", "unknown")],
)
async def test_what_runs_for_too_long_is_stopped_and_decided_by_its_delivery(
    tmp_path: Path, delivery: Delivery, state: str, outcome: str | None
) -> None:
    """After the grace, or when somebody hurries, a run is returned like that of a lost member."""
    async with lone_member(tmp_path) as member:
        job = await member.put("long", at(member, 0, SLEEP, delivery))
        await in_state(member, job, "running")
        drained = asyncio.ensure_future(member.node.departure.drain(LONG_S))
        done, _ = await asyncio.wait({drained}, timeout=0.3)
        assert not done
        assert member.runs(job)[0].state == "running"
        member.node.departure.hurry()
        await drained
        (run,) = member.runs(job)
        assert (run.state, run.outcome) == (state, outcome)
        assert "stopping" in run.attempts[0].detail


async def test_a_member_that_has_left_has_no_lease_to_wait_for(tmp_path: Path) -> None:
    """Its incarnation is gone from the state, so nobody counts on it or watches it."""
    async with lone_member(tmp_path) as member:
        await member.until(lambda: bool(member.node.members()))
        assert member.node.view.scan(keys.INCARNATION, keys.after(keys.INCARNATION), 9)
    store = LmdbStore(tmp_path / "state")
    try:
        assert store.scan(keys.INCARNATION, keys.after(keys.INCARNATION), 9) == []
        ((_, raw),) = store.scan(keys.MEMBER, keys.after(keys.MEMBER), 9)
        known = models.decode_member(raw)
        assert (known.expired, known.slots) == (True, 0)
    finally:
        store.close()
    async with lone_member(tmp_path) as member:
        await member.until(lambda: not member.node.members()[0].expired)
