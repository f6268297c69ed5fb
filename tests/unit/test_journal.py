"""The journal keeps what it promised, and refuses to open when it cannot."""

from __future__ import annotations

import stat
from pathlib import Path

import lmdb
import pytest

from storage.clock import SystemEnvironment
from storage.invariant import InvariantViolated
from storage.journal import LmdbJournal
from storage.journal_format import (
    TRIM_RECORDS_MAX,
    Batch,
    DiskFailed,
    HardState,
    JournalDamaged,
    JournalMismatch,
    LogRecord,
    encode_entry,
    entry_key,
)
from storage.memory_journal import MemoryDisk, MemoryJournal

MAP_BYTES = 64 * 1024 * 1024
ALL = 1 << 40


def open_journal(
    path: Path, *, cluster: str = "c", member: str = "m", map_bytes: int = MAP_BYTES
) -> LmdbJournal:
    return LmdbJournal(
        path, cluster=cluster, member=member, environment=SystemEnvironment(), map_bytes=map_bytes
    )


def records(first: int, last: int, term: int = 1, size: int = 100) -> list[LogRecord]:
    return [
        (b"\x00" + bytes([index % 251]) * size, index, term) for index in range(first, last + 1)
    ]


def filled(path: Path, last: int = 20) -> None:
    journal = open_journal(path)
    journal.write(Batch(records=records(1, last), hard_state=HardState(1, "m")))
    journal.close()


def tamper(path: Path, key: bytes, value: bytes | None, db: bytes = b"entries") -> None:
    """Change one record behind the journal's back."""
    env = lmdb.open(str(path), map_size=MAP_BYTES, max_dbs=2)
    with env.begin(write=True, db=env.open_db(db)) as transaction:
        if value is None:
            transaction.delete(key)
        else:
            transaction.put(key, value)
    env.close()


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    """Entries, term, vote and met disks survive the process."""
    journal = open_journal(tmp_path / "j")
    journal.write(Batch(records=records(1, 5), hard_state=HardState(3, "x")))
    journal.write(Batch(records=records(6, 7, term=2), disks={"other": b"d" * 16}))
    disk_id = journal.disk_id
    journal.close()
    again = open_journal(tmp_path / "j")
    assert (again.first_index, again.last_index, again.boots) == (1, 7, 2)
    assert again.hard_state == HardState(3, "x")
    assert again.disk_id == disk_id
    assert again.known_disks == {"other": b"d" * 16}
    assert again.read(1, 7, ALL) == records(1, 5) + records(6, 7, term=2)
    again.close()


def test_the_base_configuration_is_kept_with_the_trim_that_needs_it(tmp_path: Path) -> None:
    """It survives the process, a later batch without one leaves it, and damage shows."""
    journal = open_journal(tmp_path / "j")
    assert journal.configuration is None
    journal.write(Batch(records=records(1, 9), configuration=(0, b"first")))
    journal.write(Batch(trim_below=5, configuration=(4, b"second")))
    journal.write(Batch(hard_state=HardState(2, None)))
    journal.close()
    again = open_journal(tmp_path / "j")
    assert (again.first_index, again.configuration) == (5, (4, b"second"))
    again.close()
    tamper(tmp_path / "j", b"configuration", b"\0" * 12, b"meta")
    with pytest.raises(JournalDamaged, match="configuration"):
        open_journal(tmp_path / "j")


def test_a_read_stops_where_it_has_read_enough(tmp_path: Path) -> None:
    """A byte bound cuts a read, and one record is always returned."""
    journal = open_journal(tmp_path / "j")
    journal.write(Batch(records=records(1, 10, size=1000)))
    assert [index for _, index, _ in journal.read(3, 10, 2500)] == [3, 4]
    assert [index for _, index, _ in journal.read(3, 10, 1)] == [3]
    journal.close()


def test_a_cut_and_a_continuation_are_one_transaction(tmp_path: Path) -> None:
    """Records from an index on are replaced by others."""
    journal = open_journal(tmp_path / "j")
    journal.write(Batch(records=records(1, 10)))
    journal.write(Batch(truncate_from=6, records=records(6, 7, term=2), hard_state=HardState(2)))
    assert journal.last_index == 7
    assert [term for _, _, term in journal.read(1, 7, ALL)] == [1] * 5 + [2] * 2
    journal.close()


