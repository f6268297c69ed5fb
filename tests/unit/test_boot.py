"""What a member's process waits for, and what it does about failures that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from node.boot import notice_broken_promise, start_runner
from node.runner.lock import LOCK_FILE, RunnerLock
from node.runner_client import PreviousRunnerAlive, RunnerClient
from storage.invariant import invariant
from storage.journal_format import DiskFailed


def broken() -> None:
    invariant(False, "Nothing is above the limit.", found=3)


def full() -> None:
    raise DiskFailed("The disk is full.")


@pytest.mark.parametrize(
    ("work", "told"), [(broken, "above the limit"), (full, "disk is full")], ids=["broken", "full"]
)
async def test_a_broken_promise_in_a_plain_callback_ends_the_member(
    work: Callable[[], None], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop alone would log it and go on."""
    loop = asyncio.get_running_loop()
    died: asyncio.Future[BaseException] = loop.create_future()
    loop.set_exception_handler(partial(notice_broken_promise, died))
    loop.call_soon(work)
    async with asyncio.timeout(60):
        assert told in str(await died)
    assert told in caplog.text


async def test_any_other_error_of_a_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is a fault of ours, and no reason to stop what works."""
    loop = asyncio.get_running_loop()
    died: asyncio.Future[BaseException] = loop.create_future()
    loop.set_exception_handler(partial(notice_broken_promise, died))
    over = loop.create_future()
    loop.call_soon(int, "no number")
    loop.call_soon(over.set_result, None)
    await over
    assert not died.done()
    assert "no number" in caplog.text


class StubRunner:
    """A runner that notes whether it may start: two never work on one directory."""

    def __init__(self) -> None:
        self.found_free: list[bool] = []

    async def start(self, data_dir: Path) -> None:
        lock = RunnerLock(data_dir / LOCK_FILE)
        self.found_free.append(lock.is_free())
        lock.close()


async def test_a_member_that_was_killed_waits_for_its_earlier_runner(tmp_path: Path) -> None:
    """That one is still killing, and the restart must not fail because it is slow."""
    runner, earlier = StubRunner(), RunnerLock(tmp_path / LOCK_FILE)
    assert earlier.try_hold()
    starting = asyncio.ensure_future(start_runner(cast(RunnerClient, runner), tmp_path))
    await asyncio.sleep(0)
    assert not starting.done()
    earlier.close()
    await starting
    assert runner.found_free == [True]


async def test_a_runner_that_never_ends_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is started beside it."""
    monkeypatch.setattr("node.boot.PREVIOUS_RUNNER_S_MAX", 0.01)
    runner, earlier = StubRunner(), RunnerLock(tmp_path / LOCK_FILE)
    assert earlier.try_hold()
    earlier.write_holder()
    with pytest.raises(PreviousRunnerAlive, match="cannot kill all of its commands"):
        await start_runner(cast(RunnerClient, runner), tmp_path)
    earlier.close()
    assert runner.found_free == []
