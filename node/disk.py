"""The disk under a data directory: how much room is left, and when that is too little."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from storage.journal import LmdbJournal
from storage.lmdb_store import LmdbStore

MIB = 1_048_576
# The marks are bytes, but never more than this part of the disk: on a small disk the
# usual number of bytes would be most of it.
LOW_RATIO_MAX = 0.05
CRITICAL_RATIO_MAX = 0.0125
# A low disk is well again when there is this much more than the mark, so that a file that
# comes and goes does not let the member come and go.
RECOVERY_RATIO = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What was measured: bytes of the disk, and parts of LMDB's maps that are in use.

    `reader_lag` is how many commits the oldest read transaction of the state is behind.
    """

    free_bytes: int
    total_bytes: int
    journal_ratio: float = 0.0
    state_ratio: float = 0.0
    reader_lag: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Below `low_bytes` a member takes no writes, below `critical_bytes` it stops; 0 is never."""

    low_bytes: int
    critical_bytes: int

    def is_low(self, room: Room, *, was_low: bool) -> bool:
        """Tell whether too little room is left to take on more."""
        mark = min(self.low_bytes, room.total_bytes * LOW_RATIO_MAX)
        return room.free_bytes < mark * (RECOVERY_RATIO if was_low else 1)

    def is_critical(self, room: Room) -> bool:
        """Tell whether the next commits may fail."""
        return room.free_bytes < min(self.critical_bytes, room.total_bytes * CRITICAL_RATIO_MAX)


class DiskAlmostFull(Exception):
    """The member has to stop while it still can do so in order."""

    def __init__(self, place: str, room: Room) -> None:
        super().__init__(
            f"The disk of {place} is almost full: {room.free_bytes // MIB} of "
            f"{room.total_bytes // MIB} MiB are left. Make room, then start this member again."
        )


class Disk(Protocol):
    """What a member looks at to know how its disk is."""

    @property
    def place(self) -> str: ...

    def measure(self) -> Room: ...


class DataDisk:
    """The disk of a data directory with the journal and the state of a running member."""

    def __init__(self, data_dir: Path, journal: LmdbJournal, store: LmdbStore) -> None:
        self._data_dir = data_dir
        self._journal = journal
        self._store = store

    @property
    def place(self) -> str:
        return str(self._data_dir)

    def measure(self) -> Room:
        journal, store = self._journal, self._store
        free_bytes, total_bytes = space(self._data_dir)
        return Room(
            free_bytes=free_bytes,
            total_bytes=total_bytes,
            journal_ratio=journal.used_bytes / journal.map_bytes,
            state_ratio=store.used_bytes() / store.map_bytes,
            reader_lag=store.reader_lag(),
        )


def space(directory: Path) -> tuple[int, int]:
    """Return how many bytes a disk has for us, and how many it has in all."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def check_room(data_dir: Path, marks: Marks) -> None:
    """Refuse to start where a member would have to stop at once.

    Raises:
        DiskAlmostFull: with the numbers.
    """
    free_bytes, total_bytes = space(data_dir)
    room = Room(free_bytes=free_bytes, total_bytes=total_bytes)
    if marks.is_critical(room):
        raise DiskAlmostFull(str(data_dir), room)
