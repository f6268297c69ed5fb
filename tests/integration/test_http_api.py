"""Jobs over HTTP: creating, replacing, changing, deleting, acting, and many at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from api.calls import MERGE_PATCH, NDJSON
from api.jobs.batch import GROUP_ITEMS_MAX
from consensus.errors import NoQuorum, OutcomeUnknown
from consensus.state.commands import Cursor, PauseJob
from storage.limits import BATCH_BODY_BYTES_MAX, BATCH_ITEMS_MAX
from tests.support.api_client import JOB, ApiClient, api_client
from tests.support.single import START_MS, SingleCluster

HOUR_MS = 3_600_000


@pytest_asyncio.fixture
async def client() -> AsyncIterator[ApiClient]:
    async with api_client() as served:
        yield served


def job_of(document: Any) -> bytes:
    return bytes.fromhex(document["id"])


# --- Creating ----------------------------------------------------------------------------


async def test_a_created_job_is_answered_with_all_that_is_known_of_it(client: ApiClient) -> None:
    """201 with the job, its next fire times, warnings, `Location` and `ETag`."""
    schedule = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
    document = {"name": "nightly", "namespace": "billing", **JOB, "schedule": schedule}
    answer = await client.send("POST", "/v1/jobs", document)
    assert answer.status == 201
    created = answer.json
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Location"] == f"/v1/jobs/{created['id']}"
    warnings = created.pop("warnings")
    assert [warning["code"] for warning in warnings] == ["dst_gap", "dst_fold"]
    assert created == {
        **document,
        "id": created["id"],
        "revision": 1,
        "status": "scheduled",
        "paused": False,
        "created_at": "2025-11-24T16:00:00.000Z",
        "updated_at": "2025-11-24T16:00:00.000Z",
        "next_run_at": "2025-11-25T01:30:00.000Z",
        "last_run": None,
        "next_runs": [f"2025-11-{day}T01:30:00.000Z" for day in range(25, 30)],
    }
    shown = await client.get(answer.headers["Location"])
    assert shown.json == {key: created[key] for key in created if key != "next_runs"}


async def test_the_forecast_of_a_shared_expression_follows_the_clock(client: ApiClient) -> None:
    """What is remembered of an expression is not shown once its first occurrence has passed."""
    schedule = {"cron": "*/10 * * * *"}
    first = await client.create("a", schedule=schedule)
    client.cluster.advance(599_999)
    same = await client.create("b", schedule=schedule)
    assert same["next_runs"] == first["next_runs"]
    client.cluster.advance(1)
    later = await client.create("c", schedule=schedule)
    assert later["next_runs"][:4] == first["next_runs"][1:]


async def test_a_name_can_be_used_once_in_a_namespace(client: ApiClient) -> None:
    """A second job of the same name is refused with 409, one in another namespace is not."""
    await client.create("a")
    await client.create("a", namespace="other")
    answer = await client.send("POST", "/v1/jobs", {"name": "a", **JOB})
    answer.problem(409, "name_taken")


@pytest.mark.parametrize("parameter", ["?dry_run=true", "?dry_run=false"])
async def test_a_dry_run_says_what_would_be_and_does_nothing(
    client: ApiClient, parameter: str
) -> None:
    """The same checks are made and the same faults found, without a proposal."""
    document = {"name": "a", "namespace": "default", **JOB}
    answer = await client.send("POST", f"/v1/jobs{parameter}", document)
    if parameter.endswith("false"):
        assert answer.status == 201
        again = await client.send("POST", "/v1/jobs?dry_run=true", document)
        again.problem(409, "name_taken")
        return
    assert answer.status == 200
    shown = answer.json
    assert shown["action"] == "create"
    anchored = {"every": "1h", "anchor": "2025-11-24T16:00:00.000Z"}
    assert shown["job"] == {**document, "schedule": anchored}
    assert len(shown["next_runs"]) == 5
    assert client.cluster.proposals == 0


async def test_validating_compares_with_the_job_that_is_there(client: ApiClient) -> None:
    """`jobs:validate` answers whether a job would be created or replaced, and what changes."""
    await client.create("a", priority=10)
    proposals = client.cluster.proposals
    document = {"name": "a", **JOB, "priority": 20, "labels": {"x": "y"}}
    replaced = (await client.send("POST", "/v1/jobs:validate", document)).json
    assert (replaced["action"], replaced["changes"]) == ("replace", ["priority", "labels"])
    created = (await client.send("POST", "/v1/jobs:validate", {**document, "name": "b"})).json
    assert created["action"] == "create"
    faulty = await client.send("POST", "/v1/jobs:validate", {**document, "name": 5})
    faulty.problem(422, "invalid_document")
    assert client.cluster.proposals == proposals


# --- Replacing and changing --------------------------------------------------------------


async def test_put_creates_then_replaces_by_name(client: ApiClient) -> None:
    """201 the first time and 200 after that, each change raising the revision."""
    path = "/v1/jobs/billing/report"
    first = await client.send("PUT", path, JOB)
    assert (first.status, first.headers["ETag"]) == (201, '"1"')
    assert first.headers["Location"] == f"/v1/jobs/{first.json['id']}"
    client.cluster.advance(1_000)
    second = await client.send("PUT", path, {**JOB, "priority": 9})
    assert (second.status, second.headers["ETag"]) == (200, '"2"')
    assert second.json["id"] == first.json["id"]
    assert second.json["priority"] == 9
    assert second.json["updated_at"] == "2025-11-24T16:00:01.000Z"
    third = await client.send("PUT", f"/v1/jobs/{first.json['id']}", JOB)
    assert (third.status, third.json["revision"]) == (200, 3)
    assert "priority" not in third.json


async def test_what_was_read_can_be_put_back(client: ApiClient) -> None:
    """A document with all that the API shows is accepted as it is."""
    created = await client.create("a", priority=7)
    answer = await client.send("PUT", "/v1/jobs/default/a", created)
    assert (answer.status, answer.json["revision"]) == (200, 2)
    assert answer.json["next_runs"] == created["next_runs"]


async def test_the_address_names_the_job_and_not_the_document(client: ApiClient) -> None:
    """A document that names another job is refused, and so is a name that cannot be."""
    answer = await client.send("PUT", "/v1/jobs/billing/a", {"name": "b", **JOB})
    answer.problem(422, "invalid_document")
    assert answer.pointers() == {"/name"}
    hidden = await client.send("PUT", "/v1/jobs/billing/.hidden", JOB)
    hidden.problem(404, "not_found")
    unknown = await client.send("PUT", f"/v1/jobs/{'0' * 32}", JOB)
    unknown.problem(404, "not_found")


async def test_a_merge_patch_changes_what_it_names(client: ApiClient) -> None:
    """RFC 7396: members are replaced, null removes, and the rest stays."""
    created = await client.create("a", labels={"x": "1", "y": "2"}, timeout="10m")
    patch = {"labels": {"x": None, "z": "3"}, "timeout": None, "description": "new"}
    headers = {"Content-Type": MERGE_PATCH}
    answer = await client.send("PATCH", f"/v1/jobs/{created['id']}", patch, headers=headers)
    assert answer.status == 200
    changed = answer.json
    assert changed["labels"] == {"y": "2", "z": "3"}
    assert "timeout" not in changed
    assert changed["description"] == "new"
    assert changed["schedule"] == created["schedule"]
    assert changed["next_run_at"] == created["next_run_at"]


async def test_a_patch_is_judged_by_what_the_job_would_be(client: ApiClient) -> None:
    """All faults of the merged document are named, and nothing changes."""
    await client.create("a")
    path = "/v1/jobs/default/a"
    patch = {"schedule": {"cron": "0 3 * * *"}, "priority": -1, "paused": True}
    answer = await client.send("PATCH", path, patch)
    answer.problem(422, "invalid_document")
    assert answer.pointers() >= {"/schedule", "/priority", "/paused"}
    (await client.send("PATCH", path, [])).problem(422, "invalid_document")
    assert (await client.get(path)).json["revision"] == 1


async def test_a_schedule_that_stays_keeps_its_overdue_occurrence(client: ApiClient) -> None:
    """A change of something else does not lose what is due; a new schedule records it."""
    created = await client.create("a")
    client.cluster.advance(2 * HOUR_MS + 5)
    path = "/v1/jobs/default/a"
    kept = await client.send("PATCH", path, {"description": "x"})
    assert kept.json["next_run_at"] == created["next_runs"][0]
    moved = await client.send("PATCH", path, {"schedule": {"every": "30m"}})
    assert moved.json["next_run_at"] == "2025-11-24T18:30:00.000Z"
    history = (await client.get(f"{path}/runs")).json["items"]
    assert [(item["kind"], item["outcome"], item["count"]) for item in history] == [
        ("skip", "rescheduled", 2)
    ]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_a_change_of_an_older_revision_is_refused(client: ApiClient, method: str) -> None:
    """G4: `If-Match` on an older revision gets 412, on the present one it is carried out."""
    path = f"/v1/jobs/{(await client.create('a'))['id']}"
    await client.send("PUT", path, JOB)
    document = None if method == "DELETE" else JOB
    stale = await client.send(method, path, document, headers={"If-Match": '"1"'})
    assert stale.problem(412, "revision_mismatch")["revision"] == 2
    wrong = await client.send(method, path, document, headers={"If-Match": "2"})
    wrong.problem(400, "invalid_header")
    good = await client.send(method, path, document, headers={"If-Match": '"2"'})
    assert good.status in (200, 204)


async def test_preconditions_about_existence(client: ApiClient) -> None:
    """`If-None-Match: *` creates only, `If-Match` of any kind never creates."""
    path = "/v1/jobs/default/a"
    absent = await client.send("PUT", path, JOB, headers={"If-Match": "*"})
    absent.problem(412, "precondition_failed")
    only_new = {"If-None-Match": "*"}
    assert (await client.send("PUT", path, JOB, headers=only_new)).status == 201
    present = await client.send("PUT", path, JOB, headers=only_new)
    present.problem(412, "precondition_failed")
    assert (await client.send("PUT", path, JOB, headers={"If-Match": "*"})).status == 200


async def test_a_change_that_was_overtaken_is_worked_out_again(client: ApiClient) -> None:
    """Without a precondition, a change in between costs a second try and no error."""
    created = await client.create("a")
    job = job_of(created)
    client.cluster.before_next.append(lambda cluster: cluster.apply(PauseJob(job, True)))
    answer = await client.send("PATCH", "/v1/jobs/default/a", {"priority": 1})
    assert (answer.status, answer.json["revision"], answer.json["paused"]) == (200, 3, True)


async def test_a_change_with_a_precondition_that_was_overtaken_is_refused(
    client: ApiClient,
) -> None:
    """With `If-Match`, whoever was faster is noticed."""
    job = job_of(await client.create("a"))
    client.cluster.before_next.append(lambda cluster: cluster.apply(PauseJob(job, True)))
    headers = {"If-Match": '"1"'}
    answer = await client.send("PATCH", "/v1/jobs/default/a", {"priority": 1}, headers=headers)
    answer.problem(412, "revision_mismatch")


async def test_a_change_that_is_overtaken_every_time_gives_up(client: ApiClient) -> None:
    """The number of tries is bounded, and the answer says that nothing was changed."""
    job = job_of(await client.create("a"))

    def meddle(paused: bool) -> Callable[[SingleCluster], object]:
        return lambda cluster: cluster.apply(PauseJob(job, paused))

    client.cluster.before_next += [meddle(turn % 2 == 0) for turn in range(10)]
    answer = await client.send("PATCH", "/v1/jobs/default/a", {"priority": 1})
    answer.problem(409, "changed_meanwhile")


async def test_a_launch_in_between_does_not_disturb_a_new_schedule(client: ApiClient) -> None:
    """A cursor that moved is read again; the launched occurrence keeps its outcome."""
    job = job_of(await client.create("a"))
    client.cluster.heartbeat()
    client.cluster.advance(HOUR_MS)
    following = Cursor(START_MS + 2 * HOUR_MS, START_MS + 2 * HOUR_MS)
    client.cluster.before_next.append(lambda cluster: cluster.launch(job, following))
    answer = await client.send("PATCH", "/v1/jobs/default/a", {"schedule": {"every": "2h"}})
    assert answer.status == 200
    history = (await client.get("/v1/jobs/default/a/runs")).json["items"]
    assert [item["kind"] for item in history] == ["run"]


async def test_what_follows_its_own_ends_is_not_due_while_it_runs(client: ApiClient) -> None:
    """A delay that is changed during a run counts from the end of that run."""
    created = await client.create("a", schedule={"delay": "5m"})
    client.cluster.heartbeat()
    client.cluster.advance(300_000)
    run = client.cluster.launch(job_of(created))
    changed = await client.send("PATCH", "/v1/jobs/default/a", {"schedule": {"delay": "9m"}})
    assert (changed.json["status"], changed.json["next_run_at"]) == ("scheduled", None)
    client.cluster.advance(60_000)
    client.cluster.end(run)
    shown = (await client.get("/v1/jobs/default/a")).json
    assert shown["next_run_at"] == "2025-11-24T16:15:00.000Z"


async def test_a_schedule_that_is_over_makes_a_finished_job(client: ApiClient) -> None:
    """The answer shows the state that the job is in, and warns that nothing lies ahead."""
    schedule = {"every": "1h", "not_after": "2025-11-01T00:00:00Z"}
    created = await client.create("a", schedule=schedule)
    assert (created["status"], created["next_run_at"]) == ("finished", None)
    assert [warning["code"] for warning in created["warnings"]] == ["no_occurrence_left"]
    shown = (await client.get("/v1/jobs/default/a")).json
    assert shown == {key: created[key] for key in shown}


async def test_deleting_accounts_for_what_was_overdue(client: ApiClient) -> None:
    """G5: occurrences that nobody came to launch end as deleted, all of them."""
    created = await client.create("a")
    client.cluster.advance(3 * HOUR_MS + 1)
    await client.send("DELETE", "/v1/jobs/default/a")
    (item,) = (await client.get(f"/v1/jobs/{created['id']}/runs")).json["items"]
    assert (item["outcome"], item["count"]) == ("deleted", 3)


async def test_a_put_that_loses_the_race_for_a_name_replaces(client: ApiClient) -> None:
    """Two nodes that create the same name at once end up with one job and no error."""
    client.cluster.before_next.append(lambda cluster: cluster.create_plain("a"))
    answer = await client.send("PUT", "/v1/jobs/default/a", JOB)
    assert (answer.status, answer.json["revision"]) == (200, 2)


async def test_a_lagging_node_looks_again_before_it_refuses(client: ApiClient) -> None:
    """What a member's copy does not show yet is no reason for a 404 or a 412."""
    cluster = client.cluster
    cluster.at_barrier.append(lambda cluster: cluster.create_plain("a"))
    assert (await client.send("DELETE", "/v1/jobs/default/a")).status == 204
    cluster.at_barrier.append(lambda cluster: cluster.create_plain("a"))
    assert (await client.send("POST", "/v1/jobs/default/a/pause")).status == 200


