"""Members that are away until the log has gone on without them, and what meets their return.

One at a time is down or cut off until some other member has trimmed the entries that it
needs next, so that only a snapshot brings it back. While that is under way, either end of it
may die, its host may lose power, and the kill may come between two steps of the
installation. This goes on beside all other faults, with a chance of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tests.simulation.cluster_world import ClusterWorld

How = Literal["killed", "without power", "cut off"]
HOWS: tuple[How, ...] = ("killed", "killed", "without power", "cut off")

BETWEEN_S = (0.5, 3.0)
# Without writes, nobody is left behind; other faults may see to that for a while.
AWAY_S_MAX = 12.0
# How long a snapshot may take to begin, beside other faults, before it counts as not needed.
RETURN_S_MAX = 4.0
LOOK_S = 0.05
# A transfer is over within some round trips.
LOOK_CLOSELY_S = 0.002


def left_behind(world: ClusterWorld, name: str) -> bool:
    """Tell whether another member leads, whose log begins behind what this one has."""
    last_index = world.hosts[name].journal.content.last_index
    lives = world.lives.items()
    logs = [life.node.raft for other, life in lives if other != name and life.leads]
    return any(log.first_index > last_index + 1 for log in logs)


class Absences:
    """Takes one member after the other away from a world."""

    def __init__(self, world: ClusterWorld) -> None:
        self._world = world
        options = world.options
        self._rng = random.Random(f"{options.mode}/{options.seed}/absences")

    async def run(self) -> None:
        """Go on until cancelled; whoever is away then is for others to bring back."""
        while True:
            await asyncio.sleep(self._rng.uniform(*BETWEEN_S))
            name = self._rng.choice(self._world.present)
            how = self._rng.choice(HOWS)
            self._world.oracle.note("absence:", name, "is", how)
            self._leave(name, how)
            if await self._wait(partial(left_behind, self._world, name), AWAY_S_MAX, LOOK_S):
                self._world.oracle.counts["left behind"] += 1
            self._come_back(name, how)
            await self._disturb(name)

    def _leave(self, name: str, how: How) -> None:
        world = self._world
        if how == "cut off":
            others = [other for other in world.present if other != name]
            world.network.split(([name], others))
        else:
            world.frozen.add(name)
            world.kill(name, power_loss=how == "without power")

    def _come_back(self, name: str, how: How) -> None:
        world = self._world
        if how == "cut off":
            for a, b in world.network.links:
                if a == name:
                    # What waits in a connection that has survived would make up for it.
                    world.network.reset(a, b)
                    world.network.unblock(a, b)
                    world.network.unblock(b, a)
        world.frozen.discard(name)
        world.start(name)

    # --- The return ---------------------------------------------------------------------------

    async def _disturb(self, name: str) -> None:
        """Wait for the snapshot to come, and perhaps let something happen to it."""
        if not await self._wait(partial(self._receives, name), RETURN_S_MAX, LOOK_CLOSELY_S):
            return
        fault = self._rng.choice((None, None, self._kill, self._cut_power, self._kill_leader))
        if self._rng.random() < 0.3:
            self._world.hosts[name].breaks_off = True
        if fault is not None:
            await asyncio.sleep(self._rng.uniform(0.0, 0.03))
            fault(name)

    def _receives(self, name: str) -> bool:
        life = self._world.lives.get(name)
        return life is not None and life.node.raft.snapshots.receiving

    def _kill(self, name: str) -> None:
        self._end(name, power_loss=False)

    def _cut_power(self, name: str) -> None:
        self._end(name, power_loss=True)

    def _kill_leader(self, name: str) -> None:
        leaders = [other for other, life in self._world.lives.items() if life.leads]
        if leaders:
            self._end(leaders[0], power_loss=False)

    def _end(self, name: str, *, power_loss: bool) -> None:
        self._world.kill(name, power_loss=power_loss)
        self._world.restart_later(name, self._rng.choice((0.2, 1.0, 4.0)))

    async def _wait(self, condition: Callable[[], bool], seconds: float, look_s: float) -> bool:
        deadline_s = self._world.loop.time() + seconds
        while not condition():
            if self._world.loop.time() > deadline_s:
                return False
            await asyncio.sleep(look_s)
        return True
