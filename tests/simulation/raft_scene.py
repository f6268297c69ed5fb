"""A simulated cluster in which nothing happens by chance: scenarios are written with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from consensus.driver import Raft
from consensus.raft.types import RaftSettings
from consensus.snapshots.types import SnapshotReady
from tests.simulation.raft_life import SETTINGS, Life, RaftLife, Remains
from tests.simulation.raft_options import Options
from tests.simulation.raft_world import World


class Scene(World):
    """Members `n1` to `n<members>`, all started; errors of members are kept in `fatal`."""

    def __init__(self, members: int = 3, settings: RaftSettings = SETTINGS, seed: int = 1) -> None:
        super().__init__(Options(seed=seed, members=members), self._make_life)
        self.settings = settings
        self.fatal: dict[str, BaseException] = {}
        for name in self.remains:
            self.start(name)

    def _make_life(self, world: World, remains: Remains) -> Life:
        return RaftLife(
            remains, self.loop, self.network, self.oracle, self.failed, "scene", self.settings
        )

    def failed(self, member: str, error: BaseException) -> None:
        if isinstance(error, SnapshotReady):
            super().failed(member, error)
        else:
            self.fatal.setdefault(member, error)

    @property
    def names(self) -> list[str]:
        return list(self.remains)

    def raft(self, name: str) -> Raft:
        """Return the consensus layer of a member that is up."""
        life = self.lives[name]
        assert isinstance(life, RaftLife)
        return life.raft

    def rest(self, seconds: float) -> None:
        """Let the cluster run for a while."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def until(self, condition: Callable[[], object], seconds: float = 20.0) -> float:
        """Run until a condition holds and return how long it took."""
        began_s = self.loop.time()
        while not condition():
            assert self.loop.time() - began_s < seconds, "it did not come to that"
            self.rest(0.01)
        return self.loop.time() - began_s

    def leader_name(self) -> str:
        """Wait for a leader that a majority follows, and return its name."""
        self.until(lambda: any(self.raft(n).has_quorum_contact and self.raft(n).is_leader
                               for n in self.lives))  # fmt: skip
        leaders = [n for n in self.lives if self.raft(n).is_leader]
        return max(leaders, key=lambda name: self.raft(name).term)

    def write_to(self, name: str, count: int = 1) -> list[bytes]:
        """Propose commands to a member."""
        return [self.write(self.lives[name]) for _ in range(count)]

    def write_all(self, name: str, count: int) -> list[bytes]:
        """Propose commands as fast as they are taken, until all are applied."""
        commands: list[bytes] = []
        while len(commands) < count:
            room = self.settings.in_flight_entries_max - self.raft(name).in_flight_entries
            commands += self.write_to(name, min(room, count - len(commands)))
            self.rest(0.005)
        self.until(lambda: commands[-1] in self.oracle.acknowledged)
        return commands

    def agree(self) -> None:
        """Wait until all members that are up have applied the same."""
        self.until(lambda: len({len(self.remains[name].state) for name in self.lives}) == 1)
        self.oracle.check_end({name: self.remains[name].commands for name in self.lives})

    def isolate(self, name: str) -> None:
        """Cut one member off from all others."""
        self.network.split(([name], [other for other in self.names if other != name]))
