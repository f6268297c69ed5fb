"""The state in memory: for tests, for the simulation, and as the model of the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from storage.layer import Change, Layer
from storage.store import Row


class MemoryStore:
    """A `storage.store.Store` that lives and dies with its process."""

    def __init__(self) -> None:
        self._layer = Layer()

    def get(self, key: bytes) -> bytes | None:
        return self._layer.get(key)

    def scan(self, start: bytes, stop: bytes, limit: int, *, reverse: bool = False) -> list[Row]:
        rows = self._layer.changes(start, stop, reverse=reverse)
        return list(islice(((k, v) for k, v in rows if v is not None), limit))

    def put(self, key: bytes, value: bytes) -> None:
        self._layer.change(key, value)

    def delete(self, key: bytes) -> None:
        self._layer.change(key, None)

    def savepoint(self) -> None:
        # Nothing lies beneath this layer, so what was deleted need not be remembered.
        for key, value in self._layer.written():
            if value is None:
                self._layer.forget(key)
        self._layer.savepoint()

    def rollback(self) -> None:
        self._layer.rollback()

    def written(self) -> Sequence[tuple[bytes, bytes | None]]:
        return self._layer.written()


class MemoryStateDisk:
    """What of a state outlives its process, seen by one `FlushedMemoryStore` after another.

    As with LMDB without `metasync`, a power cut may take the last transaction.
    """

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        # What the last transaction replaced; None where there was nothing.
        self._replaced: dict[bytes, bytes | None] = {}

    def write(self, changes: list[Change]) -> None:
        rows = self.rows
        self._replaced = {key: rows.get(key) for key, _ in changes}
        self._take(changes)

    def lose_last(self) -> None:
        """Undo the last transaction, as a power cut may."""
        self._take(list(self._replaced.items()))
        self._replaced = {}

    def _take(self, changes: list[Change]) -> None:
        for key, value in changes:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value


class FlushedMemoryStore(MemoryStore):
    """A `storage.store.FlushedStore` over a `MemoryStateDisk`."""

    def __init__(self, disk: MemoryStateDisk) -> None:
        super().__init__()
        self._disk = disk
        for key, value in sorted(disk.rows.items()):
            self._layer.change(key, value)
        self._layer.savepoint()
        self._pending: dict[bytes, bytes | None] = {}
        self._flushing: dict[bytes, bytes | None] | None = None
        self.pending_bytes = 0

    def savepoint(self) -> None:
        for key, value in self._layer.written():
            self._pending[key] = value
            self.pending_bytes += len(key) + len(value or b"")
        super().savepoint()

    @property
    def flushing(self) -> bool:
        return self._flushing is not None

    def begin_flush(self) -> bool:
        if self._flushing is not None or not self._pending:
            return False
        self._flushing, self._pending, self.pending_bytes = self._pending, {}, 0
        return True

    def commit(self) -> None:
        if self._flushing is not None:
            self._disk.write(list(self._flushing.items()))

    def end_flush(self) -> None:
        self._flushing = None

    def flush(self) -> None:
        while self.begin_flush():
            self.commit()
            self.end_flush()

    def used_bytes(self) -> int:
        return sum(len(key) + len(value) for key, value in self._disk.rows.items())

    def close(self) -> None:
        """Nothing is held."""
