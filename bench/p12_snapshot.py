"""P12: a member joins in again without most of the state, and what the others feel of it.

It was away while the state grew and the log went on beyond its tail, so it gets everything
by a snapshot, on the same two cores and the same disk as those who launch meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Any

from bench.cluster import NO_ANSWER, Cluster
from bench.connection import Client
from bench.launches import steady_jobs
from bench.load import (
    NOOP,
    Job,
    create_all,
    create_batch,
    ended_runs,
    lateness_ms,
    now_ms,
    parse_ms,
    quantile,
    started,
)
from bench.report import Section

STATE_BYTES = 1_000_000_000
RATE = 100
# The launches go on for this long around the transfer, and for longer the larger the state.
SECONDS_MIN, SECONDS_PER_GB = 15.0, 60.0
READY_S_MAX = 240.0
DRAIN_S = 30.0
LEAD_MS = 4_000
# What one job adds to the state, most of it in its definition, and how many go at once.
JOB_BYTES = 8_000
FILL_ITEMS = 500
# A short tail, and enough small entries to push everything else out of it. The leader keeps
# four tails at most for a transfer, which has to be more than is written during one.
TAIL = {"CRONCLAVE_RAFT__JOURNAL_TAIL_ENTRIES": "4000"}
ENTRIES = 8_400
WRITERS = 4
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Rejoin:
    """What came of one transfer."""

    state_bytes: float
    ready_s: float
    meanwhile_ms: list[int]
    otherwise_ms: list[int]
    lost: int


async def run(scale: float) -> Section:
    """Measure one return; the state has a size in proportion to `scale`."""
    size = round(STATE_BYTES * scale)
    section = Section(
        "P12 a member with nothing of the state",
        f"A state grown by {size / 1e6:,.0f} MB while one member was down, then {RATE} `noop`"
        " launches/s, half recurring, half one-time, and the member is started again. The"
        " snapshot's rate is the default.",
    )
    rejoin = await _rejoin(size)
    section.add("state on the disk", "MB", [rejoin.state_bytes / 1e6])
    section.add("start of the process to ready", "s", [rejoin.ready_s], "under 60 s for 1 GB")
    for name, late in (("meanwhile", rejoin.meanwhile_ms), ("otherwise", rejoin.otherwise_ms)):
        target = "under 100 ms" if name == "meanwhile" else ""
        section.add(f"others' lateness {name}, p50", "ms", [quantile(late, 0.5)])
        section.add(f"others' lateness {name}, p99", "ms", [quantile(late, 0.99)], target)
    section.add("lost", "runs", [rejoin.lost], "0")
    return section


async def _rejoin(size: int) -> Rejoin:
    async with Cluster(TAIL) as cluster:
        leader = await cluster.leader()
        victim = next(place for place in (2, 1) if place != leader)
        source = cluster.clients[leader]
        cluster.kill(victim)
        await _fill(source, size)
        await _push_out(source)
        seconds = SECONDS_MIN + SECONDS_PER_GB * size / STATE_BYTES
        first_ms = now_ms() + LEAD_MS
        jobs, asked = steady_jobs(RATE, seconds, first_ms, NOOP)
        await create_all(source, jobs)
        await asyncio.sleep(max(0.0, (first_ms - now_ms()) / 1_000) + 2.0)
        began_ms = now_ms()
        ready_s = await come_back(cluster, victim)
        ready_ms = now_ms()
        await asyncio.sleep(max(0.0, (first_ms - now_ms()) / 1_000 + seconds))
        runs = await ended_runs(source, asked, DRAIN_S)
        installed = await metric(cluster.clients[victim], "snapshots_installed")
        if installed != 1:
            raise RuntimeError(f"The member came back by {installed:.0f} snapshots, not by one.")
        state_bytes = await metric(source, "state_bytes")
        name = cluster.members[victim].name
    others = [run for run in started(runs) if run["member"] != name]
    meanwhile = [run for run in others if began_ms <= parse_ms(run["scheduled_at"]) <= ready_ms]
    ended = sum(run["state"] == "ended" for run in runs)
    return Rejoin(
        state_bytes, ready_s, late_ms(meanwhile),
        late_ms([run for run in others if parse_ms(run["scheduled_at"]) > ready_ms]), asked - ended,
    )  # fmt: skip


def late_ms(runs: list[Any]) -> list[int]:
    """Return how late each of some runs started."""
    return [lateness_ms(run) for run in runs]


def _job(name: str, size: int) -> Job:
    action = {"type": "http", "url": "http://127.0.0.1:9/", "body": "x" * size}
    return {"name": name, "schedule": {"manual": True}, "action": action}


async def _fill(client: Client, size: int) -> None:
    """Let the state grow by so many bytes."""
    count = max(1, size // JOB_BYTES)
    for first in range(0, count, FILL_ITEMS):
        numbers = range(first, min(count, first + FILL_ITEMS))
        await create_batch(client, [_job(f"fill-{number}", JOB_BYTES) for number in numbers])


async def _push_out(client: Client) -> None:
    """Write small entries until the log's tail holds nothing else."""
    until = (await client.get("/v1/cluster"))["applied_index"] + ENTRIES

    async def write(writer: int) -> None:
        other = Client(client.url)
        for number in range(ENTRIES):
            await other.send("POST", "/v1/jobs", _job(f"push-{writer}-{number}", 1))
            if (await other.get("/v1/cluster"))["applied_index"] >= until:
                break
        other.close()

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))


async def come_back(cluster: Cluster, victim: int) -> float:
    """Start a member again; return how many seconds later it was ready."""
    began_s = time.monotonic()
    await cluster.restart(victim)
    client = cluster.clients[victim]
    while time.monotonic() - began_s < READY_S_MAX:
        try:
            if (await client.send("GET", "/readyz", timeout_s=5)).accepted:
                return time.monotonic() - began_s
        except NO_ANSWER:
            client.close()
        await asyncio.sleep(POLL_S)
    raise RuntimeError(f"The member was not ready in {READY_S_MAX:.0f} s:\n{cluster.log_tail()}")


async def metric(client: Client, name: str) -> float:
    """Return what a member's metric of that name stands at, without its labels."""
    text = (await client.send("GET", "/metrics")).body.decode()
    found = re.search(rf"^cronclave_{name} (\S+)$", text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"There is no metric {name}.")
    return float(found[1])
