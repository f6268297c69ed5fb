"""Bad input is answered with what is wrong and where, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.cluster import Answer, Node, three_nodes

GOOD: dict[str, Any] = {
    "name": "good",
    "schedule": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
    "action": {"type": "noop"},
}

# What is wrong, how the document differs from a good one, and where the faults are.
FAULTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "bad cron": ({"schedule": {"cron": "61 3 * * *"}}, {"/schedule/cron"}),
    "unknown zone": (
        {"schedule": {"cron": "0 3 * * *", "timezone": "Europe/Atlantis"}},
        {"/schedule/timezone"},
    ),
    "negative timeout": ({"timeout": "-5s"}, {"/timeout"}),
    "unknown field": ({"shedule": {"every": "1s"}}, {"/shedule"}),
    "wrong type": ({"priority": "high"}, {"/priority"}),
    "number for a name": ({"name": 7}, {"/name"}),
    "list for a schedule": ({"schedule": ["0 3 * * *"]}, {"/schedule"}),
    "long name": ({"name": "x" * 10_000}, {"/name"}),
    "unknown action": ({"action": {"type": "teleport"}}, {"/action/type"}),
    "action without a program": ({"action": {"type": "command"}}, {"/action/argv"}),
    "all at once": (
        {
            "name": "",
            "schedule": {"cron": "* * *", "timezone": "Nowhere"},
            "timeout": "-1s",
            "priority": 1_000,
            "overlap": "maybe",
            "colour": "red",
        },
        {
            "/name",
            "/schedule/cron",
            "/schedule/timezone",
            "/timeout",
            "/priority",
            "/overlap",
            "/colour",
        },
    ),
}

# Bodies that cannot be read at all, and the answer's status and code.
UNREADABLE: dict[str, tuple[bytes, int, str]] = {
    "two mebibytes": (
        json.dumps({**GOOD, "description": "x" * 2 * 1_048_576}).encode(),
        413,
        "body_too_large",
    ),
    "not a number": (
        json.dumps({**GOOD, "priority": float("nan")}).encode(),
        400,
        "malformed_json",
    ),
    "half a document": (json.dumps(GOOD).encode()[:-9], 400, "malformed_json"),
    "no text": (b"\xff\xfe\x00", 400, "malformed_json"),
    "nothing": (b"", 400, "malformed_json"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, 400, "malformed_json"),
    "twice": (b'{"name": "a", "name": "b"}', 400, "malformed_json"),
    "a list": (json.dumps([GOOD]).encode(), 422, "invalid_document"),
}


def check_problem(answer: Answer, status: int, code: str, what: str) -> None:
    """Check what every problem document has."""
    assert (answer.status, answer.body["code"]) == (status, code), (what, answer.body)
    assert answer.headers["Content-Type"].startswith("application/problem+json"), what
    assert answer.body["status"] == status
    for member in ("type", "title", "detail", "instance", "request_id"):
        assert answer.body[member], (what, member)
    # Hostile texts are quoted in part only.
    assert len(json.dumps(answer.body)) < 10_000, what


async def check_faults(node: Node, what: str) -> None:
    difference, pointers = FAULTS[what]
    answer = await node.request("POST", "/v1/jobs", {**GOOD, **difference})
    check_problem(answer, 422, "invalid_document", what)
    faults = answer.body["errors"]
    assert {fault["pointer"] for fault in faults} == pointers, (what, faults)
    assert all(fault["code"] and fault["detail"] for fault in faults), (what, faults)


async def test_every_fault_of_a_malformed_job_is_named_and_nothing_changes(tmp_path: Path) -> None:
    """G16: a problem document with a code and a pointer for each fault, from every node."""
    async with three_nodes(tmp_path) as cluster:
        good = await cluster.write("/v1/jobs", {**GOOD, "name": "present"}, cluster.nodes[0])
        for place, what in enumerate(FAULTS):
            await check_faults(cluster.nodes[place % 3], what)
        for place, (what, (body, status, code)) in enumerate(UNREADABLE.items()):
            node = cluster.nodes[place % 3]
            check_problem(await node.request("POST", "/v1/jobs", body=body), status, code, what)
        for node in cluster.nodes:
            assert await node.job_names(good.index) == {"present"}
        await cluster.ready()
        await cluster.agree_on_state()
