"""Run the measurements and write bench/RESULTS.md.

    python -m bench [names] [--seconds-scale 0.1]

Without names all are run, in under ten minutes, but for `absence` and `sustained`, which take
five each. The page is written anew after each, so an interrupted run leaves what it had
measured.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from bench import (
    p1_creates,
    p2_batches,
    p3_launches,
    p3_sustained,
    p4_http,
    p5_lateness,
    p6_top_of_hour,
    p7_leader_death,
    p12_absence,
    p12_snapshot,
    report,
)
from bench.report import Section

RESULTS = Path(__file__).with_name("RESULTS.md")
BENCHMARKS: dict[str, Callable[[float], Awaitable[Section]]] = {
    "p1": p1_creates.run,
    "p2": p2_batches.run,
    "p3": p3_launches.run,
    "p4": p4_http.run,
    "p5": p5_lateness.run,
    "p6": p6_top_of_hour.run,
    "p7": p7_leader_death.run,
    "p12": p12_snapshot.run,
    "absence": p12_absence.run,
    "sustained": p3_sustained.run,
}
BY_NAME_ONLY = frozenset({"absence", "sustained"})
INTRODUCTION = """\
Three members and the load generator share this machine; journals are synced, and members
talk over loopback with mutual TLS, as `cronclave dev` sets them up. The targets are those of
a machine with two cores of its own, without TLS. Each section names its references, measured
just before and just after it: the median of a synced write of 4 KiB, and the turns of an
empty Python loop in a second.
"""


async def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--seconds-scale", type=float, default=1.0)
    parser.add_argument("--note", default="", help="a sentence for the head of the page")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(BENCHMARKS)}")
    sections: list[str] = []
    for name in options.names or [name for name in BENCHMARKS if name not in BY_NAME_ONLY]:
        sections.append(await measured(name, options.seconds_scale))
        print(sections[-1], flush=True)
        await asyncio.to_thread(options.output.write_text, page(sections, options))


async def measured(name: str, scale: float) -> str:
    """Return the section of one benchmark, or what it failed with."""
    before = references()
    began_s = time.monotonic()
    try:
        section = await BENCHMARKS[name](scale)
    except (RuntimeError, OSError, TimeoutError) as error:
        section = Section(name, f"It could not be measured: {type(error).__name__}: {error}")
    section.notes.append(
        f"References before: {before}; after: {references()}. The section took"
        f" {time.monotonic() - began_s:.0f} s; {report.date()}."
    )
    return section.render()


def references() -> str:
    """Return what the machine does at this moment without us."""
    with tempfile.TemporaryDirectory() as directory:
        return f"sync {report.sync_ms(Path(directory)):.2f} ms, loop {report.loop_rate():.0f} M/s"


def page(sections: list[str], options: argparse.Namespace) -> str:
    """Return the whole page."""
    scale = options.seconds_scale
    machine = "\n".join(report.machine_lines())
    scaled = "" if scale == 1 else f"Durations were scaled by {scale:g}.\n"
    return "\n".join(
        ["# Measurements", "", INTRODUCTION + scaled, options.note, "", machine, "", *sections]
    )


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
