"""The worker, where what it stands on breaks."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from consensus.state.commands import Ended, Started, encode_batch
from consensus.timekeeper import Timekeeper
from node.definitions import Definitions
from node.executors.noop import NoopExecutor
from node.executors.protocol import Attempt, AttemptResult, Executor, Services
from node.executors.registry import Registry
from node.lease import Lease
from node.services.reporter import Reporter
from node.services.worker import DETAIL_CHARS_MAX, Worker
from storage import models
from storage.journal_format import DiskFailed
from storage.models import ScheduleSpec
from tests.support.builders import FIRST_DUE_MS, NOW_MS, Lab
from tests.support.clocks import ManualEnvironment
from tests.support.quiet_log import quiet_log


class FullSpool:
    """A reporter whose spool cannot be written any more."""

    def started(self, item: Started) -> None:
        assert item.number == 1

    def ended(self, item: Ended) -> None:
        raise DiskFailed(f"no room for the end of attempt {item.number}")


class Told:
    """A reporter that hands on what it is told of."""

    def __init__(self) -> None:
        self.end: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    def started(self, item: Started) -> None:
        assert item.number == 1

    def ended(self, item: Ended) -> None:
        self.end.set_result(item)


class Saying:
    """An executor whose attempts end at once, with a sentence of their own."""

    def __init__(self, detail: str, *, raised: bool) -> None:
        self._detail = detail
        self._raised = raised

    async def run(self, attempt: Attempt) -> AttemptResult:
        attempt.on_started()
        if self._raised:
            raise ValueError(self._detail)
        return AttemptResult(outcome="failed", detail=self._detail)


class StoppedTime:
    def now_ms(self) -> int:
        return NOW_MS + 60_000


class TimeSetBack:
    """The instant of the run comes, and then the clock is set back a little."""

    def __init__(self) -> None:
        self._readings = 0

    def now_ms(self) -> int:
        self._readings += 1
        return FIRST_DUE_MS if self._readings == 1 else FIRST_DUE_MS - 3


class Play:
    """A worker that is granted one attempt of an executor's, and may fail of it."""

    def __init__(self, executor: object, reporter: object, time: object | None = None) -> None:
        lab, action = Lab(), {"type": "tried"}
        self.fatal: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        holder = lab.join()
        spec = ScheduleSpec(kind="every", every_ms=1_000, anchor_ms=0)
        content = models.encode(models.JobDefinition(schedule=spec, action=action))
        command = lab.put(definition=content)
        lab.apply(command)
        run = lab.launch(holder, command.job)
        lease = Lease(ManualEnvironment(), 5_000)
        lease.renewed(1_000.0)
        self.worker = Worker(
            lab.store,
            Definitions(lab.store),
            Registry({"tried": cast(Executor, executor)}),
            cast(Reporter, reporter),
            lease,
            cast(Timekeeper, time or StoppedTime()),
            lambda: None,
            lambda late_ms: None,
            self.fatal.set_result,
        )
        self.worker.granted(run, holder)


async def test_an_end_that_cannot_be_kept_ends_the_member() -> None:
    """Otherwise the run would be live for as long as the member renews its lease."""
    play = Play(NoopExecutor(cast(Services, None)), FullSpool())
    async with asyncio.timeout(30):
        assert isinstance(await play.fatal, DiskFailed)


@pytest.mark.parametrize("raised", [False, True])
@pytest.mark.parametrize("detail", ["\udcff\udcfe", "caf\udce9 " * 1_000, "\U0001f570" * 1_000])
async def test_whatever_is_said_of_an_end_can_be_told(detail: str, raised: bool) -> None:
    """What comes from outside (a server's reason phrase) may be no text that has a code."""
    told = Told()
    # What it raises is logged, and a report of a test cannot hold it either.
    with quiet_log():
        play = Play(Saying(detail, raised=raised), told)
        async with asyncio.timeout(30):
            end = await told.end
    assert encode_batch(end)
    assert len(end.detail) <= DETAIL_CHARS_MAX
    assert not play.fatal.done()


async def test_a_start_is_not_recorded_before_its_instant() -> None:
    """The clock may be set back by a millisecond between the timer and the start."""
    told = Told()
    Play(Saying("as it should", raised=False), told, TimeSetBack())
    async with asyncio.timeout(30):
        end = await told.end
    assert end.started_ms == FIRST_DUE_MS
    assert end.ended_ms == FIRST_DUE_MS
