"""The state store: ordered bytes, written by the state machine alone.

One protocol with two implementations: `storage.memory_store` for tests and simulation,
`storage.lmdb_store` for members. What a member needs of the disk beneath is
`FlushedStore`. Both are used from the event loop's thread only. A scan has a limit and
returns a list, so nothing can walk a whole table, and nothing holds a cursor while the
table changes.

A command's writes are one unit: `savepoint` before it, `rollback` if it failed. The
writes since a savepoint are also what the rolling state hash covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Row = tuple[bytes, bytes]


class View(Protocol):
    """What readers see: everything that was applied so far."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        ...

    def scan(self, start: bytes, stop: bytes, limit: int, *, reverse: bool = False) -> list[Row]:
        """Return up to `limit` rows with start <= key < stop, in order of their keys.

        With `reverse` the last rows of the range come first.
        """
        ...


class Store(View, Protocol):
    """What the state machine writes to."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None:
        """Remove a key; one that does not exist is no error."""
        ...

    def savepoint(self) -> None:
        """Begin a unit of writes; the one before becomes final."""
        ...

    def rollback(self) -> None:
        """Undo everything since the last savepoint."""
        ...

    def written(self) -> Sequence[tuple[bytes, bytes | None]]:
        """Return what was written since the last savepoint, in order; None is a delete."""
        ...


class FlushedStore(Store, Protocol):
    """A store whose changes reach a disk by and by, in steps that the replica takes.

    What was flushed is one consistent state of the past; it is found again after a crash.
    """

    @property
    def pending_bytes(self) -> int:
        """Return how much has been applied and not yet been handed to a commit."""
        ...

    @property
    def flushing(self) -> bool: ...

    def begin_flush(self) -> bool:
        """Set apart what is to be committed; False if there is nothing or one is under way.

        To be called between batches of commands. Then `commit` runs in the writer's
        thread, and `end_flush` in the loop's.
        """
        ...

    def commit(self) -> None:
        """Write what was set apart in one durable transaction; always from one thread.

        Raises:
            DiskFailed: the disk is full or failed; the process has to stop.
        """
        ...

    def end_flush(self) -> None:
        """Forget what was set apart, for it is on the disk."""
        ...

    def flush(self) -> None:
        """Commit everything at once, in the calling thread."""
        ...

    def used_bytes(self) -> int: ...

    def close(self) -> None:
        """Release the disk without committing what is pending."""
        ...
