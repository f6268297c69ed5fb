"""Replay a business day against three fresh members, and account for every job of it.

    python -m bench.workday [--speed 60] [--share 1.0] [--seed 1]

Requests are sent at their planned moments, whether or not those before were answered, so
a cluster that falls behind is seen to. What came late is counted from the plan: for a
request until its answer, for a launch until its start. At the end every submitted job is
looked up, and the exit status is 1 if an occurrence is missing or was run twice.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import uvloop

from bench import report
from bench.cluster import NO_ANSWER, Cluster
from bench.connection import JSON, MERGE_PATCH
from bench.load import all_runs, lateness_ms, now_ms, pages, quantile, started
from bench.workday_plan import OUTPUT_BYTES, OUTPUT_LINE, Day, Kind, Step, plan_day

LEAD_MS = 500
REQUESTS_AT_ONCE_MAX = 256
DRAIN_S = 60.0
POLL_S = 0.5
OUTPUTS_CHECKED = 50


class Tally:
    """What was asked of one kind, what was reached, and how late it was."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0
        self.reached = 0
        self.late_ms: list[float] = []
        self.failures: Counter[str] = Counter()

    def row(self) -> str:
        """Return one line of the table."""
        lost = self.asked - self.reached
        p50, p99 = quantile(self.late_ms, 0.5), quantile(self.late_ms, 0.99)
        failures = f"  {dict(self.failures)}" if self.failures else ""
        return (
            f"{self.name:<22}{self.asked:>9,}{self.reached:>9,}{lost:>7,}"
            f"{p50:>10.1f}{p99:>10.1f}{failures}"
        )


HEAD = f"{'':<22}{'asked':>9}{'reached':>9}{'lost':>7}{'p50 ms':>10}{'p99 ms':>10}"


class Replay:
    """Sends the requests of a day; `ids` are the jobs that were accepted."""

    def __init__(self, cluster: Cluster, day: Day) -> None:
        self.cluster = cluster
        self.day = day
        self.began_ms = 0
        self.ids: dict[int, str] = {}
        self.tallies: dict[Kind, Tally] = {
            "submit": Tally("submissions"),
            "update": Tally("updates"),
            "status": Tally("status checks"),
            "history": Tally("history reads"),
        }
        self.output = cluster.directory / "output.txt"
        self._room = asyncio.Semaphore(REQUESTS_AT_ONCE_MAX)
        self._submitted = [asyncio.Event() for _ in day.submissions]

    async def run(self) -> None:
        """Send everything at its moment; return when the last answer has come."""
        lines = OUTPUT_BYTES // len(OUTPUT_LINE)
        await asyncio.to_thread(self.output.write_text, OUTPUT_LINE * lines)
        self.began_ms = now_ms() + LEAD_MS
        async with asyncio.TaskGroup() as group:
            for step in self.day.steps:
                ahead_ms = self.began_ms + step.at_ms - now_ms()
                if ahead_ms > 0:
                    await asyncio.sleep(ahead_ms / 1_000)
                await self._room.acquire()
                group.create_task(self._take(step))

    async def _take(self, step: Step) -> None:
        tally = self.tallies[step.kind]
        tally.asked += 1
        try:
            await self._send(step, tally)
        except NO_ANSWER as error:
            tally.failures[type(error).__name__] += 1
        finally:
            if step.kind == "submit":
                self._submitted[step.number].set()
            self._room.release()

    async def _send(self, step: Step, tally: Tally) -> None:
        if step.kind != "submit":
            await self._submitted[step.number].wait()
        method, path, payload, content_type = self._request(step)
        # A client talks to one member about a job, as through a balancer with affinity.
        client = self.cluster.clients[step.number % len(self.cluster.clients)]
        answer = await client.send(method, path, payload, content_type=content_type)
        if not answer.accepted:
            tally.failures[str(answer.status)] += 1
            return
        tally.reached += 1
        tally.late_ms.append(now_ms() - self.began_ms - step.at_ms)
        if step.kind == "submit":
            self.ids[step.number] = answer.json()["id"]

    def _request(self, step: Step) -> tuple[str, str, object, str]:
        if step.kind == "submit":
            job = self.day.job(step.number, self.began_ms, self.output)
            return "POST", "/v1/jobs", job, JSON
        path = f"/v1/jobs/{self.ids.get(step.number, 'unknown/unknown')}"
        if step.kind == "update":
            return "PATCH", path, {"description": "changed " + "c" * 792}, MERGE_PATCH
        return "GET", path + ("/runs?limit=20" if step.kind == "history" else ""), None, JSON


# --- The account -----------------------------------------------------------------------


async def drained(cluster: Cluster) -> None:
    """Wait until no run is live and none is expected, or for a bounded time."""
    until_s = time.monotonic() + DRAIN_S
    while time.monotonic() < until_s:
        if not (await cluster.status())["counters"].get("runs_live", 0):
            return
        await asyncio.sleep(POLL_S)


