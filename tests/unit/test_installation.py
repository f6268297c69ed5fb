"""A snapshot leaves one member's disk and takes its place on another's, or does not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from consensus.configuration import encode_configuration, first_configuration
from consensus.raft.log import RaftLog
from consensus.raft.types import RaftSettings
from consensus.state.context import Effects
from consensus.state.machine import Machine
from storage import keys
from storage.clock import SystemEnvironment
from storage.installation import OLD, STATE, finish_installation
from storage.journal import LmdbJournal
from storage.journal_format import Batch, HardState, LogRecord
from storage.lmdb_store import LmdbStore
from storage.snapshot_format import (
    SnapshotDamaged,
    SnapshotError,
    SnapshotFooter,
    SnapshotHeader,
    SnapshotReader,
    pack_configuration,
)
from storage.snapshot_store import HEADER_FILE, INCOMING, READY, LmdbSink, LmdbSource
from storage.store import Row
from tests.support.random_world import RandomWorld

ENVIRONMENT = SystemEnvironment()
MAP_BYTES = 64 * 1024 * 1024
MEMBERS = encode_configuration(first_configuration({"m": ""}))
TERM = 3


def make_state(path: Path, steps: int = 60) -> LmdbStore:
    """A state that some commands have made, on the disk."""
    store = LmdbStore(path, map_bytes=MAP_BYTES)
    world = RandomWorld(1, store)
    machine = Machine(store)
    for index in range(1, steps + 1):
        machine.apply(index, TERM, world.entry(), Effects())
    machine.finish()
    store.flush()
    return store


def rows_of(store: LmdbStore) -> list[Row]:
    return store.scan(b"", b"\xff" * 8, 100_000)


def chunks_of(store: LmdbStore, chunk_bytes: int = 2_000) -> list[bytes]:
    """The chunks of a snapshot of a state."""
    source = LmdbSource(store, cluster="c", environment=ENVIRONMENT)
    stream = source.open(lambda _: pack_configuration((7, MEMBERS)), chunk_bytes)
    assert stream is not None
    chunks = []
    while (chunk := stream.next_chunk()) is not None:
        chunks.append(chunk)
    stream.close()
    return chunks


def receive(data_dir: Path, chunks: list[bytes]) -> LmdbSink:
    """Do what a receiver does, up to the verification."""
    sink, reader = LmdbSink(data_dir, map_bytes=MAP_BYTES), SnapshotReader()
    for chunk in chunks:
        rows = reader.take(chunk)
        if reader.next_chunk == 1:
            assert reader.header is not None
            sink.begin(reader.header)
        elif rows:
            sink.write(rows)
    sink.verify(*reader.finish())
    return sink


def open_journal(data_dir: Path) -> LmdbJournal:
    return LmdbJournal(
        data_dir / "journal", cluster="c", member="m", environment=ENVIRONMENT, map_bytes=MAP_BYTES
    )


def records(first: int, last: int, term: int) -> list[LogRecord]:
    return [(b"\x00x", index, term) for index in range(first, last + 1)]


@pytest.fixture
def source(tmp_path: Path) -> LmdbStore:
    return make_state(tmp_path / "source")


@pytest.fixture
def behind(tmp_path: Path) -> Path:
    """The directory of a member with a short state of its own, and a short log."""
    data_dir = tmp_path / "behind"
    make_state(data_dir / STATE, 5).close()
    journal = open_journal(data_dir)
    journal.write(Batch(records=records(1, 9, 1), hard_state=HardState(2, "x")))
    journal.close()
    return data_dir


def boot(data_dir: Path, passed: Callable[[str], None] = lambda step: None) -> list[Row]:
    """Start a member as the node does, check that its log takes the state, return its rows."""
    journal = open_journal(data_dir)
    try:
        finish_installation(data_dir, journal, passed)
        store = LmdbStore(data_dir / STATE, map_bytes=MAP_BYTES)
        RaftLog(
            journal, RaftSettings(), Machine(store).applied_index, first_configuration({"m": ""})
        )
        rows = rows_of(store)
        store.close()
    finally:
        journal.close()
    assert {path.name for path in data_dir.iterdir()} == {"journal", STATE}
    return rows


def test_a_snapshot_is_the_state_of_one_moment(source: LmdbStore, tmp_path: Path) -> None:
    """What is committed while it is read does not show in it."""
    expected = rows_of(source)
    stream = LmdbSource(source, cluster="c", environment=ENVIRONMENT).open(lambda _: b"", 500)
    assert stream is not None
    chunks = [stream.next_chunk()]
    source.put(keys.META + b"later", b"x")
    source.flush()
    chunks += iter(stream.next_chunk, None)
    stream.close()
    reader = SnapshotReader()
    assert [row for chunk in chunks for row in reader.take(chunk or b"")] == expected
    assert reader.complete
    source.close()


def test_nothing_can_be_sent_of_a_state_that_was_never_committed(tmp_path: Path) -> None:
    """A member that has applied nothing has no snapshot."""
    store = LmdbStore(tmp_path / "empty", map_bytes=MAP_BYTES)
    assert LmdbSource(store, cluster="c", environment=ENVIRONMENT).open(lambda _: b"") is None
    store.close()


def test_an_installed_snapshot_is_the_state(source: LmdbStore, behind: Path) -> None:
    """Records, applied index, term and hash are the sender's; the log begins there."""
    receive(behind, chunks_of(source)).commit()
    assert boot(behind) == rows_of(source)
    journal = open_journal(behind)
    assert (journal.first_index, journal.last_index) == (60, 60)
    assert [record[1:] for record in journal.read(60, 60, 1)] == [(60, TERM)]
    # What was promised in a term is not forgotten, and no vote is made up for a later one.
    assert journal.hard_state == HardState(TERM, None)
    assert journal.configuration == (7, MEMBERS)
    journal.close()
    source.close()


