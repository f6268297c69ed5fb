"""Snapshots out of a state in LMDB, and into a new one beside it.

The source reads one committed transaction, in a thread of its own, while the member goes
on: LMDB keeps every page of it. That is the cost of a transfer: pages which commits free
meanwhile are not used again before it ends, so the file grows by what is written.

The sink fills an environment in `state.incoming`, which nobody else opens. It is written
without syncs that order it, which would be madness for a state in use: here a crash throws
the directory away. Only when everything adds up is it synced and renamed to `state.ready`,
and that rename is the moment from which the snapshot counts (see `storage.installation`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import lmdb

from storage import keys, models
from storage.clock import Environment
from storage.files import sync_directory, write_synced
from storage.journal_format import DiskFailed
from storage.lmdb_store import MAP_BYTES, LmdbStore
from storage.snapshot_format import (
    CHUNK_BYTES,
    SnapshotError,
    SnapshotFooter,
    SnapshotHeader,
    check_content,
    encode_header,
    encode_snapshot,
    header_of,
)
from storage.store import Row

INCOMING, READY = "state.incoming", "state.ready"
# What a snapshot says of itself, beside the state that came with it.
HEADER_FILE = "snapshot"
# The kernel is made to write after so much, so that the sync at the end is short and the
# journal on the same disk is not held up behind all of it.
SYNC_BYTES = 16 * 1_048_576


def applied_index_of(path: Path) -> int:
    """Return up to which entry a state that nobody has open was applied; 0 without one.

    Raises:
        DiskFailed: it cannot be read.
    """
    if not (path / "data.mdb").exists():
        return 0
    try:
        with (
            lmdb.open(str(path), map_size=MAP_BYTES, readonly=True) as environment,
            environment.begin() as transaction,
        ):
            raw = transaction.get(keys.META)
    except lmdb.Error as error:
        raise DiskFailed(f"The state in {path} cannot be read: {error}") from error
    return 0 if raw is None else models.decode_meta(bytes(raw)).applied_index


class LmdbStream:
    """One snapshot on its way out of a state; see `consensus.snapshots.types`."""

    def __init__(
        self, transaction: lmdb.Transaction, header: SnapshotHeader, chunk_bytes: int
    ) -> None:
        self.header = header
        self._transaction = transaction
        self._cursor = transaction.cursor()
        self._chunks = encode_snapshot(header, self._rows(), chunk_bytes=chunk_bytes)

    def next_chunk(self) -> bytes | None:
        """Return the next chunk, or None behind the last; in one thread at a time."""
        return next(self._chunks, None)

    def close(self) -> None:
        """Let the pages go. May be repeated."""
        self._cursor.close()
        self._transaction.abort()

    def _rows(self) -> Iterator[Row]:
        if self._cursor.first():
            yield from cast("Iterator[Row]", iter(self._cursor))


class LmdbSource:
    """Where a member's snapshots come from: its state as it was committed last."""

    def __init__(self, store: LmdbStore, *, cluster: str, environment: Environment) -> None:
        self._store = store
        self._cluster = cluster
        self._environment = environment

    def open(
        self, configuration: Callable[[int], bytes], chunk_bytes: int = CHUNK_BYTES
    ) -> LmdbStream | None:
        """Begin a snapshot, or return None while nothing was committed yet.

        `configuration` returns the bytes of the consensus layer as of an entry.
        """
        transaction = self._store.begin_read()
        raw = transaction.get(keys.META)
        if raw is None:
            transaction.abort()
            return None
        meta = models.decode_meta(bytes(raw))
        header = header_of(
            meta,
            cluster=self._cluster,
            created_ms=self._environment.wall_ms(),
            configuration=configuration(meta.applied_index),
        )
        return LmdbStream(transaction, header, chunk_bytes)


class LmdbSink:
    """Where a member puts a snapshot that it receives; used by one thread at a time.

    `begin`, then `write` in the order of the keys, `verify`, and `commit`. Everything
    before `commit` can be thrown away, and `begin` does so.
    """

    def __init__(self, data_dir: Path, *, map_bytes: int = MAP_BYTES) -> None:
        self._data_dir = data_dir
        self._map_bytes = map_bytes
        self._environment: lmdb.Environment | None = None
        self._header: SnapshotHeader | None = None
        self._unsynced = 0

    def begin(self, header: SnapshotHeader) -> None:
        """Make an empty state to write to; whatever was begun before is removed.

        Raises:
            SnapshotError: the disk does not take it.
        """
        self.discard()
        path = self._data_dir / INCOMING
        try:
            path.mkdir(mode=0o700, parents=True)
            self._environment = lmdb.open(
                str(path), map_size=self._map_bytes, sync=False, mode=0o600, max_readers=16
            )
        except (OSError, lmdb.Error) as error:
            raise SnapshotError(f"No snapshot can be received in {path}: {error}") from error
        self._header = header
        self._unsynced = 0

    def write(self, rows: list[Row]) -> None:
        """Add records that come behind all that were written.

        Raises:
            SnapshotError: the disk does not take them.
        """
        environment = self._open()
        try:
            with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti(rows, append=True)
            self._unsynced += sum(len(key) + len(value) for key, value in rows)
            if self._unsynced > SYNC_BYTES:
                environment.sync(True)
                self._unsynced = 0
        except (OSError, lmdb.Error) as error:
            raise SnapshotError(f"The snapshot cannot be stored: {error}") from error

    def verify(self, header: SnapshotHeader, footer: SnapshotFooter) -> None:
        """Compare what is stored with what the snapshot says of itself.

        Raises:
            SnapshotDamaged: it is not the same.
        """
        environment = self._open()
        with environment.begin() as transaction:
            raw = transaction.get(keys.META)
        meta = None if raw is None else bytes(raw)
        check_content(header, footer, int(environment.stat()["entries"]), meta)

    def commit(self) -> None:
        """Make the verified snapshot the one that is to be installed: the point of no return.

        Raises:
            DiskFailed: it may or may not be there after the next start.
        """
        environment, header = self._open(), self._header
        assert header is not None
        path = self._data_dir / INCOMING
        try:
            write_synced(path / HEADER_FILE, encode_header(header))
            environment.sync(True)
            self._close()
            sync_directory(path)
            path.rename(self._data_dir / READY)
            sync_directory(self._data_dir)
        except (OSError, lmdb.Error) as error:
            raise DiskFailed(f"The snapshot in {path} cannot be synced: {error}") from error

    def discard(self) -> None:
        """Throw away what was begun. May be repeated."""
        self._close()
        shutil.rmtree(self._data_dir / INCOMING, ignore_errors=True)

    def _open(self) -> lmdb.Environment:
        if self._environment is None:
            raise SnapshotError("No snapshot is being received.")
        return self._environment

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None
