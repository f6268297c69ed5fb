"""When a member renews its lease, and when it keeps quiet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from consensus.state.commands import Command, Heartbeat, Renewed, Result
from consensus.timekeeper import Timekeeper
from node.lease import Lease
from node.services.heartbeat import HeartbeatService
from tests.support.clocks import ManualEnvironment


class Door:
    """A log that applies everything at once."""

    def __init__(self) -> None:
        self.taken: list[Command] = []

    async def propose(self, commands: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        self.taken += commands
        return (Renewed(0),)


async def test_a_member_that_does_not_follow_the_log_sends_no_heartbeat() -> None:
    """The others would leave launches to it that it cannot see."""
    environment, door = ManualEnvironment(), Door()
    lease = Lease(environment, 5_000)
    asked, told = asyncio.Event(), asyncio.Event()
    steps = iter([False, False])

    def in_step() -> bool:
        found = next(steps, True)
        if found:
            asked.set()
        else:
            assert not door.taken
        return found

    service = HeartbeatService(
        door, lease, Timekeeper(environment, 500, lambda: 0), environment, 1,
        lambda: Heartbeat("a", b"i" * 16, 5_000, 1, "", "", "", {}, accepting=True, running=0),
        told.set, lambda: None, lambda: None, in_step,
    )  # fmt: skip
    task = asyncio.create_task(service.run())
    async with asyncio.timeout(60):
        await asked.wait()
        await told.wait()
    task.cancel()
    assert lease.held
    with pytest.raises(asyncio.CancelledError):
        await task
