"""A business day as a list of requests, drawn before the first of them is sent.

Eight hours with their busier and quieter ones, 35,000 submissions, a tenth of them
recurring jobs. Each job carries a kilobyte of description and labels, is looked at twice,
and one in five is changed and one in five has its history read. Runs take about five
minutes of the day. All of it is compressed in time by `speed`; `share` takes a part of the
day, with its part of the submissions.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from bench.load import Job, format_ms

DAY_S = 8 * 3_600
SUBMISSIONS = 35_000
# How busy each hour is beside the others.
HOURS = (1.5, 1.4, 1.1, 0.7, 0.6, 1.1, 1.0, 0.6)
RECURRING_SHARE = 0.1
UPDATED_SHARE = 0.2
HISTORY_SHARE = 0.2
COMMAND_SHARE = 0.1
STATUS_CHECKS = 2
RUN_S = 300.0
RUN_SPREAD = 0.25
INTERVALS_S = (900, 1_800, 3_600)
# A one-time job is due within the next half hour, but never before it is stored.
DUE_WITHIN_S = 1_800
AHEAD_MS_MIN = 1_000
OUTPUT_BYTES = 5_120
OUTPUT_LINE = "one line of sixty-four characters, as a report might have them.\n"

Kind = Literal["submit", "update", "status", "history"]


class Step(NamedTuple):
    """A request, and when it is to be sent: milliseconds after the beginning."""

    at_ms: int
    number: int
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One job of the day; times are milliseconds after the beginning."""

    at_ms: int
    due_ms: int
    every_ms: int | None
    run_ms: int
    prints: bool
    update: bool
    history: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The plan of a day."""

    submissions: list[Submission]
    steps: list[Step]
    length_ms: int

    def job(self, number: int, began_ms: int, output: Path) -> Job:
        """Return the document of a job, for a day that began at `began_ms`."""
        planned = self.submissions[number]
        kind = "once" if planned.every_ms is None else "every"
        return {
            "name": f"{kind}-{number}",
            "schedule": self._schedule(planned, began_ms),
            "action": _action(planned, output),
            "description": "d" * 800,
            "labels": {f"label-{label}": "x" * 40 for label in range(4)},
        }

    def _schedule(self, planned: Submission, began_ms: int) -> Job:
        due = format_ms(began_ms + planned.due_ms)
        if planned.every_ms is None:
            return {"at": due}
        # One whose beginning is behind the end of the day occurs once.
        until = format_ms(began_ms + max(self.length_ms, planned.due_ms))
        every = f"{planned.every_ms}ms"
        return {"every": every, "anchor": due, "not_before": due, "not_after": until}

    def occurrences(self, number: int) -> int:
        """Return how many outcomes a job must have at the end of the day."""
        planned = self.submissions[number]
        if planned.every_ms is None:
            return 1
        return max(0, self.length_ms - planned.due_ms) // planned.every_ms + 1


def _action(planned: Submission, output: Path) -> Job:
    if not planned.prints:
        return {"type": "noop", "duration": f"{planned.run_ms}ms"}
    script = f"/bin/sleep {planned.run_ms / 1_000:.3f}; exec /bin/cat {output}"
    return {"type": "command", "argv": ["/bin/sh", "-c", script]}


def plan_day(*, speed: float, share: float, seed: int) -> Day:
    """Draw a day; the same seed draws the same."""
    chance = random.Random(seed)
    length_ms = round(DAY_S * 1_000 * share / speed)
    weights = itertools.accumulate(HOURS)
    count = max(1, round(SUBMISSIONS * share))
    hours = chance.choices(range(len(HOURS)), cum_weights=list(weights), k=count)
    moments = sorted((hour + chance.random()) * length_ms / len(HOURS) for hour in hours)
    submissions = [_draw(chance, round(moment), speed) for moment in moments]
    steps = sorted(
        step
        for number, planned in enumerate(submissions)
        for step in _steps(chance, number, planned, length_ms)
    )
    return Day(submissions=submissions, steps=steps, length_ms=length_ms)


def _draw(chance: random.Random, at_ms: int, speed: float) -> Submission:
    scale = 1_000 / speed
    recurs = chance.random() < RECURRING_SHARE
    due_within_ms = max(1, round(DUE_WITHIN_S * scale))
    return Submission(
        at_ms=at_ms,
        due_ms=at_ms + AHEAD_MS_MIN + chance.randrange(due_within_ms),
        every_ms=round(chance.choice(INTERVALS_S) * scale) if recurs else None,
        run_ms=max(1, round(RUN_S * scale * max(0.1, chance.gauss(1.0, RUN_SPREAD)))),
        prints=chance.random() < COMMAND_SHARE,
        update=chance.random() < UPDATED_SHARE,
        history=chance.random() < HISTORY_SHARE,
    )


def _steps(
    chance: random.Random, number: int, planned: Submission, length_ms: int
) -> Iterator[Step]:
    """Yield the requests about a job: what follows its submission lies within the day."""
    yield Step(planned.at_ms, number, "submit")
    counts: dict[Kind, int] = {
        "status": STATUS_CHECKS,
        "update": planned.update,
        "history": planned.history,
    }
    # A client looks soon after its submission, or when it expects an end.
    rest_ms = max(1, min(length_ms - planned.at_ms, planned.due_ms - planned.at_ms) * 2)
    for kind, count in counts.items():
        for _ in range(count):
            after_ms = AHEAD_MS_MIN // 2 + chance.randrange(rest_ms)
            yield Step(planned.at_ms + after_ms, number, kind)
