"""A cluster in one thread, the faults that happen to it, and the judgement at the end.

A run has three parts: faults and writes together, then everything is repaired, then the
cluster has a bounded time to agree again and to take another write. In a liveness run a
healthy majority has to get on before anything else is repaired.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from consensus.snapshots.types import SnapshotReady
from storage.memory_journal import MemoryDisk
from tests.simulation.raft_faults import GOOD_SYNC_S, Faults
from tests.simulation.raft_life import SETTINGS, SHORT_LOG, Life, ReadLife, Remains
from tests.simulation.raft_options import Mode, Options
from tests.simulation.raft_oracle import LivenessViolated, Oracle
from tests.simulation.raft_registers import RegisterClients
from tests.simulation.raft_snapshots import STEPS, install
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.virtual_network import VirtualNetwork

REPAIR_S_MAX = 30.0
# How long a healthy majority may take for a write, whatever goes on around it; while one of it
# gets a snapshot, how long it may take without more of that. Whoever stays broken may lead it
# over slow links, and then the transfer is what everybody waits for.
PROGRESS_S_MAX = 30.0
TRANSFER_S_MAX = 300.0
PROGRESS_WRITES = 3


LifeMaker = Callable[["World", Remains], Life]


def make_raft(world: World, remains: Remains) -> Life:
    """Start a member made of the real consensus layer.

    In every other run the log is short, so that members come back by snapshots rather than
    by the log.
    """
    seed = world.options.seed
    return ReadLife(
        remains, world.loop, world.network, world.oracle, world.failed, f"{seed}",
        SHORT_LOG if seed % 2 else SETTINGS,
    )  # fmt: skip


class World:
    """One simulated cluster; `run` it once."""

    def __init__(self, options: Options, make: LifeMaker = make_raft) -> None:
        self.options = options
        self.loop = VirtualLoop()
        self.rng = random.Random(options.seed)
        self.oracle = Oracle(self.loop.time)
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
        self.faults = Faults(self)
        # What each member has at the end of the run.
        self.states: dict[str, list[bytes]] = {}
        self._make = make
        self._failure: BaseException | None = None
        self._written: list[bytes] = []

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
            self.loop.call_soon(self._end, member)
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
        steps = STEPS
        if remains.sink.ready is not None and self.rng.random() < 0.3:
            steps = self.rng.randint(0, STEPS)
        if install(remains, self.oracle, steps):
            self.lives[name] = self._make(self, remains)
        else:
            self.oracle.counts["installations_killed"] += 1
            self.loop.call_later(self.rng.uniform(0.01, 0.5), self.start, name)

    def kill(self, name: str, *, power_loss: bool = False) -> None:
        """Kill a member that is up."""
        if name in self.lives:
            self.oracle.counts["power_losses" if power_loss else "kills"] += 1
            self.oracle.note("killed", name, "power loss" if power_loss else "")
            self.lives.pop(name).kill(power_loss=power_loss)

    def _end(self, name: str) -> None:
        """End a life that has ended by itself."""
        if name in self.lives:
            self.lives.pop(name).kill(power_loss=False)

    def leader(self) -> Life | None:
        """Return the leader of the newest term, if one is up."""
        leaders = [life for life in self.lives.values() if life.leads]
        return max(leaders, key=lambda life: life.term, default=None)

    def write(self, life: Life) -> bytes:
        """Propose a new command to a member."""
        number = len(self._written) + 1
        size = self.rng.choice((20, 20, 200, 2000, 6000))
        command = b"command %d " % number
        command += bytes([number % 251]) * max(0, size - len(command))
        self._written.append(command)
        life.propose(command)
        return command

    # --- The run ----------------------------------------------------------------------

    async def _run(self) -> None:
        for name in self.remains:
            self.start(name)
        until_s = self.loop.time() + self.options.seconds
        registers = RegisterClients(self) if self.options.kind is Mode.REGISTERS else None
        client = self.loop.create_task(registers.run() if registers else self._client())
        try:
            while self.loop.time() < until_s:
                await asyncio.sleep(self.rng.uniform(0.1, 1.5))
                self.check()
                self.faults.strike()
            if self.options.kind is Mode.LIVENESS:
                await self._leave_alone()
        finally:
            client.cancel()
        await self._repair()
        self.states = {name: self.remains[name].commands for name in self.lives}
        self.oracle.check_end(self.states)
        if registers is not None:
            registers.judge()
        self.check()

    async def _client(self) -> None:
        while True:
            await asyncio.sleep(self.rng.expovariate(40.0))
            leaders = [life for life in self.lives.values() if life.leads]
            if leaders:
                for _ in range(self.rng.choice((1, 1, 1, 3, 10))):
                    self.write(self.rng.choice(leaders))

    async def _leave_alone(self) -> None:
        """Let a healthy majority take some writes while nobody helps the rest."""
        self.faults.freeze()
        for _ in range(PROGRESS_WRITES):
            # What was proposed before this moment may still come through, and proves nothing.
            began_s, written = self.loop.time(), len(self._written)
            moved_s, received = began_s, self._received()
            while not self._took_since(written):
                if self._received() > received:
                    moved_s, received = self.loop.time(), self._received()
                if self._is_stuck(began_s, moved_s):
                    core = sorted(self.faults.core)
                    raise LivenessViolated(f"{core} took no write in {PROGRESS_S_MAX} s.")
                await asyncio.sleep(0.05)
                self.check()
            self.oracle.progressed(self.loop.time() - began_s)

    def _received(self) -> int:
        """Return how much of snapshots the majority that is left alone has got."""
        lives = (self.lives.get(name) for name in self.faults.core)
        return sum(life.snapshot_bytes for life in lives if life is not None)

    def _is_stuck(self, began_s: float, moved_s: float) -> bool:
        now_s = self.loop.time()
        return now_s - moved_s > PROGRESS_S_MAX or now_s - began_s > TRANSFER_S_MAX

    def _took_since(self, written: int) -> bool:
        return any(command in self.oracle.acknowledged for command in self._written[written:])

    async def _repair(self) -> None:
        self.faults.frozen = False
        self.network.heal()
        for name, remains in self.remains.items():
            remains.sync_s = GOOD_SYNC_S
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
