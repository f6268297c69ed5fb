"""Leaving in order, so that nobody has to wait for a lease to end.

    say so -> hand leadership over -> give back what has not started -> let what runs
    come to its end, for a while -> report every end -> give up the lease in the log

A member that only stopped would be taken for dead after its lease, and what it held would
start five seconds late. One that drains says with a heartbeat that it takes nothing more,
whereupon the others take its partitions at once; what it was granted ahead of time it gives
back as not begun; and its last command ends its own lease. All of it is an improvement,
none of it is needed for safety: whatever cannot be done in time is left to the lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from consensus.driver import Raft
from consensus.errors import ConsensusError
from consensus.state.commands import Command
from node.services.due_loop import DueLoop
from node.services.heartbeat import HeartbeatService
from node.services.reporter import Reporter
from node.services.service import Door
from node.services.worker import Worker

logger = logging.getLogger(__name__)

# One round trip through the log, and an election on the way.
ANNOUNCE_S = 2.0
REPORT_S = 5.0


class Departure:
    """A member's way out; `farewell` makes the commands that end its lease."""

    def __init__(
        self,
        door: Door,
        raft: Raft,
        due_loop: DueLoop,
        heartbeat: HeartbeatService,
        worker: Worker,
        reporter: Reporter,
        farewell: Callable[[], Sequence[Command]],
    ) -> None:
        self._door = door
        self._raft = raft
        self._due_loop = due_loop
        self._heartbeat = heartbeat
        self._worker = worker
        self._reporter = reporter
        self._farewell = farewell
        self._announced = False
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Wait no longer for what runs."""
        self._hurry.set()

    async def drain(self, grace_s: float) -> None:
        """Hold nothing any more; attempts that run have `grace_s` to come to their end.

        May be called again, for instance with less grace; what is done is not done twice.
        """
        self._due_loop.enabled = False
        if not self._announced:
            self._announced = True
            await self._within(self._heartbeat.run_once(), ANNOUNCE_S)
            if self._raft.is_leader and self._raft.connected:
                self._raft.transfer_leadership(None)
        self._worker.drain()
        await self._due_loop.settled(ANNOUNCE_S)
        await self._worker.finished(grace_s, self._hurry)
        await self._worker.stop()
        await self._within(self._reporter.drained(), REPORT_S)
        if self._reporter.waiting:
            logger.warning("%d ends stay in the spool.", self._reporter.waiting)

    async def leave(self) -> None:
        """End this member's lease in the log; its services must have stopped.

        Not while something is held or an end is not reported: giving that up would let it
        be run again, although this member knows, and will tell, how it ended.
        """
        if self._worker.held_count or self._reporter.waiting:
            return
        try:
            await self._within(
                self._door.propose(self._farewell(), timeout_s=ANNOUNCE_S), ANNOUNCE_S
            )
        except ConsensusError as error:
            logger.info("The lease ends by itself: %s", error)

    async def _within(self, work: Awaitable[object], seconds: float) -> None:
        """Do something that takes the cluster, if there is one, and for so long at most."""
        task = asyncio.ensure_future(work)
        if not self._raft.has_quorum_contact:
            seconds = 0.0
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if done:
            task.result()
        else:
            task.cancel()
            await asyncio.wait({task})
