"""A snapshot is read back as it was written, or it is refused; there is nothing between."""

from __future__ import annotations

import io
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.keys import KEY_BYTES_MAX
from storage.snapshot_format import (
    CHUNK_BYTES_MAX,
    VALUE_BYTES_MAX,
    SnapshotDamaged,
    SnapshotError,
    SnapshotHeader,
    SnapshotMismatch,
    SnapshotReader,
    encode_snapshot,
    split_chunks,
)
from storage.store import Row

NUMBERS = st.integers(0, 2**63 - 1)
KEYS = st.binary(min_size=1, max_size=40) | st.binary(min_size=500, max_size=KEY_BYTES_MAX)
ROWS = st.dictionaries(KEYS, st.binary(max_size=200), max_size=40).map(
    lambda rows: sorted(rows.items())
)
HEADERS = st.builds(
    SnapshotHeader,
    cluster=st.text(min_size=1, max_size=128),
    index=NUMBERS,
    term=NUMBERS,
    created_ms=NUMBERS,
    state_hash=st.binary(max_size=64),
    configuration=st.binary(max_size=300),
)
HEADER = SnapshotHeader("prod", 7, 2, 1_800_000_000_000, bytes(16), b"members")
SOME_ROWS: list[Row] = [(bytes([n, 1]), bytes([n]) * 30) for n in range(40)]


def read(chunks: list[bytes]) -> tuple[SnapshotHeader, list[Row]]:
    """Read a whole stream, or raise why it is none."""
    reader = SnapshotReader()
    rows = [row for chunk in chunks for row in reader.take(chunk)]
    header, footer = reader.finish()
    assert reader.complete
    assert footer.records == len(rows)
    return header, rows


def some_chunks() -> list[bytes]:
    chunks = list(encode_snapshot(HEADER, SOME_ROWS, chunk_bytes=200))
    assert len(chunks) > 5
    return chunks


@given(HEADERS, ROWS, st.integers(1, 2000))
def test_what_was_written_is_read(header: SnapshotHeader, rows: list[Row], size: int) -> None:
    """Header and records come back, whatever the size of the chunks."""
    chunks = list(encode_snapshot(header, rows, chunk_bytes=size))
    assert read(chunks) == (header, rows)
    assert list(split_chunks(io.BytesIO(b"".join(chunks)))) == chunks


def test_the_same_state_gives_the_same_bytes() -> None:
    """A transfer that is made again from the same state has the same SHA-256."""
    assert some_chunks() == some_chunks()


@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_changed_byte_is_found(position: int, change: int) -> None:
    """Whichever byte of a stream is changed, the stream is refused."""
    chunks = some_chunks()
    number = position % len(chunks)
    chunk = bytearray(chunks[number])
    chunk[position // len(chunks) % len(chunk)] ^= change
    chunks[number] = bytes(chunk)
    with pytest.raises(SnapshotError):
        read(chunks)


@given(st.data())
def test_a_changed_file_is_found(data: st.DataObject) -> None:
    """The same through the path of a file, where a changed length moves what follows."""
    content = bytearray(b"".join(some_chunks()))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotError):
        read(list(split_chunks(io.BytesIO(bytes(content)))))


@given(st.data())
def test_a_file_that_was_cut_is_found(data: st.DataObject) -> None:
    """Cut anywhere, between chunks or within one, a file is no snapshot."""
    content = b"".join(some_chunks())
    kept = content[: data.draw(st.integers(0, len(content) - 1))]
    with pytest.raises(SnapshotDamaged):
        read(list(split_chunks(io.BytesIO(kept))))


def test_a_file_that_goes_on_behind_the_end_is_found() -> None:
    """Nothing follows the footer."""
    chunks = some_chunks()
    for more in (chunks[-1], chunks[1], chunks[0]):
        with pytest.raises(SnapshotDamaged):
            read([*chunks, more])


@given(st.randoms(use_true_random=False))
def test_chunks_in_another_order_are_found(chance: random.Random) -> None:
    """Reordered, repeated or left out: every chunk has one place."""
    chunks = some_chunks()
    number = chance.randrange(len(chunks))
    missing = chunks[:number] + chunks[number + 1 :]
    twice = [*chunks[:number], chunks[number], *chunks[number:]]
    other = (number + 1 + chance.randrange(len(chunks) - 1)) % len(chunks)
    swapped = list(chunks)
    swapped[number], swapped[other] = swapped[other], swapped[number]
    for changed in (missing, twice, swapped):
        with pytest.raises(SnapshotDamaged):
            read(changed)


def test_chunks_of_two_snapshots_are_not_one() -> None:
    """A chunk with the right number and checksum, of another state, fails the SHA-256."""
    ours = some_chunks()
    theirs = list(
        encode_snapshot(HEADER, [(key, value[::-1] + b"x") for key, value in SOME_ROWS[:-1]],
                        chunk_bytes=200)
    )  # fmt: skip
    with pytest.raises(SnapshotDamaged):
        read([ours[0], theirs[1], *ours[2:]])


def test_rows_out_of_order_are_not_sent() -> None:
    """A source that repeats a key or goes back is broken, and its stream is never finished."""
    for keys in ((b"b", b"a"), (b"a", b"a"), (b"",)):
        with pytest.raises(SnapshotError, match="does not come after"):
            list(encode_snapshot(HEADER, [(key, b"") for key in keys]))


def test_the_largest_record_fits_into_a_chunk() -> None:
    """One record of the largest size travels; one that is larger is refused by its sender."""
    rows = [(b"a" * KEY_BYTES_MAX, bytes(VALUE_BYTES_MAX)), (b"b", b"")]
    chunks = list(encode_snapshot(HEADER, rows))
    assert max(map(len, chunks)) <= CHUNK_BYTES_MAX
    assert read(chunks)[1] == rows
    with pytest.raises(SnapshotError, match="too large"):
        list(encode_snapshot(HEADER, [(b"a", bytes(VALUE_BYTES_MAX + 1))]))


def test_other_versions_are_refused_by_name() -> None:
    """What a newer program wrote is said to be that, and not damage."""
    newer = msgspec.structs.replace(HEADER, state_format=99)
    with pytest.raises(SnapshotMismatch, match="format 99"):
        read(list(encode_snapshot(newer, SOME_ROWS)))
