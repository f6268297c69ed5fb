"""A sorted layer of changes in memory, with an undo log.

It is the whole of the in-memory store, and the part of the LMDB store that has been
applied but not yet been committed to disk. A deleted key stays in it as None, because it
may hide a key of the layer beneath.
"""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedDict

Change = tuple[bytes, bytes | None]


class Layer:
    """Changes by key, in order."""

    def __init__(self) -> None:
        self._changes: SortedDict = SortedDict()
        self._undo: list[tuple[bytes, bytes | None, bool]] = []
        self._written: list[Change] = []
        self.bytes_total = 0

    def __len__(self) -> int:
        return len(self._changes)

    def __contains__(self, key: bytes) -> bool:
        return key in self._changes

    def get(self, key: bytes) -> bytes | None:
        """Return the changed value; None also where the key was deleted or is unknown."""
        value: bytes | None = self._changes.get(key)
        return value

    def change(self, key: bytes, value: bytes | None) -> None:
        """Put a value, or delete with None."""
        changes = self._changes
        known = key in changes
        self._undo.append((key, changes[key] if known else None, known))
        self._written.append((key, value))
        changes[key] = value
        self.bytes_total += len(key) + (len(value) if value is not None else 0)

    def forget(self, key: bytes) -> None:
        """Drop a deleted key altogether."""
        if self._changes.get(key, b"") is None:
            del self._changes[key]

    def changes(self, start: bytes, stop: bytes, *, reverse: bool) -> Iterator[Change]:
        """Yield the changes with start <= key < stop in order, deletes as None."""
        changes = self._changes
        for key in changes.irange(start, stop, inclusive=(True, False), reverse=reverse):
            yield key, changes[key]

    def items(self) -> list[Change]:
        """Return all changes in order of their keys."""
        return list(self._changes.items())

    def savepoint(self) -> None:
        self._undo.clear()
        self._written.clear()

    def rollback(self) -> None:
        for key, value, known in reversed(self._undo):
            if known:
                self._changes[key] = value
            else:
                del self._changes[key]
        self.savepoint()

    def written(self) -> list[Change]:
        return self._written


def merge(newer: Iterator[Change], older: Iterator[Change], *, reverse: bool) -> Iterator[Change]:
    """Yield two ordered sequences as one; where both have a key, the newer counts."""
    end: Change = (b"", None)
    fresh, stale = next(newer, end), next(older, end)
    while fresh is not end and stale is not end:
        if fresh[0] == stale[0]:
            yield fresh
            fresh, stale = next(newer, end), next(older, end)
        elif (fresh[0] < stale[0]) != reverse:
            yield fresh
            fresh = next(newer, end)
        else:
            yield stale
            stale = next(older, end)
    if fresh is not end:
        yield fresh
        yield from newer
    if stale is not end:
        yield stale
        yield from older
