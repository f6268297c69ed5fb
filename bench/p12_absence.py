"""A member that was away for 100,000 entries of the log, and what the others feel of its return.

The log keeps a tail of half as many (the default), so nothing but a snapshot can bring the
member back. Writes and launches go on at all times; their speed before, during and after the
return is what is compared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.cluster import Cluster
from bench.connection import Client
from bench.launches import steady_jobs
from bench.load import NOOP, create_all, ended_runs, kilobyte_job, now_ms, parse_ms, quantile
from bench.load import started as started_runs
from bench.p12_snapshot import come_back, late_ms, metric
from bench.report import Section

ENTRIES = 100_000
TAIL_ENTRIES, TAIL_ENTRIES_MIN = 50_000, 1_000
RATE = 100
WRITERS = 4
# How long the load is watched without a return, before it and after it.
QUIET_S = 15.0
# The launches are created ahead, so they end at a time that is fixed; a return takes less.
RETURN_S_MAX = 90.0
LEAD_MS = 4_000
DRAIN_S = 30.0
POLL_S = 1.0
YEAR_MS = 365 * 86_400_000


@dataclass(slots=True)
class Writes:
    """The instants at which writes were answered, and how long each had taken."""

    at_s: list[float] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    refused: int = 0

    def rate(self, began_s: float, ended_s: float) -> float:
        """Return how many were answered in a second between two instants."""
        return len(self.between(began_s, ended_s)) / (ended_s - began_s)

    def between(self, began_s: float, ended_s: float) -> list[float]:
        """Return how long those took that were answered between two instants."""
        pairs = zip(self.at_s, self.took_ms, strict=True)
        return [took for at_s, took in pairs if began_s <= at_s < ended_s]


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the measurement, on the two clocks that its figures are read from."""

    name: str
    began_s: float
    ended_s: float
    began_ms: int
    ended_ms: int


async def run(scale: float) -> Section:
    """Measure one return after an absence in proportion to `scale`."""
    entries = round(ENTRIES * scale)
    tail = max(TAIL_ENTRIES_MIN, round(TAIL_ENTRIES * scale))
    section = Section(
        f"P12 a member that was away for {entries:,} entries",
        f"{WRITERS} connections create jobs of 1 KB one after the other, and {RATE} `noop`"
        f" launches/s go on, while a member returns that the log, with a tail of {tail:,}"
        f" entries, does not reach any more; {QUIET_S:.0f} s before and after it for comparison.",
    )
    async with Cluster({"CRONCLAVE_RAFT__JOURNAL_TAIL_ENTRIES": str(tail)}) as cluster:
        await _measure(cluster, entries, section)
    return section


async def _measure(cluster: Cluster, entries: int, section: Section) -> None:
    leader = await cluster.leader()
    victim = next(place for place in (2, 1) if place != leader)
    away = cluster.members[victim].name
    others = [client for place, client in enumerate(cluster.clients) if place != victim]
    before = (await cluster.status(others[0]))["applied_index"]
    cluster.kill(victim)
    writes = Writes()
    loads = [asyncio.create_task(_write(others, number, writes)) for number in range(WRITERS)]
    try:
        now = await _entry_reached(cluster, others[0], before + entries)
        first_ms = now_ms() + LEAD_MS
        jobs, asked = steady_jobs(RATE, 2 * QUIET_S + RETURN_S_MAX, first_ms, NOOP)
        await create_all(others[0], jobs)
        await asyncio.sleep((first_ms - now_ms()) / 1_000)
        spans = await _spans(cluster, victim)
        await asyncio.sleep(max(0.0, (first_ms - now_ms()) / 1_000 + 2 * QUIET_S + RETURN_S_MAX))
    finally:
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
    runs = await ended_runs(others[0], asked, DRAIN_S)
    installed = await metric(cluster.clients[victim], "snapshots_installed")
    section.add("entries missed", "", [now - before], f"{entries:,}")
    section.add("snapshots installed by the member", "", [installed], "1")
    section.add("start of the process to ready", "s", [spans[1].ended_s - spans[1].began_s])
    _report(section, spans, writes, [run for run in started_runs(runs) if run["member"] != away])
    section.add("writes refused", "", [writes.refused], "0")
    section.add("lost", "runs", [asked - sum(run["state"] == "ended" for run in runs)], "0")


async def _entry_reached(cluster: Cluster, client: Client, index: int) -> int:
    """Wait until a member has applied an entry; return the last one that it has."""
    while True:
        applied: int = (await cluster.status(client))["applied_index"]
        if applied >= index:
            return applied
        await asyncio.sleep(POLL_S)


def _report(section: Section, spans: Sequence[Span], writes: Writes, runs: list[Any]) -> None:
    for span in spans:
        late = [r for r in runs if span.began_ms <= parse_ms(r["scheduled_at"]) < span.ended_ms]
        took = writes.between(span.began_s, span.ended_s)
        section.add(f"creates {span.name}", "jobs/s", [writes.rate(span.began_s, span.ended_s)])
        section.add(f"creates {span.name}, p99", "ms", [quantile(took, 0.99)])
        section.add(f"lateness {span.name}, p99", "ms", [quantile(late_ms(late), 0.99)])


async def _spans(cluster: Cluster, victim: int) -> list[Span]:
    """Let the load go on, let the member return, let it go on again; return the three parts."""
    marks = [(time.monotonic(), now_ms())]
    for wait in (asyncio.sleep(QUIET_S), come_back(cluster, victim), asyncio.sleep(QUIET_S)):
        await wait
        marks.append((time.monotonic(), now_ms()))
    return [
        Span(name, began_s, ended_s, began_ms, ended_ms)
        for name, (began_s, began_ms), (ended_s, ended_ms) in zip(
            ("before", "during the return", "afterwards"), marks, marks[1:], strict=False
        )
    ]


async def _write(clients: Sequence[Client], number: int, writes: Writes) -> None:
    """Create jobs until cancelled, at a member of one's own."""
    client = Client(clients[number % len(clients)].url)
    try:
        for count in range(10_000_000):
            sent_s = time.monotonic()
            job = kilobyte_job(f"write-{number}-{count}", now_ms() + YEAR_MS)
            answer = await client.send("POST", "/v1/jobs", job)
            now_s = time.monotonic()
            if answer.accepted:
                writes.at_s.append(now_s)
                writes.took_ms.append((now_s - sent_s) * 1_000)
            else:
                writes.refused += 1
    finally:
        client.close()
