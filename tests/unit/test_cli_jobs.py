"""Commands about jobs: the documents they send, and what they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.cli import exits
from node.cli.program import run
from tests.support.stub_api import Reply, StubApi, problem, stub_api

REPORT = "/v1/jobs/default/report"
JOB = {
    "name": "report",
    "namespace": "default",
    "schedule": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
    "action": {"type": "command", "argv": ["make", "report"]},
    "id": "0" * 32,
    "revision": 3,
    "status": "scheduled",
    "created_at": "2026-11-01T00:00:00.000Z",
    "next_run_at": "2026-11-24T02:00:00.000Z",
    "last_run": {"id": "x", "outcome": "failed"},
}
PREVIEW = {"action": "create", "changes": ["name"], "job": JOB, "next_runs": [], "warnings": []}
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    monkeypatch.delenv("CRONCLAVE_NAMESPACE", raising=False)
    with stub_api() as stub:
        monkeypatch.setenv("CRONCLAVE_ADDR", stub.url)
        stub.on("POST", "/v1/jobs", Reply(document=JOB, status=201))
        stub.on("GET", REPORT, Reply(document=JOB, headers={"ETag": '"3"'}))
        yield stub


def created(api: StubApi, *arguments: str) -> dict[str, Any]:
    """Run `job create x` with arguments and return the document that was sent."""
    assert run(["job", "create", "x", *arguments]) == exits.OK
    document: dict[str, Any] = api.asked[-1].document
    return document


def test_a_command_job_is_created_from_what_stands_behind_the_dashes(api: StubApi) -> None:
    """Options of the command itself are not taken for options of this program."""
    assert created(api, "--every", "5s", "--", "ls", "-l", "--all") == {
        "namespace": "default",
        "name": "x",
        "schedule": {"every": "5s"},
        "action": {"type": "command", "argv": ["ls", "-l", "--all"]},
    }


def test_every_option_of_a_job_reaches_its_field(api: StubApi, tmp_path: Path) -> None:
    """The command line can say what a document can."""
    body = tmp_path / "body"
    body.write_text("hello")
    arguments = """--namespace team --cron 0|3|*|*|* --tz Europe/Berlin --max-runs 9 --jitter 10s
        --not-before 2027-01-01T00:00:00Z
        --http https://host/x --method post --header X-A:|1 --expect-status 2xx
        --priority 60 --timeout 10m --retries 3 --backoff 5s --max-backoff 1m --overlap allow
        --delivery at_most_once --catch-up all --catch-up-window 2h --label a=1 --label b=2
        --placement region=eu --output-limit 1000 --description Daily."""
    words = [word.replace("|", " ") for word in arguments.split()]
    assert created(api, *words, "--body", f"@{body}") == {
        "namespace": "team",
        "name": "x",
        "schedule": {
            "cron": "0 3 * * *",
            "timezone": "Europe/Berlin",
            "not_before": "2027-01-01T00:00:00Z",
            "max_runs": 9,
            "jitter": "10s",
        },
        "action": {
            "type": "http",
            "url": "https://host/x",
            "method": "POST",
            "headers": {"X-A": "1"},
            "body": "hello",
            "expect_status": ["2xx"],
        },
        "priority": 60,
        "timeout": "10m",
        "retry": {"max_attempts": 4, "backoff": "5s", "max_backoff": "1m"},
        "overlap": "allow",
        "delivery": "at_most_once",
        "catch_up": {"policy": "all", "window": "2h"},
        "labels": {"a": "1", "b": "2"},
        "placement": {"labels": {"region": "eu"}},
        "output_limit": 1000,
        "description": "Daily.",
    }


def test_a_noop_job_may_take_a_while(api: StubApi) -> None:
    """--duration belongs to --noop."""
    assert created(api, "--manual", "--noop", "--duration", "2s")["action"] == {
        "type": "noop",
        "duration": "2s",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--every", "5s"],
        ["--", "true"],
        ["--every", "5s", "--manual", "--", "true"],
        ["--every", "5s", "--noop", "--", "true"],
        ["--every", "5s", "--method", "POST", "--", "true"],
        ["--every", "5s", "--duration", "1s", "--", "true"],
        ["--every", "5s", "--label", "nothing", "--", "true"],
        ["--every", "5s", "--http", "http://h", "--header", "nothing"],
        ["--every", "5s", "--no-such-option", "--", "true"],
    ],
)
def test_a_contradictory_command_line_sends_nothing(api: StubApi, arguments: list[str]) -> None:
    """What makes no sense is refused here, with the status of a usage error."""
    assert run(["job", "create", "x", *arguments]) == exits.USAGE
    assert not api.asked


def test_a_created_job_shows_its_next_times_and_warnings(api: StubApi, capsys: Captured) -> None:
    """Warnings are messages, and do not stand among the data."""
    warnings = [{"code": "dst_gap", "detail": "02:30 does not exist."}]
    answer = {**JOB, "next_runs": ["2026-11-24T02:00:00.000Z"], "warnings": warnings}
    api.on("POST", "/v1/jobs", Reply(document=answer, status=201))
    assert run(["job", "create", "report", "--cron", "0 3 * * *", "--", "make"]) == exits.OK
    captured = capsys.readouterr()
    assert captured.out == "default/report created\n  next 2026-11-24T02:00:00.000Z\n"
    assert captured.err == "Warning: 02:30 does not exist.\n"


def test_a_dry_run_asks_the_cluster_and_creates_nothing(api: StubApi, capsys: Captured) -> None:
    """The cluster judges the document as if it were created."""
    api.on("POST", "/v1/jobs", Reply(document=PREVIEW))
    assert run(["job", "create", "report", "--manual", "--dry-run", "--", "true"]) == exits.OK
    assert api.asked[0].query == [("dry_run", "true")]
    assert "nothing was created" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("report", "/v1/jobs/default/report"),
        ("billing/report", "/v1/jobs/billing/report"),
        ("0" * 32, "/v1/jobs/" + "0" * 32),
        ("a?b", "/v1/jobs/default/a%3Fb"),
    ],
)
def test_a_job_is_named_by_name_or_namespace_or_id(api: StubApi, reference: str, path: str) -> None:
    """All three go to the same job; nothing in a name changes the path."""
    api.on("POST", f"{path}/pause", Reply(document={"id": "0" * 32}))
    assert run(["job", "pause", reference]) == exits.OK


def test_the_namespace_comes_from_the_environment(
    api: StubApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CRONCLAVE_NAMESPACE stands for --namespace, also as a filter of lists."""
    monkeypatch.setenv("CRONCLAVE_NAMESPACE", "team")
    api.on("POST", "/v1/jobs/team/report/resume", Reply(document={"id": "0" * 32}))
    api.on("GET", "/v1/jobs", Reply(document={"items": []}))
    assert run(["job", "resume", "report"]) == exits.OK
    assert run(["job", "list"]) == exits.OK
    assert ("namespace", "team") in api.asked[-1].query


