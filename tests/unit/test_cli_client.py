"""How the command finds a node, what it repeats, and what its exit status says."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from node.cli import exits
from node.cli.program import run
from tests.support.stub_api import Asked, Reply, StubApi, problem, stub_api

JOB = {"id": "0" * 32, "namespace": "default", "name": "report", "revision": 3}
PAUSE = "/v1/jobs/default/report/pause"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    monkeypatch.delenv("CRONCLAVE_NAMESPACE", raising=False)
    with stub_api() as stub:
        monkeypatch.setenv("CRONCLAVE_ADDR", stub.url)
        yield stub


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which connections are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_the_next_address_is_tried_when_a_connection_is_refused(api: StubApi, nobody: str) -> None:
    """A node that is down costs nothing, also where a change is to be made."""
    api.on("PUT", "/v1/jobs/default/report", Reply(document=JOB))
    api.on("GET", "/v1/jobs/default/report", Reply(document=JOB))
    assert run(["job", "get", "report", "--addr", f"{nobody},{api.url}"]) == exits.OK
    api.on("DELETE", "/v1/jobs/default/report", Reply(status=204, document=b""))
    assert run(["job", "delete", "-y", "report", "--addr", f"{nobody},{api.url}"]) == exits.OK


def test_the_next_address_is_tried_when_a_node_has_no_quorum(api: StubApi) -> None:
    """503 says that nothing was changed, so another node may be asked to change it."""
    api.on("POST", PAUSE, Reply(document=JOB))
    with stub_api() as alone:
        alone.on("POST", PAUSE, problem(503, "no_quorum"))
        assert run(["job", "pause", "report", "--addr", f"{alone.url},{api.url}"]) == exits.OK
        assert len(alone.asked) == len(api.asked) == 1
        keys = {asked.headers["idempotency-key"] for asked in (*alone.asked, *api.asked)}
    assert len(keys) == 1


def test_a_post_that_was_not_answered_is_repeated_with_its_key(
    api: StubApi, broken: StubApi
) -> None:
    """Under an Idempotency-Key, a repetition takes effect once."""
    api.on("POST", PAUSE, Reply(document=JOB))
    assert run(["job", "pause", "report", "--addr", f"{broken.url},{api.url}"]) == exits.OK
    assert api.asked[0].headers["idempotency-key"] == broken.asked[0].headers["idempotency-key"]


def test_a_write_without_a_key_is_not_repeated(
    api: StubApi, broken: StubApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """What may have taken effect is said to be unknown, and is left to the user."""
    status = run(["job", "delete", "-y", "report", "--addr", f"{broken.url},{api.url}"])
    assert status == exits.TIMEOUT
    assert not api.asked
    assert "It is not known whether the change took effect" in capsys.readouterr().err


def test_a_post_that_nobody_answered_is_in_doubt(
    broken: StubApi, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may have taken effect, so the status is not that of "nothing was changed"."""
    with stub_api() as alone:
        alone.on("POST", PAUSE, problem(503, "no_quorum"))
        addresses = f"{broken.url},{alone.url},{nobody}"
        assert run(["job", "pause", "report", "--addr", addresses]) == exits.TIMEOUT
    assert "It is not known" in capsys.readouterr().err


@pytest.fixture
def broken() -> Iterator[StubApi]:
    """A node that takes a request and breaks the connection."""

    def cut_off(asked: Asked) -> Reply:
        return Reply(document=b"", headers={"Content-Length": "100"})

    with stub_api() as stub:
        for method, path in (("POST", PAUSE), ("DELETE", "/v1/jobs/default/report")):
            stub.do(method, path, cut_off)
        yield stub


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (problem(404, "not_found"), exits.NOT_FOUND),
        (problem(409, "already_running"), exits.CONFLICT),
        (problem(412, "revision_mismatch"), exits.CONFLICT),
        (problem(401, "unauthorized"), exits.FORBIDDEN),
        (problem(403, "forbidden"), exits.FORBIDDEN),
        (problem(422, "invalid_document"), exits.ERROR),
        (problem(429, "overloaded"), exits.UNAVAILABLE),
        (problem(500, "internal"), exits.ERROR),
        (problem(503, "no_quorum"), exits.UNAVAILABLE),
        (problem(504, "outcome_unknown"), exits.TIMEOUT),
        (Reply(document=b"<html>", status=502), exits.UNAVAILABLE),
    ],
)
def test_the_exit_status_tells_failures_apart(api: StubApi, reply: Reply, status: int) -> None:
    """A script can tell what to do from the status alone."""
    api.on("POST", PAUSE, reply)
    assert run(["job", "pause", "report"]) == status


def test_no_node_at_all_is_unavailable(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names every address that was tried, and a way to go on."""
    assert run(["job", "list", "--addr", nobody]) == exits.UNAVAILABLE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert nobody in captured.err
    assert "cronclave dev" in captured.err


def test_a_problem_is_shown_with_every_fault(
    api: StubApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """One look at the message is enough to repair the whole document."""
    errors = [
        {"pointer": "/schedule/cron", "code": "invalid", "detail": "There is no 25th hour."},
        {"pointer": "/timeout", "code": "wrong_type", "detail": "A duration is a text."},
    ]
    api.on("POST", "/v1/jobs", problem(422, "invalid_document", errors=errors))
    assert run(["job", "create", "x", "--cron", "0 25 * * *", "--", "true"]) == exits.ERROR
    message = capsys.readouterr().err
    assert "/schedule/cron: There is no 25th hour." in message
    assert "/timeout: A duration is a text." in message


def test_what_a_node_sends_cannot_take_over_the_terminal(
    api: StubApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters in names and messages are not printed."""
    api.on("GET", "/v1/jobs", Reply(document={"items": [{**JOB, "name": "a\x1b[2Jb"}]}))
    assert run(["job", "list"]) == exits.OK
    assert "\x1b" not in capsys.readouterr().out


def test_lists_are_read_page_after_page(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit above a page follows the cursor, and ends where the limit is reached."""

    def page(asked: Asked) -> Reply:
        query = dict(asked.query)
        first = int(query.get("cursor", 0))
        count = min(int(query["limit"]), 1000)
        items = [{**JOB, "name": f"j{number}"} for number in range(first, first + count)]
        return Reply(document={"items": items, "next_cursor": str(first + count)})

    api.do("GET", "/v1/jobs", page)
    assert run(["job", "list", "--limit", "1500", "-o", "name"]) == exits.OK
    assert len(capsys.readouterr().out.splitlines()) == 1500
    assert [dict(asked.query)["limit"] for asked in api.asked] == ["1000", "500"]


@pytest.mark.parametrize("address", ["", "ftp://host:1", "host", "http://host:1/x", "http://h:x"])
def test_an_address_that_is_none_is_a_usage_error(address: str) -> None:
    """Nothing is sent to a place that the user did not mean."""
    assert run(["job", "list", "--addr", address]) == exits.USAGE
