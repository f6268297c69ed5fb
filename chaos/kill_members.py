"""Kill and pause members of a real cluster while it is written to, then judge.

    python -m chaos.kill_members [--nodes 3] [--seconds 60] [--every 4] [--seed N]

It exits with 1 if a promise was broken, and with 2 if so little happened that it proves
nothing.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from chaos.harm import Harm
from chaos.options import read_options
from chaos.probes import Probes
from tests.support.cluster import Cluster, in_seconds, some_nodes, until

WRITERS = 4
WRITE_PAUSE_S = 0.1
JUDGES = 16
ENDED_S_MAX = 120.0
# G11: after the leader's death the next write is accepted within this time.
WRITES_BACK_S_MAX = 2.0


class Campaign:
    """One run of it: who was written to, who was harmed, and what was acknowledged."""

    def __init__(self, cluster: Cluster, seed: int, every_s: float) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self.harm = Harm(cluster, random.Random(seed + 1), every_s)
        self.probes = Probes(lambda: self.harm.usable)
        self.acknowledged: dict[str, str] = {}
        self._over = asyncio.Event()

    async def run(self, seconds: float) -> None:
        """Write and harm for a while, then let everybody come back."""
        workers = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]
        workers.append(asyncio.create_task(self.probes.run()))
        try:
            await self.harm.run(seconds)
        finally:
            self._over.set()
            self.probes.stop()
            await asyncio.gather(*workers)
        await self._cluster.ready()

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
            first = self._chance.choice(self.harm.usable)
            answer = await self._cluster.write("/v1/jobs", job, first)
            self.acknowledged[name] = answer.body["id"]
            await asyncio.sleep(WRITE_PAUSE_S)

    # --- The judgement ----------------------------------------------------------------

    async def judge(self) -> list[str]:
        """Return what is wrong, as sentences; nothing is what is hoped for."""
        await until(self._all_ended, "every job has come to its end", timeout_s=ENDED_S_MAX)
        await self._cluster.agree_on_state()
        faults: list[str] = []
        for node in self._cluster.nodes:
            missing = self.acknowledged.keys() - await node.job_names()
            faults += [f"{node.name} has lost {name}." for name in sorted(missing)]
        gate = asyncio.Semaphore(JUDGES)
        faults += [
            fault
            for fault in await asyncio.gather(
                *(self._judge_job(gate, name, job) for name, job in self.acknowledged.items())
            )
            if fault
        ]
        slow = [gap_s for gap_s in self.gaps_s if gap_s > WRITES_BACK_S_MAX]
        faults += [f"Writes came back {gap_s:.2f} s after a leader's death." for gap_s in slow]
        return faults

    @property
    def gaps_s(self) -> list[float]:
        """Return for how long there were no writes after each death of a leader."""
        return self.probes.gaps_s([blow for blow in self.harm.blows if blow.kind == "kill"])

    async def _judge_job(self, gate: asyncio.Semaphore, name: str, job: str) -> str | None:
        async with gate:
            outcomes = await self._cluster.nodes[0].outcomes(job)
        states = [self._told(outcome) for outcome in outcomes]
        return None if states == ["succeeded"] else f"{name} ended as {states}."

    async def _all_ended(self) -> bool:
        counters = (await self._cluster.nodes[0].status())["counters"]
        runs = int(counters.get("runs", 0))
        return runs >= len(self.acknowledged) and int(counters.get("runs_live", 0)) == 0

    @staticmethod
    def _told(outcome: Any) -> str:
        return str(outcome.get("outcome") or outcome.get("reason") or outcome.get("state"))

    def too_little(self, seconds: float, every_s: float) -> list[str]:
        """Return of what there was too little for the run to mean anything."""
        blows = self.harm.blows
        least = {
            "blows": (len(blows), seconds / every_s / 6),
            "kills": (sum(blow.kind == "kill" for blow in blows), seconds / every_s / 10),
            "deaths of leaders": (len(self.gaps_s), seconds / every_s / 30),
            "acknowledged jobs": (len(self.acknowledged), seconds * 2),
            "accepted probes": (len(self.probes.accepted), seconds * 5),
        }
        return [
            f"Only {found} {what}, at least {wanted:.0f} are due."
            for what, (found, wanted) in least.items()
            if found < max(1, wanted)
        ]


def _report(campaign: Campaign) -> None:
    blows = Counter(
        f"{blow.kind} of {'the leader' if blow.led else 'a follower'}"
        for blow in campaign.harm.blows
    )
    print(
        f"{len(campaign.acknowledged)} jobs acknowledged, {len(campaign.probes.accepted)} probes "
        f"accepted; {dict(blows)}"
    )
    paused = [blow for blow in campaign.harm.blows if blow.kind == "pause"]
    for what, gaps_s in (
        ("death", campaign.gaps_s),
        ("pause", campaign.probes.gaps_s(paused)),
    ):
        if gaps_s:
            print(
                f"writes back after the {what} of a leader: median "
                f"{statistics.median(gaps_s):.2f} s, longest {max(gaps_s):.2f} s, "
                f"{len(gaps_s)} times"
            )


async def main() -> int:
    options = read_options("chaos.kill_members")
    with tempfile.TemporaryDirectory(prefix="cronclave-chaos-") as folder:
        async with some_nodes(Path(folder), options.nodes) as cluster:
            campaign = Campaign(cluster, options.seed, options.every)
            await campaign.run(options.seconds)
            faults = await campaign.judge()
    _report(campaign)
    for fault in faults:
        print(fault)
    if faults:
        print(f"{len(faults)} faults.")
        return 1
    missing = campaign.too_little(options.seconds, options.every)
    for sentence in missing:
        print(f"Invalid: {sentence}")
    if not missing:
        print("Nothing was lost or doubled, and all members agree.")
    return 2 if missing else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
