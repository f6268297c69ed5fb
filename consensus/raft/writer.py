"""The journal's thread, as the event loop sees it: one transaction under way, never two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

from consensus.raft.log import RaftLog
from consensus.raft.types import Journal
from storage.clock import Environment


class JournalWriter:
    """Takes what is pending in the log to the disk and calls `written` when it is there.

    `written` is called in the loop with what came of the transaction. Without an executor
    a thread is made at the first transaction and ended by `close`.
    """

    def __init__(
        self,
        journal: Journal,
        log: RaftLog,
        environment: Environment,
        executor: Executor | None,
        written: Callable[[asyncio.Future[None]], None],
    ) -> None:
        self._journal = journal
        self._log = log
        self._environment = environment
        self._executor = executor
        self._owned: ThreadPoolExecutor | None = None
        self._written = written
        self._began_s = 0.0
        self._write: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Start a transaction if something is pending and none is under way."""
        if self._log.writing or not self._log.pending:
            return
        if self._executor is None:
            self._executor = self._owned = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._began_s = self._environment.monotonic_s()
        batch = self._log.take()
        loop = asyncio.get_running_loop()
        self._write = loop.run_in_executor(self._executor, self._journal.write, batch)
        self._write.add_done_callback(self._end)

    def stalled_s(self) -> float:
        """Return for how long the transaction under way has been; 0 without one."""
        if self._write is None:
            return 0.0
        return self._environment.monotonic_s() - self._began_s

    async def close(self) -> None:
        """Wait for the transaction under way and end the thread."""
        if self._write is not None:
            await asyncio.wait([self._write])
        if self._owned is not None:
            self._owned.shutdown()
            self._executor = self._owned = None

    def _end(self, write: asyncio.Future[None]) -> None:
        self._write = None
        self._written(write)