# --- Deleting ----------------------------------------------------------------------------


async def test_a_deleted_job_is_gone_and_its_history_stays(client: ApiClient) -> None:
    """204, then 404; the name is free, and the runs can still be read by the old id."""
    created = await client.create("a")
    path = f"/v1/jobs/{created['id']}"
    await client.send("POST", f"{path}/run")
    assert (await client.send("DELETE", path)).status == 204
    gone = (await client.get(path)).problem(404, "not_found")
    assert f"{path}/runs" in gone["detail"]
    (await client.send("DELETE", path)).problem(404, "not_found")
    (await client.send("PATCH", path, {})).problem(404, "not_found")
    (await client.send("POST", f"{path}/run")).problem(404, "not_found")
    (await client.get("/v1/jobs/default/a")).problem(404, "not_found")
    history = (await client.get(f"{path}/runs")).json["items"]
    assert [item["outcome"] for item in history] == ["cancelled"]
    assert (await client.create("a"))["id"] != created["id"]


# --- Acting ------------------------------------------------------------------------------


async def test_a_job_is_paused_and_resumed(client: ApiClient) -> None:
    """A paused job has no next run; doing it twice changes nothing."""
    created = await client.create("a")
    for path in ("/v1/jobs/default/a", f"/v1/jobs/{created['id']}"):
        paused = await client.send("POST", f"{path}/pause")
        again = await client.send("POST", f"{path}/pause", {})
        assert paused.status == 200
        assert paused.json == again.json
        assert paused.json["paused"] is True
        assert paused.headers["ETag"] == f'"{paused.json["revision"]}"'
        shown = (await client.get(path)).json
        assert (shown["status"], shown["next_run_at"]) == ("paused", None)
        resumed = await client.send("POST", f"{path}/resume")
        assert resumed.json["paused"] is False
        assert (await client.get(path)).json["next_run_at"] == created["next_run_at"]


