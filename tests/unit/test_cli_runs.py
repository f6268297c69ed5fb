"""Commands about runs and the cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from node.cli import exits
from node.cli.program import run
from tests.support.stub_api import Reply, StubApi, problem, stub_api

RUN = "0" * 32 + ".1764036000000.m5f0c9a12"
PATH = f"/v1/runs/{RUN}"
START = "/v1/jobs/default/report/run"
STARTED = {"id": RUN, "job_id": "0" * 32, "trigger": "manual", "state": "queued"}
ENDED = {
    "kind": "run", "id": RUN, "namespace": "default", "name": "report", "state": "ended",
    "outcome": "succeeded", "scheduled_at": "2026-11-24T02:00:00.000Z", "member": "n1",
}  # fmt: skip
FAILED = {**ENDED, "outcome": "failed", "exit_code": 3, "detail": "It ended with status 3."}
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    monkeypatch.delenv("CRONCLAVE_NAMESPACE", raising=False)
    with stub_api() as stub:
        monkeypatch.setenv("CRONCLAVE_ADDR", stub.url)
        headers = {"X-Cronclave-Index": "77"}
        stub.on("POST", START, Reply(document=STARTED, status=201, headers=headers))
        yield stub


def test_a_run_can_be_waited_for(api: StubApi, capsys: Captured) -> None:
    """Whichever node is asked first catches up to the index of the start."""
    running = {**STARTED, "state": "running"}
    api.on("GET", PATH, Reply(document=running), Reply(document=running), Reply(document=ENDED))
    assert run(["job", "run", "report", "--wait"]) == exits.OK
    captured = capsys.readouterr()
    assert "succeeded" in captured.out
    assert "waiting" in captured.err
    assert ("min_index", "77") in api.asked[1].query


def test_a_run_that_fails_has_a_status_of_its_own(api: StubApi) -> None:
    """Seven: the command worked, the run did not."""
    api.on("GET", PATH, Reply(document=FAILED))
    assert run(["job", "run", "report", "--wait"]) == exits.RUN_FAILED


def test_waiting_ends_at_its_timeout(api: StubApi, capsys: Captured) -> None:
    """The run goes on, and the message says so."""
    api.on("GET", PATH, Reply(document={**STARTED, "state": "running"}))
    assert run(["job", "run", "report", "--wait-timeout", "10ms"]) == exits.TIMEOUT
    assert "it goes on" in capsys.readouterr().err
    assert run(["job", "run", "report", "--wait-timeout", "soon"]) == exits.USAGE


def test_a_run_can_be_started_without_waiting(api: StubApi, capsys: Captured) -> None:
    """Its id can be handed on."""
    assert run(["job", "run", "report", "-o", "name"]) == exits.OK
    assert capsys.readouterr().out == f"{RUN}\n"


def test_output_is_printed_byte_for_byte(
    api: StubApi, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """What a job prints need not be text."""
    api.on("GET", f"{PATH}/output", Reply(document=b"\xff\x00line\n"))
    assert run(["run", "output", RUN, "--attempt", "2"]) == exits.OK
    assert capsysbinary.readouterr().out == b"\xff\x00line\n"
    assert api.asked[0].query == [("attempt", "2")]
    assert api.asked[0].headers["accept"] == "application/octet-stream"


def test_runs_are_filtered_by_the_cluster(api: StubApi) -> None:
    """Every filter is a parameter of the request."""
    api.on("GET", "/v1/runs", Reply(document={"items": [ENDED]}))
    arguments = ["--outcome", "failed", "--outcome", "lost", "--state", "ended", "--member", "n1"]
    assert run(["run", "list", *arguments, "--limit", "7"]) == exits.OK
    expected = {("outcome", "failed"), ("outcome", "lost"), ("state", "ended"), ("node", "n1")}
    assert set(api.asked[0].query) == expected | {("limit", "7")}


def test_runs_of_a_job_leave_out_occurrences_without_a_run(api: StubApi, capsys: Captured) -> None:
    """They are read from the job's own list, which has both."""
    skipped = {"kind": "skip", "outcome": "missed", "scheduled_at": "2026-11-24T01:00:00.000Z"}
    other = {**FAILED, "member": "n2"}
    pages = {"items": [ENDED, skipped, other]}
    api.on("GET", "/v1/jobs/team/report/runs", Reply(document=pages))
    assert run(["run", "list", "--job", "team/report", "-o", "json"]) == exits.OK
    assert json.loads(capsys.readouterr().out) == [ENDED, other]
    arguments = ["--job", "team/report", "--member", "n2", "-o", "json"]
    assert run(["run", "list", *arguments]) == exits.OK
    assert json.loads(capsys.readouterr().out) == [other]


