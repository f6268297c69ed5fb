"""A state as a stream of bytes: for the wire between members, and for a file.

    header chunk | record chunk | record chunk | ... | footer chunk

A chunk carries its kind, its number, the length of its content and a CRC-32 over all of
it, so that one which was flipped, cut, repeated or left out is refused where it arrives.
The header says of which cluster and of which entry of the log the state is; records are
keys and values in strict order of the keys; the footer has what only the end can know: the
number of records, the size, and the SHA-256 over every byte before it. A stream that does
not end with a footer that agrees is no snapshot, whatever came before.

This module is pure: it reads no disk and no network, and whoever uses it decides where
rows come from and where they go. Nothing may be believed of a stream, and nothing
replaced by it, before `SnapshotReader.complete` is true.
"""

from __future__ import annotations

import operator
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Annotated, BinaryIO, TypeVar

import msgspec

from storage import models
from storage.keys import KEY_BYTES_MAX
from storage.store import Row

# Of the stream itself. A reader knows exactly one.
SNAPSHOT_VERSION = 1
# Of the keys and values in it; raised when `storage.keys` or `storage.models` change so that
# an older member would misread them.
STATE_FORMAT = 1

# A chunk is closed once it holds so much. It is what one answer carries and what is lost
# when a connection breaks: far below a frame's bound, far above what its head costs.
CHUNK_BYTES = 256 * 1024
# A single record above that size makes a larger chunk, up to here; a frame holds it.
CHUNK_BYTES_MAX = 3 * 1024 * 1024
VALUE_BYTES_MAX = CHUNK_BYTES_MAX - CHUNK_BYTES - 1024
CONFIGURATION_BYTES_MAX = 65_536

assert CHUNK_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX < CHUNK_BYTES_MAX

HEADER, RECORDS, FOOTER = 1, 2, 3

_MAGIC = b"CRONSNAP"
_VERSION = struct.Struct(">H")
# Kind, number, length of the content.
_HEAD = struct.Struct(">BQI")
_CRC = struct.Struct(">I")
# MessagePack's heads of two byte strings, at their longest.
_RECORD_OVERHEAD_BYTES = 10

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Hash = Annotated[bytes, msgspec.Meta(max_length=64)]


class SnapshotError(Exception):
    """A stream is not to be used; nothing that it brought may replace anything."""


class SnapshotDamaged(SnapshotError):
    """The stream is not what its sender wrote: flipped, cut, reordered or incomplete."""


class SnapshotMismatch(SnapshotError):
    """The stream is whole, but of another cluster, version or time than the one wanted."""


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a snapshot is of.

    The state is the one after entry `index`, of term `term`, was applied; `state_hash` is
    the rolling hash at that entry. `configuration` belongs to the consensus layer, which
    alone reads it: the members of the cluster as of that entry.
    """

    cluster: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    index: _Number
    term: _Number
    created_ms: _Number
    state_hash: _Hash
    configuration: Annotated[bytes, msgspec.Meta(max_length=CONFIGURATION_BYTES_MAX)] = b""
    state_format: _Number = STATE_FORMAT


def header_of(
    meta: models.Meta, *, cluster: str, created_ms: int, configuration: bytes = b""
) -> SnapshotHeader:
    """Return the header of a snapshot of the state that says `meta` of itself."""
    return SnapshotHeader(
        cluster=cluster,
        index=meta.applied_index,
        term=meta.applied_term,
        created_ms=created_ms,
        state_hash=meta.state_hash,
        configuration=configuration,
    )


class SnapshotFooter(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a whole snapshot adds up to: records, bytes before the footer, their SHA-256."""

    records: _Number
    size: _Number
    sha256: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


def pack_configuration(placed: tuple[int, bytes]) -> bytes:
    """Return a configuration and the index of its entry as a header carries them."""
    return _encoder.encode(placed)


def unpack_configuration(header: SnapshotHeader) -> tuple[int, bytes] | None:
    """Return what `pack_configuration` was given; None if the header carries nothing.

    Raises:
        SnapshotDamaged: it carries something else.
    """
    if not header.configuration:
        return None
    try:
        return msgspec.msgpack.decode(header.configuration, type=tuple[int, bytes])
    except _NOT_DECODED as error:
        raise SnapshotDamaged(f"The snapshot's configuration cannot be read: {error}") from error