def test_trimming_lets_a_bounded_number_of_old_records_go(tmp_path: Path) -> None:
    """One transaction frees at most so many, and the next one goes on."""
    journal = open_journal(tmp_path / "j")
    last = TRIM_RECORDS_MAX + 500
    journal.write(Batch(records=records(1, last), hard_state=HardState(1)))
    journal.write(Batch(trim_below=last))
    assert journal.first_index == TRIM_RECORDS_MAX + 1
    journal.write(Batch(trim_below=last))
    assert journal.first_index == last
    journal.close()
    again = open_journal(tmp_path / "j")
    assert (again.first_index, again.last_index) == (last, last)
    again.close()


def test_a_gap_stops_the_process(tmp_path: Path) -> None:
    """The journal takes no records that do not continue it, and does not lose its first."""
    journal = open_journal(tmp_path / "j")
    journal.write(Batch(records=records(1, 3)))
    with pytest.raises(InvariantViolated):
        journal.write(Batch(records=records(5, 5)))
    with pytest.raises(InvariantViolated):
        journal.write(Batch(truncate_from=1))
    with pytest.raises(InvariantViolated):
        journal.write(Batch(trim_below=9))
    assert journal.last_index == 3
    journal.close()


@pytest.mark.parametrize(
    ("cluster", "member"), [("other", "m"), ("c", "other")], ids=["cluster", "member"]
)
def test_the_journal_of_another_is_refused(tmp_path: Path, cluster: str, member: str) -> None:
    """A data directory that was mixed up says whose it is."""
    open_journal(tmp_path / "j", cluster=cluster, member=member).close()
    with pytest.raises(JournalMismatch, match=r"written by member"):
        open_journal(tmp_path / "j")


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Mode 0700 for the directory, 0600 for the files."""
    open_journal(tmp_path / "j").close()
    assert stat.S_IMODE((tmp_path / "j").stat().st_mode) == 0o700
    for file in (tmp_path / "j").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


@pytest.mark.parametrize("offset", [0, 5, 12, 13, 60])
def test_a_flipped_bit_is_found_at_start(tmp_path: Path, offset: int) -> None:
    """Checksum, term and command of an entry are all covered."""
    filled(tmp_path / "j")
    value = bytearray(encode_entry(records(9, 9)[0]))
    value[offset] ^= 0x10
    tamper(tmp_path / "j", entry_key(9), bytes(value))
    with pytest.raises(JournalDamaged, match=r"Entry 9 .* checksum.* new one with an empty disk"):
        open_journal(tmp_path / "j")


def test_an_entry_in_the_place_of_another_is_found(tmp_path: Path) -> None:
    """The checksum covers the index."""
    filled(tmp_path / "j")
    tamper(tmp_path / "j", entry_key(9), encode_entry(records(8, 8)[0]))
    with pytest.raises(JournalDamaged, match="Entry 9"):
        open_journal(tmp_path / "j")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (entry_key(9), None, "entry 10 right after entry 8"),
        (entry_key(25), encode_entry(records(25, 25)[0]), "entry 25 right after entry 20"),
        (entry_key(21), encode_entry((b"\x00x", 21, 0)), "impossible term"),
        (entry_key(21), encode_entry((b"\x00x", 21, 9)), "term 9, but the stored term is 1"),
        (entry_key(0), encode_entry((b"\x00x", 0, 0)), "impossible"),
        (b"odd", b"x" * 20, "impossible key"),
        (entry_key(20), b"short", "cut short"),
    ],
)
def test_an_impossible_log_is_refused(
    tmp_path: Path, key: bytes, value: bytes | None, expected: str
) -> None:
    """Gaps, odd keys and terms that go back or ahead are refused."""
    filled(tmp_path / "j")
    tamper(tmp_path / "j", key, value)
    with pytest.raises(JournalDamaged, match=expected):
        open_journal(tmp_path / "j")


@pytest.mark.parametrize("name", [b"identity", b"hard_state", b"boots"])
def test_a_damaged_head_is_refused(tmp_path: Path, name: bytes) -> None:
    """Whose journal it is, the vote and the count of starts are covered, too."""
    filled(tmp_path / "j")
    tamper(tmp_path / "j", name, b"\x00" * 30, db=b"meta")
    with pytest.raises(JournalDamaged, match=name.decode()):
        open_journal(tmp_path / "j")


@pytest.mark.parametrize("name", [b"identity", b"hard_state"])
def test_a_missing_head_is_no_new_journal(tmp_path: Path, name: bytes) -> None:
    """A vote that is gone must not be read as no vote."""
    filled(tmp_path / "j")
    tamper(tmp_path / "j", name, None, db=b"meta")
    with pytest.raises(JournalDamaged):
        open_journal(tmp_path / "j")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused_without_a_crash(tmp_path: Path, part: float) -> None:
    """Reading behind the end of a mapped file would kill the process."""
    journal = open_journal(tmp_path / "j")
    journal.write(Batch(records=records(1, 500, size=3000), hard_state=HardState(1)))
    journal.close()
    file = tmp_path / "j" / "data.mdb"
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * part))
    with pytest.raises(JournalDamaged):
        open_journal(tmp_path / "j")


def test_a_full_disk_is_final(tmp_path: Path) -> None:
    """The first failure closes the journal for writing; what was there stays readable."""
    journal = open_journal(tmp_path / "j", map_bytes=256 * 1024)
    journal.write(Batch(records=records(1, 10)))
    with pytest.raises(DiskFailed, match="cannot be written"):
        journal.write(Batch(records=records(11, 2000, size=1000)))
    with pytest.raises(DiskFailed, match="failed before"):
        journal.write(Batch(records=records(11, 11)))
    assert journal.last_index == 10
    assert len(journal.read(1, 10, ALL)) == 10
    journal.close()


def test_its_size_can_be_watched(tmp_path: Path) -> None:
    """An alarm needs what is used and what there is."""
    journal = open_journal(tmp_path / "j")
    before = journal.used_bytes
    journal.write(Batch(records=records(1, 100, size=2000)))
    assert before < journal.used_bytes < journal.map_bytes == MAP_BYTES
    journal.close()


def test_the_journal_in_memory_behaves_like_the_one_on_disk(tmp_path: Path) -> None:
    """The simulation's journal gives the same answers to the same batches."""
    disk = MemoryDisk(b"d" * 16)
    pair = (open_journal(tmp_path / "j"), MemoryJournal(disk))
    batches = (
        Batch(records=records(1, 12), hard_state=HardState(1, "m")),
        Batch(truncate_from=8, records=records(8, 9, term=2), disks={"o": b"o" * 16}),
        Batch(trim_below=4, records=records(10, 15, term=2), hard_state=HardState(2)),
        Batch(truncate_from=12),
    )
    for batch in batches:
        for journal in pair:
            journal.write(batch)
        one, two = (
            (j.first_index, j.last_index, j.hard_state, dict(j.known_disks), j.boots) for j in pair
        )
        assert one == two
        assert list(pair[0].read(4, 9, ALL)) == list(pair[1].read(4, 9, ALL))
    pair[0].close()


