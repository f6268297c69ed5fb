"""Launches at a steady rate: half of them one-time jobs, half recurring ones.

All instants are fixed before the load begins and spread evenly, so a launch that comes
late is late by the cluster's doing and not by the generator's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from bench.cluster import Cluster
from bench.load import (
    Job,
    create_all,
    ended_runs,
    lateness_ms,
    now_ms,
    one_time,
    parse_ms,
    quantile,
    recurring,
    started,
)

# Batches are created at some thousands a second; what is left is for the first claims.
CREATES_PER_S = 2_000
LEAD_MS = 3_000
DRAIN_S = 20.0
EVERY_MS = 1_000


@dataclass(frozen=True, slots=True)
class Launches:
    """What became of the launches that were asked for."""

    asked: int
    ended: int
    seconds: float  # from the first instant to the last end
    late_ms: list[int]
    others: Counter[str]  # outcomes other than success, by name
    members: Counter[str]

    @property
    def rate(self) -> float:
        return self.ended / self.seconds

    def late(self, share: float) -> float:
        return quantile(self.late_ms, share)


def steady_jobs(rate: int, seconds: float, first_ms: int, action: Job) -> tuple[list[Job], int]:
    """Return jobs with `rate` instants in each second, and how many instants that are."""
    whole_s = max(1, round(seconds))
    repeated = rate // 2
    until_ms = first_ms + whole_s * EVERY_MS - 1
    jobs = [
        recurring(f"every-{number}", "1s", first_ms + number * EVERY_MS // repeated, until_ms)
        | {"action": action}
        for number in range(repeated)
    ]
    once = (rate - repeated) * whole_s
    jobs += [
        one_time(f"once-{number}", first_ms + number * whole_s * 1_000 // once, action)
        for number in range(once)
    ]
    return jobs, repeated * whole_s + once


async def steady(
    cluster: Cluster,
    rate: int,
    seconds: float,
    action: Job,
    meanwhile: Callable[[int], Awaitable[None]] | None = None,
) -> Launches:
    """Run a steady load on a fresh cluster; `meanwhile` gets the first instant."""
    lead_ms = LEAD_MS + round(rate * seconds) * 1_000 // CREATES_PER_S
    first_ms = now_ms() + lead_ms
    jobs, asked = steady_jobs(rate, seconds, first_ms, action)
    accepted = await create_all(cluster.clients[0], jobs)
    if accepted != len(jobs) or now_ms() > first_ms - 1_000:
        raise RuntimeError(f"{accepted} of {len(jobs)} jobs were created; too few or too late.")
    beside = asyncio.ensure_future(meanwhile(first_ms)) if meanwhile else None
    await asyncio.sleep((first_ms - now_ms()) / 1_000 + seconds)
    runs = await ended_runs(cluster.clients[0], asked, DRAIN_S)
    if beside is not None:
        await beside
    return summary(asked, runs, first_ms)


def summary(asked: int, runs: list[Any], first_ms: int) -> Launches:
    """Return the figures of all runs of a cluster."""
    # Times are compared as texts: all are UTC with milliseconds.
    ended = [run for run in runs if run["state"] == "ended"]
    last = max((run["ended_at"] for run in ended), default=None)
    seconds = (parse_ms(last) - first_ms) / 1_000 if last else float("inf")
    return Launches(
        asked,
        len(ended),
        max(seconds, 0.001),
        [lateness_ms(run) for run in started(runs)],
        Counter(run["outcome"] for run in ended if run["outcome"] != "succeeded"),
        Counter(str(run.get("member")) for run in started(runs)),
    )