def check_content(
    header: SnapshotHeader, footer: SnapshotFooter, records: int, meta: bytes | None
) -> None:
    """Compare what was stored of a snapshot with what its header and footer say of it.

    `meta` is the record in which the state machine says where it stands: the header was
    made from it, and a state that disagrees with its own header belongs to no entry.

    Raises:
        SnapshotDamaged: records are missing, or the state is of another entry.
    """
    if records != footer.records:
        raise SnapshotDamaged(f"{records} records were stored of {footer.records}.")
    found = None if meta is None else _decoded(models.decode_meta, meta, "place in the log")
    expected = (header.index, header.term, header.state_hash)
    if found is None or (found.applied_index, found.applied_term, found.state_hash) != expected:
        raise SnapshotDamaged(
            f"The snapshot says that it is of entry {header.index} in term {header.term}, its "
            f"state says {found}."
        )


_encoder = msgspec.msgpack.Encoder()
_decode_header = msgspec.msgpack.Decoder(SnapshotHeader).decode
_decode_footer = msgspec.msgpack.Decoder(SnapshotFooter).decode
# Key, value, key, value: one flat list is read and written without a Python object a record.
_decode_records = msgspec.msgpack.Decoder(list[bytes]).decode
_NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError)

_T = TypeVar("_T")
_Content = TypeVar("_Content", bytes, memoryview)