def test_a_table_is_aligned_and_plain(api: StubApi, capsys: Captured) -> None:
    """Off a terminal, times are whole and nothing is coloured."""
    other = {**JOB, "name": "a-longer-name", "schedule": {"every": "5s"}, "last_run": None}
    api.on("GET", "/v1/jobs", Reply(document={"items": [JOB, other], "next_cursor": None}))
    assert run(["job", "list"]) == exits.OK
    header, first, second = capsys.readouterr().out.splitlines()
    assert first.index("0 3 * * *") == second.index("every 5s") == header.index("SCHEDULE")
    assert "2026-11-24T02:00:00.000Z" in first
    assert "\x1b" not in first


def test_an_empty_list_says_so_beside_the_data(api: StubApi, capsys: Captured) -> None:
    """Nothing found is no data, and what to do about it is a message."""
    api.on("GET", "/v1/jobs", Reply(document={"items": [], "next_cursor": None}))
    assert run(["job", "list"]) == exits.OK
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("No jobs.")


def test_json_is_what_the_cluster_answered(api: StubApi, capsys: Captured) -> None:
    """Programs get every field, and lists as arrays."""
    api.on("GET", "/v1/jobs", Reply(document={"items": [JOB], "next_cursor": None}))
    assert run(["job", "list", "-o", "json"]) == exits.OK
    assert json.loads(capsys.readouterr().out) == [JOB]
    assert run(["job", "get", "report", "-o", "name"]) == exits.OK
    assert capsys.readouterr().out == "default/report\n"


