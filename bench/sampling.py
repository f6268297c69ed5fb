"""Where a member spends its time: samples of py-spy, summed up by function."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path

RATE_HZ = 200
ROWS = 15
FRAME_CHARS_MAX = 70
MARGIN_S = 30.0


async def top(pid: int, seconds: int, what: str) -> str:
    """Return a table of the functions in which a process was seen most often.

    Where the system does not let a process be looked into, the text says so.
    """
    program = Path(sys.executable).with_name("py-spy")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "stacks.txt"
        command = [str(program), "record", "--pid", str(pid), "--duration", str(seconds)]
        command += ["--rate", str(RATE_HZ), "--format", "raw", "--output", str(path)]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except FileNotFoundError:
            return f"No profile of {what}: py-spy is not installed."
        try:
            _, errors = await asyncio.wait_for(process.communicate(), seconds + MARGIN_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if not path.exists():
            return f"No profile of {what}: {errors.decode(errors='replace').strip()[-300:]}"
        return render(path.read_text(), what)


def render(stacks: str, what: str) -> str:
    """Return the table of folded stacks, `outer;...;inner count` in each line."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        samples = int(count)
        total += samples
        own[frames[-1]] += samples
        for frame in set(frames):
            within[frame] += samples
    lines = [
        f"Profile of {what}: {total} samples, {RATE_HZ} a second. `_worker` is a disk thread that"
        " waits for work, which py-spy takes for busy; set it aside.",
        "",
        "| function, itself | share | function, with what it calls | share |",
        "|---|---|---|---|",
    ]
    rows = zip(own.most_common(ROWS), _interesting(within), strict=False)
    lines += [
        f"| `{inner}` | {seen / total:.1%} | `{outer}` | {seen_within / total:.1%} |"
        for (inner, seen), (outer, seen_within) in rows
    ]
    return "\n".join(lines)


def _interesting(within: Counter[str]) -> list[tuple[str, int]]:
    """Return the rows that say something: not the frames that everything is within."""
    ours = ("api/", "consensus/", "node/", "storage/", "pysyncobj/", "aiohttp/")
    rows = [(name, count) for name, count in within.most_common() if any(o in name for o in ours)]
    return rows[:ROWS]


def _short(frame: str) -> str:
    """Return a frame without the line number and the way to its package."""
    name, _, place = frame.partition(" (")
    path = place.rpartition(":")[0] or place.rstrip(")")
    return f"{name} {'/'.join(path.split('/')[-2:])}"[:FRAME_CHARS_MAX].strip()