def account(day: Day, ids: dict[int, str], runs: list[Any], skips: Counter[str]) -> list[Tally]:
    """Return the tallies of one-time launches and of recurring occurrences."""
    by_job: dict[str, list[Any]] = defaultdict(list)
    for run in runs:
        by_job[run["job_id"]].append(run)
    once, again = Tally("one-time launches"), Tally("recurring launches")
    for number, job in ids.items():
        tally = once if day.submissions[number].every_ms is None else again
        _account_job(tally, day.occurrences(number), by_job[job], skips[job])
    return [once, again]


def _account_job(tally: Tally, asked: int, runs: list[Any], skipped: int) -> None:
    ended = [run for run in runs if run["state"] == "ended"]
    tally.asked += asked
    tally.reached += min(asked, len(ended))
    tally.late_ms += [lateness_ms(run) for run in started(ended)]
    for run in ended:
        if run["outcome"] != "succeeded":
            tally.failures[run["outcome"]] += 1
    tally.failures["not ended"] += len(runs) - len(ended)
    tally.failures["skipped, with a reason"] += skipped
    tally.failures["without an outcome"] += max(0, asked - skipped - len(runs))
    tally.failures["more than asked"] += max(0, len(runs) + skipped - asked)
    tally.failures += Counter()  # drops what is zero


async def skipped_by_job(cluster: Cluster, day: Day, ids: dict[int, str]) -> Counter[str]:
    """Return how many occurrences of each recurring job were skipped for a reason."""
    skips: Counter[str] = Counter()
    counters = (await cluster.status())["counters"]
    if not any(name.startswith("skipped.") for name in counters):
        return skips
    for number, job in ids.items():
        if day.submissions[number].every_ms is None:
            continue
        async for page in pages(cluster.clients[0], f"/v1/jobs/{job}/runs"):
            skips[job] += sum(row["count"] for row in page if row["kind"] == "skip")
    return skips


async def outputs(cluster: Cluster, runs: list[Any]) -> Tally:
    """Read some outputs back; all other sizes are taken from the runs."""
    tally = Tally("outputs read back")
    printed = [run for run in runs if run["output_bytes"]]
    for run in printed[:: max(1, len(printed) // OUTPUTS_CHECKED)]:
        tally.asked += 1
        sent_s = time.perf_counter()
        answer = await cluster.clients[0].send("GET", f"/v1/runs/{run['id']}/output")
        tally.late_ms.append((time.perf_counter() - sent_s) * 1_000)
        tally.reached += len(answer.body) == OUTPUT_BYTES == run["output_bytes"]
    return tally


async def replay(speed: float, share: float, seed: int) -> int:
    """Run the day and print its account; return the exit status."""
    day = plan_day(speed=speed, share=share, seed=seed)
    print(f"{len(day.submissions):,} submissions, {len(day.steps):,} requests in", end=" ")
    print(f"{day.length_ms / 1_000:.0f} s; speed {speed:g}, share {share:g}, seed {seed}")
    async with Cluster() as cluster:
        replaying = Replay(cluster, day)
        await replaying.run()
        last_due_ms = max(planned.due_ms for planned in day.submissions)
        await asyncio.sleep(max(0, replaying.began_ms + last_due_ms - now_ms()) / 1_000 + 1)
        await drained(cluster)
        runs = await all_runs(cluster.clients[0])
        skips = await skipped_by_job(cluster, day, replaying.ids)
        tallies = [*replaying.tallies.values(), *account(day, replaying.ids, runs, skips)]
        tallies.append(await outputs(cluster, runs))
    print(HEAD)
    for tally in tallies:
        print(tally.row())
    wrong = _verdict(replaying, tallies)
    print(wrong or f"All {len(replaying.ids):,} submitted jobs are accounted for.")
    return 1 if wrong else 0


def _verdict(replaying: Replay, tallies: list[Tally]) -> str:
    """Return what is wrong, or nothing: every occurrence has exactly one outcome."""
    faults = []
    if missing := len(replaying.day.submissions) - len(replaying.ids):
        faults.append(f"{missing:,} submissions were not accepted")
    for tally in tallies:
        faults += [
            f"{tally.name}: {tally.failures[name]:,} {name}"
            for name in ("not ended", "without an outcome", "more than asked")
            if tally.failures[name]
        ]
        if tally.name == "one-time launches" and tally.reached != tally.asked:
            faults.append(f"{tally.asked - tally.reached:,} one-time jobs have no ended run")
    return "; ".join(faults)


def main() -> None:
    """Read the arguments and replay."""
    parser = argparse.ArgumentParser(prog="python -m bench.workday")
    parser.add_argument("--speed", type=float, default=60.0)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print("\n".join(report.machine_lines()))
        references = f"sync {report.sync_ms(Path(tempfile.gettempdir())):.2f} ms"
        print(f"- {report.date()}; {references}, loop {report.loop_rate():.0f} million/s")
        sys.exit(runner.run(replay(options.speed, options.share, options.seed)))


if __name__ == "__main__":
    main()
