"""Random faults, checked at every step: the same seeds always, and new ones every day.

`python -m tests.simulation.raft_run` does the same for thousands of seeds. A seed that
fails is printed as the line that repeats it; it then belongs into regressions.txt, with
the reason why.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.fresh_seeds import fresh
from tests.simulation.raft_options import Mode, Options
from tests.simulation.raft_oracle import RunInvalid
from tests.simulation.raft_run import Totals, judge, judge_all

ROOT = Path(__file__).resolve().parents[2]
REGRESSIONS = Path(__file__).with_name("regressions.txt")
SECONDS = 12.0


def check(options: list[Options]) -> Totals:
    """No run fails, and together they are eventful enough to mean something."""
    totals = Totals()
    failures = judge_all(options, totals)
    assert not failures, "\n".join(failures)
    totals.check_activity()
    return totals


@pytest.mark.parametrize("block", range(4))
def test_three_members_survive_what_may_happen(block: int) -> None:
    """Kills, power losses, partitions, resets, slow links and disks break no promise."""
    check([Options(seed=seed, seconds=SECONDS) for seed in fresh(block, 40)])


@pytest.mark.parametrize("block", range(4, 8))
def test_five_members_survive_what_may_happen(block: int) -> None:
    """The same with five."""
    check([Options(seed=seed, members=5, seconds=SECONDS) for seed in fresh(block, 10)])


@pytest.mark.parametrize("members", [3, 5])
def test_a_healthy_majority_gets_on_whatever_the_others_go_through(members: int) -> None:
    """G11: within thirty seconds, though all that was broken elsewhere stays broken."""
    seeds = range(10)
    options = [
        Options(seed=seed, members=members, mode=Mode.LIVENESS, seconds=SECONDS) for seed in seeds
    ]
    totals = Totals()
    assert judge_all(options, totals) == []
    assert totals.counts["progressed"] == 3 * len(seeds)


def regressions() -> list[Options]:
    """Read the seeds that failed once: members, mode, seconds, seed, and why."""
    found = []
    for line in REGRESSIONS.read_text().splitlines():
        words = line.partition("#")[0].split()
        if words:
            members, mode, seconds, seed = words
            found.append(
                Options(
                    seed=int(seed), members=int(members), mode=Mode(mode), seconds=float(seconds)
                )
            )
    return found


def test_seeds_that_failed_once_fail_no_more() -> None:
    """Each stands in regressions.txt with its reason."""
    failures = judge_all(regressions(), Totals())
    assert not failures, "\n".join(failures)


def test_runs_in_which_little_happens_say_nothing() -> None:
    """A harness that has lost its faults is not taken for a safe cluster."""
    totals = Totals()
    for seed in range(5):
        totals.add(judge(Options(seed=seed, seconds=5.0)))
    totals.check_activity()  # Too short to be judged.
    totals.virtual_s = 10_000.0
    with pytest.raises(RunInvalid, match="at least"):
        totals.check_activity()


def test_a_failure_names_the_line_that_repeats_it() -> None:
    """It is a command, and the command finds the same failure and shows what led to it."""
    totals = Totals()
    lines = []
    for seed in range(20):
        verdict = judge(Options(seed=seed, seconds=20.0), mutation="cut_behind_any_match")
        totals.add(verdict)
        if verdict.failure:
            lines.append(verdict.replay)
            break
    (line,) = lines
    again = subprocess.run(
        [sys.executable, *line.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert again.returncode == 1
    assert str(totals.failed[0].failure)[:60] in again.stdout
    assert "Append(" in again.stdout
    assert "fault" in again.stdout


def test_the_same_seed_gives_the_same_run() -> None:
    """In this process, and in others whatever their hash seed is."""
    seeds = (3, 4, 5, 5, 6)
    here = [judge(Options(seed=seed, seconds=8.0)).trace for seed in seeds]
    assert here[2] == here[3]
    assert len(set(here)) == len(seeds) - 1
    code = (
        "from tests.simulation.raft_run import judge\n"
        "from tests.simulation.raft_options import Options\n"
        f"print([judge(Options(seed=seed, seconds=8.0)).trace for seed in {seeds}])\n"
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
        assert result.stdout.strip() == str(here)
