"""Closing a data directory: its state was found to be wrong, or its member was removed.

A member that a majority contradicts must not go on, and must not come back by a restart
either. So it leaves a file in its directory, with what is needed to find out why, and no
member starts from a directory that has one. An operator takes it away: nobody else can
know that the state was replaced or repaired. A member that was removed leaves such a file,
too: what its directory holds belongs to a seat that nobody will ever have again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.files import sync_directory

MARKER = "QUARANTINE.json"
REMOVED_MARKER = "REMOVED.json"

ADVICE = (
    "What this member holds is not to be trusted. Keep the directory for inspection, remove the "
    "member from the cluster and add it back with an empty directory. If the state was repaired "
    f"or replaced instead, remove the file {MARKER} and start the member again; it stops once "
    "more should the state still differ."
)


class Quarantined(Exception):
    """The directory is closed, and the text says what to do."""


class Removed(Exception):
    """The directory is that of a member which was removed from its cluster."""


def close_directory(
    data_dir: Path, reason: str, facts: Mapping[str, Any], advice: str = ADVICE
) -> Path:
    """Close a directory; an earlier report stays. Return the file, which is synced."""
    report = {"reason": reason, "advice": advice, "data_dir": str(data_dir), **facts}
    return _mark(data_dir / MARKER, report)


def leave_directory(data_dir: Path, reason: str) -> Path:
    """Close the directory of a member that was removed; return the file, which is synced."""
    advice = "Join with a new token and an empty directory to take this machine in again."
    report = {"reason": reason, "advice": advice, "data_dir": str(data_dir)}
    return _mark(data_dir / REMOVED_MARKER, report)


def _mark(marker: Path, report: Mapping[str, Any]) -> Path:
    content = json.dumps(report, indent=2, default=str) + "\n"
    try:
        descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return marker
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(marker.parent)
    return marker


def check_directory(data_dir: Path) -> None:
    """Refuse a closed directory.

    Raises:
        Quarantined: its state is not to be trusted, and why.
        Removed: its member was removed, as whoever said so has put it.
    """
    content = _content(data_dir / REMOVED_MARKER)
    if content is not None:
        raise Removed(f"{_report(content)[0]} The directory {data_dir} is of no more use.")
    content = _content(data_dir / MARKER)
    if content is not None:
        reason, advice = _report(content)
        raise Quarantined(f"{reason} The report is {data_dir / MARKER}. {advice}")


def _content(marker: Path) -> str | None:
    try:
        return marker.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _report(content: str) -> tuple[str, str]:
    try:
        report = json.loads(content)
        return str(report["reason"]), str(report.get("advice", ADVICE))
    except (ValueError, TypeError, KeyError):
        return "The data directory is closed, and its report cannot be read.", ADVICE
