"""A sorted layer of changes in memory, with an undo log.

It is the whole of the in-memory store, and the part of the LMDB store that has been
applied but not yet been committed to disk. A deleted key stays in it as None, because it
may hide a key of the layer beneath.
"""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedList

from storage.keys import KEY_BYTES_MAX

Change = tuple[bytes, bytes | None]


class Layer:
    """Changes by key, in order.

    A dictionary and a sorted list of its keys, side by side: most changes are to keys that
    are known already, and these cost no more than a dictionary does.
    """

    def __init__(self) -> None:
        self._values: dict[bytes, bytes | None] = {}
        self._keys: SortedList = SortedList()
        # (key, value before, whether the key was known), in order.
        self._undo: list[tuple[bytes, bytes | None, bool]] = []
        self._written: list[Change] = []
        self.bytes_total = 0

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def get(self, key: bytes) -> bytes | None:
        """Return the changed value; None also where the key was deleted or is unknown."""
        return self._values.get(key)

    def change(self, key: bytes, value: bytes | None) -> None:
        """Put a value, or delete with None.

        Raises:
            ValueError: LMDB would refuse the key, and with it the whole commit.
        """
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise ValueError(f"A key has 1 to {KEY_BYTES_MAX} bytes, not {len(key)}.")
        values = self._values
        if key in values:
            self._undo.append((key, values[key], True))
        else:
            self._undo.append((key, None, False))
            self._keys.add(key)
        values[key] = value
        self._written.append((key, value))
        self.bytes_total += _size(key, value)

    def forget(self, key: bytes) -> None:
        """Drop a deleted key altogether."""
        if self._values.get(key, b"") is None:
            del self._values[key]
            self._keys.remove(key)

    def changes(self, start: bytes, stop: bytes, *, reverse: bool) -> Iterator[Change]:
        """Yield the changes with start <= key < stop in order, deletes as None."""
        values = self._values
        for key in self._keys.irange(start, stop, inclusive=(True, False), reverse=reverse):
            yield key, values[key]

    def items(self) -> list[Change]:
        """Return all changes in order of their keys."""
        values = self._values
        return [(key, values[key]) for key in self._keys]

    def savepoint(self) -> None:
        self._undo.clear()
        self._written.clear()

    def rollback(self) -> None:
        for key, value, known in reversed(self._undo):
            if known:
                self._values[key] = value
            else:
                del self._values[key]
                self._keys.remove(key)
        for key, value in self._written:
            self.bytes_total -= _size(key, value)
        self.savepoint()

    def written(self) -> list[Change]:
        return self._written


def _size(key: bytes, value: bytes | None) -> int:
    return len(key) + (0 if value is None else len(value))


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
