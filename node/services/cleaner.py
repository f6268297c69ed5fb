"""Dropping what is older than its retention: output, remembered answers, old sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from consensus.errors import ConsensusError
from consensus.state.commands import Clean, Remaining
from node.services.service import Door

PERIOD_S = 60.0
STEP_S = 0.05
SESSION_KEPT_MS = 86_400_000
PROPOSAL_S = 5.0


class Cleaner:
    """Works on the leader only, in small steps with pauses between them.

    `clock_ms` is the cluster's clock, by which the ages were written down: a leader whose own
    clock is wrong must drop nothing for that.
    """

    def __init__(
        self,
        door: Door,
        output_kept_ms: int,
        clock_ms: Callable[[], int],
        leads: Callable[[], bool],
    ) -> None:
        self._door = door
        self._output_kept_ms = output_kept_ms
        self._clock_ms = clock_ms
        self._leads = leads

    async def run(self) -> None:
        while True:
            more = self._leads() and await self.run_once()
            # Where there is more, most of the time still belongs to others.
            await asyncio.sleep(STEP_S if more else PERIOD_S)

    async def run_once(self) -> bool:
        """Drop one bounded amount; return whether there is more."""
        now_ms = self._clock_ms()
        ages_ms = (self._output_kept_ms, SESSION_KEPT_MS)
        # The clock of a cluster that has just begun stands at nothing, and no time lies before.
        command = Clean(*(max(0, now_ms - age_ms) for age_ms in ages_ms))
        try:
            (result,) = await self._door.propose((command,), timeout_s=PROPOSAL_S)
        except ConsensusError:
            return False
        return isinstance(result, Remaining) and result.more
