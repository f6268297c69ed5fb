"""How much must have happened in a batch of simulated clusters, or it proves nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from tests.simulation.cluster_world import Kind, Mode, Options

# On average over the runs of a batch; what chance brings about has room beneath it.
OF_MODE: dict[Mode, dict[str, float]] = {
    "safety": {
        "launches": 20,
        "claims": 15,
        "create accepted": 5,
        "trigger accepted": 3,
        "elections": 2,
        "kills": 1,
        "expired runs": 1,
        "steals": 1,
        "further attempts": 3,
        "ends accepted": 15,
    },
    "power": {"power losses": 4, "launches": 15, "elections": 3},
    "liveness": {"probes": 1, "launches": 20},
}
# What is due less often in a whole batch may be missing by chance.
DUE_MIN = 3
OF_KIND: dict[Kind, dict[str, float]] = {
    "plain": {},
    "behind": {"left behind": 0.5, "snapshots installed": 0.5, "lives in the same process": 0.4},
    "changing": {
        "configurations": 3,
        "members joined": 0.6,
        "members left": 0.4,
        "learners made voters": 0.4,
        "removals": 0.3,
        "disks emptied": 0.2,
        "snapshots installed": 0.6,
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
