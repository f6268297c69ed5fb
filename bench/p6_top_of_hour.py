"""P6: ten thousand jobs that are due at the same instant, and the API meanwhile."""

from __future__ import annotations

import asyncio
import time

from bench.cluster import Cluster
from bench.connection import Client
from bench.launches import summary
from bench.load import NOOP, create_all, ended_runs, now_ms, one_time, quantile
from bench.report import Section

JOBS = 10_000
LEAD_MS = 10_000
WATCH_S = 8.0
PROBE_PAUSE_S = 0.02
DRAIN_S = 60.0


async def run(scale: float) -> Section:
    """Measure one such instant."""
    jobs = max(100, round(JOBS * min(1.0, scale * 4)))
    section = Section(
        "P6 the top of the hour",
        f"{jobs:,} one-time `noop` jobs due in the same millisecond; meanwhile a client asks each"
        f" member for a job every {PROBE_PAUSE_S * 1_000:.0f} ms and creates another.",
    )
    async with Cluster() as cluster:
        due_ms = now_ms() + LEAD_MS
        made = [one_time(f"top-{number}", due_ms) for number in range(jobs)]
        accepted = await create_all(cluster.clients[0], made)
        if accepted != jobs or now_ms() > due_ms - 500:
            raise RuntimeError(f"{accepted} of {jobs} jobs were created; too few or too late.")
        term = (await cluster.status())["term"]
        probes = [asyncio.ensure_future(_probe(client, due_ms)) for client in cluster.clients]
        answers_ms = [took_ms for probe in probes for took_ms in await probe]
        runs = await ended_runs(cluster.clients[0], jobs, DRAIN_S)
        elections = (await cluster.status())["term"] - term
    found = summary(jobs, runs, due_ms)
    section.add("lost", "runs", [found.asked - found.ended], "0")
    section.add("last start after the instant", "ms", [found.late(1.0)], "under 4,000 ms")
    section.add("median start after the instant", "ms", [found.late(0.5)])
    section.add("all ended after", "s", [found.seconds])
    section.add("started early", "runs", [sum(late < 0 for late in found.late_ms)], "0")
    section.add("API p50 meanwhile", "ms", [quantile(answers_ms, 0.5)])
    section.add("API p99 meanwhile", "ms", [quantile(answers_ms, 0.99)], "under 250 ms")
    section.add("elections", "", [elections], "0")
    section.notes.append(f"Starts by member: {dict(sorted(found.members.items()))}.")
    return section


async def _probe(client: Client, due_ms: int) -> list[float]:
    """Return how long reads and writes took, from the instant on until all is quiet again."""
    await asyncio.sleep(max(0, due_ms - now_ms()) / 1_000)
    took_ms = []
    until_s = time.monotonic() + WATCH_S
    number = 0
    while time.monotonic() < until_s:
        number += 1
        for method, path, payload in (
            ("GET", "/v1/jobs/default/top-1", None),
            ("POST", "/v1/jobs", _manual(client, number)),
        ):
            sent_s = time.perf_counter()
            await client.send(method, path, payload)
            took_ms.append((time.perf_counter() - sent_s) * 1_000)
        await asyncio.sleep(PROBE_PAUSE_S)
    return took_ms


def _manual(client: Client, number: int) -> object:
    name = f"probe-{client.url.rpartition(':')[2]}-{number}"
    return {"name": name, "schedule": {"manual": True}, "action": NOOP}