async def test_a_manual_run_is_queued_beside_the_schedule(client: ApiClient) -> None:
    """201 with the run's place; the overlap policy may forbid it with 409."""
    created = await client.create("a")
    answer = await client.send("POST", "/v1/jobs/default/a/run")
    assert answer.status == 201
    run = answer.json
    assert run["job_id"] == created["id"]
    assert (run["trigger"], run["state"]) == ("manual", "queued")
    shown = (await client.get(answer.headers["Location"])).json
    assert (shown["id"], shown["trigger"]) == (run["id"], "manual")
    refused = await client.send("POST", "/v1/jobs/default/a/run")
    refused.problem(409, "already_running")


async def test_actions_take_no_members(client: ApiClient) -> None:
    """An unknown member of an action's body is refused like any other."""
    await client.create("a")
    answer = await client.send("POST", "/v1/jobs/default/a/pause", {"until": "tomorrow"})
    answer.problem(422, "invalid_document")
    assert answer.pointers() == {"/until"}
    (await client.send("POST", "/v1/jobs/default/a/run", [])).problem(422, "invalid_document")
    (await client.send("POST", "/v1/jobs/default/b/run")).problem(404, "not_found")


# --- Many at once ------------------------------------------------------------------------


def batch(count: int) -> list[dict[str, Any]]:
    return [{"name": f"job-{number}", **JOB} for number in range(count)]


