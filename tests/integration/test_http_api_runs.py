"""Lists, histories, runs and their output over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from api.ids import format_run_id
from consensus.state.commands import Claim, ClaimOccurrence, Clean, Cursor, SkippedRange
from storage.keys import TRIGGER_MANUAL, run_key
from storage.limits import OUTPUT_CHUNK_BYTES
from tests.support.api_client import ApiClient, api_client
from tests.support.single import INCARNATION, START_MS, SingleCluster

HOUR_MS = 3_600_000


@pytest_asyncio.fixture
async def client() -> AsyncIterator[ApiClient]:
    async with api_client() as served:
        served.cluster.heartbeat()
        yield served


async def launched(client: ApiClient, name: str = "job", **members: object) -> bytes:
    """Create a job, launch its first occurrence, and return the run's key."""
    created = await client.create(name, **members)
    client.cluster.advance(HOUR_MS)
    following = Cursor(START_MS + 24 * HOUR_MS, START_MS + 24 * HOUR_MS)
    return client.cluster.launch(bytes.fromhex(created["id"]), following)


async def names(client: ApiClient, query: str) -> list[str]:
    answer = await client.get(f"/v1/jobs{query}")
    assert answer.status == 200, answer.body
    return [f"{item['namespace']}/{item['name']}" for item in answer.json["items"]]


# --- Lists of jobs -----------------------------------------------------------------------


async def test_jobs_are_listed_by_their_names_and_filtered(client: ApiClient) -> None:
    """Filters are combined: namespace, status, labels and a text."""
    await client.create("b", labels={"env": "prod", "team": "x"})
    await client.create("a", labels={"env": "prod"}, description="The Weekly one")
    await client.create("c", namespace="billing", labels={"env": "test"})
    await client.create("d", namespace="bill")
    await client.send("POST", "/v1/jobs/default/b/pause")
    assert await names(client, "") == ["bill/d", "billing/c", "default/a", "default/b"]
    assert await names(client, "?namespace=bill") == ["bill/d"]
    assert await names(client, "?status=paused") == ["default/b"]
    assert await names(client, "?status=paused&status=scheduled&namespace=default") == [
        "default/a",
        "default/b",
    ]
    assert await names(client, "?label=env%3Dprod") == ["default/a", "default/b"]
    assert await names(client, "?label=env=prod&label=team=x") == ["default/b"]
    assert await names(client, "?q=weekly") == ["default/a"]
    assert await names(client, "?q=BILLING/") == ["billing/c"]
    assert await names(client, "?namespace=nobody") == []
    (await client.get("/v1/jobs?status=pause")).problem(400, "invalid_parameter")
    (await client.get("/v1/jobs?lable=a=b")).problem(400, "invalid_parameter")


async def all_pages(client: ApiClient, path: str) -> list[Any]:
    """Follow the links from page to page."""
    items: list[Any] = []
    while True:
        answer = await client.get(path)
        assert answer.status == 200, answer.body
        items += answer.json["items"]
        if answer.json["next_cursor"] is None:
            assert "Link" not in answer.headers
            return items
        matched = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers["Link"])
        assert matched is not None
        assert answer.json["next_cursor"] in matched[1]
        path = matched[1]


async def test_pages_are_linked_and_do_not_shift(client: ApiClient) -> None:
    """`next_cursor` and `Link` lead on; what was created meanwhile doubles nothing."""
    for number in range(7):
        await client.create(f"j{number}", labels={"even": str(number % 2 == 0)})
    items = await all_pages(client, "/v1/jobs?limit=2&label=even=True")
    assert [item["name"] for item in items] == ["j0", "j2", "j4", "j6"]
    first = (await client.get("/v1/jobs?limit=3")).json
    await client.create("a-new-one")
    rest = (await client.get(f"/v1/jobs?limit=9&cursor={first['next_cursor']}")).json
    assert [item["name"] for item in first["items"] + rest["items"]] == [
        f"j{number}" for number in range(7)
    ]


async def test_a_job_is_found_by_its_id_and_by_its_name(client: ApiClient) -> None:
    """Both addresses show the same job, also if its name is a word of the API."""
    for name in ("runs", "next", "pause", "run"):
        created = await client.create(name, namespace="jobs")
        by_name = await client.get(f"/v1/jobs/jobs/{name}")
        by_id = await client.get(f"/v1/jobs/{created['id']}")
        assert by_name.json == by_id.json
        assert by_name.json["name"] == name
        assert by_id.headers["ETag"] == '"1"'
        assert (await client.get(f"/v1/jobs/jobs/{name}/runs")).json["items"] == []
        assert (await client.get(f"/v1/jobs/{created['id']}/runs")).json["items"] == []