def test_a_run_is_shown_with_its_attempts(api: StubApi, capsys: Captured) -> None:
    """What went wrong before is part of the answer."""
    attempts = [{"number": 1, "outcome": "lost", "member": "n3", "detail": "Its member died."}]
    api.on("GET", PATH, Reply(document={**ENDED, "attempts": attempts}))
    assert run(["run", "get", RUN]) == exits.OK
    assert "lost n3 Its member died." in capsys.readouterr().out


def test_a_run_that_has_ended_cannot_be_cancelled(api: StubApi) -> None:
    """It is a conflict with the present state, no failure of the program."""
    api.on("POST", f"{PATH}/cancel", Reply(document=STARTED, status=202))
    assert run(["run", "cancel", RUN]) == exits.OK
    api.on("POST", f"{PATH}/cancel", problem(409, "already_ended"))
    assert run(["run", "cancel", RUN]) == exits.CONFLICT


def test_the_cluster_is_shown_as_a_node_sees_it(api: StubApi, capsys: Captured) -> None:
    """Whatever the node tells is shown, also what this program does not know."""
    status = {
        "cluster": "dev", "member": "n1", "leader": "n2", "has_quorum": True,
        "voters": ["n1", "n2"], "counters": {"jobs": 3}, "something_new": 5, "clock": None,
    }  # fmt: skip
    api.on("GET", "/v1/cluster", Reply(document=status))
    assert run(["cluster", "status"]) == exits.OK
    lines = capsys.readouterr().out.splitlines()
    assert "Has quorum     yes" in lines
    assert "Voters         n1, n2" in lines
    assert "Something new  5" in lines


def test_members_are_listed(api: StubApi, capsys: Captured) -> None:
    """With what each carries and may carry, and with those that were not heard of yet."""
    member = {
        "name": "n1", "role": "voter", "status": "accepting", "running": 2, "slots": 512,
        "labels": {"a": "b"},
    }  # fmt: skip
    api.on("GET", "/v1/members", Reply(document={"items": [member], "next_cursor": None}))
    seats = [{"name": "n1", "role": "voter"}, {"name": "n2", "role": None}]
    api.on("GET", "/v1/cluster/configuration", Reply(document={"members": seats}))
    assert run(["member", "list"]) == exits.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["n1", "voter", "accepting", "2/512", "-", "-", "-", "a=b"]
    assert lines[2].split()[:4] == ["n2", "wanted", "not_heard_yet", "-"]


def test_a_member_is_asked_itself_to_drain(api: StubApi, capsys: Captured) -> None:
    """Nobody else can put down what it holds, so its own address is looked up."""
    member = {"name": "n2", "status": "accepting", "http_address": api.url}
    api.on("GET", "/v1/members", Reply(document={"items": [member], "next_cursor": None}))
    draining = Reply(document={"name": "n2", "status": "draining"}, status=202)
    api.on("POST", "/v1/members/n2/drain", draining)
    assert run(["member", "drain", "n2"]) == exits.OK
    assert capsys.readouterr().out == "n2 is draining\n"
    assert run(["member", "drain", "n9"]) == exits.NOT_FOUND
    assert [asked.path for asked in api.asked if asked.method == "POST"] == ["/v1/members/n2/drain"]
