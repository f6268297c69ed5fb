"""What a member makes of a command's end: whose fault it was decides what comes next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from node.executors.command import CommandExecutor
from node.executors.protocol import Attempt, AttemptResult, Services, StopReason
from node.runner.protocol import Cause, KillCause
from node.runner_client import CommandRequest, CommandResult, RunnerDied, Started
from tests.support.clocks import ManualEnvironment


class StubRunner:
    """A runner whose one command ends when a test says how."""

    def __init__(self) -> None:
        self.end: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        self.kills: list[KillCause] = []

    async def run(
        self,
        request: CommandRequest,
        on_started: Callable[[Started], None] | None = None,
    ) -> CommandResult:
        return await self.end

    def kill(self, attempt_id: str, reason: str, *, cause: KillCause) -> None:
        self.kills.append(cause)

    def ends(self, cause: Cause, **known: Any) -> None:
        self.end.set_result(
            CommandResult(attempt_id="a", cause=cause, detail="So it was.", ended_ms=2, **known)
        )


class Trial:
    """One attempt under way."""

    def __init__(self) -> None:
        self.runner = StubRunner()
        self.stop: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()
        executor = CommandExecutor(Services(environment=ManualEnvironment(), runner=self.runner))
        attempt = Attempt(
            key="a",
            identity={},
            action={"argv": ["true"]},
            timeout_ms=None,
            output_bytes_max=1,
            must_stop_with_lease=True,
            stop=self.stop,
            on_started=lambda: None,
        )
        self.task = asyncio.create_task(executor.run(attempt))

    async def result(self) -> AttemptResult:
        return await self.task


@pytest.mark.parametrize(
    ("cause", "exit_code", "outcome"),
    [
        ("exited", 0, "succeeded"),
        ("exited", 3, "failed"),
        ("timeout", 0, "timed_out"),
        ("cancelled", 0, "cancelled"),
        ("killed", None, "failed"),
    ],
)
async def test_the_cause_of_an_end_decides_its_outcome(
    cause: Cause, exit_code: int | None, outcome: str
) -> None:
    """A status of zero is a success only if nobody asked the command to end."""
    trial = Trial()
    trial.runner.ends(cause, exit_code=exit_code, started_ms=1)
    assert (await trial.result()).outcome == outcome


@pytest.mark.parametrize("started_ms", [None, 1])
async def test_what_ends_with_the_lease_is_given_back_and_has_not_failed(
    started_ms: int | None,
) -> None:
    """As a failure it would use up the retries of the job, or be its last word."""
    trial = Trial()
    trial.runner.ends("lease", started_ms=started_ms)
    result = await trial.result()
    assert (result.outcome, result.unstarted) == ("lost", started_ms is None)


async def test_what_dies_with_its_runner_is_given_back() -> None:
    """Its end is not known, so its job's delivery has to decide."""
    trial = Trial()
    trial.runner.end.set_exception(RunnerDied("It is gone."))
    assert (await trial.result()) == AttemptResult(outcome="lost", detail="It is gone.")


@pytest.mark.parametrize(
    ("reason", "kills"), [("cancelled", ["cancelled"]), ("lease", ["killed"]), ("timeout", [])]
)
async def test_a_command_that_has_to_end_is_told_so(reason: StopReason, kills: list[str]) -> None:
    """The runner keeps the timeout itself; it need not be told of that."""
    trial = Trial()
    await asyncio.sleep(0)
    trial.stop.set_result(reason)
    for _ in range(10):
        await asyncio.sleep(0)
    assert trial.runner.kills == kills
    trial.runner.ends("killed", started_ms=1)
    await trial.result()
