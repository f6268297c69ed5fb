"""P7: the leader is killed under load; when the next write is accepted, and what was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from bench.cluster import NO_ANSWER, Cluster
from bench.connection import Client
from bench.load import (
    NOOP,
    create_all,
    ended_runs,
    lateness_ms,
    now_ms,
    one_time,
    parse_ms,
    started,
)
from bench.report import Section

ROUNDS = 3
RATE = 100
LEAD_MS = 4_000
# The kill comes after some quiet seconds, and its wake is watched for longer than a lease.
BEFORE_S = 3.0
AFTER_S = 12.0
DRAIN_S = 30.0
WRITE_S_MAX = 1.0
WRITE_PAUSE_S = 0.01


async def run(scale: float) -> Section:
    """Measure several deaths, each in a cluster of its own."""
    rounds = max(1, round(ROUNDS * min(1.0, scale * 2)))
    section = Section(
        "P7 death of the leader",
        f"{rounds} rounds; {RATE} one-time `noop` launches/s, the leader is killed after"
        f" {BEFORE_S:.0f} s. A client writes to the survivors every"
        f" {WRITE_PAUSE_S * 1_000:.0f} ms.",
    )
    deaths = [await _death() for _ in range(rounds)]
    section.add("kill to next accepted write", "s", [one[0] for one in deaths], "under 2 s")
    section.add("lost", "runs", [one[1] for one in deaths], "0")
    section.add("jobs with more than one run", "jobs", [one[2] for one in deaths], "0")
    section.add(
        "largest lateness of what was claimed after the kill",
        "s",
        [one[3] for one in deaths],
        "the election and 1 s",
    )
    section.add("relaunched, a second attempt", "runs", [one[4] for one in deaths])
    section.add("largest lateness of all", "ms", [one[5] for one in deaths])
    return section


async def _death() -> tuple[float, int, int, float, int, float]:
    seconds = BEFORE_S + AFTER_S
    count = round(RATE * seconds)
    async with Cluster() as cluster:
        first_ms = now_ms() + LEAD_MS
        jobs = [
            one_time(f"d-{number}", first_ms + number * 1_000 // RATE) for number in range(count)
        ]
        if await create_all(cluster.clients[0], jobs) != count:
            raise RuntimeError("Not all jobs were created.")
        await asyncio.sleep((first_ms - now_ms()) / 1_000 + BEFORE_S)
        leader = await cluster.leader()
        survivors = [c for position, c in enumerate(cluster.clients) if position != leader]
        killed_ms, killed_s = now_ms(), time.monotonic()
        cluster.kill(leader)
        resumed_s = await _next_write(survivors) - killed_s
        await asyncio.sleep(max(0.0, AFTER_S - (time.monotonic() - killed_s)))
        runs = await ended_runs(survivors[0], count, DRAIN_S)
    return (resumed_s, *_judge(runs, count, killed_ms))


async def _next_write(clients: Sequence[Client]) -> float:
    """Return when a survivor accepted a write."""
    for number in range(1_000_000):
        job = {"name": f"write-{number}", "schedule": {"manual": True}, "action": NOOP}
        client = clients[number % len(clients)]
        try:
            answer = await client.send("POST", "/v1/jobs", job, timeout_s=WRITE_S_MAX)
            if answer.accepted:
                return time.monotonic()
        except NO_ANSWER:
            continue
        await asyncio.sleep(WRITE_PAUSE_S)
    raise RuntimeError("No survivor accepted a write.")


def _judge(runs: list[Any], count: int, killed_ms: int) -> tuple[int, int, float, int, float]:
    ended = [run for run in runs if run["state"] == "ended"]
    jobs = {run["job_id"] for run in ended}
    relaunched = [run for run in runs if run["attempt"] > 1]
    fresh = [run for run in started(runs) if run["attempt"] == 1]
    # A run is created by its claim: these were claimed when the leader was dead.
    claimed_after = [run for run in fresh if parse_ms(run["created_at"]) > killed_ms]
    return (
        count - len(jobs),
        len(ended) - len(jobs),
        max((lateness_ms(run) for run in claimed_after), default=0) / 1_000,
        len(relaunched),
        max((lateness_ms(run) for run in started(runs)), default=0),
    )
