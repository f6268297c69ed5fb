"""Thousands of simulated runs, from the command line, one process per core.

    python -m tests.simulation.raft_run --seeds 5000 --members 3 5
    python -m tests.simulation.raft_run --seed 4711 --members 5 --trace
    python -m tests.simulation.raft_run --seeds 40 --mutation cut_behind_any_match
    python -m tests.simulation.raft_run --seeds 20 --members 5 --stock
    python -m tests.simulation.raft_run --seeds 150 --members 5 --mode power-loss --lazy

One seed gives one run, whatever the machine. A run that fails prints the line that repeats
it. The exit status is 1 if a run failed, and 2 if so little happened in all of them
together that they say nothing.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from consensus import frames
from tests.simulation.growing_world import GrowingWorld
from tests.simulation.raft_mutations import MUTATIONS, mutated
from tests.simulation.raft_options import Mode, Options
from tests.simulation.raft_oracle import RunInvalid
from tests.simulation.raft_stock import StockMaker
from tests.simulation.raft_world import World, make_raft
from tests.support.quiet_log import quiet_log

# What has to happen in a hundred virtual seconds, all runs taken together.
PER_100_S_MIN = {
    "acknowledged": 300,
    "leaders": 5,
    "kills": 4,
    "power_losses": 2,
    "split": 2,
    "isolate_leader": 1,
    "one_way": 1,
    "reset_links": 1,
    "slow_disk": 1,
    "pause": 1,
    "trim": 1,
    "snapshots_installed": 0.5,
}
# Below this, chance alone may leave a kind of fault out.
SECONDS_JUDGED_MIN = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one run."""

    options: Options
    failure: str | None
    acknowledged: int
    trace: str
    counts: Counter[str]
    progress_s_max: float
    story: list[str]
    # What was taken out of it, as an option of the command line.
    without: str = ""

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def replay(self) -> str:
        """Return the command that does the same run again."""
        options = self.options
        line = f"python -m tests.simulation.raft_run --seed {options.seed}"
        line += f" --members {options.members} --seconds {options.seconds:g}"
        line += f" --mode {options.mode}" if options.mode else ""
        line += " --lazy" if options.lazy_disk else ""
        line += " --growing" if options.growing else ""
        return f"{line}{self.without} --trace"


def judge(
    options: Options, *, mutation: str | None = None, stock: bool = False, frames_too: bool = False
) -> Verdict:
    """Do one run and say what came of it."""
    failure = None
    with (
        _undisturbed(),
        mutated(mutation) if mutation else nullcontext(),
        StockMaker() if stock else nullcontext(make_raft) as make,
    ):
        world = GrowingWorld(options) if options.growing else World(options, make)
        if frames_too:
            world.network.observe = partial(_tell_frame, world)
        try:
            world.run()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            failure = f"{type(error).__name__}: {error}"
    oracle = world.oracle
    story = oracle.story if failure or frames_too else []
    return Verdict(
        options,
        failure,
        len(oracle.acknowledged),
        oracle.trace,
        oracle.counts,
        oracle.progress_s_max,
        story,
        " --stock" if stock else f" --mutation {mutation}" if mutation else "",
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the collector and the log out of a run; both cost a tenth of its time."""
    gc.disable()
    try:
        with quiet_log():
            yield
    finally:
        gc.enable()


def _tell_frame(world: World, sender: str, receiver: str, frame: object) -> None:
    if isinstance(frame, bytes):
        envelope = frames.decode(frame)
        shown = str(envelope.message)[:160]
        world.oracle.tell(f"{sender} -> {receiver} term {envelope.term} {shown}")


class Totals:
    """Many verdicts together."""

    def __init__(self) -> None:
        self.failed: list[Verdict] = []
        self.runs = 0
        self.virtual_s = 0.0
        self.progress_s_max = 0.0
        self.counts: Counter[str] = Counter()

    def add(self, verdict: Verdict) -> None:
        """Count a run in."""
        self.runs += 1
        self.virtual_s += verdict.options.seconds
        self.progress_s_max = max(self.progress_s_max, verdict.progress_s_max)
        self.counts += verdict.counts
        self.counts["acknowledged"] += verdict.acknowledged
        if verdict.failure is not None:
            self.failed.append(verdict)

    def check_activity(self) -> None:
        """Refuse to call it safe when nothing much was tried.

        Raises:
            RunInvalid: there were too few faults, elections or writes.
        """
        if self.virtual_s < SECONDS_JUDGED_MIN:
            return
        for what, least in PER_100_S_MIN.items():
            found = self.counts[what] * 100 / self.virtual_s
            if found < least:
                raise RunInvalid(f"{found:.1f} times {what} in 100 s, at least {least} are due.")

    def __str__(self) -> str:
        return (
            f"{len(self.failed)} of {self.runs} runs failed, in {self.virtual_s:.0f} virtual "
            f"seconds; slowest progress of a majority left alone {self.progress_s_max:.1f} s; "
            + ", ".join(f"{count} {what}" for what, count in self.counts.most_common())
        )


def judge_all(options: Iterable[Options], totals: Totals) -> list[str]:
    """Do runs in this process and return a line for each that failed."""
    lines = []
    for one in options:
        verdict = judge(one)
        totals.add(verdict)
        if verdict.failure:
            lines.append(f"{verdict.replay}  # {verdict.failure[:300]}")
    return lines


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--members", type=int, nargs="+", default=[3])
    parser.add_argument("--seconds", type=float, default=30.0, help="virtual, of each run")
    parser.add_argument("--mode", type=Mode, help="by default the seed decides")
    parser.add_argument("--trace", action="store_true", help="show all that led to a failure")
    parser.add_argument("--stock", action="store_true", help="the library as it comes")
    parser.add_argument("--lazy", action="store_true", help="a disk that syncs once a second")
    parser.add_argument("--growing", action="store_true", help="members come and go")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="one fix taken out")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    return parser.parse_args()


def main() -> int:
    """Read the arguments, run, and print every failure with the line that repeats it."""
    given = _arguments()
    first, count = (given.first, given.seeds) if given.seed is None else (given.seed, 1)
    options = [
        Options(
            seed=seed,
            members=members,
            seconds=given.seconds,
            mode=given.mode,
            lazy_disk=given.lazy,
            growing=given.growing,
        )
        for members in given.members
        for seed in range(first, first + count)
    ]
    work = partial(judge, mutation=given.mutation, stock=given.stock, frames_too=given.trace)
    totals, began_s = Totals(), time.monotonic()
    with ProcessPoolExecutor(1 if count == 1 else given.processes) as pool:
        for verdict in pool.map(work, options, chunksize=4 if count > 1 else 1):
            totals.add(verdict)
            if given.trace:
                _say("\n".join(verdict.story))
            if verdict.failure is not None:
                _say(f"{verdict.replay}  # {verdict.failure[:300]}")
    took_s = time.monotonic() - began_s
    _say(str(totals))
    _say(f"{took_s:.0f} s, {totals.runs / took_s * 3600:.0f} seeds an hour")
    if totals.failed:
        return 1
    try:
        totals.check_activity()
    except RunInvalid as reason:
        _say(f"Invalid: {reason}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
