"""A backup: a snapshot in a file that is whole or not there.

The file is written under another name, checked as it is written, synced, and given its
name last; so a file with the right name is a whole backup, as far as the disk keeps it.
Whether it still is, is asked again before anything is done with it: every chunk has its
checksum, and the end has one over all of them.

It holds whatever jobs hold, also what is secret in them, so nobody else may read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from storage import keys, models
from storage.files import sync_directory
from storage.models import Meta
from storage.snapshot_format import (
    SnapshotDamaged,
    SnapshotFooter,
    SnapshotHeader,
    SnapshotReader,
    check_content,
    split_chunks,
)
from storage.store import Row

PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Backup:
    """What a whole backup says of itself; `level` is the feature level it needs."""

    header: SnapshotHeader
    footer: SnapshotFooter
    meta: Meta
    level: int


class BackupCheck:
    """Takes the chunks of a backup in their order, and tells at the end what it is of."""

    def __init__(self) -> None:
        self._reader = SnapshotReader()
        self._meta: bytes | None = None
        self._level = 1

    @property
    def complete(self) -> bool:
        return self._reader.complete

    def take(self, chunk: bytes) -> list[Row]:
        """Return the records of the next chunk.

        Raises:
            SnapshotError: it is not what was written, or not of this version.
        """
        rows = self._reader.take(chunk)
        for key, value in rows:
            if key == keys.META:
                self._meta = value
            elif key == keys.LEVEL:
                self._level = models.decode_level(value).level
        return rows

    def finish(self) -> Backup:
        """Return what the backup is of.

        Raises:
            SnapshotDamaged: something is missing, or it contradicts itself.
        """
        header, footer = self._reader.finish()
        check_content(header, footer, self._reader.records, self._meta)
        if self._meta is None:
            raise SnapshotDamaged("The backup does not say where its state stands.")
        return Backup(header, footer, models.decode_meta(self._meta), self._level)


def write_backup(path: Path, chunks: Iterable[bytes]) -> Backup:
    """Write a backup that comes in chunks; return what it is of.

    Raises:
        SnapshotError: what came is no whole backup.
        OSError: the file exists already, or cannot be written.
    """
    if path.exists():
        raise FileExistsError(17, "It exists already", str(path))
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    check = BackupCheck()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                check.take(chunk)
                file.write(chunk)
            backup = check.finish()
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.absolute().parent)
    return backup


def check_backup(path: Path) -> Backup:
    """Read a backup from end to end.

    Raises:
        SnapshotError: it is damaged, or of a version that this program does not read.
        OSError: it cannot be read.
    """
    check = BackupCheck()
    for _ in _taken(path, check):
        pass
    return check.finish()


def rows_of_backup(path: Path) -> Iterator[list[Row]]:
    """Yield the records of a backup in order, checked again on the way.

    Raises:
        SnapshotError, OSError: as `check_backup`, at the place where it is.
    """
    check = BackupCheck()
    yield from _taken(path, check)
    check.finish()


def _taken(path: Path, check: BackupCheck) -> Iterator[list[Row]]:
    with path.open("rb") as file:
        for chunk in split_chunks(file):
            if rows := check.take(chunk):
                yield rows
