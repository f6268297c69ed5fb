"""P2: creates in batches of a thousand one-kilobyte jobs."""

from __future__ import annotations

import itertools

from bench.cluster import Cluster
from bench.load import BATCH_ITEMS, closed_load, created, kilobyte_job, now_ms, quantile
from bench.report import Section

ROUNDS = 3
SECONDS = 4.0
AHEAD_MS = 86_400_000
WAYS = {"one client": 1, "four clients": 4}


async def run(scale: float) -> Section:
    """Measure batches by one client and by several, at the leader."""
    seconds = SECONDS * scale
    section = Section(
        "P2 batch creates",
        f"{ROUNDS} rounds of {seconds:.1f} s each at the leader, {BATCH_ITEMS} jobs of 1 KB a"
        " request.",
    )
    numbers = itertools.count()
    due_ms = now_ms() + AHEAD_MS
    async with Cluster() as cluster:
        url = cluster.members[await cluster.leader()].url
        for way, clients in WAYS.items():
            loads = [
                await closed_load(
                    [url],
                    clients,
                    seconds,
                    "/v1/jobs:batch",
                    lambda: [
                        kilobyte_job(f"batch-{next(numbers)}", due_ms) for _ in range(BATCH_ITEMS)
                    ],
                    count=created,
                )
                for _ in range(ROUNDS)
            ]
            rates = [load.rate for load in loads]
            section.add(f"{way}", "jobs/s", rates, "10,000/s")
            waits = [quantile(load.took_ms, 0.5) for load in loads]
            section.add(f"{way}, p50 of a request", "ms", waits)
            if refused := sum(load.refused for load in loads):
                section.notes.append(
                    f"{way}: {refused} batches were refused, the last with `{loads[-1].refusal}`."
                )
        counters = (await cluster.status())["counters"]
    section.notes.append(f"The cluster's own counters afterwards: `{counters}`.")
    return section
