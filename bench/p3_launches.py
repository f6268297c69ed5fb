"""P3: how many launches a second three members sustain, and where their time goes.

The offered rate rises until the cluster cannot keep up; the last rate that it kept up
with is measured with the figures of that round. A profile of one member is taken beside a
further round, since sampling slows what it looks at.
"""

from __future__ import annotations

import asyncio

from bench import sampling
from bench.cluster import Cluster
from bench.launches import Launches, steady
from bench.load import NOOP, now_ms
from bench.report import Section

RATES = (500, 1_000, 2_000, 3_000)
TARGET = 2_000
SECONDS = 15.0
# It keeps up if everything has ended at most this much after the last instant.
TAIL_S_MAX = 1.0
PROFILE_S = 10


async def run(scale: float) -> Section:
    """Measure rising rates, then profile the highest that was kept up with."""
    seconds = max(2.0, SECONDS * scale)
    section = Section(
        "P3 sustained launches",
        f"`noop` jobs, half recurring (every second), half one-time; each rate for {seconds:.0f} s"
        " on a fresh cluster. Launched, run and recorded on three disks.",
    )
    kept_up = rate = RATES[0]
    for rate in RATES:
        async with Cluster() as cluster:
            launches = await steady(cluster, rate, seconds, NOOP)
            counters = (await cluster.status())["counters"]
        _report(section, rate, launches)
        # An overloaded cluster coalesces late occurrences, which is an outcome, not a loss.
        if skipped := {name: n for name, n in counters.items() if name.startswith("skipped.")}:
            section.notes.append(f"At {rate}/s, occurrences without a run, by reason: {skipped}.")
        if launches.seconds > seconds + TAIL_S_MAX or launches.ended < launches.asked:
            break
        kept_up = rate
    section.notes.append(
        f"Kept up with {kept_up} launches/s for {seconds:.0f} s; the highest rate tried was"
        f" {rate}. `sustained` holds the rate of the target for its 5 minutes."
    )
    await _profile(section, kept_up, max(seconds, PROFILE_S + 2.0))
    return section


def _report(section: Section, rate: int, launches: Launches) -> None:
    target = "2,000/s for 5 min" if rate == TARGET else ""
    section.add(f"{rate}/s offered: ended", "runs/s", [launches.rate], target)
    section.add(
        f"{rate}/s offered: without an ended run", "", [launches.asked - launches.ended], "0"
    )
    section.add(f"{rate}/s offered: lateness p50", "ms", [launches.late(0.5)])
    section.add(f"{rate}/s offered: lateness p99", "ms", [launches.late(0.99)], "under 100 ms")
    if launches.others:
        section.notes.append(f"At {rate}/s, outcomes other than success: {dict(launches.others)}.")


async def _profile(section: Section, rate: int, seconds: float) -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        pids = {
            "the leader": cluster.members[leader].pid,
            "a follower": cluster.members[leader - 1].pid,
        }
        tables: list[str] = []

        async def sample(first_ms: int) -> None:
            await asyncio.sleep(max(0.0, (first_ms - now_ms()) / 1_000 + 1))
            for name, pid in pids.items():
                tables.append(await sampling.top(pid, PROFILE_S // 2, f"{name} at {rate}/s"))

        await steady(cluster, rate, seconds, NOOP, sample)
    section.notes += tables
