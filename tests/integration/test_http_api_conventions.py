"""What all routes have in common: problems, headers, keys, consistency, operations."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from api.faults import Fault, Rejected
from consensus.errors import (
    CommandTooLarge,
    ConsensusError,
    NoQuorum,
    OutcomeUnknown,
    Overloaded,
)
from consensus.state.commands import Expire, Heartbeat
from storage.limits import BODY_BYTES_MAX
from tests.support.api_client import JOB, VERSION, ApiClient, api_client
from tests.support.single import LEASE_MS, SingleCluster

HOUR_MS = 3_600_000


@pytest_asyncio.fixture
async def client() -> AsyncIterator[ApiClient]:
    async with api_client() as served:
        yield served


# --- Addresses and methods ---------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v2/jobs",
        "/v1/jobs/",
        "/v1/jobs//",
        "/v1/jobs/a/b/c",
        f"/v1/jobs/{'0' * 32}/nothing",
        "/v1/jobs/%2e%2e/%2e%2e",
        "/v1/jobs/a%2Fb",
        "/v1/jobs/%00",
        "/v1/jobs/%ff",
        "/v1/runs/",
        "/..%2f..%2fetc/passwd",
        "/" + "x" * 4_000,
    ],
)
async def test_an_unknown_address_is_a_problem(client: ApiClient, path: str) -> None:
    """404 as a document, whatever the address contains."""
    problem = (await client.get(path)).problem(404, "not_found")
    assert len(problem["instance"]) < 100


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/jobs", "GET, POST"),
        ("GET", "/v1/jobs:batch", "POST"),
        ("POST", "/v1/jobs/a/b", "DELETE, GET, PATCH, PUT"),
        ("GET", "/v1/jobs/a/b/pause", "POST"),
        ("PUT", "/v1/runs/x", "GET"),
        ("POST", "/healthz", "GET, HEAD"),
        ("HEAD", "/v1/jobs", "GET, POST"),
        ("OPTIONS", "/v1/jobs", "GET, POST"),
    ],
)
async def test_a_method_that_is_not_allowed_says_which_are(
    client: ApiClient, method: str, path: str, allowed: str
) -> None:
    """405 with `Allow`."""
    answer = await client.send(method, path)
    assert answer.status == 405
    assert answer.headers["Allow"] == allowed
    if method != "HEAD":
        answer.problem(405, "method_not_allowed")


# --- Bodies ------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, int, str]] = {
    "two mebibytes": (b" " * 2 * BODY_BYTES_MAX, 413, "body_too_large"),
    "NaN": (
        json.dumps({"name": "a", **JOB, "priority": float("nan")}).encode(),
        400,
        "malformed_json",
    ),
    "nothing": (b"", 400, "malformed_json"),
    "repeated": (b'{"name":"a","name":"b"}', 400, "malformed_json"),
    "deep": (b"[" * 200_000, 400, "malformed_json"),
    "not UTF-8": (b'{"name":"\xff"}', 400, "malformed_json"),
    "an array": (b"[]", 422, "invalid_document"),
    "null": (b"null", 422, "invalid_document"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("POST", "/v1/jobs:validate"),
        ("POST", "/v1/schedule:explain"),
        ("PUT", "/v1/jobs/default/job"),
        ("PATCH", "/v1/jobs/default/job"),
    ],
)
async def test_a_body_that_cannot_be_used_is_a_problem(
    client: ApiClient, what: str, method: str, path: str
) -> None:
    """G16: every malformed or oversized body is answered, and changes nothing."""
    await client.create("job")
    before = client.cluster.machine.state_hash
    body, status, code = BROKEN[what]
    (await client.send(method, path, body=body)).problem(status, code)
    assert client.cluster.machine.state_hash == before


async def test_each_fault_of_a_document_has_its_pointer(client: ApiClient) -> None:
    """One document with many faults is answered with all of them."""
    document = {
        "name": "n" * 10_000,
        "schedule": {"cron": "0 25 * * *", "timezone": "Europe/Atlantis"},
        "timeout": "-5s",
        "action": {"type": "teleport"},
        "colour": "red",
        "priority": "high",
    }
    answer = await client.send("POST", "/v1/jobs", document)
    problem = answer.problem(422, "invalid_document")
    assert answer.pointers() == {
        "/name",
        "/schedule/cron",
        "/schedule/timezone",
        "/timeout",
        "/action/type",
        "/colour",
        "/priority",
    }
    assert problem["detail"].startswith("7 faults")
    assert len(answer.body) < 5_000


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jso",
    ],
)
async def test_a_body_says_that_it_is_json(client: ApiClient, content_type: str) -> None:
    """415 for what a browser would send for any page, and for a missing type."""
    body = json.dumps({"name": "a", **JOB}).encode()
    headers = {"Content-Type": content_type}
    for path in ("/v1/jobs", "/v1/jobs:batch"):
        answer = await client.send("POST", path, body=body, headers=headers)
        answer.problem(415, "unsupported_media_type")
        assert "application/json" in answer.headers["Accept"]
    assert client.cluster.proposals == 0


async def test_a_json_type_may_have_parameters(client: ApiClient) -> None:
    """The type is compared without its parameters and without regard to case."""
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    body = json.dumps({"name": "a", **JOB}).encode()
    assert (await client.send("POST", "/v1/jobs", body=body, headers=headers)).status == 201


async def test_a_compressed_body_is_bounded_by_what_it_contains(client: ApiClient) -> None:
    """A small body that unpacks to a large one is refused, a broken one is malformed."""
    import gzip  # noqa: PLC0415

    headers = {"Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * 64 * BODY_BYTES_MAX)
    answer = await client.send("POST", "/v1/jobs", body=bomb, headers=headers)
    assert answer.status in (400, 413)
    broken = await client.send("POST", "/v1/jobs", body=b"\x1f\x8bnonsense", headers=headers)
    broken.problem(400, "malformed_request")


async def test_a_body_that_never_comes_is_not_waited_for(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is held open on purpose costs a bounded time."""
    monkeypatch.setattr("api.calls.BODY_TIMEOUT_S", 0.05)
    host, _, port = client.address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    status = await asyncio.wait_for(reader.readline(), 60)
    assert b"408" in status
    writer.close()
    await writer.wait_closed()