def test_a_power_loss_takes_what_a_lazy_disk_has_not_synced() -> None:
    """The control of the simulation has teeth, and the honest disk loses nothing."""
    for lazy, kept in ((False, 6), (True, 4)):
        disk = MemoryDisk(b"d" * 16, lazy=lazy)
        journal = MemoryJournal(disk)
        journal.write(Batch(records=records(1, 4)))
        disk.sync()
        journal.write(Batch(records=records(5, 6)))
        disk.lose_power()
        assert MemoryJournal(disk).last_index == kept


def test_a_log_begins_anew_in_one_transaction(tmp_path: Path) -> None:
    """All records give way to one; term, vote, disks and the disk's identity stay."""
    journal = open_journal(tmp_path / "j")
    journal.write(
        Batch(records=records(1, 3000), hard_state=HardState(4, "x"), disks={"o": b"d" * 16})
    )
    disk_id = journal.disk_id
    base = (b"\x01", 9_000, 4)
    journal.write(Batch(base=base))
    assert (journal.first_index, journal.last_index) == (9_000, 9_000)
    journal.write(Batch(records=records(9_001, 9_002, term=4)))
    journal.close()
    again = open_journal(tmp_path / "j")
    assert (again.first_index, again.last_index) == (9_000, 9_002)
    assert again.read(9_000, 9_000, ALL) == [base]
    assert (again.hard_state, again.disk_id) == (HardState(4, "x"), disk_id)
    assert again.known_disks == {"o": b"d" * 16}
    with pytest.raises(InvariantViolated, match="begins with one record"):
        again.write(Batch(base=base, trim_below=9_001))
    again.close()


def test_a_log_in_memory_begins_anew_in_the_same_way() -> None:
    """The model of the simulation does what the disk does."""
    journal = MemoryJournal(MemoryDisk(b"d" * 16))
    journal.write(Batch(records=records(1, 10), hard_state=HardState(4, "x")))
    journal.write(Batch(base=(b"\x01", 5, 4)))
    assert (journal.first_index, journal.last_index) == (5, 5)
    assert journal.hard_state == HardState(4, "x")
