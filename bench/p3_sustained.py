"""P3, the long way: the rate of the target for five minutes, and what became of every instant.

All jobs recur every second, so that the load needs no hundreds of thousands of jobs before it
begins, and so that what is late would show: an instant that is not run before the next is one
has an outcome without a run.
"""

from __future__ import annotations

import asyncio

from bench.cluster import Cluster
from bench.launches import EVERY_MS, LEAD_MS
from bench.load import (
    create_all,
    lateness_ms,
    now_ms,
    pages,
    quantile,
    recurring,
    wait_ended,
)
from bench.report import Section

RATE = 2_000
SECONDS = 300.0
DRAIN_S = 30.0


async def run(scale: float) -> Section:
    """Launch at the rate of the target, for a time in proportion to `scale`."""
    seconds = round(SECONDS * scale)
    section = Section(
        "P3 sustained launches, the whole time",
        f"{RATE:,} `noop` jobs that recur every second, for {seconds} s. Launched, run and"
        " recorded on three disks.",
    )
    async with Cluster() as cluster:
        await _measure(cluster, seconds, section)
    return section


async def _measure(cluster: Cluster, seconds: int, section: Section) -> None:
    client, asked = cluster.clients[0], RATE * seconds
    first_ms = now_ms() + LEAD_MS
    until_ms = first_ms + seconds * EVERY_MS - 1
    jobs = [
        recurring(f"every-{number}", "1s", first_ms + number * EVERY_MS // RATE, until_ms)
        for number in range(RATE)
    ]
    await create_all(client, jobs)
    await asyncio.sleep((first_ms - now_ms()) / 1_000 + seconds)
    await wait_ended(client, asked, DRAIN_S)
    took_s = (now_ms() - first_ms) / 1_000
    late_ms: list[int] = []
    ended = 0
    async for page in pages(client, "/v1/runs"):
        ended += sum(run["state"] == "ended" for run in page)
        late_ms += [lateness_ms(run) for run in page if run.get("started_at")]
    section.add("ended", "runs/s", [ended / took_s], f"{RATE:,}/s for 5 min")
    section.add("without an ended run", "", [asked - ended], "0")
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("largest", 1.0)):
        target = "under 100 ms" if name == "p99" else ""
        section.add(f"lateness {name}", "ms", [quantile(late_ms, share)], target)
    section.add("started early", "runs", [sum(late < 0 for late in late_ms)], "0")
    counters = (await cluster.status())["counters"]
    section.notes.append(f"The cluster's own counters: `{counters}`.")