async def test_the_next_occurrences_of_a_job(client: ApiClient) -> None:
    """They begin with the one the job waits for, in UTC, local time, and with the jitter."""
    schedule = {"cron": "0 3 * * *", "timezone": "Asia/Tokyo", "jitter": "10m", "max_runs": 3}
    created = await client.create("a", schedule=schedule)
    answer = await client.get(f"/v1/jobs/{created['id']}/next?count=2")
    first, second = answer.json["items"]
    assert first["scheduled_at"] == created["next_run_at"] == "2025-11-24T18:00:00.000Z"
    assert first["local"] == "2025-11-25T03:00:00+09:00"
    assert first["scheduled_at"] <= first["start_at"] < "2025-11-24T18:10:00.001Z"
    assert second["scheduled_at"] == "2025-11-25T18:00:00.000Z"
    assert "03:00" in answer.json["sentence"]
    assert len((await client.get("/v1/jobs/default/a/next")).json["items"]) == 3
    await client.send("POST", "/v1/jobs/default/a/pause")
    client.cluster.advance(24 * HOUR_MS)
    paused = (await client.get("/v1/jobs/default/a/next")).json
    assert (paused["paused"], paused["items"][0]["scheduled_at"]) == (
        True,
        "2025-11-25T18:00:00.000Z",
    )
    manual = await client.create("m", schedule={"manual": True})
    assert (await client.get(f"/v1/jobs/{manual['id']}/next")).json["items"] == []
    (await client.get("/v1/jobs/default/a/next?count=0")).problem(400, "invalid_parameter")
    (await client.get("/v1/jobs/default/z/next")).problem(404, "not_found")


# --- Histories ---------------------------------------------------------------------------


def skip_then_launch(cluster: SingleCluster, job: bytes) -> None:
    """Miss two occurrences, launch the third, and end it."""
    first_ms = START_MS + HOUR_MS
    third_ms, fourth_ms = START_MS + 3 * HOUR_MS, START_MS + 4 * HOUR_MS
    missed = SkippedRange("missed", first_ms, first_ms + HOUR_MS, 2)
    item = ClaimOccurrence(
        job, 1, first_ms, Cursor(third_ms, third_ms), (missed,), Cursor(fourth_ms, fourth_ms)
    )
    cluster.apply(Claim(INCARNATION, (item,)))
    run = run_key(job, third_ms)
    cluster.start(run)
    cluster.end(run)


async def test_a_history_tells_of_runs_and_of_what_was_not_launched(client: ApiClient) -> None:
    """G5: every occurrence has its outcome, the latest first, filtered by outcome and time."""
    created = await client.create("a")
    client.cluster.advance(3 * HOUR_MS)
    skip_then_launch(client.cluster, bytes.fromhex(created["id"]))
    path = f"/v1/jobs/{created['id']}/runs"
    run, skip = (await client.get(path)).json["items"]
    assert (run["kind"], run["outcome"], run["scheduled_at"]) == (
        "run",
        "succeeded",
        "2025-11-24T19:00:00.000Z",
    )
    assert skip == {
        "kind": "skip",
        "job_id": created["id"],
        "namespace": "default",
        "name": "a",
        "outcome": "missed",
        "scheduled_at": "2025-11-24T17:00:00.000Z",
        "last_scheduled_at": "2025-11-24T18:00:00.000Z",
        "count": 2,
        "recorded_at": "2025-11-24T19:00:00.000Z",
    }
    for query, kinds in {
        "?outcome=succeeded": ["run"],
        "?outcome=skipped": ["skip"],
        "?outcome=missed&outcome=succeeded": ["run", "skip"],
        "?outcome=failed": [],
        "?since=2025-11-24T19:00:00Z": ["run"],
        "?until=2025-11-24T19:00:00Z": ["skip"],
        "?since=2025-11-24T20:00:00%2B01:00&limit=1": ["run"],
        "?since=2025-11-25T00:00:00Z&until=2025-11-24T00:00:00Z": [],
    }.items():
        items = (await client.get(path + query)).json["items"]
        assert [item["kind"] for item in items] == kinds, query
    assert [item["kind"] for item in await all_pages(client, f"{path}?limit=1")] == ["run", "skip"]
    (await client.get("/v1/jobs/default/z/runs")).problem(404, "not_found")


