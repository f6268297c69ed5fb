"""Raising the cluster's feature level once every member runs a release that supports it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from consensus import features
from consensus.errors import ConsensusError
from consensus.state.commands import Raised, RaiseLevel
from node.services.service import Door
from storage.store import View

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
PROPOSAL_S = 5.0


class LevelService:
    """Works on the leader only; `seats` names all members, whether they were ever heard or not."""

    def __init__(
        self,
        door: Door,
        view: View,
        seats: Callable[[], frozenset[str]],
        leads: Callable[[], bool],
    ) -> None:
        self._door = door
        self._view = view
        self._seats = seats
        self._leads = leads

    async def run(self) -> None:
        while True:
            if self._leads():
                await self.run_once()
            await asyncio.sleep(PERIOD_S)

    async def run_once(self) -> None:
        """Propose the highest level that everybody has announced, if it is a new one."""
        seats = self._seats()
        level = features.attainable(self._view, seats)
        if level <= features.in_force(self._view):
            return
        command = RaiseLevel(level, tuple(sorted(seats)))
        try:
            (result,) = await self._door.propose((command,), timeout_s=PROPOSAL_S)
        except ConsensusError:
            return
        if isinstance(result, Raised):
            logger.info("The cluster's feature level is %d now.", result.level)
