"""Thousands of simulated runs, from the command line.

    python -m tests.simulation.raft_run --seeds 1000 --members 5
    python -m tests.simulation.raft_run --seeds 1 --first 4711 --members 3
    python -m tests.simulation.raft_run --seeds 40 --mutation cut_behind_any_match
    python -m tests.simulation.raft_run --seeds 20 --members 5 --stock
    python -m tests.simulation.raft_run --seeds 300 --members 5 --lazy

One seed gives one run, whatever the machine. The exit status is 1 if a run failed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from tests.simulation.raft_mutations import MUTATIONS, mutated
from tests.simulation.raft_stock import StockMaker
from tests.simulation.raft_world import Options, World, make_raft


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one run."""

    seed: int
    failure: str | None
    acknowledged: int
    trace: str
    counts: Counter[str]


def judge(options: Options, *, mutation: str | None = None, stock: bool = False) -> Verdict:
    """Do one run and say what came of it."""
    logging.disable(logging.CRITICAL)
    failure = None
    with (
        mutated(mutation) if mutation else nullcontext(),
        StockMaker() if stock else nullcontext(make_raft) as make,
    ):
        world = World(options, make)
        try:
            world.run()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            failure = f"{type(error).__name__}: {error}"
    oracle = world.oracle
    return Verdict(options.seed, failure, len(oracle.acknowledged), oracle.trace, oracle.counts)


def main() -> int:
    """Read the arguments, run, and print every failure with its seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--stock", action="store_true", help="the library as it comes")
    parser.add_argument("--lazy", action="store_true", help="a disk that syncs once a second")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="one fix taken out")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    options = [
        Options(seed=seed, members=given.members, seconds=given.seconds, lazy_disk=given.lazy)
        for seed in range(given.first, given.first + given.seeds)
    ]
    began_s = time.monotonic()
    failures, acknowledged, counts = 0, 0, Counter[str]()
    with ProcessPoolExecutor(given.processes) as pool:
        work = partial(judge, mutation=given.mutation, stock=given.stock)
        for verdict in pool.map(work, options, chunksize=2):
            acknowledged += verdict.acknowledged
            counts += verdict.counts
            if verdict.failure is not None:
                failures += 1
                print(f"seed {verdict.seed}: {verdict.failure[:300]}", flush=True)  # noqa: T201
    each_s = (time.monotonic() - began_s) / given.seeds
    print(  # noqa: T201
        f"{failures} of {given.seeds} runs failed; {acknowledged} writes acknowledged, "
        f"{each_s:.2f} s a run; {dict(counts.most_common())}"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
