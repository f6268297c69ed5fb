"""A backup becomes the data directories of a new cluster, one for each of its members.

Everything is done beside its place and given its name last, so a restoration that was
broken off leaves nothing that a member would start from. The backup is read from end to
end before the first byte is written. Then it is loaded once, what belongs to the old
cluster is closed, and every member gets the outcome in the way that a running member gets
a snapshot: a state, and a journal that begins with it. So all of them stand at the same
index with the same bytes, and the first election is an ordinary one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.state.restoration import Closed, begin_anew
from storage.backup_file import Backup, check_backup, rows_of_backup
from storage.clock import Environment
from storage.files import sync_directory
from storage.installation import finish_installation
from storage.journal import LmdbJournal
from storage.lmdb_store import LmdbStore
from storage.snapshot_format import SnapshotReader
from storage.snapshot_store import READY, LmdbSink, LmdbSource

DATA = "data"
_WORK = "data.restoring"
# So much of what is closed stays in memory before it goes to the disk.
PENDING_BYTES_MAX = 16 * 1_048_576


@dataclass(frozen=True, slots=True)
class Restored:
    """From what the new cluster begins, and what was closed for it."""

    backup: Backup
    closed: Closed


def restore_data(
    file: Path, place: Path, cluster: str, members: Sequence[str], environment: Environment
) -> Restored:
    """Fill `place`/data/MEMBER for each member of a new cluster.

    Raises:
        SnapshotError: the backup is damaged; nothing was written.
        LevelUnsupported: it needs another release.
        OSError, DiskFailed: it cannot be read, or the directories cannot be written.
    """
    backup = check_backup(file)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    work = place / _WORK
    shutil.rmtree(work, ignore_errors=True)
    try:
        loaded = work / "loaded"
        _mkdir(loaded)
        _load(file, backup, loaded)
        store = LmdbStore(loaded / READY)
        try:
            closed = begin_anew(store, cluster, lambda: _flush_some(store))
            store.flush()
            for member in members:
                _fill(store, work / DATA / member, cluster, member, environment)
        finally:
            store.close()
        (work / DATA).rename(place / DATA)
        sync_directory(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Restored(backup, closed)


def _load(file: Path, backup: Backup, directory: Path) -> None:
    sink = LmdbSink(directory)
    sink.begin(backup.header)
    for rows in rows_of_backup(file):
        sink.write(rows)
    sink.verify(backup.header, backup.footer)
    sink.commit()


def _flush_some(store: LmdbStore) -> None:
    if store.pending_bytes > PENDING_BYTES_MAX:
        store.flush()


def _fill(
    store: LmdbStore, directory: Path, cluster: str, member: str, environment: Environment
) -> None:
    """Give one member the state, as if it had come from another one."""
    _mkdir(directory)
    stream = LmdbSource(store, cluster=cluster, environment=environment).open(lambda _: b"")
    if stream is None:
        raise ValueError("A state that was loaded is not there.")
    sink, reader = LmdbSink(directory), SnapshotReader()
    try:
        sink.begin(stream.header)
        while (chunk := stream.next_chunk()) is not None:
            if rows := reader.take(chunk):
                sink.write(rows)
    finally:
        stream.close()
    sink.verify(*reader.finish())
    sink.commit()
    journal = LmdbJournal(
        directory / "journal", cluster=cluster, member=member, environment=environment
    )
    try:
        finish_installation(directory, journal)
    finally:
        journal.close()


def _mkdir(directory: Path) -> None:
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700)
