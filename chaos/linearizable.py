"""Clients change and read jobs while members are harmed; each history has to have an order.

    python -m chaos.linearizable [--nodes 3] [--seconds 60] [--every 4] [--seed N]

It exits with 1 if a history has no explanation, and with 2 if so little happened that it
proves nothing.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from pathlib import Path

from chaos.harm import Harm
from chaos.options import read_options
from tests.support.cluster import Cluster, some_nodes
from tests.support.histories import Operation, Outcome, summary
from tests.support.job_clients import JobClients, careful_session
from tests.support.linearizability import NotLinearizable, Undecided, check

CLIENTS = 10
JOBS = 24


async def campaign(
    cluster: Cluster, seed: int, seconds: float, every_s: float
) -> tuple[list[Operation], Harm]:
    """Harm a cluster that clients work with; return what they saw, and the harm."""
    harm = Harm(cluster, random.Random(seed + 1), every_s)
    # Now and then a member is asked that is dead or does not answer, as in life.
    chance = random.Random(seed)
    async with careful_session() as session:
        clients = JobClients(
            session,
            lambda: cluster.nodes if chance.random() < 0.05 else harm.usable,
            chance,
            jobs=JOBS,
        )
        working = asyncio.create_task(clients.run(CLIENTS))
        try:
            await harm.run(seconds)
        finally:
            clients.stop()
            await working
        await cluster.ready()
        await clients.read_all()
    return clients.operations, harm


def too_little(operations: list[Operation], harm: Harm, seconds: float, every_s: float) -> bool:
    """Tell whether the run means nothing."""
    done = sum(one.outcome is Outcome.DONE for one in operations)
    blows = len(harm.blows)
    led = sum(blow.led for blow in harm.blows)
    return done < seconds * 10 or blows < seconds / every_s / 6 or led < 1


async def main() -> int:
    options = read_options("chaos.linearizable")
    with tempfile.TemporaryDirectory(prefix="cronclave-chaos-") as folder:
        async with some_nodes(Path(folder), options.nodes) as cluster:
            operations, harm = await campaign(cluster, options.seed, options.seconds, options.every)
    blows = Counter(f"{blow.kind}{' of a leader' * blow.led}" for blow in harm.blows)
    jobs = len({one.key for one in operations})
    print(f"{len(operations)} operations on {jobs} jobs: {summary(operations)}; {dict(blows)}")
    try:
        check(operations)
    except (NotLinearizable, Undecided) as error:
        print(error)
        return 1
    if too_little(operations, harm, options.seconds, options.every):
        print("Invalid: too little happened.")
        return 2
    print("Every job's history has an order that explains it.")
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
