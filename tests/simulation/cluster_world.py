"""Whole clusters in one thread: members, clients, faults, and the judgement at the end.

A run has parts: clients and faults together; then, in a liveness run, a healthy majority
is left alone while the faults of the others stay; then everything is repaired, and what is
still to be done has a bounded time to come to its end. Then `cluster_verdict` judges the
history. `cluster_oracle` has judged every step before.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from consensus.configuration import Configuration, first_configuration
from consensus.raft.types import MemberRemoved, RaftSettings
from storage import keys, models
from storage.memory_journal import MemoryDisk
from storage.memory_store import MemoryStateDisk
from storage.models import JobState
from tests.simulation import cluster_faults, cluster_verdict
from tests.simulation.cluster_absences import Absences
from tests.simulation.cluster_clients import Client, Wish
from tests.simulation.cluster_host import BrokenOff, Host, SpoolFile
from tests.simulation.cluster_member import RAFT, MemberLife, Surroundings
from tests.simulation.cluster_operator import Operator
from tests.simulation.cluster_oracle import ClusterOracle
from tests.simulation.cluster_seats import Seats
from tests.simulation.raft_oracle import LivenessViolated
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.virtual_network import VirtualNetwork
from tests.simulation.virtual_process import HostClock

Mode = Literal["safety", "liveness", "power"]
# "plain", or also: members that are left behind by the log (see `cluster_absences`).
# or whose disks are emptied, and who come and go (`cluster_operator`).
Kind = Literal["plain", "behind", "changing"]

CLIENTS = 3
JOBS_PER_CLIENT = 3
# After the last fault, everything that is due or held has to come to its end within this.
SETTLE_S_MAX = 120.0
# A healthy majority has to take writes and start what is due within this.
LIVENESS_S_MAX = 30.0
RESTART_S = (0.2, 0.6)
BROKEN_OFF_S = 0.3
# What is kept of the log where members are to be left behind: about a second of it.
TAIL_ENTRIES = 8
# For how long what members have told each other of the time counts.
DOUBT_KEPT_S = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What kind of run it is; `seed` decides about everything else."""

    seed: int
    mode: Mode = "safety"
    kind: Kind = "plain"
    members: int = 3
    seconds: float = 25.0
    lease_ms: int = 4_000
    slots: int = 6
    faults: bool = True


