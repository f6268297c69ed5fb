"""Kill members of a real cluster again and again while it is written to, then judge.

python -m chaos.kill_members [--seconds 60] [--every 5] [--seed N]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster, in_seconds, three_nodes, until

WRITERS = 4


class Campaign:
    """One run of it: who was written to, who was killed, and what was acknowledged."""

    def __init__(self, cluster: Cluster, seed: int, every_s: float) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._every_s = every_s
        self.acknowledged: dict[str, str] = {}
        self.kills: Counter[str] = Counter()
        self._over = asyncio.Event()

    async def run(self, seconds: float) -> None:
        """Write and kill for a while, then let everybody come back."""
        writers = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]
        try:
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                await self._kill_one()
        finally:
            self._over.set()
            await asyncio.gather(*writers)
        await self._cluster.ready()

    async def _kill_one(self) -> None:
        node = self._chance.choice(self._cluster.nodes)
        leads = (await self._cluster.leader()).name == node.name
        await node.kill()
        self.kills["leader" if leads else "follower"] += 1
        await asyncio.sleep(self._chance.uniform(0.2, self._every_s))
        await self._cluster.restart(node)

    async def _write(self, writer: int) -> None:
        """Create one-time jobs that are due soon, one after the other, on any node."""
        number = 0
        while not self._over.is_set():
            number += 1
            name = f"w{writer}-{number}"
            job = {
                "name": name,
                "schedule": {"at": in_seconds(self._chance.uniform(0.5, 3))},
                "action": {"type": "noop", "duration": "50ms"},
            }
            first = self._chance.choice(self._cluster.nodes)
            answer = await self._cluster.write("/v1/jobs", job, first)
            self.acknowledged[name] = answer.body["id"]
            await asyncio.sleep(0.02)

    async def judge(self) -> list[str]:
        """Return what is wrong, as sentences; nothing is what is hoped for."""
        faults: list[str] = []
        await until(self._all_ended, "every job has come to its end", timeout_s=60)
        await self._cluster.agree_on_state()
        for node in self._cluster.nodes:
            names = await node.job_names()
            missing = self.acknowledged.keys() - names
            faults += [f"{node.name} has lost {name}." for name in sorted(missing)]
        node = self._cluster.nodes[0]
        for name, job in self.acknowledged.items():
            outcomes = await node.outcomes(job)
            states = [self._told(outcome) for outcome in outcomes]
            if len(states) != 1 or states[0] != "succeeded":
                faults.append(f"{name} ended as {states}.")
        return faults

    async def _all_ended(self) -> bool:
        counters = (await self._cluster.nodes[0].status())["counters"]
        runs = int(counters.get("runs", 0))
        return runs >= len(self.acknowledged) and int(counters.get("runs_live", 0)) == 0

    @staticmethod
    def _told(outcome: Any) -> str:
        return str(outcome.get("outcome") or outcome.get("reason") or outcome.get("state"))


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.kill_members")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=5, help="longest time that a member is dead")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="cronclave-chaos-") as folder:
        async with three_nodes(Path(folder)) as cluster:
            campaign = Campaign(cluster, seed, options.every)
            await campaign.run(options.seconds)
            faults = await campaign.judge()
    print(f"{len(campaign.acknowledged)} jobs acknowledged, kills: {dict(campaign.kills)}")
    for fault in faults:
        print(fault)
    print("Nothing was lost or doubled." if not faults else f"{len(faults)} faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
