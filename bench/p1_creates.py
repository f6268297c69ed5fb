"""P1: single creates of one-kilobyte jobs, and what one client alone waits for."""

from __future__ import annotations

import itertools

from bench.cluster import Cluster
from bench.load import closed_load, kilobyte_job, now_ms, quantile
from bench.report import Section

ROUNDS = 3
SECONDS = 4.0
CONNECTIONS = 64
# Far enough ahead that nothing of it falls due while it is measured.
AHEAD_MS = 86_400_000


async def run(scale: float) -> Section:
    """Measure creates at the leader, at a follower, at all members, and by one client."""
    seconds = SECONDS * scale
    section = Section(
        "P1 single creates",
        f"{ROUNDS} rounds of {seconds:.1f} s each; {CONNECTIONS} connections, jobs of 1 KB due in"
        " a day. Every create is answered after a majority has synced it.",
    )
    numbers = itertools.count()
    due_ms = now_ms() + AHEAD_MS
    async with Cluster() as cluster:
        leader = await cluster.leader()
        urls = [member.url for member in cluster.members]
        ways = {
            "at the leader": ([urls[leader]], CONNECTIONS, "3,000/s"),
            "at a follower": ([urls[leader - 1]], CONNECTIONS, "3,000/s"),
            "at all members": (urls, CONNECTIONS, "3,000/s"),
            "one client at the leader": ([urls[leader]], 1, ""),
            "one client at a follower": ([urls[leader - 1]], 1, ""),
        }
        for way, (targets, connections, target) in ways.items():
            loads = [
                await closed_load(
                    targets,
                    connections,
                    seconds,
                    "/v1/jobs",
                    lambda: kilobyte_job(f"create-{next(numbers)}", due_ms),
                )
                for _ in range(ROUNDS)
            ]
            section.add(f"{way}", "jobs/s", [load.rate for load in loads], target)
            for share in (0.5, 0.99):
                waits = [quantile(load.took_ms, share) for load in loads]
                alone = "under 4 ms" if connections == 1 and share == 0.5 else ""
                section.add(f"{way}, p{share * 100:.0f}", "ms", waits, alone)
            if refused := sum(load.refused for load in loads):
                section.notes.append(
                    f"{way}: {refused} requests were refused, the last with `{loads[-1].refusal}`."
                )
    return section
