"""The journal's records: what they mean, how they look on the disk, how damage shows.

Every record carries a CRC-32 over its own key and content, so that a flipped bit, a record
that moved, or a page of zeros cannot be mistaken for a promise this member once made. This
module is pure; `storage.journal` puts the bytes into LMDB and `storage.memory_journal`
keeps the same records without a disk.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from storage.invariant import invariant

FORMAT_VERSION = 1

# (payload, index, term): the order in which the consensus library keeps its entries, so
# that a record is handed on without being rebuilt.
LogRecord: TypeAlias = tuple[bytes, int, int]

_INDEX = struct.Struct(">Q")
_ENTRY_HEAD = struct.Struct(">IQ")
_IDENTITY = struct.Struct(">QQ")
_CRC = struct.Struct(">I")


class DiskFailed(Exception):
    """A write or a sync failed: what the disk holds is unknown and the process must stop."""


class JournalDamaged(Exception):
    """The journal does not hold what was written to it; the text says what to do."""


class JournalMismatch(Exception):
    """The journal belongs to another cluster, another member or another version."""


@dataclass(frozen=True, slots=True)
class HardState:
    """What a member must never forget: its term and whom it voted for in it."""

    term: int = 0
    vote: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Everything one journal transaction does, in this order: cut, append, trim, note.

    `truncate_from` removes the records from that index on, `records` continue what is
    left, `trim_below` lets at most `TRIM_RECORDS_MAX` old ones go, and `disks` are the
    identities of other members' disks that this member has met for the first time.
    `configuration` is the log's base configuration: the index and the bytes of the last
    one whose entry this log does not hold, because it was trimmed with this very batch,
    came with a snapshot or the first start, or is what a newcomer was given.

    `base` begins the log anew: every record goes, and this one is the only one left. It
    stands for all that a snapshot covers, and comes without cuts, records and trims.
    """

    base: LogRecord | None = None
    truncate_from: int | None = None
    records: Sequence[LogRecord] = ()
    trim_below: int | None = None
    hard_state: HardState | None = None
    disks: Mapping[str, bytes] = field(default_factory=dict)
    configuration: tuple[int, bytes] | None = None


# The first byte of an entry's content says what it is, in the consensus library's numbers: a
# command, or the entry that says nothing, with which a term begins.
REGULAR_KIND = 0
EMPTY_PAYLOAD = b"\x01"

# One transaction frees at most this many records, which keeps LMDB's list of free pages
# short and the commit that carries them quick.
TRIM_RECORDS_MAX = 1000


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Whose journal this is; written once, compared at every start."""

    version: int
    cluster: str
    member: str
    disk_id: bytes


def entry_key(index: int) -> bytes:
    """Return the key of a log record: its index, so that records sort by it."""
    return _INDEX.pack(index)


def key_index(key: bytes) -> int:
    """Return the index behind a key.

    Raises:
        JournalDamaged: the key cannot have been written by `entry_key`.
    """
    if len(key) != _INDEX.size:
        raise JournalDamaged(f"The journal has an entry under the impossible key {key.hex()}.")
    (index,) = _INDEX.unpack(key)
    return int(index)


def _entry_crc(payload: bytes | memoryview, index: int, term: int) -> int:
    return zlib.crc32(payload, zlib.crc32(_IDENTITY.pack(index, term)))


def encode_entry(record: LogRecord) -> bytes:
    """Return a record's value: checksum over index, term and payload; term; payload."""
    payload, index, term = record
    return _ENTRY_HEAD.pack(_entry_crc(payload, index, term), term) + payload


def decode_entry(index: int, value: bytes | memoryview) -> LogRecord:
    """Return the record stored under `index`.

    Raises:
        JournalDamaged: the value is too short or its checksum is wrong.
    """
    if len(value) <= _ENTRY_HEAD.size:
        raise JournalDamaged(f"Entry {index} of the journal is cut short ({len(value)} bytes).")
    crc, term = _ENTRY_HEAD.unpack_from(value)
    payload = bytes(value[_ENTRY_HEAD.size :])
    if crc != _entry_crc(payload, index, term):
        raise JournalDamaged(f"Entry {index} of the journal fails its checksum.")
    return payload, index, int(term)


def seal(name: bytes, content: bytes) -> bytes:
    """Return a named record with its checksum in front."""
    return _CRC.pack(zlib.crc32(content, zlib.crc32(name))) + content


def unseal(name: bytes, value: bytes) -> bytes:
    """Return the content of a sealed record.

    Raises:
        JournalDamaged: the checksum is wrong.
    """
    content = value[_CRC.size :]
    if len(value) < _CRC.size or _CRC.unpack_from(value)[0] != zlib.crc32(
        content, zlib.crc32(name)
    ):
        raise JournalDamaged(f"The journal's record {name.decode()!r} fails its checksum.")
    return content


def check_batch(first_index: int, last_index: int, batch: Batch) -> int:
    """Return the last index after a batch; stop the process if it leaves a gap or nothing.

    `first_index` and `last_index` are 0 for an empty journal.
    """
    if batch.base is not None:
        alone = batch.truncate_from is None and not batch.records and batch.trim_below is None
        invariant(alone, "A log that begins anew begins with one record.", base=batch.base[1])
        return batch.base[1]
    last = last_index
    if batch.truncate_from is not None:
        invariant(
            first_index < batch.truncate_from,
            "The first entry of a journal is never cut off.",
            first_index=first_index,
            truncate_from=batch.truncate_from,
        )
        last = min(last, batch.truncate_from - 1)
    for _, index, _ in batch.records:
        invariant(
            index == last + 1 or last == 0,
            "Entries are written to the journal without a gap.",
            index=index,
            last_index=last,
        )
        last = index
    if batch.trim_below is not None:
        invariant(
            batch.trim_below <= last,
            "Trimming keeps at least one entry.",
            trim_below=batch.trim_below,
            last_index=last,
        )
    return last
