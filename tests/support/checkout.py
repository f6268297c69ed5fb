"""A second checkout of the program: the next release, made of this one by changing its text."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("node", "consensus", "storage", "api")

# In a file, a text that stands there once, and what takes its place.
Change = tuple[str, str]

# The release after this one: one more level, with a command that is proposed from then on,
# and a change in what another command does.
NEXT_RELEASE: Mapping[str, Sequence[Change]] = {
    "consensus/features.py": [
        (
            '(Level(1, "everything of the first release"),)',
            '(Level(1, "everything of the first release"), Level(2, "remarks"))',
        ),
    ],
    "consensus/state/commands.py": [
        (
            "Command = (\n",
            'class Remark(msgspec.Struct, frozen=True, array_like=True, tag="remark"):\n'
            "    text: str\n\n\n"
            "Command = (\n    Remark\n    | ",
        ),
    ],
    "consensus/state/machine.py": [
        (
            "_APPLIERS: dict[type[Any], Callable[[Context, Any], Result]] = {\n",
            "def _remark(context: Context, command: Any) -> Result:\n"
            '    context.count("remarks")\n'
            "    return commands.Raised(context.level)\n\n\n"
            "_APPLIERS: dict[type[Any], Callable[[Context, Any], Result]] = {\n"
            "    commands.Remark: _remark,\n",
        ),
    ],
    "consensus/state/apply_jobs.py": [
        (
            "    admitted = admit(context, key, run, before)\n",
            "    if context.level >= 2:\n"
            "        run = replace(run, priority=100)\n"
            "    admitted = admit(context, key, run, before)\n",
        ),
    ],
    "node/services/levels.py": [
        (
            "            if self._leads():\n",
            "            if features.in_force(self._view) >= 2:\n"
            "                from consensus.state.commands import Remark\n"
            "                try:\n"
            '                    await self._door.propose((Remark("hello"),), timeout_s=5.0)\n'
            "                except ConsensusError:\n"
            "                    pass\n"
            "            if self._leads():\n",
        ),
    ],
}
# A release with a fault: its entries claim a level that nobody was asked about.
HASTY_RELEASE: Mapping[str, Sequence[Change]] = {
    **NEXT_RELEASE,
    "consensus/state/commands.py": [
        *NEXT_RELEASE["consensus/state/commands.py"],
        ("_PackedEntry(level, stamp_ms,", "_PackedEntry(2, stamp_ms,"),
    ],
}


def make_checkout(directory: Path, changes: Mapping[str, Sequence[Change]]) -> Path:
    """Copy the packages of this checkout, change their text, and return the directory."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, directory / package, ignore=ignored)
    for name, pairs in changes.items():
        file = directory / name
        text = file.read_text()
        for before, after in pairs:
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, after)
        file.write_text(text)
    return directory