async def test_the_last_run_stands_at_the_job(client: ApiClient) -> None:
    """A job shows the run that ended last, and its outcome."""
    run = await launched(client)
    client.cluster.start(run)
    assert (await client.get("/v1/jobs/default/job")).json["last_run"] is None
    client.cluster.end(run, "failed")
    shown = (await client.get("/v1/jobs/default/job")).json
    assert shown["last_run"] == {"id": format_run_id(run), "outcome": "failed"}


# --- Runs --------------------------------------------------------------------------------


async def test_runs_of_all_jobs_are_listed_latest_first(client: ApiClient) -> None:
    """Filters: namespace, outcome, state, member, and the time of creation."""
    one = await launched(client, "one")
    two = await launched(client, "two", namespace="billing")
    client.cluster.start(one)
    client.cluster.end(one)

    async def ids(query: str) -> list[str]:
        answer = await client.get(f"/v1/runs{query}")
        assert answer.status == 200, answer.body
        return [item["id"] for item in answer.json["items"]]

    first, second = format_run_id(one), format_run_id(two)
    assert await ids("") == [second, first]
    assert await ids("?namespace=billing") == [second]
    assert await ids("?outcome=succeeded") == [first]
    assert await ids("?state=claimed&state=running") == [second]
    assert await ids("?node=alpha") == [second, first]
    assert await ids("?node=beta") == []
    assert await ids("?since=2025-11-24T18:00:00Z") == [second]
    assert await ids("?until=2025-11-24T18:00:00Z") == [first]
    assert [item["id"] for item in await all_pages(client, "/v1/runs?limit=1")] == [second, first]
    (await client.get("/v1/runs?outcome=missed")).problem(400, "invalid_parameter")


async def test_a_run_shows_its_attempts(client: ApiClient) -> None:
    """A retried run keeps its id, and each attempt that is over its outcome and fence."""
    run = await launched(client, retry={"max_attempts": 2})
    cluster = client.cluster
    cluster.start(run)
    cluster.end(run, "failed", retry_start_ms=cluster.environment.now_ms + 1_000)
    path = f"/v1/runs/{format_run_id(run)}"
    queued = (await client.get(path)).json
    assert (queued["state"], queued["outcome"], queued["attempt"]) == ("queued", None, 1)
    cluster.advance(1_000)
    cluster.claim_run(run)
    cluster.start(run)
    cluster.end(run)
    shown = (await client.get(path)).json
    assert (shown["state"], shown["outcome"], shown["attempt"]) == ("ended", "succeeded", 2)
    assert [(one["number"], one["outcome"]) for one in shown["attempts"]] == [
        (1, "failed"),
        (2, "succeeded"),
    ]
    assert shown["attempts"][0]["fence"] < shown["attempts"][1]["fence"] == shown["fence"]


@pytest.mark.parametrize("suffix", ["", "/output"])
async def test_what_names_no_run_is_not_found(client: ApiClient, suffix: str) -> None:
    """A malformed id and the id of no run are 404, each with its own reason."""
    created = await client.create("a")
    malformed = await client.get(f"/v1/runs/nonsense{suffix}")
    assert "names no run" in malformed.problem(404, "not_found")["detail"]
    for run in (
        run_key(bytes.fromhex(created["id"]), START_MS),
        run_key(bytes(16), 1, TRIGGER_MANUAL, 7),
    ):
        absent = await client.get(f"/v1/runs/{format_run_id(run)}{suffix}")
        assert "There is no run" in absent.problem(404, "not_found")["detail"]


async def test_a_skip_is_no_run(client: ApiClient) -> None:
    """What was not launched cannot be read as a run."""
    created = await client.create("a")
    client.cluster.advance(3 * HOUR_MS)
    skip_then_launch(client.cluster, bytes.fromhex(created["id"]))
    (await client.get(f"/v1/runs/{created['id']}.{START_MS + HOUR_MS}")).problem(404, "not_found")


# --- Cancelling --------------------------------------------------------------------------


async def test_a_queued_run_is_cancelled_at_once(client: ApiClient) -> None:
    """200: nobody holds it, so it has ended when the answer is sent."""
    await client.create("a")
    run = (await client.send("POST", "/v1/jobs/default/a/run")).json["id"]
    answer = await client.send("POST", f"/v1/runs/{run}/cancel", {"reason": "not today"})
    assert (answer.status, answer.json["state"]) == (200, "ended")
    shown = (await client.get(f"/v1/runs/{run}")).json
    assert (shown["outcome"], shown["detail"]) == ("cancelled", "not today")
    again = await client.send("POST", f"/v1/runs/{run}/cancel")
    again.problem(409, "already_ended")


