"""Job files and `job apply`."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli import exits
from node.cli.documents import read_documents
from node.cli.exits import CommandFailed
from node.cli.program import run
from tests.support.stub_api import Reply, StubApi, problem, stub_api


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    monkeypatch.delenv("CRONCLAVE_NAMESPACE", raising=False)
    with stub_api() as stub:
        monkeypatch.setenv("CRONCLAVE_ADDR", stub.url)
        for name in ("a", "b", "c"):
            stub.on("PUT", f"/v1/jobs/default/{name}", Reply(document={"name": name}, status=201))
        yield stub


def names(path: Path) -> list[str]:
    return [document.job["name"] for document in read_documents(str(path), None)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("one.toml", 'name = "a"'),
        ("table.toml", '[[jobs]]\nname = "a"'),
        ("one.json", '{"name": "a"}'),
        ("list.json", '[{"name": "a"}]'),
        ("wrapped.json", '{"jobs": [{"name": "a"}]}'),
        ("one.yaml", "name: a"),
        ("list.yml", "- name: a"),
        ("documents.yaml", "---\nname: a\n---\n"),
    ],
)
def test_a_file_holds_jobs_in_one_of_three_formats(tmp_path: Path, file: str, text: str) -> None:
    """The suffix says which; one job, a list, or the key "jobs"."""
    (tmp_path / file).write_text(text)
    assert names(tmp_path / file) == ["a"]


def test_a_folder_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    """Other files in it are not looked at."""
    (tmp_path / "2.json").write_text('{"name": "b"}')
    (tmp_path / "1.toml").write_text('name = "a"')
    (tmp_path / "3.yaml").write_text("name: c\n---\nname: d")
    (tmp_path / "README.md").write_text("Not a job.")
    assert names(tmp_path) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "text",
    [
        'name = "a"',
        '# jobs\n\n[[jobs]]\nname = "a"',
        '{"name": "a"}',
        '[{"name": "a"}]',
        "name: a",
        "- name: a",
    ],
)
def test_standard_input_tells_its_format_by_itself(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a program writes into a pipe has no suffix."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert [document.job["name"] for document in read_documents("-", None)] == ["a"]


def test_yaml_is_read_without_its_surprises(tmp_path: Path) -> None:
    """Times, clock times, words and numbers with a zero in front stay what was written."""
    file = tmp_path / "job.yaml"
    file.write_text(
        "name: a\nat: 2027-01-01T00:00:00Z\nday: 2027-01-01\nclock: 12:30\nflag: on\n"
        "country: NO\ncode: 0123\nnumber: 5\nshare: 0.5\nyes: true\nnothing: null\nempty:\n"
        "quoted: '7'\n"
    )
    (document,) = read_documents(str(file), None)
    assert document.job == {
        "name": "a",
        "at": "2027-01-01T00:00:00Z",
        "day": "2027-01-01",
        "clock": "12:30",
        "flag": "on",
        "country": "NO",
        "code": "0123",
        "number": 5,
        "share": 0.5,
        "yes": True,
        "nothing": None,
        "empty": None,
        "quoted": "7",
    }


def test_a_time_of_toml_becomes_its_text(tmp_path: Path) -> None:
    """With an offset it is exact; without one nobody knows when it is."""
    file = tmp_path / "job.toml"
    file.write_text('name = "a"\nat = 2027-01-01T00:00:00Z')
    (document,) = read_documents(str(file), None)
    assert document.job["at"] == "2027-01-01T00:00:00Z"
    file.write_text('name = "a"\nat = 2027-01-01T00:00:00')
    with pytest.raises(CommandFailed, match="has no offset"):
        list(read_documents(str(file), None))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("job.toml", "name = "),
        ("job.json", "{"),
        ("job.yaml", "a: [}"),
        ("job.yaml", "!!python/object/apply:os.system ['true']"),
        ("job.json", "[1]"),
        ("job.json", '{"schedule": {}}'),
        ("job.json", '{"name": 5}'),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, file: str, text: str) -> None:
    """The message says which file, and that it holds no job."""
    (tmp_path / file).write_text(text)
    with pytest.raises(CommandFailed, match="job"):
        list(read_documents(str(tmp_path / file), None))


def test_without_pyyaml_the_other_formats_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing is named, with how to get it."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "job.yaml").write_text("name: a")
    assert run(["job", "apply", "-f", str(tmp_path / "job.yaml")]) == exits.ERROR
    assert "pip install 'cronclave[yaml]'" in capsys.readouterr().err


def test_apply_puts_each_job_under_its_name(
    api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Created and replaced are told apart; a namespace in the file counts."""
    (tmp_path / "jobs.json").write_text(
        '[{"name": "a"}, {"name": "b"}, {"name": "a", "namespace": "team"}]'
    )
    api.on("PUT", "/v1/jobs/default/b", Reply(document={"name": "b"}))
    api.on("PUT", "/v1/jobs/team/a", Reply(document={"name": "a"}))
    assert run(["job", "apply", "-f", str(tmp_path)]) == exits.OK
    assert capsys.readouterr().out == "default/a created\ndefault/b replaced\nteam/a replaced\n"
    assert api.asked[0].document == {"name": "a", "namespace": "default"}


def test_one_refused_job_does_not_keep_back_the_others(
    api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is that of the refusal, which names file and job."""
    (tmp_path / "jobs.json").write_text('[{"name": "a"}, {"name": "b"}, {"name": "c"}]')
    api.on("PUT", "/v1/jobs/default/b", problem(409, "changed_meanwhile"))
    assert run(["job", "apply", "-f", str(tmp_path)]) == exits.CONFLICT
    captured = capsys.readouterr()
    assert captured.out == "default/a created\ndefault/c created\n"
    assert "jobs.json, job 2" in captured.err


def test_a_broken_file_keeps_all_jobs_back(api: StubApi, tmp_path: Path) -> None:
    """All files are read before the first job is sent."""
    (tmp_path / "1.json").write_text('{"name": "a"}')
    (tmp_path / "2.json").write_text("{")
    assert run(["job", "apply", "-f", str(tmp_path)]) == exits.ERROR
    assert not api.asked


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    """So is a folder without a job file."""
    assert run(["job", "apply", "-f", str(tmp_path / "none.toml")]) == exits.NOT_FOUND
    assert run(["job", "apply", "-f", str(tmp_path)]) == exits.NOT_FOUND
