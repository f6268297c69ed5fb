"""This member's copy of the state: entries in, effects out, changes to the disk.

Committed entries are applied in the loop, a batch at a time, and what they set in motion
is handed on afterwards. A thread of its own commits what has gathered, a few times a
second: the journal is the promise, the state on disk only saves replaying it. If the disk
falls behind, applying goes on in memory up to a bound, and then waits for it.

What the log may forget is one commit behind what was committed: a power cut may take the
last transaction of the state (see `storage.lmdb_store`), and none before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

from consensus.raft.types import Entry
from consensus.state.context import Effects
from consensus.state.machine import BatchResults, Machine
from storage.clock import Environment
from storage.invariant import InvariantViolated
from storage.store import FlushedStore

logger = logging.getLogger(__name__)

# A commit writes every page that changed: ten a second cost a tenth of a hundred.
FLUSH_S = 0.1
# So much may wait in memory behind the commit that is under way; beyond it nothing more is
# applied, which holds up the log and, through its bounds, those who write to it.
PENDING_BYTES_MAX = 64 * 1_048_576


@dataclass(slots=True)
class Listeners:
    """Whom the replica tells what, after a batch was applied."""

    results: Callable[[list[BatchResults]], None]
    effects: list[Callable[[Effects], None]] = field(default_factory=list)
    applied: list[Callable[[int], None]] = field(default_factory=list)
    # Gets the index up to which the state is on the disk whatever happens.
    flushed: Callable[[int], None] = lambda index: None


class _Waiters:
    """Those who wait until an index is reached that only grows."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def wait(self, index: int, timeout_s: float) -> bool:
        if index <= self._index:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((index, future))
        try:
            await asyncio.wait({future}, timeout=timeout_s)
        finally:
            if not future.done():
                self._waiting.remove((index, future))
        return future.done()

    def reach(self, index: int) -> None:
        self._index = index
        if not self._waiting:
            return
        for wanted, future in self._waiting:
            if wanted <= index and not future.done():
                future.set_result(None)
        self._waiting = [waiter for waiter in self._waiting if waiter[0] > index]


class Replica:
    """Applies entries to the store, and keeps the store's disk current."""

    def __init__(
        self,
        store: FlushedStore,
        environment: Environment,
        listeners: Listeners,
        on_fatal: Callable[[BaseException], None],
        writer: Executor | None = None,
    ) -> None:
        self.store = store
        self.machine = Machine(store)
        self._environment = environment
        self.listeners = listeners
        self._on_fatal = on_fatal
        self._writer = writer or ThreadPoolExecutor(1, thread_name_prefix="state")
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flush: asyncio.Task[None] | None = None
        self._applied = _Waiters(self.machine.applied_index)
        self._flushed = _Waiters(self.machine.applied_index)
        # What the newest transaction has, which a power cut may take until the next one.
        self._newest_index = self.machine.applied_index
        self.flush_seconds_last = 0.0

    @property
    def applied_index(self) -> int:
        return self.machine.applied_index

    @property
    def has_room(self) -> bool:
        """Tell whether more may be applied before the disk has answered."""
        return self.store.pending_bytes <= PENDING_BYTES_MAX or not self.store.flushing

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply newly committed entries, in order; the Raft layer calls this."""
        effects = Effects()
        results: list[BatchResults] = []
        for entry in entries:
            results += self.machine.apply(
                entry.index, entry.term, entry.command, effects, entry.configuration
            )
        self.machine.finish()
        self.listeners.results(results)
        for tell in self.listeners.effects:
            tell(effects)
        for tell_index in self.listeners.applied:
            tell_index(self.machine.applied_index)
        self._applied.reach(self.machine.applied_index)
        self._schedule_flush()

    # --- Waiting -----------------------------------------------------------------------

    async def wait_applied(self, index: int, *, timeout_s: float) -> bool:
        """Wait until an index is applied here; return whether it is."""
        return await self._applied.wait(index, timeout_s)

    async def wait_flushed(self, index: int, *, timeout_s: float) -> bool:
        """Wait until an index is on this member's disk; return whether it is."""
        return await self._flushed.wait(index, timeout_s)

    # --- To the disk -------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        if self.store.pending_bytes > PENDING_BYTES_MAX and not self.store.flushing:
            self._start_flush()
        elif self._flush_timer is None and self._flush is None:
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(FLUSH_S, self._start_flush)

    def _start_flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._flush is None and self.store.begin_flush():
            index = self.machine.applied_index
            self._flush = asyncio.get_running_loop().create_task(self._commit(index))

    async def _commit(self, index: int) -> None:
        began_s = self._environment.monotonic_s()
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self.store.commit)
            self.store.end_flush()
        except (Exception, InvariantViolated) as error:
            self._on_fatal(error)
            return
        self.flush_seconds_last = self._environment.monotonic_s() - began_s
        self._flush = None
        self._flushed.reach(index)
        # Each transaction makes the one before it certain, see `storage.lmdb_store`.
        certain_index, self._newest_index = self._newest_index, index
        self.listeners.flushed(certain_index)
        if self.store.pending_bytes:
            self._schedule_flush()

    async def stop(self) -> None:
        """Commit what is left and close the store."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        if self._flush is not None:
            await self._flush
        await asyncio.get_running_loop().run_in_executor(self._writer, self._flush_rest)
        if isinstance(self._writer, ThreadPoolExecutor):
            self._writer.shutdown()
        self.store.close()

    def _flush_rest(self) -> None:
        # In the writer's thread, because write transactions belong to it; nothing reads
        # or applies any more.
        if self.store.begin_flush():
            self.store.commit()
            self.store.end_flush()
