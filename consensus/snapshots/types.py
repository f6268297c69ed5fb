"""What the consensus layer needs of a state to send and to receive it, and what comes of it.

The layer knows neither keys nor disks: a source hands out chunks of bytes, a sink takes the
records in them. LMDB stands behind both in a member, memory in the simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from storage.snapshot_format import CHUNK_BYTES, SnapshotFooter, SnapshotHeader
from storage.store import Row


class SnapshotReady(Exception):
    """A snapshot is complete and waits to be installed: this life of the member is over.

    It ends the layer as a failure would, and is none: whoever gets it closes everything,
    installs the snapshot and begins another life.
    """

    def __init__(self, header: SnapshotHeader) -> None:
        super().__init__(f"The snapshot of entry {header.index} waits to be installed.")
        self.header = header


class SnapshotStream(Protocol):
    """One consistent state on its way out; `next_chunk` is called by one thread."""

    @property
    def header(self) -> SnapshotHeader: ...

    def next_chunk(self) -> bytes | None:
        """Return the next chunk in the form of `storage.snapshot_format`, None at the end."""
        ...

    def close(self) -> None:
        """Let go of the state; never during `next_chunk`."""
        ...


class SnapshotSource(Protocol):
    """The state that can be sent."""

    def open(
        self, configuration: Callable[[int], bytes], chunk_bytes: int = CHUNK_BYTES
    ) -> SnapshotStream | None:
        """Begin a stream of the state as it is on the disk now; None if there is none.

        `configuration` returns the bytes of the cluster's configuration as of an entry.
        Called in the loop's thread, so it must not wait.
        """
        ...


class SnapshotSink(Protocol):
    """The place of a state that is being received; all calls in one thread.

    `begin`, `write` in order, `verify`, `commit`. Only `commit` has an effect that outlives
    the process; until then, `begin` and `discard` throw away what there is.

    Raises:
        SnapshotError: this snapshot cannot be taken; another may be.
    """

    def begin(self, header: SnapshotHeader) -> None: ...
    def write(self, rows: list[Row]) -> None: ...
    def verify(self, header: SnapshotHeader, footer: SnapshotFooter) -> None: ...
    def commit(self) -> None: ...
    def discard(self) -> None: ...


@dataclass(slots=True)
class SnapshotCounts:
    """What was sent and received since the start, for the metrics."""

    transfers_sent: int = 0
    transfers_received: int = 0
    transfers_failed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPorts:
    """Where a member's snapshots come from and go to.

    `thread` reads, writes and syncs; without one, a thread of its own does. `installed` is how
    many this process has installed in its earlier lives.
    """

    source: SnapshotSource
    sink: SnapshotSink
    thread: Executor | None = None
    installed: int = 0
