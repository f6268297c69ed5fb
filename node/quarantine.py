"""Closing a data directory whose state was found to be wrong.

A member that a majority contradicts must not go on, and must not come back by a restart
either. So it leaves a file in its directory, with what is needed to find out why, and no
member starts from a directory that has one. An operator takes it away: nobody else can
know that the state was replaced or repaired.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARKER = "QUARANTINE.json"

ADVICE = (
    "What this member holds is not to be trusted. Keep the directory for inspection, remove the "
    "member from the cluster and add it back with an empty directory. If the state was repaired "
    f"or replaced instead, remove the file {MARKER} and start the member again; it stops once "
    "more should the state still differ."
)


class Quarantined(Exception):
    """The directory is closed, and the text says what to do."""


def close_directory(
    data_dir: Path, reason: str, facts: Mapping[str, Any], advice: str = ADVICE
) -> Path:
    """Close a directory; an earlier report stays. Return the file, which is synced."""
    marker = data_dir / MARKER
    report = {"reason": reason, "advice": advice, "data_dir": str(data_dir), **facts}
    content = json.dumps(report, indent=2, default=str) + "\n"
    try:
        descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return marker
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return marker


def check_directory(data_dir: Path) -> None:
    """Refuse a closed directory.

    Raises:
        Quarantined: it is closed, and why.
    """
    marker = data_dir / MARKER
    try:
        content = marker.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    reason, advice = _report(content)
    raise Quarantined(f"{reason} The report is {marker}. {advice}")


def _report(content: str) -> tuple[str, str]:
    try:
        report = json.loads(content)
        return str(report["reason"]), str(report["advice"])
    except (ValueError, TypeError, KeyError):
        return "The data directory is closed, and its report cannot be read.", ADVICE