def test_a_definition_can_be_written_down_and_applied(api: StubApi, capsys: Captured) -> None:
    """--definition leaves out what only the cluster sets."""
    assert run(["job", "get", "report", "--definition"]) == exits.OK
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"name", "namespace", "schedule", "action"}


def test_the_history_shows_runs_and_reasons(api: StubApi, capsys: Captured) -> None:
    """Every occurrence is there: launched, or why not."""
    ran = {
        "kind": "run", "id": "r1", "namespace": "default", "name": "report", "state": "ended",
        "outcome": "succeeded", "scheduled_at": "2026-11-24T02:00:00.000Z", "attempt": 1,
        "started_at": "2026-11-24T02:00:00.001Z", "ended_at": "2026-11-24T02:00:03.201Z",
        "member": "n2", "detail": "",
    }  # fmt: skip
    skipped = {
        "kind": "skip", "outcome": "missed", "scheduled_at": "2026-11-20T02:00:00.000Z",
        "last_scheduled_at": "2026-11-23T02:00:00.000Z", "count": 4,
    }  # fmt: skip
    api.on("GET", f"{REPORT}/runs", Reply(document={"items": [ran, skipped]}))
    assert run(["job", "history", "report", "--outcome", "missed"]) == exits.OK
    _, first, second = capsys.readouterr().out.splitlines()
    assert "succeeded" in first
    assert "3.2s" in first
    assert "missed (4)" in second
    assert "until 2026-11-23T02:00:00.000Z" in second
    assert ("outcome", "missed") in api.asked[-1].query


def test_the_next_times_are_shown_in_the_zone_of_the_job(api: StubApi, capsys: Captured) -> None:
    """A paused job says that these are the times it would have."""
    item = {"scheduled_at": "2026-11-24T02:00:00.000Z", "local": "2026-11-24T03:00:00+01:00"}
    api.on("GET", f"{REPORT}/next", Reply(document={"items": [item], "paused": True}))
    assert run(["job", "next", "report", "--count", "1"]) == exits.OK
    captured = capsys.readouterr()
    assert "2026-11-24T03:00:00+01:00" in captured.out
    assert "paused" in captured.err


def test_deleting_on_a_terminal_asks_first(api: StubApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a yes nothing is deleted; --yes and scripts are not asked."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert run(["job", "delete", "report"]) == exits.ERROR
    assert not api.asked
    api.on("DELETE", REPORT, Reply(document=b"", status=204))
    assert run(["job", "delete", "report", "--yes"]) == exits.OK


def edited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str) -> None:
    """Let the editor be a program that replaces one text by another."""
    script = tmp_path / "editor.py"
    script.write_text(
        "import pathlib, sys\n"
        "file = pathlib.Path(sys.argv[1])\n"
        f"file.write_text(file.read_text().replace({old!r}, {new!r}))\n"
    )
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_an_edit_is_stored_if_nobody_was_faster(
    api: StubApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The entity tag of what was read goes with what is stored."""
    edited(monkeypatch, tmp_path, "0 3 * * *", "0 4 * * *")
    api.on("PUT", REPORT, Reply(document=JOB))
    assert run(["job", "edit", "report"]) == exits.OK
    assert api.asked[-1].headers["if-match"] == '"3"'
    assert api.asked[-1].document["schedule"]["cron"] == "0 4 * * *"
    assert "revision" not in api.asked[-1].document
    assert not list(tmp_path.glob("cronclave-*"))


def test_an_edit_that_changes_nothing_sends_nothing(
    api: StubApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Leaving the editor without a change is no change of the job."""
    edited(monkeypatch, tmp_path, "no such text", "")
    assert run(["job", "edit", "report"]) == exits.OK
    assert [asked.method for asked in api.asked] == ["GET"]


def test_a_refused_edit_keeps_the_text(
    api: StubApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    """Nobody has to write it a second time."""
    edited(monkeypatch, tmp_path, "0 3 * * *", "0 4 * * *")
    api.on("PUT", REPORT, problem(412, "revision_mismatch"))
    assert run(["job", "edit", "report"]) == exits.CONFLICT
    (kept,) = tmp_path.glob("cronclave-*")
    assert "0 4 * * *" in kept.read_text()
    assert str(kept) in capsys.readouterr().err