async def test_every_item_of_a_batch_has_its_own_answer(client: ApiClient) -> None:
    """Good items are created, whatever is wrong with the others."""
    await client.create("job-1")
    documents: list[object] = [*batch(3), {"name": "x", "priority": "high"}, 7]
    answer = await client.send("POST", "/v1/jobs:batch", documents)
    assert answer.status == 200
    result = answer.json
    assert (result["created"], result["failed"]) == (2, 3)
    assert [item["status"] for item in result["items"]] == [201, 409, 201, 422, 422]
    first, taken, _, faulty, _ = result["items"]
    assert (await client.get(f"/v1/jobs/{first['id']}")).json["name"] == "job-0"
    assert first["next_run_at"] == "2025-11-24T17:00:00.000Z"
    assert taken["problem"]["code"] == "name_taken"
    pointers = {fault["pointer"] for fault in faulty["problem"]["errors"]}
    assert pointers == {"/priority", "/schedule", "/action"}


async def test_a_batch_can_be_sent_line_by_line(client: ApiClient) -> None:
    """NDJSON: one job a line; a line that is no JSON is an item that failed."""
    lines = [json.dumps(document) for document in batch(2)] + ["", "{oops", '{"a":1,"a":2}']
    headers = {"Content-Type": NDJSON}
    body = "\r\n".join(lines).encode()
    answer = await client.send("POST", "/v1/jobs:batch", body=body, headers=headers)
    statuses = [item["status"] for item in answer.json["items"]]
    assert statuses == [201, 201, 400, 400]