async def test_noise_is_answered_and_not_logged(
    client: ApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A port scan gets 400 and does not fill the log."""
    host, _, port = client.address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    assert b"400" in await asyncio.wait_for(reader.readline(), 60)
    writer.close()
    await writer.wait_closed()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- Headers -----------------------------------------------------------------------------


async def test_every_answer_carries_the_request_id(client: ApiClient) -> None:
    """The client's own is echoed, a strange one is replaced, a missing one is made."""
    given = await client.get("/healthz", **{"X-Request-Id": "abc-123"})
    assert given.headers["X-Request-Id"] == "abc-123"
    for strange in ("a b", "x" * 200, "<script>"):
        answer = await client.get("/nothing", **{"X-Request-Id": strange})
        assert answer.headers["X-Request-Id"] != strange
        assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    made = {(await client.get("/healthz")).headers["X-Request-Id"] for _ in range(3)}
    assert len(made) == 3


async def test_every_answer_carries_the_index_it_shows(client: ApiClient) -> None:
    """`X-Cronclave-Index` of a write is at least the index of its entry."""
    before = int((await client.get("/v1/jobs")).headers["X-Cronclave-Index"])
    answer = await client.send("POST", "/v1/jobs", {"name": "a", **JOB})
    assert int(answer.headers["X-Cronclave-Index"]) == before + 1
    assert "X-Cronclave-Stale" not in answer.headers
    assert answer.headers["Server"] == "cronclave"
    assert (await client.get("/nothing")).headers["X-Cronclave-Index"]


async def test_a_read_waits_for_an_index(client: ApiClient) -> None:
    """`min_index` that is applied is answered, one that does not come is a 503."""
    await client.create("a")
    assert (await client.get("/v1/jobs?min_index=1")).status == 200
    late = await client.get("/v1/jobs?min_index=99")
    late.problem(503, "index_not_reached")
    assert late.headers["Retry-After"]
    (await client.get("/v1/jobs?min_index=-1")).problem(400, "invalid_parameter")


async def test_a_linearizable_read_asks_the_cluster(client: ApiClient) -> None:
    """It shows what others have written; without a quorum it is refused."""
    cluster = client.cluster
    cluster.at_barrier.append(lambda cluster: cluster.create_plain("a"))
    assert (await client.get("/v1/jobs?consistency=local")).json["items"] == []
    fresh = await client.get("/v1/jobs?consistency=linearizable")
    assert [item["name"] for item in fresh.json["items"]] == ["a"]
    cluster.has_quorum = False
    (await client.get("/v1/jobs?consistency=linearizable")).problem(503, "no_quorum")
    (await client.get("/v1/jobs?consistency=maybe")).problem(400, "invalid_parameter")


async def test_without_a_quorum_reads_are_marked_and_writes_refused(client: ApiClient) -> None:
    """G12: stale answers say so, writes get 503 with `Retry-After`."""
    created = await client.create("a")
    client.cluster.has_quorum = False
    read = await client.get(f"/v1/jobs/{created['id']}")
    assert (read.status, read.headers["X-Cronclave-Stale"]) == (200, "true")
    path = "/v1/jobs/default/a"
    for method, address, document in (
        ("POST", "/v1/jobs", {"name": "b", **JOB}),
        ("PUT", path, JOB),
        ("PATCH", path, {"priority": 1}),
        ("DELETE", path, None),
        ("DELETE", "/v1/jobs/default/unknown", None),
        ("POST", f"{path}/pause", None),
        ("POST", f"{path}/run", None),
        ("POST", "/v1/jobs:batch", [{"name": "b", **JOB}]),
    ):
        answer = await client.send(method, address, document)
        answer.problem(503, "no_quorum")
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["X-Cronclave-Stale"] == "true"


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (NoQuorum(), 503, "no_quorum"),
        (Overloaded(), 429, "overloaded"),
        (CommandTooLarge(), 413, "body_too_large"),
        (OutcomeUnknown(), 504, "outcome_unknown"),
        (ConsensusError(), 500, "internal"),
    ],
)
async def test_what_the_cluster_could_not_do_has_its_status(
    client: ApiClient, failure: ConsensusError, status: int, code: str
) -> None:
    """G2: an answer that cannot be known is a 504 that says so, never a false one."""
    client.cluster.failures = [failure]
    answer = await client.send("POST", "/v1/jobs", {"name": "a", **JOB})
    problem = answer.problem(status, code)
    assert ("Retry-After" in answer.headers) == (status in (429, 503))
    if status == 504:
        assert "may have taken effect" in problem["detail"]
        assert "Idempotency-Key" in problem["detail"]


