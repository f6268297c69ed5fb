"""Measure the runner: launches per second, stalls of the node's loop, the end of a lease.

    python bench/runner.py [--launches 3000] [--at-once 64] [--heap-mib 1024]

The node's part runs on uvloop with a heap of the given size, as in production, and a
monitor that wakes up every millisecond; its lateness is the stall. The last line is the
worst case for the guard: as many attempts as there may be, all stopped by the same lease.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from node.runner.limits import ATTEMPTS_IN_FLIGHT_MAX
from node.runner_client import CommandRequest, RunnerClient
from storage.clock import SystemEnvironment

CLOCK = SystemEnvironment()
MONITOR_S = 0.001
# Long enough to launch all, with the grace and the margin that precede its end.
LEASE_S = 6.0


class StallMonitor:
    """Note how much later than asked the loop wakes up."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []

    async def watch(self) -> None:
        """Run until cancelled."""
        while True:
            asked = time.perf_counter() + MONITOR_S
            await asyncio.sleep(MONITOR_S)
            self.late_ms.append((time.perf_counter() - asked) * 1000)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of all lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def launch_many(client: RunnerClient, launches: int, at_once: int) -> float:
    """Run /bin/true that often; return the seconds it took."""
    numbers = iter(range(launches))

    async def one_after_another() -> None:
        for number in numbers:
            end = await client.run(CommandRequest(attempt_id=f"{number}", argv=["/bin/true"]))
            assert end.exit_code == 0, end

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return time.perf_counter() - began


async def measure_launches(client: RunnerClient, launches: int, at_once: int) -> None:
    """Print launches per second and the stalls meanwhile."""
    idle, busy = StallMonitor(), StallMonitor()
    for monitor, work in ((idle, asyncio.sleep(1.0)), (busy, None)):
        watching = asyncio.create_task(monitor.watch())
        if work is not None:
            await work
        else:
            took_s = await launch_many(client, launches, at_once)
        watching.cancel()
    print(f"{launches / took_s:.0f} launches/s, {at_once} at once")
    for name, monitor in (("idle", idle), ("busy", busy)):
        p50, p99 = (quantile(monitor.late_ms, share) for share in (0.5, 0.99))
        worst = max(monitor.late_ms)
        print(f"loop stall {name}: p50={p50:.2f} p99={p99:.2f} max={worst:.2f} ms")


async def measure_lease(client: RunnerClient) -> None:
    """Print how long before the lease's end the last of many attempts was dead."""
    until_s = CLOCK.monotonic_s() + LEASE_S
    client.extend_lease(until_s)
    deaths_s: list[float] = []

    async def run(number: int) -> None:
        script = "trap '' TERM; sleep 100 & wait; wait"
        launch = CommandRequest(attempt_id=f"l{number}", argv=["/bin/sh", "-c", script])
        end = await client.run(launch)
        assert end.cause == "lease", end
        deaths_s.append(CLOCK.monotonic_s())

    await asyncio.gather(*(run(number) for number in range(ATTEMPTS_IN_FLIGHT_MAX)))
    first_s, last_s = until_s - min(deaths_s), until_s - max(deaths_s)
    print(f"lease over for {ATTEMPTS_IN_FLIGHT_MAX} attempts of two processes: the node knew of")
    print(f"the first death {first_s:.3f} s and of the last {last_s:.3f} s before its end")


def resident_mib(pid: int | None) -> float:
    """Return the memory a process occupies."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--launches", type=int, default=3000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--heap-mib", type=int, default=1024)
    parser.add_argument("--containment", choices=["auto", "processes"], default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        client = RunnerClient(CLOCK, containment=options.containment)
        began = time.perf_counter()
        ready = await client.start(Path(directory))
        print(f"ready after {(time.perf_counter() - began) * 1000:.0f} ms: {ready.detail}")
        heap = bytearray(b"x") * (options.heap_mib << 20)
        client.extend_lease(CLOCK.monotonic_s() + 600)
        await measure_launches(client, options.launches, options.at_once)
        await measure_lease(client)
        print(f"runner {resident_mib(client.pid):.1f} MiB, node heap {len(heap) >> 20} MiB")
        await client.stop()


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
