"""The commands for backups and restorations: what they ask, what they refuse, what they leave."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli import exits
from node.cli.program import run
from storage.clock import SystemEnvironment
from storage.snapshot_memory import MemorySource
from tests.support.builders import Lab
from tests.support.stub_api import Reply, StubApi, problem, stub_api

PATH = "/v1/cluster/backup"
MEMBERS = ("--member", "n1=127.0.0.1:20101", "--member", "n2=127.0.0.1:20102")
GONE = "--old-cluster-is-gone"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    with stub_api() as stub:
        monkeypatch.setenv("CRONCLAVE_ADDR", stub.url)
        yield stub


@pytest.fixture(scope="module")
def content() -> bytes:
    """A backup of a small cluster with the name `old`."""
    lab = Lab()
    lab.join()
    lab.create()
    rows = lab.store.scan(b"", b"\xff", 1_000)
    source = MemorySource(lambda: rows, cluster="old", environment=SystemEnvironment())
    stream = source.open(lambda _: b"", 300)
    assert stream is not None
    chunks = []
    while (chunk := stream.next_chunk()) is not None:
        chunks.append(chunk)
    return b"".join(chunks)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "a.backup"
    path.write_bytes(content)
    return path


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def restore(file: Path, place: Path, *more: str) -> int:
    return run(["cluster", "restore", str(file), "--dir", str(place), *MEMBERS, *more])


# --- Backups --------------------------------------------------------------------------------


def test_a_backup_is_written_and_described(
    api: StubApi, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is what the node sent, byte for byte; what it is of goes to standard output."""
    api.on("GET", PATH, Reply(document=content))
    assert run(["cluster", "backup", str(tmp_path / "b"), "-o", "json"]) == exits.OK
    assert (tmp_path / "b").read_bytes() == content
    shown = json.loads(capsys.readouterr().out)
    assert (shown["cluster"], shown["jobs"], shown["bytes"] > 0) == ("old", 1, True)
    assert run(["cluster", "verify-backup", str(tmp_path / "b")]) == exits.OK


def test_the_next_node_is_asked_when_one_has_nothing_to_give(
    api: StubApi, tmp_path: Path, content: bytes
) -> None:
    """503 comes before the first byte, so nothing is mixed up."""
    api.on("GET", PATH, Reply(document=content))
    with stub_api() as empty:
        empty.on("GET", PATH, problem(503, "not_ready"))
        addresses = f"http://127.0.0.1:1,{empty.url},{api.url}"
        assert run(["cluster", "backup", str(tmp_path / "b"), "--addr", addresses]) == exits.OK