async def test_a_fault_of_ours_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """500 with the request id; the traceback is in the log under it, and nowhere else."""

    class Broken(SingleCluster):
        def validate_action(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
            raise KeyError("the secret reason")

    async with api_client(Broken()) as client:
        answer = await client.send("POST", "/v1/jobs", {"name": "a", **JOB})
        problem = answer.problem(500, "internal")
    assert "secret" not in answer.body.decode()
    (record,) = [record for record in caplog.records if record.name == "cronclave.api"]
    assert problem["request_id"] in record.getMessage()
    assert "the secret reason" in caplog.text


async def test_a_zone_that_only_other_members_know(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During an upgrade of time zone data a member says so, and can still delete the job."""
    schedule = {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    created = await client.create("a", schedule=schedule)

    def unknown(*_: object) -> None:
        raise Rejected("unknown_timezone", '"Europe/Berlin" is not a time zone.')

    monkeypatch.setattr("api.schedule.instants.zone", unknown)
    path = f"/v1/jobs/{created['id']}"
    (await client.get(f"{path}/next")).problem(503, "not_ready")
    assert (await client.get(path)).json["schedule"] == schedule
    client.cluster.advance(48 * HOUR_MS)
    put = await client.send("PUT", path, {"name": "a", **JOB})
    put.problem(503, "not_ready")
    assert (await client.send("DELETE", path)).status == 204
    (item,) = (await client.get(f"{path}/runs")).json["items"]
    assert item["outcome"] == "deleted"


# --- Idempotency -------------------------------------------------------------------------


async def test_a_repeated_creation_gets_the_first_answer(client: ApiClient) -> None:
    """G2: byte for byte, at a later time, after the job was changed and even deleted."""
    headers = {"Idempotency-Key": "k-1"}
    document = {"name": "a", "schedule": {"every": "7m"}, "action": {"type": "noop"}}
    first = await client.send("POST", "/v1/jobs", document, headers=headers)
    assert first.status == 201
    for change in (("PATCH", {"schedule": {"every": "9m"}}), ("DELETE", None)):
        client.cluster.advance(12_345_678)
        again = await client.send("POST", "/v1/jobs", document, headers=headers)
        assert (again.status, again.body) == (201, first.body)
        assert again.headers["ETag"] == first.headers["ETag"]
        assert again.headers["Location"] == first.headers["Location"]
        await client.send(change[0], "/v1/jobs/default/a", change[1])
    assert (await client.get("/v1/jobs")).json["items"] == []


async def test_a_key_belongs_to_one_request(client: ApiClient) -> None:
    """The same key for another document is refused; order and white space do not matter."""
    headers = {"Idempotency-Key": "k"}
    first = await client.send("POST", "/v1/jobs", {"name": "a", **JOB}, headers=headers)
    other = await client.send("POST", "/v1/jobs", {"name": "b", **JOB}, headers=headers)
    other.problem(422, "idempotency_key_reused")
    body = json.dumps({**dict(reversed(JOB.items())), "name": "a"}, indent=3).encode()
    same = await client.send("POST", "/v1/jobs", body=body, headers=headers)
    assert same.body == first.body
    empty = await client.send(
        "POST", "/v1/jobs", {"name": "c", **JOB}, headers={"Idempotency-Key": ""}
    )
    empty.problem(400, "invalid_header")


async def test_a_key_is_remembered_for_a_day(client: ApiClient) -> None:
    """After 24 hours it stands for a new request."""
    headers = {"Idempotency-Key": "k"}
    await client.create("a", overlap="allow")
    path = "/v1/jobs/default/a/run"
    first = await client.send("POST", path, headers=headers)
    client.cluster.advance(24 * HOUR_MS)
    assert (await client.send("POST", path, headers=headers)).body == first.body
    client.cluster.advance(1)
    assert (await client.send("POST", path, headers=headers)).json["id"] != first.json["id"]


@pytest.mark.parametrize("action", ["pause", "resume", "run", "cancel"])
async def test_a_repeated_action_takes_effect_once(client: ApiClient, action: str) -> None:
    """Pausing, running and cancelling again with the key changes nothing and says the same."""
    headers = {"Idempotency-Key": "k"}
    await client.create("a", overlap="allow")
    path = f"/v1/jobs/default/a/{action}"
    if action == "resume":
        await client.send("POST", "/v1/jobs/default/a/pause")
    if action == "cancel":
        run = (await client.send("POST", "/v1/jobs/default/a/run")).json["id"]
        path = f"/v1/runs/{run}/cancel"
    first = await client.send("POST", path, headers=headers)
    assert first.status < 300
    await client.send("POST", "/v1/jobs/default/a/pause")
    await client.send("DELETE", "/v1/jobs/default/a")
    client.cluster.advance(60_000)
    again = await client.send("POST", path, headers=headers)
    assert (again.status, again.body) == (first.status, first.body)


# --- Operations --------------------------------------------------------------------------


async def test_the_process_lives_even_when_it_cannot_serve(client: ApiClient) -> None:
    """`/healthz` is about the process, `/readyz` says what is missing."""
    assert (await client.get("/readyz")).json == {"status": "ready"}
    client.cluster.has_quorum = False
    client.cluster.missing = ["There is no quorum.", "The log is 7 entries behind."]
    assert (await client.get("/healthz")).json == {"status": "ok"}
    assert (await client.send("HEAD", "/healthz")).status == 200
    assert (await client.send("HEAD", "/readyz")).status == 503
    problem = (await client.get("/readyz")).problem(503, "not_ready")
    assert problem["detail"] == "There is no quorum. The log is 7 entries behind."


async def test_versions_and_the_document(client: ApiClient) -> None:
    """`/version` and `/openapi.json` are there for tools."""
    shown = (await client.get("/version")).json
    assert shown["version"] == VERSION
    assert set(shown) == {"version", "python", "aiohttp", "tzdata"}
    document = (await client.get("/openapi.json")).json
    assert document["info"]["version"] == VERSION
    assert "/v1/jobs" in document["paths"]


async def test_requests_are_counted_by_route_and_status(client: ApiClient) -> None:
    """Addresses do not become labels; what matches no route is one label."""
    await client.create("a")
    for name in ("a", "b", "c"):
        await client.get(f"/v1/jobs/default/{name}")
        await client.get(f"/nothing/{name}")
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    text = answer.body.decode()
    route = "GET /v1/jobs/{namespace}/{name}"
    assert f'cronclave_http_requests_total{{route="{route}",status="200"}} 1.0' in text
    assert f'cronclave_http_requests_total{{route="{route}",status="404"}} 2.0' in text
    assert 'cronclave_http_requests_total{route="unmatched",status="404"} 3.0' in text
    assert f'cronclave_http_request_seconds_count{{route="{route}"}} 3.0' in text


async def test_the_cluster_and_its_members_are_shown(client: ApiClient) -> None:
    """How this member sees the cluster, and every member with its standing."""
    cluster = client.cluster
    cluster.heartbeat()
    draining = Heartbeat(
        "beta", bytes(16), LEASE_MS, 4, "http://beta:7700", "0.1.0", "", {"zone": "b"}, False, 2
    )
    cluster.apply(draining)
    status = (await client.get("/v1/cluster")).json
    assert (status["member"], status["role"], status["voters"]) == ("alpha", "leader", ["alpha"])
    assert status["clock"] == "2025-11-24T16:00:00.000Z"
    assert status["applied_index"] == 2
    alpha, beta = (await client.get("/v1/members")).json["items"]
    assert (alpha["name"], alpha["status"]) == ("alpha", "accepting")
    assert (beta["status"], beta["labels"], beta["running"]) == ("not_accepting", {"zone": "b"}, 2)
    cluster.advance(LEASE_MS + 1)
    await client.create("tick")
    assert [one["status"] for one in (await client.get("/v1/members")).json["items"]] == [
        "lost",
        "lost",
    ]
    assert len((await client.get("/v1/members?limit=1")).json["items"]) == 1
    left = msgspec.structs.replace(draining, slots=0, lease_ms=-1)
    cluster.apply(left, Expire(draining.incarnation))
    assert [one["status"] for one in (await client.get("/v1/members")).json["items"]] == [
        "lost",
        "left",
    ]


async def test_a_schedule_is_explained(client: ApiClient) -> None:
    """A sentence, the next occurrences in UTC and local time, and what may surprise."""
    schedule = {"cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin", "count": 2}
    shown = (await client.send("POST", "/v1/schedule:explain", schedule)).json
    assert shown["sentence"] == "every weekday (Monday to Friday) at 09:00 (Europe/Berlin)"
    assert shown["schedule"] == {"cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"}
    assert shown["next_runs"] == [
        {"scheduled_at": "2025-11-25T08:00:00.000Z", "local": "2025-11-25T09:00:00+01:00"},
        {"scheduled_at": "2025-11-26T08:00:00.000Z", "local": "2025-11-26T09:00:00+01:00"},
    ]
    faulty = await client.send("POST", "/v1/schedule:explain", {"cron": "x", "count": 0})
    faulty.problem(422, "invalid_document")
    assert faulty.pointers() == {"/cron", "/count"}


async def test_only_the_member_itself_drains(client: ApiClient) -> None:
    """Another one says whom to ask; asking twice is asking once."""
    for _ in range(2):
        answer = await client.send("POST", "/v1/members/alpha/drain", None)
        assert (answer.status, answer.json) == (202, {"name": "alpha", "status": "draining"})
    assert client.cluster.left == 2
    beat = Heartbeat(
        "beta", bytes(16), 5_000, 1, "http://beta:1", "1", "", {}, accepting=True, running=0
    )
    client.cluster.apply(beat)
    other = await client.send("POST", "/v1/members/beta/drain", None)
    assert "ask beta at http://beta:1" in other.problem(421, "other_member")["detail"]
    for name in ("gamma", "x" * 600, "%00"):
        (await client.send("POST", f"/v1/members/{name}/drain", None)).problem(404, "not_found")
    assert client.cluster.left == 2


async def test_a_member_whose_disk_is_low_takes_no_writes(client: ApiClient) -> None:
    """It says that nothing was changed and when to try again; reading and draining go on."""
    created = await client.create("a")
    client.cluster.refusal = "Only 3 MiB are free on the disk of this member."
    before = client.cluster.proposals
    path = f"/v1/jobs/{created['id']}"
    for method, address, document in (
        ("POST", "/v1/jobs", {"name": "b", **JOB}),
        ("POST", "/v1/jobs?dry_run=false", {"name": "b", **JOB}),
        ("POST", "/v1/jobs:batch", [{"name": "b", **JOB}]),
        ("PATCH", path, {"priority": 1}),
        ("POST", f"{path}/run", None),
    ):
        answer = await client.send(method, address, document)
        assert "3 MiB" in answer.problem(503, "disk_low")["detail"]
        assert answer.headers["Retry-After"] == "1"
    assert client.cluster.proposals == before
    assert (await client.get(path)).status == 200
    assert (await client.send("POST", "/v1/members/alpha/drain", None)).status == 202
