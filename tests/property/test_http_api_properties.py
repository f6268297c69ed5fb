"""Whatever is sent, the API answers it, and what it refuses changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.problems import CONTENT_TYPE
from tests.support.api_client import JOB, Answer, ApiClient, api_client

FUZZ = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "-1s", "1h", "P1Y", "0 3 * * *", "* * * * * *", "@daily", "H", "UTC"])
    | st.sampled_from(["2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1e400", "\x00", "\ud83d"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["a", "b", "a" * 200]),
    "namespace": st.sampled_from(["default", "other"]),
    "description": st.text(max_size=9),
    "priority": st.integers(0, 100),
    "timeout": st.sampled_from(["1s", "30d"]),
    "overlap": st.sampled_from(["skip", "allow", "buffer_one", "cancel_other"]),
    "retry": st.fixed_dictionaries(
        {}, optional={"max_attempts": st.integers(1, 100), "backoff": st.just("1s")}
    ),
    "catch_up": st.just({"policy": "all"}),
    "labels": st.just({"a": "b"}),
    "output_limit": st.just(0),
}
SCHEDULE_MEMBERS = ("at", "every", "delay", "cron", "manual", "anchor", "timezone", "dst",
                    "not_before", "not_after", "max_runs", "jitter")  # fmt: skip
SCHEDULES = st.dictionaries(
    st.sampled_from(SCHEDULE_MEMBERS), VALUES, max_size=3
) | st.sampled_from([{"every": "1m"}, {"cron": "0 3 * * *"}, {"manual": True}, {"delay": "5s"}])


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Return a job that is right in parts, or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    document: dict[str, Any] = {"name": "a", **JOB}
    for member in draw(st.sets(st.sampled_from(sorted(MEMBERS)), max_size=4)):
        document[member] = draw(MEMBERS[member])
    if draw(st.booleans()):
        document["schedule"] = draw(SCHEDULES)
    for member in draw(st.sets(st.sampled_from([*document, *MEMBERS, "x", "id"]), max_size=2)):
        document[member] = draw(VALUES)
    return document


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Return the text of a document, at times with damage done to it."""
    body = json.dumps(draw(documents()), ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "surrogatepass"
    )
    if draw(st.integers(0, 3)) == 0 and body:
        place = draw(st.integers(0, len(body) - 1))
        body = body[:place] + draw(st.binary(max_size=4)) + body[place + 1 :]
    return body


ADDRESSES = [
    ("POST", "/v1/jobs"),
    ("POST", "/v1/jobs?dry_run=true"),
    ("POST", "/v1/jobs:validate"),
    ("POST", "/v1/schedule:explain"),
    ("PUT", "/v1/jobs/default/a"),
    ("PUT", "/v1/jobs/default/a?dry_run=true"),
    ("PATCH", "/v1/jobs/default/a"),
    ("POST", "/v1/jobs/default/a/run"),
    ("POST", "/v1/jobs/default/a/pause"),
]


class Fuzzed:
    """One server for all examples of a test."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._stack = AsyncExitStack()
        self.client: ApiClient = runner.run(self._stack.enter_async_context(api_client()))
        runner.run(self.client.create("a"))

    def close(self) -> None:
        self._runner.run(self._stack.aclose())

    def send(self, method: str, path: str, **sent: Any) -> Answer:
        """Send a request and check what holds of every answer."""
        machine = self.client.cluster.machine
        before = self._shown()
        answer = self._runner.run(self.client.send(method, path, **sent))
        assert answer.status < 500, answer.body
        if answer.status >= 400:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert answer.json["status"] == answer.status
            assert len(answer.body) < 40_000
            assert self._shown() == before, answer.body
        assert machine.applied_index >= 1
        return answer

    def _shown(self) -> list[tuple[bytes, bytes]]:
        """Return all that readers can see: jobs, names, due entries, outcomes, runs."""
        return self.client.cluster.view.scan(b"\x01", b"\x0c", 100_000)


@pytest.fixture
def fuzzed() -> Iterator[Fuzzed]:
    with asyncio.Runner() as runner:
        served = Fuzzed(runner)
        yield served
        served.close()


@FUZZ
@given(st.sampled_from(ADDRESSES), bodies())
def test_any_body_is_answered_and_what_is_refused_changes_nothing(
    fuzzed: Fuzzed, address: tuple[str, str], body: bytes
) -> None:
    """G16: never a 5xx, and never a state change on a 4xx."""
    fuzzed.send(*address, body=body)


@FUZZ
@given(st.lists(bodies(), max_size=4), st.booleans())
def test_any_batch_is_answered_item_by_item(
    fuzzed: Fuzzed, items: list[bytes], lines: bool
) -> None:
    """Each item of a batch that can be divided has an answer with a status of its own."""
    body = b"\n".join(items) if lines else b"[" + b",".join(items) + b"]"
    kind = "application/x-ndjson" if lines else "application/json"
    answer = fuzzed.send("POST", "/v1/jobs:batch", body=body, headers={"Content-Type": kind})
    if answer.status == 200:
        for item in answer.json["items"]:
            assert (item["status"] == 201) == ("problem" not in item)
            assert item["status"] in (201, 400, 409, 422)


PARAMETERS = ("limit", "cursor", "namespace", "status", "label", "q", "since", "until", "node",
              "outcome", "state", "count", "attempt", "min_index", "consistency", "x")  # fmt: skip
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(PARAMETERS),
        st.text(max_size=12) | st.sampled_from(["1", "-1", "local", "succeeded", "a=b", "AAAA"]),
    ),
    max_size=3,
)
PATHS = st.sampled_from(
    ["/v1/jobs", "/v1/runs", "/v1/members", "/v1/jobs/default/a/runs", "/v1/jobs/default/a/next"]
) | st.text(max_size=12).map(lambda text: f"/v1/runs/{_quoted(text)}")


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "replace"))


@FUZZ
@given(PATHS, QUERIES)
def test_any_address_is_answered(fuzzed: Fuzzed, path: str, query: list[tuple[str, str]]) -> None:
    """Reading with any parameters is a page or a problem, 503 for an index that is far away."""
    text = "&".join(f"{name}={_quoted(value)}" for name, value in query if name != "min_index")
    answer = fuzzed.send("GET", f"{path}?{text}" if text else path)
    assert answer.status in (200, 400, 404)


@FUZZ
@given(
    st.sampled_from(["If-Match", "If-None-Match", "Idempotency-Key", "X-Request-Id", "Accept"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300),
)
def test_any_header_is_answered(fuzzed: Fuzzed, header: str, value: str) -> None:
    """A header that cannot be used is a problem, and not a fault of the node."""
    fuzzed.send("PUT", "/v1/jobs/default/a", document=JOB, headers={header: value})
    fuzzed.send("POST", "/v1/jobs/default/a/run", headers={header: value})
