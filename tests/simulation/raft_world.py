"""A cluster in one thread, the faults that happen to it, and the judgement at the end.

A run has three parts: faults and writes together, then everything is repaired, then the
cluster has a bounded time to agree again and to take another write. A run in which too
little happened is invalid, so that a broken harness cannot pass for a safe cluster.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from consensus.snapshot_types import SnapshotReady
from storage.memory_journal import MemoryDisk
from tests.simulation.raft_life import Life, RaftLife, Remains
from tests.simulation.raft_oracle import LivenessViolated, Oracle
from tests.simulation.raft_snapshots import STEPS, install
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.virtual_network import VirtualNetwork

REPAIR_S_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What kind of run it is; `seed` decides about everything else."""

    seed: int
    members: int = 3
    seconds: float = 30.0
    power_loss: bool = True
    # The control: a disk that says "done" before it is.
    lazy_disk: bool = False


LifeMaker = Callable[["World", Remains], Life]


def make_raft(world: World, remains: Remains) -> Life:
    """Start a member made of the real consensus layer."""
    return RaftLife(
        remains, world.loop, world.network, world.oracle, world.failed, f"{world.options.seed}"
    )


class World:
    """One simulated cluster; `run` it once."""

    def __init__(self, options: Options, make: LifeMaker = make_raft) -> None:
        self.options = options
        self.loop = VirtualLoop()
        self.rng = random.Random(options.seed)
        self.oracle = Oracle()
        names = [f"n{number}" for number in range(1, options.members + 1)]
        self.network = VirtualNetwork(self.loop, random.Random(options.seed + 1), names)
        self.remains = {
            name: Remains(
                name=name,
                voters=frozenset(names),
                disk=MemoryDisk(name.encode().ljust(16, b"."), lazy=options.lazy_disk),
            )
            for name in names
        }
        self.lives: dict[str, Life] = {}
        self._make = make
        self._failure: BaseException | None = None
        self._written = 0

    def run(self) -> Oracle:
        """Run to the end.

        Raises:
            SafetyViolated, LivenessViolated: the cluster failed.
        """
        asyncio.set_event_loop(None)
        try:
            self.loop.run_until_complete(self._run())
        finally:
            self.close()
        return self.oracle

    def close(self) -> None:
        """End every life and give the loop back."""
        for name in list(self.lives):
            self.lives.pop(name).kill(power_loss=False)
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def failed(self, member: str, error: BaseException) -> None:
        """Note why a member stopped itself.

        The one good reason is that a snapshot waits to be installed; then it begins again.
        """
        if isinstance(error, SnapshotReady):
            self.oracle.counts["snapshots_received"] += 1
            self.loop.call_soon(self.kill, member)
            self.loop.call_later(self.rng.uniform(0.01, 0.5), self.start, member)
        else:
            self._failure = self._failure or error

    def check(self) -> None:
        """Raise what has gone wrong so far."""
        if self._failure is not None:
            raise self._failure

    # --- Members ----------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a member that is down; while it installs a snapshot, it may be killed again."""
        if name in self.lives:
            return
        remains = self.remains[name]
        steps = self.rng.randint(0, STEPS) if self.rng.random() < 0.3 else STEPS
        if install(remains, self.oracle, steps):
            self.lives[name] = self._make(self, remains)
        else:
            self.oracle.counts["installations_killed"] += 1
            self.loop.call_later(self.rng.uniform(0.01, 0.5), self.start, name)

    def kill(self, name: str, *, power_loss: bool = False) -> None:
        """Kill a member that is up."""
        if name in self.lives:
            self.oracle.counts["kills"] += 1
            self.oracle.note("killed", name, self.loop.time())
            self.lives.pop(name).kill(power_loss=power_loss)

    def leader(self) -> Life | None:
        """Return the leader of the newest term, if one is up."""
        leaders = [life for life in self.lives.values() if life.leads]
        return max(leaders, key=lambda life: life.term, default=None)

    def write(self, life: Life) -> bytes:
        """Propose a new command to a member."""
        self._written += 1
        size = self.rng.choice((20, 20, 200, 2000, 6000))
        command = b"command %d " % self._written
        command += bytes([self._written % 251]) * max(0, size - len(command))
        life.propose(command)
        return command

    # --- The run ----------------------------------------------------------------------

    async def _run(self) -> None:
        for name in self.remains:
            self.start(name)
        until_s = self.loop.time() + self.options.seconds
        client = self.loop.create_task(self._client())
        try:
            while self.loop.time() < until_s:
                await asyncio.sleep(self.rng.uniform(0.1, 1.5))
                self.check()
                self._fault()
        finally:
            client.cancel()
        await self._repair()
        self.oracle.check_end({name: self.remains[name].commands for name in self.lives})
        self.check()

    async def _client(self) -> None:
        while True:
            await asyncio.sleep(self.rng.expovariate(40.0))
            leaders = [life for life in self.lives.values() if life.leads]
            if leaders:
                for _ in range(self.rng.choice((1, 1, 1, 3, 10))):
                    self.write(self.rng.choice(leaders))

    async def _repair(self) -> None:
        self.network.heal()
        for name, remains in self.remains.items():
            remains.sync_s = (0.0005, 0.002)
            self.start(name)
        deadline_s = self.loop.time() + REPAIR_S_MAX
        last: bytes | None = None
        while last is None or not self._all_have(last):
            if self.loop.time() > deadline_s:
                applied = {name: len(r.state) for name, r in self.remains.items()}
                raise LivenessViolated(f"After {REPAIR_S_MAX} s of calm: {applied}")
            leader = self.leader()
            if leader is not None:
                last = self.write(leader)
            await asyncio.sleep(1.5)
            self.check()

    def _all_have(self, command: bytes) -> bool:
        return all(command in self.remains[name].commands[-50:] for name in self.lives)

    # --- Faults -----------------------------------------------------------------------

    def _fault(self) -> None:
        faults = (
            (self._kill_some, 4),
            (self._split, 4),
            (self._isolate_leader, 3),
            (self._one_way, 2),
            (self._slow_links, 2),
            (self._reset_links, 3),
            (self._slow_disk, 2),
            (self._transfer, 1),
            (self._trim, 3),
            (self._pause, 2),
            (self._ring, 1),
            (self._calm, 3),
        )
        fault = self.rng.choices([f for f, _ in faults], [weight for _, weight in faults])[0]
        self.oracle.note(fault.__name__, self.loop.time())
        self.oracle.counts[fault.__name__.strip("_")] += 1
        fault()

    def _some(self) -> list[str]:
        names = list(self.remains)
        return self.rng.sample(names, self.rng.randint(1, len(names)))

    def _kill_some(self) -> None:
        names = self._some() if self.rng.random() < 0.3 else [self.rng.choice(list(self.remains))]
        power_loss = self.options.power_loss and self.rng.random() < 0.5
        for name in names:
            self.kill(name, power_loss=power_loss)
            self.loop.call_later(self.rng.uniform(0.05, 4.0), self.start, name)

    def _split(self) -> None:
        names = list(self.remains)
        self.rng.shuffle(names)
        cut = self.rng.randint(1, len(names) - 1)
        self.network.split((names[:cut], names[cut:]))

    def _isolate_leader(self) -> None:
        for name, life in self.lives.items():
            if life.leads:
                self.network.split(([name], [other for other in self.remains if other != name]))

    def _one_way(self) -> None:
        for link in self.rng.sample(list(self.network.links), 2):
            self.network.block(*link)

    def _ring(self) -> None:
        names = list(self.remains)
        for number, name in enumerate(names):
            for other in names[number + 2 : len(names) - (number == 0)]:
                self.network.block(name, other)
                self.network.block(other, name)

    def _slow_links(self) -> None:
        for link in self.rng.sample(list(self.network.links.values()), 3):
            link.latency_s = self.rng.choice((0.02, 0.15, 0.4))
            link.bytes_per_s = self.rng.choice((20e3, 200e3, 50e6))

    def _reset_links(self) -> None:
        for a, b in self.rng.sample(list(self.network.links), 2):
            self.network.reset(a, b)

    def _slow_disk(self) -> None:
        remains = self.rng.choice(list(self.remains.values()))
        remains.sync_s = self.rng.choice(((0.02, 0.3), (0.5, 2.0), (0.0005, 0.002)))

    def _transfer(self) -> None:
        for life in self.lives.values():
            life.transfer()

    def _pause(self) -> None:
        if self.lives:
            name = self.rng.choice(list(self.lives))
            self.lives[name].pause(self.rng.choice((0.3, 1.5, 5.0)))

    def _trim(self) -> None:
        for life in self.lives.values():
            life.trim()

    def _calm(self) -> None:
        self.network.heal()
