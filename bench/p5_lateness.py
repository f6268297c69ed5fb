"""P5: how late a start is at a hundred launches a second."""

from __future__ import annotations

from bench.cluster import Cluster
from bench.launches import Launches, steady
from bench.load import NOOP
from bench.report import Section

ROUNDS = 3
RATE = 100
SECONDS = 8.0


async def run(scale: float) -> Section:
    """Measure the lateness of an undisturbed cluster."""
    seconds = max(2.0, SECONDS * scale)
    section = Section(
        "P5 lateness of start",
        f"{ROUNDS} rounds of {seconds:.0f} s at {RATE} launches/s, half recurring, half one-time,"
        " each round on a fresh cluster. Start minus instant, to the millisecond, as recorded.",
    )
    rounds: list[Launches] = []
    for _ in range(ROUNDS):
        async with Cluster() as cluster:
            rounds.append(await steady(cluster, RATE, seconds, NOOP))
    section.add("p50", "ms", [one.late(0.5) for one in rounds], "under 1.5 ms")
    section.add("p99", "ms", [one.late(0.99) for one in rounds], "under 5 ms")
    section.add("largest", "ms", [one.late(1.0) for one in rounds])
    early = [sum(late < 0 for late in one.late_ms) for one in rounds]
    section.add("started early", "runs", early, "0")
    section.add("lost", "runs", [one.asked - one.ended for one in rounds], "0")
    return section
