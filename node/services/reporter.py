"""Telling the cluster how attempts fare: starts and ends, in batches, until accepted.

While one report is on its way, the next gathers. A start is held back for a moment: of an
attempt that is over by then only the end is told, which carries the start. Ends go to the
spool first, so that they survive this process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence

from api.ids import format_run_id
from consensus.state.commands import Ended, Refused, Report, Started
from node.services.service import Door, insist
from node.spool import Spool
from storage.limits import BATCH_BYTES_MAX, PROPOSAL_MS_MAX, REPORT_ITEMS_MAX

logger = logging.getLogger(__name__)

# Long enough that short runs cost one log record instead of two, short enough for a page.
START_HELD_S = 0.2
# What an item of a report takes beside output and detail: keys, times, a fence.
ITEM_BYTES = 256


class Reporter:
    """Reports in the order of ends; a stale fence settles an item as well."""

    def __init__(self, door: Door, spool: Spool) -> None:
        self._door = door
        self._spool = spool
        self._starts: OrderedDict[bytes, tuple[float, Started]] = OrderedDict()
        self._ends: OrderedDict[tuple[bytes, int], Ended] = OrderedDict()
        self._something = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def started(self, item: Started) -> None:
        loop = asyncio.get_running_loop()
        self._starts[item.run] = (loop.time() + START_HELD_S, item)
        if len(self._starts) == 1:
            loop.call_later(START_HELD_S, self._something.set)

    def ended(self, item: Ended) -> None:
        """Keep an end, and tell it as soon as the cluster listens."""
        self._starts.pop(item.run, None)
        self._spool.keep(item)
        self._ends[item.run, item.fence] = item
        self._idle.clear()
        self._something.set()

    def recover(self) -> None:
        """Take up what an earlier process of this member could not report any more."""
        for item in self._spool.recover():
            self._ends[item.run, item.fence] = item
        if self._ends:
            self._idle.clear()
            self._something.set()

    @property
    def waiting(self) -> int:
        return len(self._ends)

    async def drained(self) -> None:
        """Wait until no end is left to report."""
        await self._idle.wait()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._something.wait()
            self._something.clear()
            while await self.run_once(loop.time()):
                pass
            if self._starts:
                due_s, _ = next(iter(self._starts.values()))
                loop.call_at(due_s, self._something.set)

    async def run_once(self, now_s: float) -> bool:
        """Report what is waiting, at most one batch of it; return whether there was any."""
        items = self._take(now_s)
        if not items:
            return False
        await self._tell(items)
        for item in items:
            if isinstance(item, Ended):
                del self._ends[item.run, item.fence]
                self._spool.settle(item)
        if not self._ends:
            self._idle.set()
        return True

    async def _tell(self, items: Sequence[Started | Ended]) -> None:
        """Have the cluster decide on items.

        A report is refused if an item meets a fault of this program; the others are told
        without it, for their runs would otherwise be live for as long as this member is.
        """
        command = Report(tuple(items))
        result = await insist(self._door, command, timeout_s=PROPOSAL_MS_MAX / 1000)
        if not isinstance(result, Refused):
            return
        if len(items) > 1:
            half = len(items) // 2
            await self._tell(items[:half])
            await self._tell(items[half:])
        else:
            what = f"{type(items[0]).__name__} of {format_run_id(items[0].run)}"
            logger.error("What cannot be recorded is dropped: %s. %s", what, result.detail)

    def _take(self, now_s: float) -> list[Started | Ended]:
        items: list[Started | Ended] = []
        size = 0
        for key, (due_s, start) in list(self._starts.items()):
            if due_s > now_s or len(items) >= REPORT_ITEMS_MAX:
                break
            del self._starts[key]
            items.append(start)
        for end in self._ends.values():
            size += sum(map(len, end.output)) + len(end.detail.encode()) + ITEM_BYTES
            if len(items) >= REPORT_ITEMS_MAX or (items and size > BATCH_BYTES_MAX // 2):
                break
            items.append(end)
        return items