async def test_a_large_batch_travels_in_groups(client: ApiClient) -> None:
    """The number of proposals follows from the number of items, not the other way round."""
    count = 2 * GROUP_ITEMS_MAX + 1
    answer = await client.send("POST", "/v1/jobs:batch", batch(count))
    assert answer.json["created"] == count
    assert client.cluster.proposals == 3
    wide = [{**item, "namespace": "wide", "description": "x" * 2_000} for item in batch(400)]
    await client.send("POST", "/v1/jobs:batch", wide)
    assert client.cluster.proposals > 4


async def test_a_batch_is_repeated_as_a_whole(client: ApiClient) -> None:
    """With a key, the same batch gets the same answers, also if it had failed half-way."""
    headers = {"Idempotency-Key": "k"}
    documents = batch(GROUP_ITEMS_MAX + 1)
    client.cluster.failures = [None, OutcomeUnknown()]
    partly = await client.send("POST", "/v1/jobs:batch", documents, headers=headers)
    assert (partly.status, partly.json["failed"]) == (200, 1)
    assert partly.json["items"][-1]["problem"]["code"] == "outcome_unknown"
    client.cluster.advance(1_000)
    whole = await client.send("POST", "/v1/jobs:batch", documents, headers=headers)
    assert whole.json["failed"] == 0
    assert whole.json["items"][:-1] == partly.json["items"][:-1]
    again = await client.send("POST", "/v1/jobs:batch", documents, headers=headers)
    assert again.json == whole.json
    documents[0]["priority"] = 1
    other = await client.send("POST", "/v1/jobs:batch", documents, headers=headers)
    assert other.json["items"][0]["problem"]["code"] == "idempotency_key_reused"
    assert other.json["items"][1:] == whole.json["items"][1:]


