"""P4: launches of HTTP requests to a server on this machine."""

from __future__ import annotations

from bench.cluster import Cluster
from bench.http_sink import HttpSink
from bench.launches import steady
from bench.report import Section

RATES = (250, 500)
SECONDS = 10.0


async def run(scale: float) -> Section:
    """Measure two rates of HTTP launches."""
    seconds = max(2.0, SECONDS * scale)
    section = Section(
        "P4 HTTP launches",
        f"Half recurring, half one-time; each rate for {seconds:.0f} s on a fresh cluster. The"
        " server that receives them shares the load generator's process.",
    )
    for rate in RATES:
        async with Cluster() as cluster, HttpSink() as sink:
            launches = await steady(cluster, rate, seconds, {"type": "http", "url": sink.url})
            received = sink.requests
        target = "500/s" if rate == RATES[-1] else ""
        section.add(f"{rate}/s offered: ended", "runs/s", [launches.rate], target)
        section.add(f"{rate}/s offered: lost", "runs", [launches.asked - launches.ended], "0")
        section.add(f"{rate}/s offered: requests received", "", [received], f"{launches.asked:,}")
        section.add(f"{rate}/s offered: lateness p50", "ms", [launches.late(0.5)])
        section.add(f"{rate}/s offered: lateness p99", "ms", [launches.late(0.99)])
        if launches.others:
            section.notes.append(f"At {rate}/s, not succeeded: {dict(launches.others)}.")
    return section