class ClusterWorld:
    """One simulated cluster; `run` it once."""

    def __init__(self, options: Options, raft: RaftSettings | None = None) -> None:
        self.options = options
        if raft is None:
            raft = RAFT if options.kind == "plain" else replace(RAFT, tail_entries_max=TAIL_ENTRIES)
        self.loop = VirtualLoop()
        self.rng = random.Random(f"{options.mode}/{options.seed}")
        self.oracle = ClusterOracle(self.loop.time)
        names = [f"n{number}" for number in range(1, options.members + 1)]
        changing = options.kind == "changing"
        self._first = first_configuration(
            {name: f"{name}:7901" if changing else "" for name in names}
        )
        self.network = VirtualNetwork(self.loop, random.Random(options.seed + 1), names)
        self._directory = tempfile.TemporaryDirectory(prefix="cronclave-simulated-")
        self.hosts = {name: self._make_host(name, self._first) for name in names}
        self.lives: dict[str, MemberLife] = {}
        # Kept, so that collecting them cannot happen in the midst of a run.
        self._dead: list[MemberLife] = []
        # Members that are not to be started again yet.
        self.frozen: set[str] = set()
        self._doubt = (0, 0.0)
        self._hosts_replaced = 0
        self.seats = Seats(self, self._first)
        self.operator = Operator(self) if changing else None
        # When a host's next process may begin, because the last of the one before is dead.
        self._clear_s = dict.fromkeys(names, 0.0)
        self._around = Surroundings(
            seed=options.seed,
            loop=self.loop,
            network=self.network,
            oracle=self.oracle,
            lease_ms=options.lease_ms,
            slots=options.slots,
            raft=raft,
            lives_on=options.kind != "plain",
            ends=self.seats.ends,
            on_exit=self._exited,
        )
        until_s = self.loop.time() + options.seconds
        self.clients = [
            Client(self, random.Random(f"{options.seed}/client/{number}"), number, until_s)
            for number in range(CLIENTS)
        ]

    def _make_host(self, name: str, bootstrap: Configuration | None) -> Host:
        rng = random.Random(f"{self.options.seed}/{name}/clock")
        return Host(
            name=name,
            clock=HostClock(self.loop, rng),
            journal=MemoryDisk(name.encode().ljust(16, b".")),
            state=MemoryStateDisk(),
            spool=SpoolFile(Path(self._directory.name) / name),
            bootstrap=bootstrap,
        )

    def replace_host(self, name: str, *, bootstrap: Configuration | None) -> Host:
        """Let a host begin with empty disks, perhaps the first of its name; it is not started."""
        self.kill(name, power_loss=True)
        before = self.hosts.get(name)
        host = self._make_host(name, bootstrap)
        host.spool.path.unlink(missing_ok=True)
        self._hosts_replaced += 1
        host.journal = MemoryDisk(f"{name}/{self._hosts_replaced}".encode().ljust(16, b"."))
        if before is None:
            self.network.extend(name)
            self._clear_s[name] = 0.0
        else:
            host.clock, host.lives = before.clock, before.lives
        self.hosts[name] = host
        return host

    @property
    def present(self) -> list[str]:
        """The members there are, running or not, but for those that have gone for good."""
        return [name for name in self.hosts if name not in self.seats.gone]

    @property
    def wishes(self) -> list[Wish]:
        return [wish for client in self.clients for wish in client.wishes]

    @property
    def doubt_ms(self) -> int:
        """Return by how much some host's clock is behind, or was until a moment ago."""
        behind_ms = max(-min(0, host.clock.jumped_ms) for host in self.hosts.values())
        if behind_ms:
            self._doubt = (behind_ms, self.loop.time())
        doubt_ms, seen_s = self._doubt
        return doubt_ms if self.loop.time() - seen_s < DOUBT_KEPT_S else 0

    # --- Members ----------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a member that is down, as soon as what it had launched is dead."""
        if name in self.lives or name in self.frozen or name in self.seats.gone:
            return
        if self.loop.time() < self._clear_s[name]:
            self.loop.call_at(self._clear_s[name] + 0.001, self.start, name)
            return
        try:
            self.lives[name] = MemberLife(self._around, self.hosts[name])
        except BrokenOff as killed:
            self.oracle.note(killed)
            self.restart_later(name, BROKEN_OFF_S)
        except MemberRemoved as error:
            if not self.seats.ends(name, error):
                self.oracle.failure = self.oracle.failure or error

    def restart_later(self, name: str, seconds: float) -> None:
        self.loop.call_later(seconds, self.start, name)

    def kill(self, name: str, *, power_loss: bool) -> None:
        """End a member's process, and with a power loss everything on its host."""
        life = self.lives.pop(name, None)
        if life is not None:
            self.oracle.note(name, "loses power" if power_loss else "is killed")
            self.oracle.counts["power losses" if power_loss else "kills"] += 1
            if life.node.raft.snapshots.receiving:
                self.oracle.counts["snapshots broken off"] += 1
            self._clear_s[name] = life.kill(power_loss=power_loss)
            self._dead.append(life)

    def _exited(self, name: str, error: BaseException | None) -> None:
        """A process has ended by itself; its supervisor starts it again."""
        life = self.lives.pop(name, None)
        if life is not None:
            self.oracle.note(name, "exits", error)
            self.oracle.counts["exits"] += 1
            self._clear_s[name] = life.kill(power_loss=False)
            self._dead.append(life)
            if name in self.seats.gone:
                return
            self.restart_later(name, self.rng.uniform(*RESTART_S))

    # --- The run ----------------------------------------------------------------------------

    def run(self) -> ClusterOracle:
        """Run to the end.

        Raises:
            SafetyViolated, LivenessViolated: the cluster failed.
        """
        asyncio.set_event_loop(None)
        try:
            self.loop.run_until_complete(self._run())
            self.oracle.check()
        finally:
            self.close()
        return self.oracle

    def close(self) -> None:
        """End every life and give everything back."""
        for life in self.lives.values():
            life.kill(power_loss=False)
        self.loop.run_until_complete(asyncio.sleep(0.1))
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        for life in (*self.lives.values(), *self._dead):
            life.process.close()
        self.lives.clear()
        self.loop.close()
        self._directory.cleanup()

    async def _run(self) -> None:
        for name in self.hosts:
            self.start(name)
        users = [
            self.loop.create_task(client.run(JOBS_PER_CLIENT), name=f"client {number}")
            for number, client in enumerate(self.clients)
        ]
        if self.operator is not None:
            users.append(self.loop.create_task(self.operator.run(), name="operator"))
        if self.options.kind == "behind":
            users.append(self.loop.create_task(Absences(self).run(), name="absences"))
        try:
            await self._suffer()
        finally:
            for user in users:
                user.cancel()
        if self.options.mode == "liveness":
            await self._leave_majority_alone()
        await self._repair()
        cluster_verdict.judge(self)

    async def _suffer(self) -> None:
        until_s = self.loop.time() + self.options.seconds
        faults = cluster_faults.Faults(self)
        while self.loop.time() < until_s:
            await asyncio.sleep(self.rng.uniform(0.2, 2.0))
            self.oracle.check()
            for host in self.hosts.values():
                if self.rng.random() < 0.2:
                    host.spool.write_back()
            if self.options.faults:
                faults.one()

    async def _leave_majority_alone(self) -> None:
        """Heal a majority; what the others suffer from stays as it is."""
        names = list(self.hosts)
        self.rng.shuffle(names)
        healthy = set(names[: len(names) // 2 + 1])
        self.oracle.note("only", *sorted(healthy), "are healthy from now on")
        self.frozen = set(names) - healthy
        cluster_faults.heal(self, healthy)
        for name in sorted(healthy):
            self.start(name)
        began_s = self.loop.time()
        prober = Client(self, random.Random(1), 99, began_s + 2 * LIVENESS_S_MAX)
        self.clients.append(prober)
        probe = self.loop.create_task(self._probe(prober, healthy))
        done, _ = await asyncio.wait({probe}, timeout=LIVENESS_S_MAX)
        if not done:
            probe.cancel()
            raise LivenessViolated(
                f"A healthy majority {sorted(healthy)} took no write or started nothing"
                f" within {LIVENESS_S_MAX} s."
            )
        probe.result()
        self.oracle.counts["probes"] += 1

    async def _probe(self, prober: Client, healthy: set[str]) -> None:
        """Create a job through the healthy part, and see a run of it launched."""
        job = await prober.create_probe(healthy)
        while not self.oracle.jobs.get(job):
            await asyncio.sleep(0.1)
            self.oracle.check()

    # --- The end ----------------------------------------------------------------------------

    async def _repair(self) -> None:
        self.oracle.note("everything is repaired")
        self.frozen = set()
        cluster_faults.heal(self, set(self.hosts))
        for name in self.hosts:
            self.start(name)
        operator = self.operator and self.loop.create_task(self.operator.finish())
        finishing = [self.loop.create_task(client.finish()) for client in self.clients]
        deadline_s = self.loop.time() + SETTLE_S_MAX
        try:
            while not all(task.done() for task in finishing) or self._restless():
                self.oracle.check()
                if self.loop.time() > deadline_s:
                    raise LivenessViolated(
                        f"After {SETTLE_S_MAX} s of calm: {self._restless() or 'no answers'}"
                    )
                if all(task.done() for task in finishing) and self._paused():
                    # A request that was under way when the users left came through.
                    finishing = [self.loop.create_task(c.finish()) for c in self.clients]
                await asyncio.sleep(0.5)
        finally:
            for task in (*finishing, *((operator,) if operator else ())):
                task.cancel()
        self.oracle.check()

    def _restless(self) -> str:
        """Return what has not come to its end yet; nothing if all has."""
        if self.lives.keys() != set(self.present):
            return "members are down"
        if self.operator is not None and (unsettled := self.seats.restless()):
            return unsettled
        applied = {life.node.applied_index for life in self.lives.values()}
        if max(applied) - min(applied) > 3:
            return f"members have applied {sorted(applied)}"
        for name, life in self.lives.items():
            if life.node.reporter.waiting:
                return f"{name} has {life.node.reporter.waiting} ends to report"
            if life.runner.running:
                return f"{name} runs something"
        return self._unfinished()

    def _states(self) -> list[tuple[bytes, JobState]]:
        """Return the jobs as some member has them."""
        view = next(iter(self.lives.values())).node.view
        rows = view.scan(keys.JOB_STATE, keys.after(keys.JOB_STATE), 10_000)
        return [(key, models.decode_job_state(raw)) for key, raw in rows]

    def _paused(self) -> bool:
        return any(state.status == "paused" for _, state in self._states())

    def _unfinished(self) -> str:
        for key, state in self._states():
            if state.live or state.waiting is not None:
                return f"job {key[1:].hex()} has live runs: {state}"
            if state.status == "paused":
                return f"job {key[1:].hex()} is paused"
            if state.status == "scheduled" and not state.policy.manual:
                return f"job {key[1:].hex()} is not finished: {state}"
        return ""
