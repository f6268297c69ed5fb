"""Keeping this member's lease, and beginning a new life when it was lost.

A heartbeat is an entry of the log. It renews the lease in the cluster's eyes when it is
applied; in this member's eyes the lease runs from the moment the heartbeat was sent. If
the cluster has given the incarnation up, its runs belong to others by now: whatever is
still held here is stopped before a new incarnation is announced.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from consensus.errors import ConsensusError
from consensus.state.commands import Heartbeat, Refused, Renewed
from consensus.timekeeper import Timekeeper
from node.lease import Lease
from node.services.service import Door
from storage.clock import Environment

logger = logging.getLogger(__name__)

# How soon to ask again while the others have not confirmed this member's time of day: it
# claims nothing until then. The same while it does not follow the log: a heartbeat would make
# the others leave launches to a member that cannot see them.
UNCONFIRMED_S = 0.25


class HeartbeatService:
    """Renews the lease every `period_ms`; `make` builds the heartbeat of this moment."""

    def __init__(
        self,
        door: Door,
        lease: Lease,
        timekeeper: Timekeeper,
        environment: Environment,
        period_ms: int,
        make: Callable[[], Heartbeat],
        on_renewed: Callable[[], None],
        on_given_up: Callable[[], None],
        ask_time: Callable[[], None],
        in_step: Callable[[], bool],
    ) -> None:
        self._door = door
        self._lease = lease
        self._timekeeper = timekeeper
        self._environment = environment
        self._period_s = period_ms / 1000
        self._make = make
        self._on_renewed = on_renewed
        self._on_given_up = on_given_up
        self._ask_time = ask_time
        self._in_step = in_step

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            self._timekeeper.check()
            self._ask_time()
            in_step = self._in_step()
            if in_step:
                await self.run_once()
            soon = not in_step or not self._timekeeper.confirmed
            period_s = min(UNCONFIRMED_S, self._period_s) if soon else self._period_s
            await asyncio.sleep(max(0.0, began_s + period_s - loop.time()))

    async def run_once(self) -> None:
        """Send one heartbeat and take its answer."""
        sent_s = self._environment.monotonic_s()
        try:
            (result,) = await self._door.propose(
                (self._make(),), timeout_s=self._lease.lease_ms / 1000
            )
        except ConsensusError as error:
            logger.warning("The lease could not be renewed: %s", error)
            return
        if isinstance(result, Renewed):
            self._lease.renewed(sent_s)
            self._on_renewed()
        elif isinstance(result, Refused) and result.code == "lease_expired":
            logger.warning("The cluster has given this member's lease up; it begins anew.")
            self._lease.revoke()
            self._on_given_up()
        elif isinstance(result, Refused) and result.code == "member_removed":
            # It goes on the air with its removal, which it hears of as well; until then it
            # starts nothing, and stops what others may be given.
            self._lease.revoke()
            self._on_given_up()
