"""The state and its disk: what may be forgotten, what waits, and what ends the member."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from consensus.raft.types import Entry
from node import replica as replica_module
from node.replica import Listeners, Replica
from storage.invariant import InvariantViolated
from storage.journal_format import DiskFailed
from storage.memory_store import FlushedMemoryStore, MemoryStateDisk
from tests.support.clocks import ManualEnvironment


class SlowDisk(Executor):
    """Does what it is given when the test says so."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, lambda: work(*args, **named)))
        return future

    def answer(self) -> None:
        future, work = self._waiting.pop(0)
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)


class Member:
    """A replica over a state in memory, and what it has told others."""

    def __init__(self) -> None:
        self.disk = SlowDisk()
        self.rows = MemoryStateDisk()
        self.store = FlushedMemoryStore(self.rows)
        self.fatal: list[BaseException] = []
        self.forgotten: list[int] = []
        listeners = Listeners(lambda results: None, flushed=self.forgotten.append)
        self.replica = Replica(
            self.store, ManualEnvironment(), listeners, self.fatal.append, self.disk
        )

    def apply(self, index: int) -> None:
        self.replica.apply([Entry(index=index, term=1, command=b"")])

    async def flush(self) -> None:
        """Let a commit begin and the disk answer."""
        self.replica._start_flush()
        await settled(lambda: self.disk.busy)
        self.disk.answer()
        await settled(lambda: self.replica._flush is None or bool(self.fatal))


async def settled(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - each pass is one turn of the loop
            await asyncio.sleep(0)


@pytest.fixture
async def member() -> AsyncIterator[Member]:
    made = Member()
    yield made
    if made.replica._flush_timer is not None:
        made.replica._flush_timer.cancel()


async def test_the_log_keeps_what_a_power_cut_takes_from_the_state(member: Member) -> None:
    """The newest commit may be lost with the power; the one before it is safe by then."""
    forgotten_by_then = []
    for index in (1, 2, 3):
        member.apply(index)
        await member.flush()
        forgotten_by_then.append(max(member.forgotten))
    assert forgotten_by_then == [0, 1, 2]


@pytest.mark.parametrize("failed", [InvariantViolated("no read"), DiskFailed("no write")])
async def test_a_state_that_cannot_be_read_behind_a_commit_ends_the_member(
    member: Member, monkeypatch: pytest.MonkeyPatch, failed: BaseException
) -> None:
    """Passed over, it would go on in memory alone, and without a bound."""

    def end_flush() -> None:
        raise failed

    monkeypatch.setattr(member.store, "end_flush", end_flush)
    member.apply(1)
    await member.flush()
    assert member.fatal == [failed]


async def test_what_waits_for_the_disk_is_bounded(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one commit is under way and another is full, nothing more is to be applied."""
    monkeypatch.setattr(replica_module, "PENDING_BYTES_MAX", 100)
    member.apply(1)
    assert member.replica.has_room
    member.replica._start_flush()
    await settled(lambda: member.disk.busy)
    index = 1
    while member.store.pending_bytes <= 100:
        assert member.replica.has_room
        index += 1
        member.apply(index)
    assert not member.replica.has_room
    member.disk.answer()
    await settled(lambda: member.disk.busy)
    assert member.replica.has_room
    member.disk.answer()
    await settled(lambda: member.replica._flush is None)


async def test_whoever_stops_waiting_leaves_nothing_behind(member: Member) -> None:
    """An index that is never reached would be waited for as long as the process lives."""
    waiting = asyncio.create_task(member.replica.wait_applied(10**9, timeout_s=60))
    await settled(lambda: bool(member.replica._applied._waiting))
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not await member.replica.wait_applied(10**9, timeout_s=0.001)
    assert member.replica._applied._waiting == []
