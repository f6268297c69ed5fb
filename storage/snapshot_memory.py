"""Snapshots without a disk, for tests and for the simulation, with the same checks.

What a sink has committed outlives its process, as a directory that was renamed does; what
it has not is lost with the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from storage import keys, models
from storage.clock import Environment
from storage.snapshot_format import (
    CHUNK_BYTES,
    SnapshotError,
    SnapshotFooter,
    SnapshotHeader,
    check_content,
    encode_snapshot,
    header_of,
)
from storage.store import Row


class MemoryStream:
    """One snapshot on its way out of memory."""

    def __init__(self, header: SnapshotHeader, rows: Sequence[Row], chunk_bytes: int) -> None:
        self.header = header
        self.closed = False
        self._chunks = encode_snapshot(header, rows, chunk_bytes=chunk_bytes)

    def next_chunk(self) -> bytes | None:
        return next(self._chunks, None)

    def close(self) -> None:
        self.closed = True


class MemorySource:
    """Snapshots of rows that `rows` returns, in order of their keys, META among them."""

    def __init__(
        self, rows: Callable[[], Sequence[Row]], *, cluster: str, environment: Environment
    ) -> None:
        self._rows = rows
        self._cluster = cluster
        self._environment = environment

    def open(
        self, configuration: Callable[[int], bytes], chunk_bytes: int = CHUNK_BYTES
    ) -> MemoryStream | None:
        rows = list(self._rows())
        raw = next((value for key, value in rows if key == keys.META), None)
        if raw is None:
            return None
        meta = models.decode_meta(raw)
        header = header_of(
            meta,
            cluster=self._cluster,
            created_ms=self._environment.wall_ms(),
            configuration=configuration(meta.applied_index),
        )
        return MemoryStream(header, rows, chunk_bytes)


@dataclass(slots=True)
class MemorySink:
    """Keeps what it is given; `ready` is what was committed and waits to be installed."""

    ready: tuple[SnapshotHeader, list[Row]] | None = None
    _incoming: tuple[SnapshotHeader, list[Row]] | None = field(default=None, init=False)

    def begin(self, header: SnapshotHeader) -> None:
        self._incoming = (header, [])

    def write(self, rows: list[Row]) -> None:
        self._begun()[1].extend(rows)

    def verify(self, header: SnapshotHeader, footer: SnapshotFooter) -> None:
        rows = self._begun()[1]
        meta = next((value for key, value in rows if key == keys.META), None)
        check_content(header, footer, len(rows), meta)

    def commit(self) -> None:
        self.ready, self._incoming = self._begun(), None

    def discard(self) -> None:
        self._incoming = None

    def _begun(self) -> tuple[SnapshotHeader, list[Row]]:
        if self._incoming is None:
            raise SnapshotError("No snapshot is being received.")
        return self._incoming
