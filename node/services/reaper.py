"""Returning the runs of members that are gone.

The cluster's clock alone may not decide that a lease is over: it could have jumped with
the clock of a new leader. So the reaper also watches, on its own monotonic clock, that an
incarnation has renewed nothing for a whole lease, and only then proposes to expire it;
applying that checks the lease again. One member would do; all of them watch, and which of
them is first does not matter.
"""

from __future__ import annotations

import asyncio
import logging

from consensus.errors import ConsensusError
from consensus.state.commands import Expire, Remaining
from node.services.service import Door
from storage import keys, models
from storage.clock import Environment
from storage.store import View

logger = logging.getLogger(__name__)

PERIOD_S = 0.5
INCARNATIONS_MAX = 1_000
DRIFT_RATIO = 1.01
PROPOSAL_S = 5.0


class Reaper:
    """Watches all incarnations but this member's own."""

    def __init__(self, door: Door, view: View, environment: Environment, lease_ms: int) -> None:
        self._door = door
        self._view = view
        self._environment = environment
        self._lease_s = lease_ms / 1000 * DRIFT_RATIO
        # Per incarnation: the lease end last seen, and when it was first seen here.
        self._seen: dict[bytes, tuple[int, float]] = {}
        self.own: bytes = b""

    async def run(self) -> None:
        while True:
            for incarnation in self.overdue():
                await self._expire(incarnation)
            await asyncio.sleep(PERIOD_S)

    def overdue(self) -> list[bytes]:
        """Return the incarnations that have renewed nothing for a whole lease."""
        now_s = self._environment.monotonic_s()
        start, stop = keys.INCARNATION, keys.after(keys.INCARNATION)
        seen: dict[bytes, tuple[int, float]] = {}
        gone = []
        for key, raw in self._view.scan(start, stop, INCARNATIONS_MAX):
            incarnation, lease = key[1:], models.decode_incarnation(raw)
            before = self._seen.get(incarnation)
            if before is None or before[0] != lease.lease_until_ms:
                before = (lease.lease_until_ms, now_s)
            seen[incarnation] = before
            silent = now_s - before[1] > self._lease_s and incarnation != self.own
            if lease.expired or silent:
                gone.append(incarnation)
        self._seen = seen
        return gone

    async def _expire(self, incarnation: bytes) -> None:
        more = True
        while more:
            try:
                (result,) = await self._door.propose((Expire(incarnation),), timeout_s=PROPOSAL_S)
            except ConsensusError:
                return
            more = isinstance(result, Remaining) and result.more
            if isinstance(result, Remaining) and result.handled:
                logger.warning(
                    "Returned %d runs of the lost incarnation %s.",
                    result.handled,
                    incarnation.hex(),
                )
