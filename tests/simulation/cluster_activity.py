"""How much must have happened in a batch of simulated clusters, or it proves nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from tests.simulation.cluster_world import Kind, Mode, Options

# On average over the runs of a batch. A run has several times as much, and some have none; no
# day's seeds may be refused because they happen to be quiet ones.
OF_MODE: dict[Mode, dict[str, float]] = {
    "safety": {
        "launches": 5,
        "claims": 5,
        "create accepted": 2,
        "trigger accepted": 0.2,
        "elections": 1,
        "kills": 0.2,
        "expired runs": 0.2,
        "steals": 0.2,
        "further attempts": 0.2,
        "ends accepted": 4,
    },
    "power": {"power losses": 1, "launches": 5, "elections": 1},
    "liveness": {"probes": 1, "launches": 10},
}
# What is due less often in a whole batch may be missing by chance.
DUE_MIN = 0.5
OF_KIND: dict[Kind, dict[str, float]] = {
    "plain": {},
    "behind": {"left behind": 0.3, "snapshots installed": 0.3, "lives in the same process": 0.2},
    "changing": {
        "configurations": 2,
        "members joined": 0.4,
        "members left": 0.2,
        "learners made voters": 0.2,
        "removals": 0.08,
        "disks emptied": 0.05,
        "snapshots installed": 0.3,
    },
}


def too_rare(runs: Iterable[Options], counts: Counter[str]) -> dict[str, str]:
    """Return what has happened too seldom in some runs, with how often and how often is due."""
    due: defaultdict[str, float] = defaultdict(float)
    for options in runs:
        for name, each in (OF_MODE[options.mode] | OF_KIND[options.kind]).items():
            due[name] += each
    judged = {name: least for name, least in due.items() if least >= DUE_MIN}
    missed = {name: least for name, least in judged.items() if counts[name] < least}
    return {name: f"{counts[name]} of {least:.0f}" for name, least in missed.items()}