async def test_a_held_run_is_asked_to_stop(client: ApiClient) -> None:
    """202: its holder ends it, and the run shows that it was asked for."""
    run = await launched(client)
    client.cluster.start(run)
    path = f"/v1/runs/{format_run_id(run)}"
    answer = await client.send("POST", f"{path}/cancel")
    assert (answer.status, answer.json["state"]) == (202, "running")
    assert (await client.get(path)).json["cancel_reason"] == "Cancelled by a request."
    assert client.cluster.effects.cancelled[-1] == (INCARNATION, run)


async def test_faults_of_a_cancellation(client: ApiClient) -> None:
    """The reason is a short text, and the run must exist."""
    run = format_run_id(await launched(client))
    for document in ({"reason": 5}, {"reason": "x" * 5_000}, {"why": "x"}):
        answer = await client.send("POST", f"/v1/runs/{run}/cancel", document)
        answer.problem(422, "invalid_document")
    unknown = format_run_id(run_key(bytes(16), 5))
    for name in ("x", unknown):
        (await client.send("POST", f"/v1/runs/{name}/cancel")).problem(404, "not_found")


# --- Output ------------------------------------------------------------------------------

BINARY = {"Accept": "application/octet-stream"}


async def test_an_output_is_text_or_bytes(client: ApiClient) -> None:
    """As text its bytes are made readable, as bytes they are what the attempt printed."""
    run = await launched(client)
    cluster = client.cluster
    path = f"/v1/runs/{format_run_id(run)}/output"
    cluster.start(run)
    empty = await client.get(path)
    assert (empty.status, empty.body) == (200, b"")
    cluster.end(run, output=(b"gr\xc3", b"\xbc\xff\n"))
    text = await client.get(path)
    assert text.body == "grü\N{REPLACEMENT CHARACTER}\n".encode()
    assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
    raw = await client.get(path, **BINARY)
    assert raw.body == b"gr\xc3\xbc\xff\n"
    assert raw.headers["Content-Type"] == "application/octet-stream"
    assert raw.headers["X-Cronclave-Output-Bytes"] == "6"
    assert raw.headers["X-Cronclave-Attempt"] == "1"
    assert raw.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_large_output_is_put_together(client: ApiClient) -> None:
    """However many chunks it was stored in, they come in order."""
    run = await launched(client)
    client.cluster.start(run)
    chunks = tuple(bytes([number % 256]) * (OUTPUT_CHUNK_BYTES // 64) for number in range(600))
    client.cluster.end(run, output=chunks)
    raw = await client.get(f"/v1/runs/{format_run_id(run)}/output", **BINARY)
    assert raw.body == b"".join(chunks)


async def test_each_attempt_has_its_own_output(client: ApiClient) -> None:
    """Without a number the last one that printed anything is shown."""
    run = await launched(client, retry={"max_attempts": 3})
    cluster = client.cluster
    cluster.start(run)
    cluster.end(run, "failed", output=(b"one",), retry_start_ms=cluster.environment.now_ms)
    cluster.claim_run(run)
    cluster.start(run)
    path = f"/v1/runs/{format_run_id(run)}/output"
    assert (await client.get(path)).body == b"one"
    cluster.end(run, output=(b"two",))
    assert (await client.get(path)).body == b"two"
    first = await client.get(f"{path}?attempt=1")
    assert (first.body, first.headers["X-Cronclave-Attempt"]) == (b"one", "1")
    (await client.get(f"{path}?attempt=3")).problem(404, "not_found")
    (await client.get(f"{path}?attempt=0")).problem(400, "invalid_parameter")


async def test_an_output_that_was_cleaned_is_missed(client: ApiClient) -> None:
    """An output past its retention is not shown as if the attempt had been silent."""
    run = await launched(client)
    cluster = client.cluster
    cluster.start(run)
    cluster.end(run, output=(b"text",))
    cluster.advance(1)
    cluster.apply(Clean(cluster.environment.now_ms, 0))
    path = f"/v1/runs/{format_run_id(run)}"
    (await client.get(f"{path}/output")).problem(404, "output_expired")
    assert (await client.get(path)).json["output_bytes"] == 4
