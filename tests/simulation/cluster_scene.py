"""A simulated cluster in which nothing happens by chance: scenarios are written with it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from storage import keys, models
from storage.models import JobDefinition, Run, ScheduleSpec
from tests.simulation import cluster_faults
from tests.simulation.cluster_clients import Client
from tests.simulation.cluster_world import ClusterWorld, Kind, Options
from tests.simulation.raft_oracle import LivenessViolated
from tests.simulation.virtual_runner import Launch


class ClusterScene:
    """Members `n1` to `n<members>`, all started, and a user who does what a test says."""

    def __init__(
        self, members: int = 3, seed: int = 1, lease_ms: int = 4_000, kind: Kind = "plain"
    ) -> None:
        options = Options(seed=seed, members=members, lease_ms=lease_ms, kind=kind, faults=False)
        self.world = ClusterWorld(options)
        self.oracle = self.world.oracle
        self.user = Client(self.world, random.Random(seed), 0, self.world.loop.time() + 3600)
        self.world.clients = [self.user]
        for name in self.world.hosts:
            self.world.start(name)
        self.until(lambda: all(life.node.lease.held for life in self.world.lives.values()))
        # Until all have heard that all take part.
        self.rest(3.0)

    # --- Time -------------------------------------------------------------------------------

    def rest(self, seconds: float) -> None:
        """Let the cluster run for a while."""
        self.world.loop.run_until_complete(asyncio.sleep(seconds))
        self.oracle.check()

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> float:
        """Run until a condition holds and return how long it took.

        Raises:
            LivenessViolated: it did not come to that.
        """
        began_s = self.world.loop.time()
        while not condition():
            if self.world.loop.time() - began_s > seconds:
                raise LivenessViolated(f"It did not come to that within {seconds} s.")
            self.rest(0.01)
        return self.world.loop.time() - began_s

    # --- Members ----------------------------------------------------------------------------

    def leader(self) -> str:
        """Wait for a leader and return its name."""

        def leading() -> list[str]:
            lives = self.world.lives.items()
            return [name for name, life in lives if life.leads and life.node.has_quorum]

        self.until(leading)
        return leading()[0]

    def isolate(self, name: str) -> None:
        others = [other for other in self.world.hosts if other != name]
        self.world.network.split(([name], others))

    def deafen(self, name: str) -> None:
        """Let nothing reach a member; what it says is still heard."""
        for other in self.world.hosts:
            if other != name:
                self.world.network.block(other, name)

    def only_listening(self, name: str) -> None:
        """Let everything reach a member, and nothing of what it says be heard."""
        for other in self.world.hosts:
            if other != name:
                self.world.network.block(name, other)
                self.world.network.unblock(other, name)

    def heal(self) -> None:
        cluster_faults.heal(self.world, set(self.world.hosts))

    # --- Jobs -------------------------------------------------------------------------------

    def job(self, seconds: float, in_s: float = 0.3, deaf: bool = False, **changed: Any) -> bytes:
        """Create a job that starts once, soon, and then runs for so long; return its id."""
        length = str(seconds)
        argv = ["simulated", length, length, "0", *(["deaf"] if deaf else [])]

        def make(rng: random.Random, now_ms: int, until_ms: int) -> JobDefinition:
            schedule = ScheduleSpec(kind="at", at_ms=now_ms + int(in_s * 1000))
            return JobDefinition(
                schedule=schedule, action={"type": "command", "argv": argv}, **changed
            )

        wish = self.world.loop.run_until_complete(self.user.create(make))
        assert wish.known == "accepted"
        return wish.job

    def launches(self, job: bytes) -> list[Launch]:
        return [
            launch
            for launch in self.oracle.launches
            if launch.request.env["CRONCLAVE_RUN"].startswith(job.hex())
        ]

    def holder(self, job: bytes) -> str:
        """Wait until a job's command runs, and return where."""
        self.until(lambda: self.launches(job))
        return self.launches(job)[-1].member

    def follower_that_runs(self, seconds: float, **changed: Any) -> tuple[bytes, str]:
        """Create jobs until one runs on a member that does not lead; return job and member."""
        leader = self.leader()
        while True:
            job = self.job(seconds, **changed)
            holder = self.holder(job)
            if holder != leader:
                return job, holder

    def runs(self, job: bytes, member: str) -> list[Run]:
        """Return a job's runs as a member has them."""
        prefix = keys.OUTCOME + job
        view = self.world.lives[member].node.view
        rows = view.scan(prefix, keys.after(prefix), 1_000)
        found = [models.decode_outcome(raw) for _, raw in rows]
        return [run for run in found if isinstance(run, Run)]

    def outcome(self, job: bytes, member: str, seconds: float = 60.0) -> str | None:
        """Wait until a job's first run is over, and return how it ended."""

        def over() -> bool:
            runs = self.runs(job, member)
            return bool(runs) and runs[0].state == "ended"

        self.until(over, seconds)
        return self.runs(job, member)[0].outcome


@contextmanager
def scene(
    members: int = 3, seed: int = 1, lease_ms: int = 4_000, kind: Kind = "plain"
) -> Iterator[ClusterScene]:
    """Set a scene, and take it down whatever comes of it."""
    made = ClusterScene(members, seed, lease_ms, kind)
    try:
        yield made
        made.oracle.check()
    finally:
        made.world.close()
