"""The hand that harms a cluster: kills and pauses of its members, never of a majority."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from dataclasses import dataclass

from tests.support.cluster import GONE, Cluster, Node

PAUSE_SHARE = 0.3
LEADER_SHARE = 0.5
STATUS_S = 2.0


@dataclass(frozen=True, slots=True)
class Blow:
    """One member harmed: how, when, and whether it led."""

    at_s: float
    name: str
    kind: str
    led: bool


class Harm:
    """Kills and pauses of members, one after the other, each undone after a while."""

    def __init__(self, cluster: Cluster, chance: random.Random, every_s: float) -> None:
        self._cluster = cluster
        self._chance = chance
        self._every_s = every_s
        self._harmed: set[str] = set()
        self.blows: list[Blow] = []

    @property
    def usable(self) -> list[Node]:
        """Return the members that nothing was done to at this moment."""
        return [node for node in self._cluster.nodes if node.name not in self._harmed]

    async def run(self, seconds: float) -> None:
        """Strike for a while, then bring everybody back."""
        end_s = time.monotonic() + seconds
        async with asyncio.TaskGroup() as healing:
            while time.monotonic() < end_s:
                await asyncio.sleep(self._chance.uniform(0.3, 1.0) * self._every_s)
                if len(self._harmed) < (len(self._cluster.nodes) - 1) // 2:
                    healing.create_task(self._strike())

    async def _strike(self) -> None:
        usable = self.usable
        node = self._chance.choice(usable)
        # Claimed at once, so that no other blow of this moment makes it a majority.
        self._harmed.add(node.name)
        leader = await self._leader(usable)
        if leader != node.name and self._chance.random() < LEADER_SHARE:
            for other in self.usable:
                if other.name == leader:
                    self._harmed.discard(node.name)
                    node = other
                    self._harmed.add(node.name)
        kind = "pause" if self._chance.random() < PAUSE_SHARE else "kill"
        self.blows.append(Blow(time.monotonic(), node.name, kind, node.name == leader))
        down_s = self._chance.uniform(0.3, 1.2) * self._every_s
        if kind == "pause":
            node.process.send(signal.SIGSTOP)
            await asyncio.sleep(down_s)
            node.process.send(signal.SIGCONT)
        else:
            await node.kill()
            await asyncio.sleep(down_s)
            await self._cluster.restart(node)
        await self._cluster.ready(node)
        self._harmed.discard(node.name)

    async def _leader(self, usable: list[Node]) -> str | None:
        """Ask who leads; None if nobody says so."""
        for node in usable:
            try:
                async with asyncio.timeout(STATUS_S):
                    leader: str | None = (await node.status())["leader"]
                    return leader
            except (AssertionError, *GONE):
                continue
        return None
