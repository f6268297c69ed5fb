"""Simulated clusters, from the command line: many at once, or one of them closely.

    python -m tests.simulation.cluster_run --seeds 200
    python -m tests.simulation.cluster_run --seeds 50 --mode liveness
    python -m tests.simulation.cluster_run --seeds 50 --mode all --kind behind
    python -m tests.simulation.cluster_run --seeds 50 --mode all --kind changing
    python -m tests.simulation.cluster_run --seed 4711 --trace

One seed gives one run, whatever the machine. The exit status is 1 if a run failed, and
2 if too little happened to mean anything.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast, get_args

from tests.simulation.cluster_activity import too_rare
from tests.simulation.cluster_mutations import MUTATIONS, mutated
from tests.simulation.cluster_world import ClusterWorld, Kind, Mode, Options
from tests.support.quiet_log import quiet_log

EVENTS_SHOWN = 60
SHOWN = (
    "elections", "kills", "power losses", "exits", "launches", "claims", "steals",
    "expired runs", "further attempts", "ends accepted", "ends refused",
    "left behind", "snapshots installed", "snapshots broken off", "installations broken off",
    "lives in the same process",
    "configurations", "members joined", "members exchanged", "members left", "members refused",
    "learners made voters", "removals", "removals of the leader", "demotions", "disks emptied",
)  # fmt: skip
REGRESSIONS = Path(__file__).with_name("cluster_regressions.txt")
MODES: tuple[Mode, ...] = get_args(Mode)
KINDS: tuple[Kind, ...] = get_args(Kind)
# Who is the majority that is to be left alone, changes with the members.
MODES_OF_CHANGING: tuple[Mode, ...] = ("safety", "power")
# Fewer runs may be quiet by chance.
RUNS_JUDGED_MIN = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one run."""

    options: Options
    failure: str | None
    trace: str
    counts: Counter[str]
    # The last that happened, if it failed.
    events: tuple[str, ...] = ()

    @property
    def story(self) -> str:
        """Return what went wrong, and what led up to it."""
        return "\n".join([*self.events[-EVENTS_SHOWN:], str(self.failure)])

    @property
    def replay(self) -> str:
        """Return the line that does this run again."""
        options = self.options
        mode = "" if options.mode == "safety" else f" --mode {options.mode}"
        kind = "" if options.kind == "plain" else f" --kind {options.kind}"
        members = "" if options.members == 3 else f" --members {options.members}"
        return (
            f"python -m tests.simulation.cluster_run --seed {options.seed}{kind}{mode}{members}"
            " --trace"
        )


def judge(options: Options, *, mutation: str | None = None, trace: bool = False) -> Verdict:
    """Do one run and say what came of it."""
    failure = None
    with quiet_log(), mutated(mutation) if mutation else nullcontext():
        world = ClusterWorld(options)
        if trace:
            world.oracle.tell = print
        try:
            world.run()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            first = world.oracle.failure or error
            failure = f"{type(first).__name__}: {first}"
            if trace:
                raise
    oracle = world.oracle
    events = tuple(oracle.events) if failure else ()
    return Verdict(options, failure, oracle.trace, oracle.counts, events)


def read_regressions() -> list[Options]:
    """Return the runs that have failed once."""
    found = []
    for line in REGRESSIONS.read_text().splitlines():
        if line and not line.startswith("#"):
            kind, mode, members, seed, _ = line.split(maxsplit=4)
            options = Options(
                seed=int(seed),
                mode=cast(Mode, mode),
                kind=cast(Kind, kind),
                members=int(members),
            )
            found.append(options)
    return found


def main() -> int:
    """Read the arguments, run, and print every failure with the line that replays it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="do this one only")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--mode", choices=(*MODES, "all"), default="safety")
    parser.add_argument("--kind", choices=KINDS, default="plain")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="one rule taken out")
    parser.add_argument("--trace", action="store_true", help="tell everything that happens")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    # What a killed process was in the middle of ends with its loop closed, and tells nobody.
    sys.unraisablehook = lambda _: None
    options = _chosen(given)
    began_s = time.monotonic()
    failures, counts = 0, Counter[str]()
    work = partial(judge, mutation=given.mutation, trace=given.trace)
    verdicts: Iterator[Verdict]
    if len(options) == 1 or given.processes == 1:
        verdicts = map(work, options)
    else:
        verdicts = ProcessPoolExecutor(given.processes).map(work, options)
    for verdict in verdicts:
        counts += verdict.counts
        if verdict.failure is not None:
            failures += 1
            print(f"{verdict.replay}\n    {verdict.failure[:400]}", flush=True)  # noqa: T201
    print(_summary(len(options), failures, counts, time.monotonic() - began_s))  # noqa: T201
    idle = too_rare(options, counts) if len(options) >= RUNS_JUDGED_MIN else {}
    if idle and not failures:
        print(f"Invalid, because too little happened: {idle}")  # noqa: T201
        return 2
    return 1 if failures else 0


def _chosen(given: argparse.Namespace) -> list[Options]:
    """Return the runs that the arguments ask for; with all modes, they take turns."""
    seeds = range(given.first, given.first + given.seeds)
    if given.seed is not None:
        seeds = range(given.seed, given.seed + 1)
    all_modes = MODES_OF_CHANGING if given.kind == "changing" else MODES
    modes = all_modes if given.mode == "all" else (given.mode,)
    if not set(modes) <= set(all_modes):
        raise SystemExit(f"Runs of kind {given.kind} have the modes {', '.join(all_modes)}.")
    return [
        Options(seed=seed, members=given.members, mode=modes[seed % len(modes)], kind=given.kind)
        for seed in seeds
    ]


def _summary(runs: int, failures: int, counts: Counter[str], took_s: float) -> str:
    """Say how long it took and what it contained."""
    accepted = sum(count for name, count in counts.items() if name.endswith(" accepted"))
    shown = {
        "writes acknowledged": accepted - counts["ends accepted"],
        **{name: counts[name] for name in SHOWN},
        "faults": sum(count for name, count in counts.items() if name.startswith("fault: ")),
    }
    facts = ", ".join(f"{count} {name}" for name, count in shown.items())
    return f"{failures} of {runs} clusters failed in {took_s:.0f} s: {facts}"


if __name__ == "__main__":
    sys.exit(main())