def test_a_backup_from_a_node_without_a_quorum_comes_with_a_warning(
    api: StubApi, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says as of when it is."""
    api.on("GET", PATH, Reply(document=content, headers={"X-Cronclave-Stale": "true"}))
    assert run(["cluster", "backup", str(tmp_path / "b")]) == exits.OK
    assert "as of 1970-01-12T13:46:40Z" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [1, 30, 400])
def test_a_backup_that_breaks_off_leaves_no_file(
    api: StubApi, tmp_path: Path, content: bytes, cut: int
) -> None:
    """Also where the connection ends as if that were the end."""
    api.on("GET", PATH, Reply(document=content[:-cut]))
    assert run(["cluster", "backup", str(tmp_path / "b")]) == exits.ERROR
    longer = {"Content-Length": str(len(content))}
    api.on("GET", PATH, Reply(document=content[:-cut], headers=longer))
    assert run(["cluster", "backup", str(tmp_path / "b")]) == exits.ERROR
    assert os.listdir(tmp_path) == []


def test_a_refused_backup_says_why(
    api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody else takes one from that node."""
    api.on("GET", PATH, problem(429, "overloaded", "A backup is being taken."))
    assert run(["cluster", "backup", str(tmp_path / "b")]) == exits.UNAVAILABLE
    assert "A backup is being taken." in capsys.readouterr().err


def test_the_tail_is_a_question_of_data_directories_only(tmp_path: Path) -> None:
    """A running cluster knows what was agreed upon."""
    assert run(["cluster", "backup", str(tmp_path / "b"), "--tail", "keep"]) == exits.USAGE


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    """Files and directories alike, and nothing is made of them."""
    missing = str(tmp_path / "missing")
    assert run(["cluster", "verify-backup", missing]) == exits.NOT_FOUND
    assert restore(Path(missing), tmp_path / "new", GONE) == exits.NOT_FOUND
    assert run(["cluster", "inspect", missing]) == exits.ERROR
    assert os.listdir(tmp_path) == []


# --- Restorations ---------------------------------------------------------------------------


def test_a_restoration_makes_a_whole_cluster(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Certificates, a configuration and a data directory for each member."""
    place = tmp_path / "new"
    assert restore(file, place, GONE) == exits.OK
    assert capsys.readouterr().out.strip() == str(place / "cluster.toml")
    assert 'name = "old-r1"' in (place / "cluster.toml").read_text()
    for member in ("n1", "n2"):
        assert (place / "certificates" / member).is_dir()
        assert (place / "data" / member / "state" / "data.mdb").is_file()


@pytest.mark.parametrize(
    ("typed", "status"), [("old\n", exits.OK), ("new\n", exits.USAGE), ("yes\n", exits.USAGE)]
)
def test_a_person_types_the_name_of_the_old_cluster(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, status: int
) -> None:
    """Anything else, and nothing is made."""
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    place = tmp_path / "new"
    assert restore(file, place) == status
    assert place.exists() == (status == exits.OK)


def test_a_script_has_to_say_that_it_knows(file: Path, tmp_path: Path) -> None:
    """Without a terminal nobody can be asked."""
    assert restore(file, tmp_path / "new") == exits.USAGE
    assert not (tmp_path / "new").exists()


def test_the_new_cluster_never_has_the_name_of_the_old_one(file: Path, tmp_path: Path) -> None:
    """Given by hand or made up, and made up anew each time."""
    assert restore(file, tmp_path / "new", GONE, "--name", "old") == exits.USAGE
    assert not (tmp_path / "new").exists()
    assert restore(file, tmp_path / "new", GONE, "--name", "other") == exits.OK
    data = str(tmp_path / "new" / "data" / "n1")
    again, number = tmp_path / "again", 1
    for name in ("other-r1", "other-r2"):
        backup = str(tmp_path / f"{number}.backup")
        assert run(["cluster", "backup", "--data-dir", data, backup]) == exits.OK
        assert restore(Path(backup), again, GONE) == exits.OK
        assert f'name = "{name}"' in (again / "cluster.toml").read_text()
        data, again, number = str(again / "data" / "n1"), tmp_path / "once-more", number + 1


def test_a_place_that_is_not_empty_is_refused(file: Path, tmp_path: Path) -> None:
    """Another cluster may lie there."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "cluster.toml").write_text("")
    assert restore(file, tmp_path / "new", GONE) == exits.CONFLICT


@pytest.mark.parametrize("member", ["n1", "n1=nowhere", "=127.0.0.1:1", "n1=127.0.0.1:20101"])
def test_members_that_make_no_cluster_are_refused_before_anything_is_made(
    file: Path, tmp_path: Path, member: str
) -> None:
    """The last of them is a second member of the same name."""
    assert restore(file, tmp_path / "new", GONE, "--member", member) == exits.USAGE
    assert not (tmp_path / "new").exists()


# --- Recovery -------------------------------------------------------------------------------


def test_a_recovery_closes_what_it_was_made_from(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot be used for a second cluster, and the words say what is lost."""
    assert restore(file, tmp_path / "first", GONE) == exits.OK
    data = str(tmp_path / "first" / "data" / "n2")
    place = tmp_path / "second"
    recover = ["cluster", "recover", data, "--dir", str(place), *MEMBERS]
    assert run(recover) == exits.USAGE
    assert not place.exists()
    assert run([*recover, "--yes-i-accept-data-loss"]) == exits.OK
    said = capsys.readouterr().err
    assert "RECOVERY" in said
    assert "is LOST" in said
    assert 'name = "old-r2"' in (place / "cluster.toml").read_text()
    assert (place / "recovered.backup").is_file()
    assert run(["cluster", "inspect", data]) == exits.CONFLICT
    assert "'old-r2' was made of this member's state" in capsys.readouterr().err
    third = ["cluster", "recover", data, "--dir", str(tmp_path / "third"), *MEMBERS]
    assert run([*third, "--yes-i-accept-data-loss"]) == exits.CONFLICT
    assert not (tmp_path / "third").exists()
