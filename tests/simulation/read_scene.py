"""Members that read: the real consensus layer with the asking side of ReadIndex on top."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from consensus.errors import NoQuorum
from consensus.raft.types import RaftSettings
from tests.simulation.raft_life import SETTINGS, Life, ReadLife, Remains
from tests.simulation.raft_scene import Scene
from tests.simulation.raft_world import World


class ReadScene(Scene):
    """A scene in which members can be asked up to which index a reader has to wait."""

    def __init__(self, members: int = 3, settings: RaftSettings = SETTINGS, seed: int = 1) -> None:
        super().__init__(members, settings, seed)
        self._reads: list[asyncio.Task[int | None]] = []

    def _make_life(self, world: World, remains: Remains) -> Life:
        return ReadLife(
            remains, self.loop, self.network, self.oracle, self.failed, "scene", self.settings
        )

    def life(self, name: str) -> ReadLife:
        life = self.lives[name]
        assert isinstance(life, ReadLife)
        return life

    def read(self, name: str, timeout_s: float = 10.0) -> asyncio.Task[int | None]:
        """Begin a read at a member; it ends with an index, or None for want of a quorum."""
        task = self.loop.create_task(
            _attempt(self.life(name).reads.read_index(timeout_s=timeout_s))
        )
        self._reads.append(task)
        return task

    def index_of(self, name: str, timeout_s: float = 10.0) -> int | None:
        """Read at a member and return what it said."""
        return self.loop.run_until_complete(self.read(name, timeout_s))

    def close(self) -> None:
        """End what is still being read, then everything else."""
        for task in self._reads:
            task.cancel()
        super().close()


async def _attempt(read: Coroutine[Any, Any, int]) -> int | None:
    try:
        return await read
    except NoQuorum:
        return None
