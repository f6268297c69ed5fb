"""Reading jobs: one, many, their next occurrences, and what became of the past ones."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api.calls import Call, answer, answer_page
from api.conditions import format_tag
from api.forecasts import SHOWN_NEXT, upcoming
from api.jobs import changes
from api.jobs.changes import Current
from api.jobs.rendering import render_job
from api.outcomes import outcome_filter, render_outcome
from api.paging import read_page
from api.problems import Problem
from api.schedule import explain
from storage import keys, models
from storage.models import JobDefinition, JobState


async def get_job(call: Call) -> web.Response:
    """GET /v1/jobs/{job} and /v1/jobs/{namespace}/{name}."""
    job, state, definition = _current(call)
    document = render_job(job, definition, state)
    return answer(document, 200, {"ETag": format_tag(state.revision)})


def _current(call: Call) -> Current:
    target = changes.target_of(call)
    current = changes.read_current(call.cluster.view, target)
    if current is not None:
        return current
    state = None if target.job is None else changes.read_state(call.cluster.view, target.job)
    if state is None:
        raise changes.no_such_job(target)
    raise Problem(
        "not_found",
        f"The job {state.namespace}/{state.name} was deleted; its history is at"
        f" /v1/jobs/{call.path_part('job')}/runs.",
    )


async def list_jobs(call: Call) -> web.Response:
    """GET /v1/jobs, in the order of namespaces and names."""
    namespace: str | None = call.query.get("namespace")
    prefix = keys.NAME if namespace is None else keys.name_key(namespace, "")
    stop = keys.after(prefix)
    wanted = _JobFilter(call)
    page = read_page(call.cluster.view, prefix, stop, call.query, wanted.pick)
    return answer_page(call, page.items, page.next_key)


class _JobFilter:
    """Makes documents of the rows of the NAME table, those that pass."""

    def __init__(self, call: Call) -> None:
        self._view = call.cluster.view
        self._statuses = frozenset(call.query.get("status", ()))
        self._labels: list[tuple[str, str]] = call.query.get("label", [])
        self._text: str = call.query.get("q", "").lower()

    def pick(self, key: bytes, job: bytes) -> dict[str, Any] | None:
        raw_state = self._view.get(keys.JOB_STATE + job)
        raw = self._view.get(keys.JOB + job)
        if raw is None or raw_state is None:
            return None
        state = models.decode_job_state(raw_state)
        if self._statuses and state.status not in self._statuses:
            return None
        definition = models.decode_definition(raw)
        return render_job(job, definition, state) if self._passes(state, definition) else None

    def _passes(self, state: JobState, definition: JobDefinition) -> bool:
        if any(definition.labels.get(key) != value for key, value in self._labels):
            return False
        text = self._text
        return (
            text in f"{state.namespace}/{state.name}".lower()
            or text in definition.description.lower()
        )


async def next_occurrences(call: Call) -> web.Response:
    """GET /v1/jobs/{job}/next."""
    job, state, definition = _current(call)
    now_ms = call.now_ms()
    items = upcoming(job, definition, state, now_ms, call.query.get("count", SHOWN_NEXT))
    sentence = explain(definition.schedule, now_ms, 0).sentence
    shown = {"items": items, "paused": state.status == "paused", "sentence": sentence}
    return answer(shown)


async def job_history(call: Call) -> web.Response:
    """GET /v1/jobs/{job}/runs: what became of its occurrences, the latest first."""
    view = call.cluster.view
    target = changes.target_of(call)
    job = changes.find_job(view, target)
    state = None if job is None else changes.read_state(view, job)
    if job is None or state is None:
        raise changes.no_such_job(target)
    start = keys.OUTCOME + keys.run_key(job, call.query.get("since", 0))
    stop = keys.after(keys.OUTCOME + job)
    if (until_ms := call.query.get("until")) is not None:
        stop = keys.OUTCOME + keys.run_key(job, until_ms)
    passes = outcome_filter(call.query)

    def pick(key: bytes, value: bytes) -> dict[str, Any] | None:
        record = models.decode_outcome(value)
        return render_outcome(key[1:], record, state) if passes(record) else None

    page = read_page(view, start, stop, call.query, pick, reverse=True)
    return answer_page(call, page.items, page.next_key)
