"""A backup file is whole or not there, and damage is found before it is used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import keys, models
from storage.backup_file import PARTIAL, check_backup, rows_of_backup, write_backup
from storage.clock import SystemEnvironment
from storage.models import ClusterLevel
from storage.snapshot_format import SnapshotDamaged, SnapshotError
from storage.snapshot_memory import MemorySource
from storage.store import Row
from tests.support.builders import Lab


def chunks_of(rows: list[Row]) -> Iterator[bytes]:
    source = MemorySource(lambda: rows, cluster="c", environment=SystemEnvironment())
    stream = source.open(lambda _: b"", 300)
    assert stream is not None
    while (chunk := stream.next_chunk()) is not None:
        yield chunk


@pytest.fixture
def rows() -> list[Row]:
    lab = Lab()
    lab.join()
    for number in range(5):
        lab.create(f"job-{number}")
    return lab.store.scan(b"", b"\xff", 1_000)


def test_a_file_gives_back_what_was_written_and_is_nobody_elses(
    tmp_path: Path, rows: list[Row]
) -> None:
    """Its records, where it stands, and a mode that keeps others out, whatever the umask."""
    path = tmp_path / "backup"
    before = os.umask(0)
    try:
        written = write_backup(path, chunks_of(rows))
    finally:
        os.umask(before)
    assert check_backup(path) == written
    assert [row for some in rows_of_backup(path) for row in some] == rows
    assert written.meta == models.decode_meta(dict(rows)[keys.META])
    assert written.header.index == written.meta.applied_index
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["backup"]


def test_a_backup_names_the_feature_level_that_it_needs(tmp_path: Path, rows: list[Row]) -> None:
    """So that a release which cannot read it says so before it begins."""
    assert write_backup(tmp_path / "one", chunks_of(rows)).level == 1
    level = models.encode(ClusterLevel(level=7, since_ms=1))
    raised = sorted({**dict(rows), keys.LEVEL: level}.items())
    assert write_backup(tmp_path / "seven", chunks_of(raised)).level == 7


@pytest.mark.parametrize("kept", [0, 1, 3, -1])
def test_a_stream_that_ends_early_leaves_no_file(
    tmp_path: Path, rows: list[Row], kept: int
) -> None:
    """Neither under its name nor under the other one."""
    chunks = list(chunks_of(rows))[:kept]
    with pytest.raises(SnapshotError):
        write_backup(tmp_path / "backup", iter(chunks))
    assert os.listdir(tmp_path) == []


def test_what_an_interrupted_backup_has_left_is_replaced(tmp_path: Path, rows: list[Row]) -> None:
    """A killed process cannot clean up; the next one does, also when others may read it."""
    left = tmp_path / f"backup{PARTIAL}"
    left.write_bytes(b"half")
    left.chmod(0o644)
    write_backup(tmp_path / "backup", chunks_of(rows))
    assert os.listdir(tmp_path) == ["backup"]
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o600


def test_a_backup_never_takes_the_place_of_another(tmp_path: Path, rows: list[Row]) -> None:
    """The older one may be the only good one."""
    (tmp_path / "backup").write_bytes(b"older")
    with pytest.raises(FileExistsError):
        write_backup(tmp_path / "backup", chunks_of(rows))
    assert (tmp_path / "backup").read_bytes() == b"older"


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path, rows: list[Row]) -> None:
    """Wherever it is, and before anything of the file is believed."""
    path = tmp_path / "backup"
    write_backup(path, chunks_of(rows))
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(SnapshotError):
            check_backup(path)
    for length in range(0, len(content), 11):
        path.write_bytes(content[:length])
        with pytest.raises(SnapshotDamaged):
            check_backup(path)
    path.write_bytes(content + b"more")
    with pytest.raises(SnapshotDamaged):
        check_backup(path)