async def test_a_batch_that_cannot_begin_fails_as_a_whole(client: ApiClient) -> None:
    """Without a quorum nothing was created, and the status says so."""
    client.cluster.failures = [NoQuorum()]
    answer = await client.send("POST", "/v1/jobs:batch", batch(2))
    answer.problem(503, "no_quorum")


async def test_items_behind_a_failure_are_not_tried(client: ApiClient) -> None:
    """Each item says whether it was created, may have been, or was not."""
    client.cluster.failures = [None, NoQuorum()]
    answer = await client.send("POST", "/v1/jobs:batch", batch(3 * GROUP_ITEMS_MAX))
    codes = [item.get("problem", {}).get("code") for item in answer.json["items"]]
    assert codes[:GROUP_ITEMS_MAX] == [None] * GROUP_ITEMS_MAX
    assert set(codes[GROUP_ITEMS_MAX : 2 * GROUP_ITEMS_MAX]) == {"no_quorum"}
    assert set(codes[2 * GROUP_ITEMS_MAX :]) == {"not_applied"}


@pytest.mark.parametrize("body", [b"{}", b"7", b'"x"', b"null"])
async def test_a_batch_is_an_array(client: ApiClient, body: bytes) -> None:
    """A document that is no array is refused as a whole."""
    answer = await client.send("POST", "/v1/jobs:batch", body=body)
    answer.problem(422, "invalid_document")


@pytest.mark.parametrize("body", [b"[", b"", b"[1,]", b"\xff", b"[" * 100_000])
async def test_a_batch_that_is_not_json_is_refused(client: ApiClient, body: bytes) -> None:
    """A broken array cannot be divided into items."""
    answer = await client.send("POST", "/v1/jobs:batch", body=body)
    answer.problem(400, "malformed_json")


async def test_a_batch_is_bounded(client: ApiClient) -> None:
    """More than 10,000 items or 16 MiB are refused before any of them is looked at."""
    many = b"[" + b",".join([b"0"] * (BATCH_ITEMS_MAX + 1)) + b"]"
    (await client.send("POST", "/v1/jobs:batch", body=many)).problem(422, "invalid_document")
    long = b"[" + b" " * BATCH_BODY_BYTES_MAX + b"]"
    (await client.send("POST", "/v1/jobs:batch", body=long)).problem(413, "body_too_large")
    empty = await client.send("POST", "/v1/jobs:batch", body=b"[]")
    assert empty.json == {"created": 0, "failed": 0, "items": []}
    assert client.cluster.proposals == 0