def encode_snapshot(
    header: SnapshotHeader, rows: Iterable[Row], *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[bytes]:
    """Yield the chunks of a snapshot; joined, they are the file.

    `rows` come in strict order of their keys; they are taken as chunks are asked for.

    Raises:
        SnapshotError: a row is out of order or too large to be carried.
    """
    digest = sha256()
    size = number = records = 0
    kind, content = HEADER, _header_content(header)
    for flat in _gather(rows, chunk_bytes):
        chunk = _pack(kind, number, content)
        digest.update(chunk)
        size, number = size + len(chunk), number + 1
        yield chunk
        kind, content = RECORDS, _encoder.encode(flat)
        records += len(flat) // 2
    chunk = _pack(kind, number, content)
    digest.update(chunk)
    yield chunk
    footer = SnapshotFooter(records, size + len(chunk), digest.digest())
    yield _pack(FOOTER, number + 1, _encoder.encode(footer))


def encode_header(header: SnapshotHeader) -> bytes:
    """Return a header alone, as a chunk: for a file beside a state that came from it."""
    return _pack(HEADER, 0, _header_content(header))


def decode_header(chunk: bytes) -> SnapshotHeader:
    """Return the header in such a chunk.

    Raises:
        SnapshotError: it is none, or of another version.
    """
    reader = SnapshotReader()
    reader.take(chunk)
    if reader.header is None:
        raise SnapshotDamaged("The snapshot does not begin with its header.")
    return reader.header


def _header_content(header: SnapshotHeader) -> bytes:
    return _MAGIC + _VERSION.pack(SNAPSHOT_VERSION) + _encoder.encode(header)


def _gather(rows: Iterable[Row], chunk_bytes: int) -> Iterator[list[bytes]]:
    flat: list[bytes] = []
    size, last = 0, b""
    for key, value in rows:
        if not last < key:
            raise SnapshotError(f"Key {key.hex()} of a snapshot does not come after {last.hex()}.")
        if len(key) > KEY_BYTES_MAX or len(value) > VALUE_BYTES_MAX:
            raise SnapshotError(
                f"The record {key.hex()} of {len(value)} bytes is too large for a snapshot."
            )
        flat += (key, value)
        last = key
        size += len(key) + len(value) + _RECORD_OVERHEAD_BYTES
        if size >= chunk_bytes:
            yield flat
            flat, size = [], 0
    if flat:
        yield flat


def _pack(kind: int, number: int, content: bytes) -> bytes:
    head = _HEAD.pack(kind, number, len(content))
    return b"".join((head, content, _CRC.pack(zlib.crc32(content, zlib.crc32(head)))))


def split_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the chunks of a snapshot in a file, up to its end.

    Raises:
        SnapshotDamaged: the file ends within a chunk, or names one that cannot be.
    """
    while head := stream.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise SnapshotDamaged("The snapshot ends within the head of a chunk.")
        _, number, length = _HEAD.unpack(head)
        if length > CHUNK_BYTES_MAX:
            raise SnapshotDamaged(f"Chunk {number} claims to have {length} bytes.")
        rest = stream.read(length + _CRC.size)
        if len(rest) < length + _CRC.size:
            raise SnapshotDamaged(f"The snapshot ends within chunk {number}.")
        yield head + rest


class SnapshotReader:
    """Takes the chunks of one snapshot in order and returns what is in them.

    `header` is there after the first chunk, `footer` after the last. Any error is final:
    what was read belongs to no snapshot.
    """

    def __init__(self) -> None:
        self.header: SnapshotHeader | None = None
        self.footer: SnapshotFooter | None = None
        # The number of the chunk that comes next; also how many were taken.
        self.next_chunk = 0
        self.records = 0
        self.size = 0
        self._digest = sha256()
        self._last_key = b""

    @property
    def complete(self) -> bool:
        """Tell whether everything arrived, and adds up to what the footer says."""
        return self.footer is not None

    def take(self, chunk: bytes) -> list[Row]:
        """Return the records of the next chunk; none for the header and the footer.

        Raises:
            SnapshotDamaged: it is not the chunk that follows, or not as it was written.
            SnapshotMismatch: the stream has a version that this program does not read.
        """
        kind, content = self._open(chunk)
        if self.footer is not None or (kind == HEADER) != (self.next_chunk == 0):
            raise SnapshotDamaged(f"Chunk {self.next_chunk} of kind {kind} is out of place.")
        rows: list[Row] = []
        if kind == HEADER:
            self.header = self._read_header(content)
        elif kind == RECORDS:
            rows = self._read_records(content)
        elif kind == FOOTER:
            self.footer = self._read_footer(content)
        else:
            raise SnapshotDamaged(f"Chunk {self.next_chunk} has the unknown kind {kind}.")
        self._digest.update(chunk)
        self.size += len(chunk)
        self.next_chunk += 1
        return rows

    def finish(self) -> tuple[SnapshotHeader, SnapshotFooter]:
        """Return header and footer of a complete snapshot.

        Raises:
            SnapshotDamaged: something is missing.
        """
        if self.header is None or self.footer is None:
            raise SnapshotDamaged(
                f"The snapshot ends after {self.next_chunk} chunks, without its footer."
            )
        return self.header, self.footer

    def _open(self, chunk: bytes) -> tuple[int, memoryview]:
        where = f"Chunk {self.next_chunk} of the snapshot"
        if not _HEAD.size + _CRC.size <= len(chunk) <= CHUNK_BYTES_MAX + _HEAD.size + _CRC.size:
            raise SnapshotDamaged(f"{where} has the impossible size {len(chunk)}.")
        kind, number, length = _HEAD.unpack_from(chunk)
        body = memoryview(chunk)[: -_CRC.size]
        (checksum,) = _CRC.unpack_from(chunk, len(body))
        if length != len(body) - _HEAD.size or zlib.crc32(body) != checksum:
            raise SnapshotDamaged(f"{where} fails its checksum.")
        if number != self.next_chunk:
            raise SnapshotDamaged(f"{where} was expected, chunk {number} came.")
        return kind, body[_HEAD.size :]

    def _read_header(self, content: memoryview) -> SnapshotHeader:
        start = len(_MAGIC) + _VERSION.size
        if bytes(content[: len(_MAGIC)]) != _MAGIC or len(content) < start:
            raise SnapshotMismatch("This is not a snapshot of a cronclave cluster.")
        (version,) = _VERSION.unpack_from(content, len(_MAGIC))
        if version != SNAPSHOT_VERSION:
            raise SnapshotMismatch(
                f"The snapshot has version {version}, this program reads {SNAPSHOT_VERSION}."
            )
        header = _decoded(_decode_header, content[start:], "header")
        if header.state_format != STATE_FORMAT:
            raise SnapshotMismatch(
                f"The snapshot's records have format {header.state_format}, this program reads "
                f"{STATE_FORMAT}."
            )
        return header

    def _read_records(self, content: memoryview) -> list[Row]:
        flat = _decoded(_decode_records, content, "list of records")
        found, values = flat[::2], flat[1::2]
        if not found or len(found) != len(values):
            raise SnapshotDamaged(f"Chunk {self.next_chunk} has {len(flat)} halves of records.")
        if not self._last_key < found[0] or not all(map(operator.lt, found, found[1:])):
            raise SnapshotDamaged(f"Chunk {self.next_chunk} has keys out of order.")
        self._last_key = found[-1]
        self.records += len(found)
        return list(zip(found, values, strict=True))

    def _read_footer(self, content: memoryview) -> SnapshotFooter:
        footer = _decoded(_decode_footer, content, "footer")
        found = SnapshotFooter(self.records, self.size, self._digest.digest())
        if found != footer:
            raise SnapshotDamaged(
                f"The snapshot adds up to {found.records} records in {found.size} bytes with "
                f"SHA-256 {found.sha256.hex()}; its footer says {footer.records} in "
                f"{footer.size} with {footer.sha256.hex()}."
            )
        return footer


def _decoded(decode: Callable[[_Content], _T], content: _Content, what: str) -> _T:
    try:
        return decode(content)
    except _NOT_DECODED as error:
        raise SnapshotDamaged(f"The snapshot's {what} cannot be read: {error}") from error
