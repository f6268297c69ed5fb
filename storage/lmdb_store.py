"""The state on disk: LMDB beneath, a layer of changes in memory above.

Commands are applied in the event loop's thread, into a layer; a thread of its own commits
what has gathered to LMDB. Reads see the layers over the last committed transaction, so
they are current the moment a command is applied, and no sync is ever waited for: the
journal holds every entry durably before it is applied, and after a power cut what the
state had not committed yet is applied again from there. The applied index lies in the
same transaction as the data, which is what makes that exact.

    active layer     written by the state machine
    flushing layer   being committed; read only
    base             one LMDB read transaction, renewed after each commit

The environment is opened with `metasync=False`: a power cut may take the last transaction,
never the consistency of the file. `sync=False` and `writemap` can corrupt it and are not
used. The base transaction pins only the pages of one commit, for it is renewed with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import cast

import lmdb

from storage.invariant import InvariantViolated
from storage.journal_format import DiskFailed
from storage.layer import Change, Layer, merge
from storage.store import Row

# Address space, not disk: the file grows as it is filled. It covers the 120 GB of the
# first year several times over.
MAP_BYTES = 1 << 40


class LmdbStore:
    """A `storage.store.Store` whose changes reach the disk through `flush`."""

    def __init__(self, path: Path, *, map_bytes: int = MAP_BYTES) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._environment = lmdb.open(
                str(path), map_size=map_bytes, metasync=False, mode=0o600, max_readers=16
            )
            # A process that was killed leaves its readers behind, which pin old pages.
            self._environment.reader_check()
        except lmdb.Error as error:
            raise DiskFailed(f"The state store {path} cannot be opened: {error}") from error
        self._base = self._environment.begin()
        self._active = Layer()
        self._flushing: Layer | None = None

    # --- Reading ----------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        if key in self._active:
            return self._active.get(key)
        if self._flushing is not None and key in self._flushing:
            return self._flushing.get(key)
        try:
            value: bytes | None = self._base.get(key)
        except lmdb.Error as error:
            raise InvariantViolated(f"The state store cannot be read: {error}") from error
        return value

    def scan(self, start: bytes, stop: bytes, limit: int, *, reverse: bool = False) -> list[Row]:
        rows = self._active.changes(start, stop, reverse=reverse)
        if self._flushing is not None:
            rows = merge(
                rows, self._flushing.changes(start, stop, reverse=reverse), reverse=reverse
            )
        with _readable(), self._base.cursor() as cursor:
            below = _descending(cursor, start, stop) if reverse else _ascending(cursor, start, stop)
            rows = merge(rows, below, reverse=reverse)
            return list(islice(((k, v) for k, v in rows if v is not None), limit))

    # --- Writing ----------------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> None:
        self._active.change(key, value)

    def delete(self, key: bytes) -> None:
        self._active.change(key, None)

    def savepoint(self) -> None:
        self._active.savepoint()

    def rollback(self) -> None:
        self._active.rollback()

    def written(self) -> Sequence[tuple[bytes, bytes | None]]:
        return self._active.written()

    # --- To the disk ------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Return how much has been applied and not yet been handed to a commit."""
        return self._active.bytes_total

    @property
    def flushing(self) -> bool:
        return self._flushing is not None

    def begin_flush(self) -> bool:
        """Close the active layer for commit; False if there is nothing or one is under way.

        To be called between batches of commands, when the machine has finished one. Then
        `commit` runs in the writer's thread, and `end_flush` in the loop's.
        """
        if self._flushing is not None or not len(self._active):
            return False
        self._flushing, self._active = self._active, Layer()
        return True

    def commit(self) -> None:
        """Write the flushing layer in one synced transaction; always from one thread.

        Raises:
            DiskFailed: the disk is full or failed. A sync that failed once cannot be made
                good by another, so the process has to stop.
        """
        layer = self._flushing
        if layer is None:
            return
        try:
            with self._environment.begin(write=True) as transaction:
                for key, value in layer.items():
                    if value is None:
                        transaction.delete(key)
                    else:
                        transaction.put(key, value)
        except lmdb.Error as error:
            raise DiskFailed(f"The state store cannot be written: {error}") from error

    def end_flush(self) -> None:
        """Let readers see the commit; what was flushed is forgotten."""
        self._base.abort()
        with _readable():
            self._base = self._environment.begin()
        self._flushing = None

    def flush(self) -> None:
        """Commit everything at once, in the calling thread: at start, at stop, in tests."""
        while self.begin_flush():
            self.commit()
            self.end_flush()

    def begin_read(self) -> lmdb.Transaction:
        """Return a read transaction of its own over what was committed last.

        It may be used in any one thread, and pins every page of that commit until it is
        aborted, so whoever takes it has a bound for how long. It must end before `close`.
        """
        with _readable():
            return self._environment.begin(buffers=False)

    def used_bytes(self) -> int:
        """Return the size of the file's used part."""
        info = self._environment.info()
        page_bytes = self._environment.stat()["psize"]
        return (int(info["last_pgno"]) + 1) * int(page_bytes)

    @property
    def map_bytes(self) -> int:
        """Return the bound of `used_bytes`, fixed while the store is open."""
        return int(self._environment.info()["map_size"])

    def reader_lag(self) -> int:
        """Return how many commits the oldest read transaction is behind the newest.

        The base is renewed after each commit, so more than one means that somebody else
        reads for long, and that the file grows meanwhile.
        """
        # A heading, then a line for each reader that ends with the commit it sees, or "-".
        lines = self._environment.readers().splitlines()[1:]
        ends = [line.rsplit(maxsplit=1)[-1] for line in lines if line.strip()]
        seen = [int(end) for end in ends if end.isdecimal()]
        return max(0, int(self._environment.info()["last_txnid"]) - min(seen)) if seen else 0

    def close(self) -> None:
        """Release the file without committing what is pending."""
        self._base.abort()
        self._environment.close()


@contextmanager
def _readable() -> Iterator[None]:
    """Stop the process on a read error: a command must not be refused because of it."""
    try:
        yield
    except lmdb.Error as error:
        raise InvariantViolated(f"The state store cannot be read: {error}") from error


def _ascending(cursor: lmdb.Cursor, start: bytes, stop: bytes) -> Iterator[Change]:
    if not cursor.set_range(start):
        return
    for key, value in cast("Iterator[tuple[bytes, bytes]]", iter(cursor)):
        if key >= stop:
            return
        yield key, value


def _descending(cursor: lmdb.Cursor, start: bytes, stop: bytes) -> Iterator[Change]:
    if cursor.set_range(stop):
        if not cursor.prev():
            return
    elif not cursor.last():
        return
    for key, value in cast("Iterator[tuple[bytes, bytes]]", cursor.iterprev()):
        if key < start:
            return
        yield key, value
