"""Ends of attempts that the cluster has not accepted yet, kept in a file.

What an attempt came to is known to one member only, until a report of it is applied. The
spool keeps it over a crash of the process: it is written before the report is proposed,
and emptied when everything in it was decided. It is not synced, for what a power cut
takes from it, the end of the lease replaces: the run is then lost, not forgotten.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import msgspec

from consensus.commands import Ended
from storage.journal_format import DiskFailed
from storage.models import NOT_DECODED

_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ended).decode


class Spool:
    """An append-only file of ends; opened once, by one process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._open: set[tuple[bytes, int]] = set()

    def recover(self) -> list[Ended]:
        """Return what an earlier process left behind; a torn last record is dropped.

        It is cut off as well: what is written behind it could not be told from its rest.
        """
        data = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        ends, whole = [], 0
        while whole + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, whole)
            begin = whole + _LENGTH.size
            try:
                ends.append(_decode(data[begin : begin + length]))
            except NOT_DECODED:
                break
            whole = begin + length
        os.ftruncate(self._descriptor, whole)
        self._open = {(end.run, end.fence) for end in ends}
        return ends

    def keep(self, end: Ended) -> None:
        """Write an end; it survives the death of this process.

        Raises:
            DiskFailed: the disk is full or broken; the process has to stop.
        """
        record = _encode(end)
        record = _LENGTH.pack(len(record)) + record
        try:
            written = os.write(self._descriptor, record)
        except OSError as error:
            raise DiskFailed(f"The spool cannot be written: {error}") from error
        if written < len(record):
            raise DiskFailed(f"The spool took {written} of {len(record)} bytes: the disk is full.")
        self._open.add((end.run, end.fence))

    def settle(self, end: Ended) -> None:
        """Forget an end that was decided; with the last one, the file becomes empty."""
        self._open.discard((end.run, end.fence))
        if not self._open:
            os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        os.close(self._descriptor)
