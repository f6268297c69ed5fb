"""The state in memory: for tests, for the simulation, and as the model of the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from storage.layer import Layer
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
