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
from pathlib import Path

import pytest

from tests.simulation.cluster_activity import too_rare
from tests.simulation.cluster_run import Verdict, judge, read_regressions
from tests.simulation.cluster_world import Kind, Mode, Options
from tests.simulation.fresh_seeds import fresh

# A killed process leaves coroutines that never come to an end; collecting them complains.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# Other blocks of the day's seeds belong to the layers beneath.
BLOCK = 80
ROOT = Path(__file__).resolve().parents[2]


def check(verdicts: list[Verdict]) -> None:
    """No run failed, and together they were eventful enough to mean something."""
    none_failed(verdicts)
    counts = sum((verdict.counts for verdict in verdicts), Counter[str]())
    idle = too_rare((verdict.options for verdict in verdicts), counts)
    assert not idle, f"Too little happened in {len(verdicts)} runs: {idle}"


def none_failed(verdicts: list[Verdict]) -> None:
    failures = [f"{verdict.replay}\n{verdict.story}" for verdict in verdicts if verdict.failure]
    assert not failures, "\n".join(failures)


def runs(
    mode: Mode, block: int, count: int, members: int = 3, kind: Kind = "plain"
) -> list[Verdict]:
    options = (
        Options(seed=seed, mode=mode, kind=kind, members=members)
        for seed in fresh(BLOCK + block, count)
    )
    return [judge(one) for one in options]


@pytest.mark.parametrize("block", range(3))
def test_a_cluster_keeps_its_promises_whatever_happens(block: int) -> None:
    """Kills, pauses, partitions, slow disks, dead runners and wrong clocks; then repair."""
    check(runs("safety", block, 5))


def test_a_cluster_of_five_keeps_them_as_well() -> None:
    """The same with five members."""
    check(runs("safety", 3, 3, members=5))


def test_power_losses_break_no_promise() -> None:
    """Of one host, of several and of all, again and again; disks forget what was not synced."""
    check(runs("power", 4, 5))


def test_a_healthy_majority_goes_on_while_the_rest_stays_broken() -> None:
    """Within thirty seconds it takes writes and starts what is due."""
    check(runs("liveness", 5, 4))


def test_members_that_were_left_behind_come_back_by_snapshots() -> None:
    """And live on in the same process, or die at any moment of it and begin again."""
    check(runs("safety", 6, 5, kind="behind") + runs("power", 7, 3, kind="behind"))


def test_members_come_and_go_while_everything_else_goes_wrong() -> None:
    """Who has its seat and its disk is never told to go; what others held is not forgotten."""
    check(runs("safety", 8, 3, kind="changing") + runs("power", 9, 2, kind="changing"))


def test_a_batch_in_which_too_little_happened_is_invalid() -> None:
    """Green alone proves nothing."""
    options = [Options(seed=seed, kind="behind") for seed in range(20)]
    counts = Counter({"launches": 1_000})
    assert "launches" not in too_rare(options, counts)
    assert {"kills", "snapshots installed"} <= set(too_rare(options, counts))


@pytest.mark.parametrize("options", read_regressions(), ids=lambda o: f"{o.kind} {o.mode} {o.seed}")
def test_what_failed_once_does_not_fail_again(options: Options) -> None:
    """Every seed that ever turned red, with the reason beside it in cluster_regressions.txt."""
    none_failed([judge(options)])


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
