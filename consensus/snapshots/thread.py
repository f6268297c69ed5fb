"""The thread that reads and writes snapshots, as the event loop sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")


class SnapshotThread:
    """Runs pieces of work in their order and hands what came of them to the loop.

    Without an executor a thread is made for the first piece and ended by `close`. `guarded`
    runs what follows a piece, or nothing once the layer has stopped.
    """

    def __init__(self, executor: Executor | None, guarded: Callable[..., None]) -> None:
        self._executor = executor
        self._owned: ThreadPoolExecutor | None = None
        self._guarded = guarded
        self._under_way: set[asyncio.Future[Any]] = set()

    def run(
        self, work: Callable[[], _T], done: Callable[[asyncio.Future[_T]], None] | None = None
    ) -> None:
        """Do a piece of work behind all earlier ones, then call `done` in the loop."""
        if self._executor is None:
            self._executor = self._owned = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        self._under_way.add(future)
        future.add_done_callback(lambda ended: self._end(ended, done))

    async def close(self, farewells: Sequence[Callable[[], None]]) -> None:
        """Let what is under way come to its end, run the farewells, and end the thread."""
        for farewell in farewells:
            self.run(farewell)
        if self._under_way:
            await asyncio.wait(set(self._under_way))
        if self._owned is not None:
            self._owned.shutdown()
            self._executor = self._owned = None

    def _end(
        self, future: asyncio.Future[_T], done: Callable[[asyncio.Future[_T]], None] | None
    ) -> None:
        self._under_way.discard(future)
        if future.cancelled():
            return
        # Whoever began the piece may be gone, and its error with it.
        future.exception()
        self._guarded(done or _check, future)


def _check(future: asyncio.Future[Any]) -> None:
    """Raise what went wrong with a piece of work of which nothing else was to be learned."""
    future.result()