def test_a_newcomer_keeps_the_members_that_it_was_told(source: LmdbStore, behind: Path) -> None:
    """It has joined with a later entry than the snapshot's; what it was told is newer."""
    told = encode_configuration(first_configuration({"m": "", "n": ""}))
    journal = open_journal(behind)
    journal.write(Batch(configuration=(90, told)))
    journal.close()
    receive(behind, chunks_of(source)).commit()
    boot(behind)
    journal = open_journal(behind)
    assert journal.configuration == (90, told)
    journal.close()
    source.close()


def test_a_log_that_agrees_with_the_snapshot_keeps_its_tail(
    source: LmdbStore, behind: Path
) -> None:
    """Entries behind the snapshot's own are kept if that one is in the log."""
    journal = open_journal(behind)
    journal.write(Batch(records=records(10, 80, TERM), hard_state=HardState(TERM, "y")))
    journal.close()
    receive(behind, chunks_of(source)).commit()
    boot(behind)
    journal = open_journal(behind)
    assert (journal.last_index, journal.hard_state) == (80, HardState(TERM, "y"))
    journal.close()
    source.close()


def test_a_log_on_another_branch_gives_way(source: LmdbStore, behind: Path) -> None:
    """Entries that a leader of the past has left behind the snapshot's index are removed."""
    journal = open_journal(behind)
    journal.write(Batch(records=records(10, 80, 2)))
    journal.close()
    receive(behind, chunks_of(source)).commit()
    boot(behind)
    journal = open_journal(behind)
    assert (journal.first_index, journal.last_index) == (60, 60)
    journal.close()
    source.close()


class Killed(BaseException):
    """The process ends here."""


STEPS = ["journal", "moved", "exchanged", "cleaned"]


@pytest.mark.parametrize("steps", [[step] for step in STEPS] + [STEPS, ["journal"] * 3])
def test_a_kill_between_any_two_steps_is_made_good(
    source: LmdbStore, behind: Path, steps: list[str]
) -> None:
    """D3, D9: wherever it stops, and however often, the next start finishes it."""
    receive(behind, chunks_of(source)).commit()
    for step in steps:

        def stop(passed: str, step: str = step) -> None:
            if passed == step:
                raise Killed

        with pytest.raises(Killed):
            boot(behind, stop)
    assert boot(behind) == rows_of(source)
    assert boot(behind) == rows_of(source)
    source.close()


def test_the_list_of_steps_is_complete(source: LmdbStore, behind: Path) -> None:
    """The test above stops behind every step there is."""
    receive(behind, chunks_of(source)).commit()
    passed: list[str] = []
    boot(behind, passed.append)
    assert passed == STEPS
    source.close()


@pytest.mark.parametrize("count", [0, 1, 3, None])
def test_a_kill_before_the_commit_leaves_the_old_state(
    source: LmdbStore, behind: Path, count: int | None
) -> None:
    """R4: what has not arrived, or was not verified and committed, replaces nothing."""
    before = boot(behind)
    chunks = chunks_of(source)
    sink = LmdbSink(behind, map_bytes=MAP_BYTES)
    if count is None:
        sink = receive(behind, chunks)
    elif count:
        reader = SnapshotReader()
        reader.take(chunks[0])
        assert reader.header is not None
        sink.begin(reader.header)
        for chunk in chunks[1:count]:
            sink.write(reader.take(chunk))
    assert (behind / INCOMING).exists() == (count != 0)
    del sink
    assert boot(behind) == before
    source.close()


