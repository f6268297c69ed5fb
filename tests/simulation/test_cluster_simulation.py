"""Whole clusters under random faults, judged at every step; and proof that it is the same
run again.

`python -m tests.simulation.cluster_run` does the same for as many seeds as one likes; see
README.md in this folder. The seeds are new ones every day (`fresh_seeds`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.simulation.cluster_run import Verdict, judge, read_regressions
from tests.simulation.cluster_world import Mode, Options
from tests.simulation.fresh_seeds import fresh

# A killed process leaves coroutines that never come to an end; collecting them complains.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# Other blocks of the day's seeds belong to the layers beneath.
BLOCK = 80
ROOT = Path(__file__).resolve().parents[2]

# What a run must contain on average, or it proves nothing. A run has several times as much, and
# some have none; no day's seeds may be refused because they happen to be quiet ones.
ACTIVITY_MIN = {
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
}


def check(verdicts: list[Verdict], activity_min: Mapping[str, float]) -> None:
    """No run failed, and together they were eventful enough to mean something."""
    failures = [f"{verdict.replay}\n{verdict.story}" for verdict in verdicts if verdict.failure]
    assert not failures, "\n".join(failures)
    counts = sum((verdict.counts for verdict in verdicts), Counter[str]())
    idle = {
        name: counts[name]
        for name, each in activity_min.items()
        if counts[name] < each * len(verdicts)
    }
    assert not idle, f"Too little happened in {len(verdicts)} runs: {idle}"


def runs(mode: Mode, block: int, count: int, members: int = 3) -> list[Verdict]:
    options = (
        Options(seed=seed, mode=mode, members=members) for seed in fresh(BLOCK + block, count)
    )
    return [judge(one) for one in options]


@pytest.mark.parametrize("block", range(3))
def test_a_cluster_keeps_its_promises_whatever_happens(block: int) -> None:
    """Kills, pauses, partitions, slow disks, dead runners and wrong clocks; then repair."""
    check(runs("safety", block, 5), ACTIVITY_MIN)


def test_a_cluster_of_five_keeps_them_as_well() -> None:
    """The same with five members."""
    check(runs("safety", 3, 3, members=5), ACTIVITY_MIN)


def test_power_losses_break_no_promise() -> None:
    """Of one host, of several and of all, again and again; disks forget what was not synced."""
    check(runs("power", 4, 5), {"power losses": 1, "launches": 5, "elections": 1})


def test_a_healthy_majority_goes_on_while_the_rest_stays_broken() -> None:
    """Within thirty seconds it takes writes and starts what is due."""
    check(runs("liveness", 5, 4), {"probes": 1, "launches": 10})


@pytest.mark.parametrize("options", read_regressions(), ids=lambda o: f"{o.mode} {o.seed}")
def test_what_failed_once_does_not_fail_again(options: Options) -> None:
    """Every seed that ever turned red, with the reason beside it in cluster_regressions.txt."""
    check([judge(options)], {})


def test_the_same_seed_gives_the_same_run() -> None:
    """In this process, and in others whatever their hash seed is."""
    here = [judge(Options(seed=seed, seconds=8.0)).trace for seed in (6, 6, 7)]
    assert here[0] == here[1] != here[2]
    code = (
        "from tests.simulation.cluster_run import judge\n"
        "from tests.simulation.cluster_world import Options\n"
        "print(judge(Options(seed=6, seconds=8.0)).trace)\n"
    )
    for hash_seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        assert result.stdout.strip() == here[0]
