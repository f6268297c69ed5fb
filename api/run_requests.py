"""Reading and cancelling runs, and reading what they printed."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api.calls import Call, answer, answer_page
from api.faults import FaultList
from api.ids import format_run_id, parse_run_id
from api.jobs import changes
from api.object_reader import ObjectReader, text
from api.outcomes import outcome_filter, render_run, render_run_in_full
from api.paging import read_page
from api.problems import Problem, invalid_document
from consensus.state.commands import CancelRun, RunDone
from storage import keys, models
from storage.limits import DESCRIPTION_CHARS_MAX, OUTPUT_BYTES_MAX
from storage.models import JobState, Run
from storage.store import View

BINARY = "application/octet-stream"
# Chunks are written by another part of the program, which may make them smaller.
CHUNKS_SCANNED = 256
REASON_DEFAULT = "Cancelled by a request."

_parse_reason = text(DESCRIPTION_CHARS_MAX)


async def list_runs(call: Call) -> web.Response:
    """GET /v1/runs: the runs of all jobs, the latest first by their creation."""
    start = keys.timeline_key(call.query.get("since", 0), b"")
    stop = keys.after(keys.TIMELINE)
    if (until_ms := call.query.get("until")) is not None:
        stop = keys.timeline_key(until_ms, b"")
    pick = _RunFilter(call).pick
    page = read_page(call.cluster.view, start, stop, call.query, pick, reverse=True)
    return answer_page(call, page.items, page.next_key)


class _RunFilter:
    """Makes documents of the rows of the TIMELINE table, those that pass."""

    def __init__(self, call: Call) -> None:
        self._view = call.cluster.view
        self._query = call.query
        self._passes = outcome_filter(call.query)
        self._jobs: dict[bytes, JobState | None] = {}

    def pick(self, key: bytes, value: bytes) -> dict[str, Any] | None:
        run = keys.age_of(key)[1]
        record = _record(self._view, run)
        if record is None or not self._passes(record):
            return None
        query, state = self._query, self._job(run[:16])
        if "state" in query and record.state not in query["state"]:
            return None
        if "node" in query and record.member != query["node"]:
            return None
        if "namespace" in query and (state is None or state.namespace != query["namespace"]):
            return None
        return render_run(run, record, state)

    def _job(self, job: bytes) -> JobState | None:
        if job not in self._jobs:
            self._jobs[job] = changes.read_state(self._view, job)
        return self._jobs[job]


def _record(view: View, run: bytes) -> Run | None:
    raw = view.get(keys.OUTCOME + run)
    found = None if raw is None else models.decode_outcome(raw)
    return found if isinstance(found, Run) else None


def _run_of(call: Call) -> tuple[bytes, Run]:
    run = _key_of(call)
    record = _record(call.cluster.view, run)
    if record is None:
        raise Problem("not_found", f"There is no run {format_run_id(run)}.")
    return run, record


def _key_of(call: Call) -> bytes:
    run = parse_run_id(call.path_part("run"))
    if run is None:
        raise Problem(
            "not_found",
            "The address names no run: the id of a run is that of its job, a dot and the"
            " scheduled time in milliseconds, and for a manual run a dot, m and eight"
            " hexadecimal digits.",
        )
    return run


async def get_run(call: Call) -> web.Response:
    """GET /v1/runs/{run}."""
    run, record = _run_of(call)
    state = changes.read_state(call.cluster.view, run[:16])
    return answer(render_run_in_full(run, record, state))


async def cancel_run(call: Call) -> web.Response:
    """POST /v1/runs/{run}/cancel: end it at once, or ask whoever holds it to."""
    run = _key_of(call)
    document = await call.optional_object()
    faults = FaultList()
    reader = ObjectReader(document, "", faults)
    reader.known(("reason",))
    reason = reader.read("reason", _parse_reason, REASON_DEFAULT)
    if faults:
        raise invalid_document(faults.faults)
    done = await call.carry_out(CancelRun(run, reason, call.request_key(document)))
    assert isinstance(done, RunDone)
    over = done.state == "ended"
    shown = {"id": format_run_id(done.run), "state": done.state, "cancel_reason": reason}
    return answer(shown, 200 if over else 202)


async def run_output(call: Call) -> web.Response:
    """GET /v1/runs/{run}/output: what an attempt printed, by default the last that did."""
    run, record = _run_of(call)
    attempt: int = call.query.get("attempt", 0) or _last_attempt(call, run, record)
    if attempt > record.number:
        detail = f"The run has {record.number} attempts; there is no attempt {attempt}."
        raise Problem("not_found", detail)
    output = _read_output(call, run, attempt)
    if not output and attempt == record.number and record.output_bytes and record.ended_ms:
        raise Problem("output_expired", "The output of this run is not kept any more.")
    headers = {"X-Cronclave-Attempt": str(attempt)}
    if attempt == record.number:
        headers["X-Cronclave-Output-Bytes"] = str(record.output_bytes)
    if BINARY in call.request.headers.get("Accept", ""):
        return _sent(output, BINARY, headers)
    readable = output.decode("utf-8", errors="replace").encode()
    return _sent(readable, "text/plain; charset=utf-8", headers)


def _sent(body: bytes, content_type: str, headers: dict[str, str]) -> web.Response:
    return web.Response(body=body, headers=headers | {"Content-Type": content_type})


def _last_attempt(call: Call, run: bytes, record: Run) -> int:
    """Return the last attempt with an output, or the last one if none has any."""
    prefix = keys.OUTPUT + run
    rows = call.cluster.view.scan(prefix, keys.after(prefix), 1, reverse=True)
    return int.from_bytes(rows[0][0][-4:-2], "big") if rows else record.number


def _read_output(call: Call, run: bytes, attempt: int) -> bytes:
    start = keys.output_key(run, attempt)
    stop = keys.after(start[:-2])
    output = bytearray()
    while len(output) <= OUTPUT_BYTES_MAX:
        rows = call.cluster.view.scan(start, stop, CHUNKS_SCANNED)
        for _, chunk in rows:
            output += chunk
        if len(rows) < CHUNKS_SCANNED:
            break
        start = rows[-1][0] + b"\x00"
    return bytes(output)