def test_an_old_snapshot_replaces_nothing(source: LmdbStore, behind: Path) -> None:
    """R5: a state that has gone further than the snapshot stays."""
    receive(behind, chunks_of(source)).commit()
    boot(behind)
    shutil.rmtree(behind / STATE)
    make_state(behind / STATE, 70).close()
    journal = open_journal(behind)
    journal.write(Batch(records=records(61, 75, TERM)))
    journal.close()
    receive(behind, chunks_of(source)).commit()
    before = rows_of(again := LmdbStore(behind / STATE, map_bytes=MAP_BYTES))
    again.close()
    assert (behind / READY).exists()
    assert boot(behind) == before
    source.close()


def test_a_kill_while_an_old_snapshot_is_removed_is_made_good(
    source: LmdbStore, behind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G14: half of it is gone, in whatever order, and the next start removes the rest."""
    chunks = chunks_of(source)
    receive(behind, chunks).commit()
    boot(behind)
    before = rows_of(again := LmdbStore(behind / STATE, map_bytes=MAP_BYTES))
    again.close()
    receive(behind, chunks).commit()
    rmtree = shutil.rmtree

    def half(path: Path, ignore_errors: bool = False) -> None:
        header = path / HEADER_FILE
        if header.exists():
            header.unlink()
            raise Killed
        rmtree(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", half)
        with pytest.raises(Killed):
            boot(behind)
    assert boot(behind) == before
    source.close()


def test_a_header_that_the_disk_takes_in_parts_is_whole(
    source: LmdbStore, behind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write may take less than it was given, and says so in its result alone."""
    expected, write = rows_of(source), os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:7]))
    receive(behind, chunks_of(source)).commit()
    assert boot(behind) == expected
    source.close()


def test_a_state_that_does_not_know_where_it_stands_is_refused(
    source: LmdbStore, tmp_path: Path
) -> None:
    """R4: bytes that rotted on the leader's disk end the transfer, and not this member."""
    reader = SnapshotReader()
    sink = LmdbSink(tmp_path, map_bytes=MAP_BYTES)
    chunks = chunks_of(source)
    reader.take(chunks[0])
    assert reader.header is not None
    sink.begin(reader.header)
    sink.write([(keys.META, b"\xc1")])
    with pytest.raises(SnapshotDamaged, match="cannot be read"):
        sink.verify(reader.header, SnapshotFooter(1, 1, bytes(32)))
    sink.discard()
    source.close()


def test_a_header_that_is_not_of_its_state_is_refused(source: LmdbStore, tmp_path: Path) -> None:
    """R4: index, term and hash have to be those that the records themselves speak of."""
    reader = SnapshotReader()
    sink = LmdbSink(tmp_path, map_bytes=MAP_BYTES)
    chunks = chunks_of(source)
    reader.take(chunks[0])
    header = reader.header
    assert header is not None
    sink.begin(header)
    for chunk in chunks[1:]:
        if rows := reader.take(chunk):
            sink.write(rows)
    _, footer = reader.finish()
    sink.verify(header, footer)
    for changed in (
        SnapshotHeader("c", 61, TERM, 0, header.state_hash),
        SnapshotHeader("c", 60, TERM + 1, 0, header.state_hash),
        SnapshotHeader("c", 60, TERM, 0, bytes(16)),
    ):
        with pytest.raises(SnapshotDamaged, match="its state says"):
            sink.verify(changed, footer)
    sink.discard()
    with pytest.raises(SnapshotError, match="No snapshot is being received"):
        sink.commit()
    source.close()


def test_a_full_disk_ends_the_transfer_and_not_the_member(
    source: LmdbStore, tmp_path: Path
) -> None:
    """What does not fit is an error of this snapshot; no promise was made with it."""
    reader = SnapshotReader()
    sink = LmdbSink(tmp_path, map_bytes=32_768)
    reader.take(chunks_of(source)[0])
    assert reader.header is not None
    sink.begin(reader.header)
    with pytest.raises(SnapshotError, match="cannot be stored"):
        sink.write([(b"%05d" % number, bytes(1000)) for number in range(100)])
    sink.discard()
    assert not (tmp_path / INCOMING).exists()
    assert not (tmp_path / OLD).exists()
    source.close()
