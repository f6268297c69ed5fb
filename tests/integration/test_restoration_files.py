"""Data directories that outlive their cluster: read, backed up, and made into a new one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consensus import features
from consensus.configuration import first_configuration
from consensus.features import LevelUnsupported
from consensus.raft.log import RaftLog
from consensus.raft.types import RaftSettings
from consensus.state.context import Effects
from consensus.state.machine import Machine
from consensus.state.restoration import INDEX_GAP
from node.boot import DirectoryInUse, locked
from node.quarantine import Quarantined, close_directory
from node.restoration import DATA, restore_data
from node.survivor import Survivor, open_survivor
from storage import keys, models
from storage.backup_file import Backup, check_backup, write_backup
from storage.clock import SystemEnvironment
from storage.invariant import InvariantViolated
from storage.journal import LmdbJournal
from storage.journal_format import EMPTY_PAYLOAD, REGULAR_KIND, Batch, HardState, JournalDamaged
from storage.lmdb_store import LmdbStore
from storage.models import ClusterLevel
from storage.snapshot_format import SnapshotError
from tests.support.checks import check_state, everything
from tests.support.random_world import RandomWorld

ENVIRONMENT = SystemEnvironment()
TERM = 3
ENTRIES, APPLIED = 60, 45
MEMBERS = ("a", "b", "c")


class Remains:
    """A data directory of member `n1`, whose state trails its journal."""

    def __init__(self, directory: Path, last: bytes | None = None) -> None:
        self.directory = directory
        directory.mkdir()
        journal = LmdbJournal(
            directory / "journal", cluster="old", member="n1", environment=ENVIRONMENT
        )
        store = LmdbStore(directory / "state")
        machine, world = Machine(store), RandomWorld(5, store)
        records = [(EMPTY_PAYLOAD, 1, TERM)]
        machine.apply(1, TERM, b"", Effects())
        for index in range(2, ENTRIES + 1):
            command = world.entry()
            records.append((bytes([REGULAR_KIND]) + command, index, TERM))
            machine.apply(index, TERM, command, Effects())
            if index == APPLIED:
                machine.finish()
                self.applied_hash = machine.state_hash
                store.flush()
        machine.finish()
        self.last_hash = machine.state_hash
        self.state = everything(store)
        if last is not None:
            records.append((bytes([REGULAR_KIND]) + last, ENTRIES + 1, TERM))
        journal.write(Batch(records=records, hard_state=HardState(TERM, "n1")))
        journal.close()
        store.close()


@pytest.fixture
def remains(tmp_path: Path) -> Remains:
    return Remains(tmp_path / "n1")


def backup_of(survivor: Survivor, path: Path) -> Backup:
    return write_backup(path, survivor.chunks(ENVIRONMENT))


def rows_of(path: Path) -> dict[bytes, bytes]:
    store = LmdbStore(path)
    try:
        return everything(store)
    finally:
        store.close()


# --- A survivor -----------------------------------------------------------------------------


def test_a_survivor_says_what_is_certain_and_what_is_in_doubt(remains: Remains) -> None:
    """Whose it is, how far it got, and every entry behind what was applied."""
    with open_survivor(remains.directory, ENVIRONMENT) as survivor:
        assert (survivor.identity.cluster, survivor.identity.member) == ("old", "n1")
        assert survivor.meta.applied_index == APPLIED
        assert survivor.journal.last_index == ENTRIES
        tail = list(survivor.tail())
        assert [entry.index for entry in tail] == list(range(APPLIED + 1, ENTRIES + 1))
        assert any("Claim" in entry.content for entry in tail)


@pytest.mark.parametrize("keep", [False, True])
def test_the_tail_is_in_the_backup_if_it_is_to_be(
    tmp_path: Path, remains: Remains, keep: bool
) -> None:
    """Kept, it is what the member would have had; dropped, what was certainly agreed upon."""
    with open_survivor(remains.directory, ENVIRONMENT) as survivor:
        if keep:
            survivor.keep_tail()
        backup = backup_of(survivor, tmp_path / "backup")
    index, state_hash = (ENTRIES, remains.last_hash) if keep else (APPLIED, remains.applied_hash)
    assert (backup.header.index, backup.header.state_hash) == (index, state_hash)
    assert backup.header.cluster == "old"


def test_looking_at_a_survivor_changes_nothing(tmp_path: Path, remains: Remains) -> None:
    """It can be asked again, with another decision."""
    before = rows_of(remains.directory / "state")
    for number in range(2):
        with open_survivor(remains.directory, ENVIRONMENT) as survivor:
            assert survivor.meta.applied_index == APPLIED
            survivor.keep_tail()
            backup = backup_of(survivor, tmp_path / f"backup-{number}")
            assert backup.header.state_hash == remains.last_hash
    assert rows_of(remains.directory / "state") == before


def test_a_tail_that_is_not_understood_is_named_and_cannot_be_kept(tmp_path: Path) -> None:
    """A newer release wrote it; without that release it can only be dropped."""
    remains = Remains(tmp_path / "n1", last=b"\xc1")
    with open_survivor(remains.directory, ENVIRONMENT) as survivor:
        *_, last = survivor.tail()
        assert last.content == "not understood by this release"
        with pytest.raises(InvariantViolated, match=f"Entry {ENTRIES + 1}"):
            survivor.keep_tail()


def test_a_directory_in_use_or_closed_or_empty_is_refused(tmp_path: Path, remains: Remains) -> None:
    """A running member, a state that is not to be trusted, and no data directory at all."""
    with (
        locked(remains.directory),
        pytest.raises(DirectoryInUse),
        open_survivor(remains.directory, ENVIRONMENT),
    ):
        pass
    with (
        pytest.raises(JournalDamaged, match="no data directory"),
        open_survivor(tmp_path / "nothing", ENVIRONMENT),
    ):
        pass
    assert not (tmp_path / "nothing").exists()
    close_directory(remains.directory, "It was recovered.", {}, "Leave it.")
    with (
        pytest.raises(Quarantined, match=r"It was recovered\. .* Leave it\."),
        open_survivor(remains.directory, ENVIRONMENT),
    ):
        pass


# --- A new cluster --------------------------------------------------------------------------


@pytest.fixture
def backup(tmp_path: Path, remains: Remains) -> Path:
    with open_survivor(remains.directory, ENVIRONMENT) as survivor:
        survivor.keep_tail()
        backup_of(survivor, tmp_path / "backup")
    return tmp_path / "backup"


def test_every_member_of_the_new_cluster_begins_at_the_same_entry(
    tmp_path: Path, backup: Path
) -> None:
    """G13: the same bytes, a journal that begins there, and an identity of its own."""
    place = tmp_path / "new"
    restored = restore_data(backup, place, "new", MEMBERS, ENVIRONMENT)
    assert sorted(os.listdir(place)) == [DATA]
    assert sorted(os.listdir(place / DATA)) == sorted(MEMBERS)
    states = [rows_of(place / DATA / member / "state") for member in MEMBERS]
    assert states[0] == states[1] == states[2]
    meta = models.decode_meta(states[0][keys.META])
    assert meta == restored.closed.meta
    assert meta.applied_index == ENTRIES + INDEX_GAP
    disks = set()
    for member in MEMBERS:
        journal = LmdbJournal(
            place / DATA / member / "journal",
            cluster="new",
            member=member,
            environment=ENVIRONMENT,
        )
        log = RaftLog(
            journal,
            RaftSettings(),
            meta.applied_index,
            first_configuration(dict.fromkeys(MEMBERS, "")),
        )
        assert (log.first_index, log.last_index) == (meta.applied_index, meta.applied_index)
        assert (log.last_term, journal.hard_state) == (TERM, HardState(TERM))
        disks.add(journal.disk_id)
        journal.close()
    assert len(disks) == len(MEMBERS)


def test_the_new_state_is_whole(tmp_path: Path, remains: Remains, backup: Path) -> None:
    """Every derived table and counter agrees, and nothing of the jobs is missing."""
    restore_data(backup, tmp_path / "new", "new", ("a",), ENVIRONMENT)
    store = LmdbStore(tmp_path / "new" / DATA / "a" / "state")
    counters = dict(Machine(store).counters)
    assert counters.pop("restorations") == 1
    check_state(store, counters)
    jobs = {key: row for key, row in everything(store).items() if key.startswith(keys.JOB)}
    assert jobs == {key: row for key, row in remains.state.items() if key.startswith(keys.JOB)}
    store.close()


def test_a_damaged_backup_is_refused_before_anything_is_written(
    tmp_path: Path, backup: Path
) -> None:
    """One flipped bit, wherever it is."""
    content = bytearray(backup.read_bytes())
    for place in (9, len(content) // 2, len(content) - 3):
        damaged = bytearray(content)
        damaged[place] ^= 4
        backup.write_bytes(damaged)
        with pytest.raises(SnapshotError):
            restore_data(backup, tmp_path / "new", "new", MEMBERS, ENVIRONMENT)
        assert not (tmp_path / "new").exists()


def test_a_backup_of_a_later_level_is_refused(tmp_path: Path, remains: Remains) -> None:
    """The release that wrote it, or a newer one, has to restore it."""
    store = LmdbStore(remains.directory / "state")
    level = ClusterLevel(level=features.CURRENT + 1, since_ms=1)
    store.put(keys.LEVEL, models.encode(level))
    store.flush()
    store.close()
    with open_survivor(remains.directory, ENVIRONMENT) as survivor:
        backup = backup_of(survivor, tmp_path / "backup")
    assert backup.level == features.CURRENT + 1
    with pytest.raises(LevelUnsupported, match="feature level"):
        restore_data(tmp_path / "backup", tmp_path / "new", "new", MEMBERS, ENVIRONMENT)
    assert os.listdir(tmp_path / "new") == []


def test_a_restoration_that_fails_half_way_can_be_repeated(
    tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves nothing from which a member would start."""
    filled = []

    class FullDisk(LmdbJournal):
        def __init__(self, path: Path, **options: object) -> None:
            filled.append(path)
            if len(filled) == 2:
                raise OSError(28, "No space left on device", str(path))
            super().__init__(path, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("node.restoration.LmdbJournal", FullDisk)
        with pytest.raises(OSError, match="No space left"):
            restore_data(backup, tmp_path / "new", "new", MEMBERS, ENVIRONMENT)
    assert os.listdir(tmp_path / "new") == []
    restore_data(backup, tmp_path / "new", "new", MEMBERS, ENVIRONMENT)
    assert sorted(os.listdir(tmp_path / "new" / DATA)) == sorted(MEMBERS)


def test_a_restored_state_can_be_backed_up_and_restored_again(tmp_path: Path, backup: Path) -> None:
    """Each time further up, and never with the fences of before."""
    restore_data(backup, tmp_path / "new", "new", ("a",), ENVIRONMENT)
    with open_survivor(tmp_path / "new" / DATA / "a", ENVIRONMENT) as survivor:
        again = backup_of(survivor, tmp_path / "again")
    restored = restore_data(tmp_path / "again", tmp_path / "newer", "newer", ("a",), ENVIRONMENT)
    assert again.header.cluster == "new"
    assert restored.closed.meta.applied_index == ENTRIES + 2 * INDEX_GAP
    assert check_backup(tmp_path / "again") == again
