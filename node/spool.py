"""Ends of attempts that the cluster has not accepted yet, kept in a file.

What an attempt came to is known to one member only, until a report of it is applied. The
spool keeps it over a crash of the process: it is written before the report is proposed,
and emptied when everything in it was decided. Under a load at which that never happens,
it is written anew without what was decided. It is not synced, for what a power cut takes
from it, the end of the lease replaces: the run is then lost, not forgotten.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import msgspec

from consensus.state.commands import Ended
from storage.journal_format import DiskFailed
from storage.models import NOT_DECODED

# A file above this size, most of which was decided, is written anew: seldom enough to cost
# nothing, and small enough that it takes some milliseconds of the loop.
REWRITTEN_BYTES_MIN = 16 * 1_048_576

_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ended).decode


class Spool:
    """An append-only file of ends; opened once, by one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = _open(path)
        # Where the record of each open end lies, as (offset, length with its head).
        self._open: dict[tuple[bytes, int], tuple[int, int]] = {}
        self._open_bytes = 0
        self._size = os.fstat(self._descriptor).st_size

    def recover(self) -> list[Ended]:
        """Return what an earlier process left behind; a torn last record is dropped.

        It is cut off as well: what is written behind it could not be told from its rest.
        """
        data = os.pread(self._descriptor, self._size, 0)
        ends: list[Ended] = []
        self._open, self._open_bytes, self._size = {}, 0, 0
        while self._size + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, self._size)
            begin = self._size + _LENGTH.size
            try:
                end = _decode(data[begin : begin + length])
            except NOT_DECODED:
                break
            ends.append(end)
            self._note(end, _LENGTH.size + length)
        os.ftruncate(self._descriptor, self._size)
        return ends

    def keep(self, end: Ended) -> None:
        """Write an end; it survives the death of this process.

        Raises:
            DiskFailed: the disk is full or broken; the process has to stop.
        """
        record = _encode(end)
        record = _LENGTH.pack(len(record)) + record
        _write(self._descriptor, record)
        self._note(end, len(record))

    def _note(self, end: Ended, size: int) -> None:
        key = (end.run, end.fence)
        self._open_bytes += size - self._open.get(key, (0, 0))[1]
        self._open[key] = (self._size, size)
        self._size += size

    def settle(self, end: Ended) -> None:
        """Forget an end that was decided; with the last one, the file becomes empty.

        Raises:
            DiskFailed: the disk is full or broken; the process has to stop.
        """
        self._open_bytes -= self._open.pop((end.run, end.fence), (0, 0))[1]
        if not self._open:
            os.ftruncate(self._descriptor, 0)
            self._size = 0
        elif self._size > REWRITTEN_BYTES_MIN and self._open_bytes * 2 < self._size:
            self._rewrite()

    def _rewrite(self) -> None:
        """Keep the open ends alone; a kill leaves the old file or the new one."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.unlink(missing_ok=True)
        descriptor = _open(fresh)
        moved, size = {}, 0
        for key, (offset, length) in self._open.items():
            _write(descriptor, os.pread(self._descriptor, length, offset))
            moved[key] = (size, length)
            size += length
        fresh.rename(self._path)
        os.close(self._descriptor)
        self._descriptor, self._open = descriptor, moved
        self._size = self._open_bytes = size

    def close(self) -> None:
        os.close(self._descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)


def _write(descriptor: int, record: bytes) -> None:
    try:
        written = os.write(descriptor, record)
    except OSError as error:
        raise DiskFailed(f"The spool cannot be written: {error}") from error
    if written < len(record):
        raise DiskFailed(f"The spool took {written} of {len(record)} bytes: the disk is full.")
