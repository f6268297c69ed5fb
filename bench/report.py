"""The page that a run of the measurements writes: figures, and what they were measured on.

A figure is a median over rounds with its smallest and largest round beside it. A machine
that is shared is faster in one minute than in the next, so two references are measured
again before every section: a synced write and a loop of plain Python.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.load import quantile

LIBRARIES = ("aiohttp", "lmdb", "msgspec", "pysyncobj", "uvloop")
SYNCS = 100
SYNC_BYTES = 4_096
LOOP_TURNS = 1_000_000


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity, a value for each round."""

    name: str
    unit: str
    rounds: Sequence[float]
    target: str = ""


@dataclass(slots=True)
class Section:
    """What one benchmark has to say."""

    title: str
    how: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, unit: str, rounds: Sequence[float], target: str = "") -> None:
        self.figures.append(Figure(name, unit, rounds, target))

    def render(self) -> str:
        """Return the section in Markdown."""
        lines = [f"## {self.title}", "", self.how, ""]
        if self.figures:
            lines += ["| figure | median | min to max | target |", "|---|---|---|---|"]
            lines += [_row(figure) for figure in self.figures] + [""]
        for note in self.notes:
            lines += [note, ""]
        return "\n".join(lines)


def _row(figure: Figure) -> str:
    rounds = figure.rounds
    if not rounds:
        return f"| {figure.name} | not reached | | {figure.target} |"
    median = _number(statistics.median(rounds))
    unit = f" {figure.unit}" if figure.unit else ""
    spread = f"{_number(min(rounds))} to {_number(max(rounds))}" if len(rounds) > 1 else "one round"
    return f"| {figure.name} | {median}{unit} | {spread} | {figure.target} |"


def _number(value: float) -> str:
    if math.isnan(value):
        return "none"
    if value == int(value) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"


# --- The machine -----------------------------------------------------------------------


def sync_ms(directory: Path) -> float:
    """Return the median time of appending and syncing a page to a file."""
    path = directory / "reference"
    took_ms = []
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            began_s = time.perf_counter()
            file.write(bytes(SYNC_BYTES))
            os.fdatasync(file.fileno())
            took_ms.append((time.perf_counter() - began_s) * 1_000)
    path.unlink()
    return quantile(took_ms, 0.5)


def loop_rate() -> float:
    """Return how many million turns of an empty loop Python makes in a second."""
    began_s = time.perf_counter()
    for _ in range(LOOP_TURNS):
        pass
    return LOOP_TURNS / (time.perf_counter() - began_s) / 1_000_000


def machine_lines() -> list[str]:
    """Return what the figures were measured on."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return [
        f"- {os.cpu_count()} cores ({processor}), {memory:.0f} GiB, {platform.platform()}",
        f"- Python {platform.python_version()}, cronclave {version('cronclave')}, {libraries}",
    ]


def date() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
