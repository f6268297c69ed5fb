"""Creating, replacing and deleting jobs, and saying what that would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from api.calls import JSON, MERGE_PATCH, Call, answer
from api.conditions import Conditions, format_tag, read_conditions
from api.faults import Rejected, shown
from api.forecasts import forecast
from api.ids import born_ms
from api.jobs import changes
from api.jobs.changes import Current, Target
from api.jobs.document import NAMESPACE_DEFAULT, JobRequest, Present, parse_job
from api.jobs.fields import parse_name, parse_namespace
from api.jobs.merge_patch import merge_patch
from api.jobs.rendering import render_definition, render_job
from api.problems import Problem, invalid_document
from consensus.state import cursor
from consensus.state.commands import Command, JobDone, PutJob
from storage.models import JobState


async def create_job(call: Call) -> web.Response:
    """POST /v1/jobs."""
    document = await call.json()
    job = changes.new_job(call)
    request = parsed(call, document, born_ms(job))
    if call.query.get("dry_run"):
        return await _creation_previewed(call, request)
    key = call.request_key(document)
    command = changes.creation(job, request, born_ms(job), key)
    done = await call.carry_out(command)
    assert isinstance(done, JobDone)
    if done.job != job:
        # The cluster knew the key. The first answer was worked out as of the birth of the
        # job that was created then, so this one is, too.
        request = parsed(call, document, born_ms(done.job))
        command = changes.creation(done.job, request, born_ms(done.job))
    return created(request, command, done)


async def _creation_previewed(call: Call, request: JobRequest) -> web.Response:
    target = Target(None, request.namespace, request.name)
    if changes.read_current(call.cluster.view, target) is not None:
        taken = await changes.fresh_current(call, target)
        if taken is not None:
            raise Problem("name_taken", f"{request.namespace}/{request.name} exists already.")
    return answer(_preview(call, request, None))


def created(request: JobRequest, command: PutJob, done: JobDone) -> web.Response:
    """Return the answer to a creation; it follows from the request and its result alone."""
    headers = {"Location": f"/v1/jobs/{done.job.hex()}", "ETag": format_tag(done.revision)}
    state = initial_state(command, done)
    return answer(_with_forecast(request, done.job, state, born_ms(done.job)), 201, headers)


def initial_state(command: PutJob, done: JobDone) -> JobState:
    """Return the state in which a job begins, as the state machine has written it."""
    state = JobState(
        command.namespace,
        command.name,
        done.revision,
        "scheduled",
        done.created_ms,
        done.updated_ms,
        command.policy,
    )
    return cursor.settle(cursor.begin(state, command.cursor), done.created_ms)


def _with_forecast(request: JobRequest, job: bytes, state: JobState, now_ms: int) -> dict[str, Any]:
    document = render_job(job, request.definition, state)
    coming = forecast(request.definition.schedule, now_ms)
    document["next_runs"] = coming.next_runs
    document["warnings"] = coming.warnings
    return document


def parsed(call: Call, document: object, now_ms: int, present: Present | None = None) -> JobRequest:
    """Return what a document asks for.

    Raises:
        Problem: `invalid_document`, with all of its faults.
    """
    check = call.cluster.validate_action
    request, faults = parse_job(document, now_ms=now_ms, check_action=check, present=present)
    if request is None:
        raise invalid_document(faults)
    return request


async def put_job(call: Call) -> web.Response:
    """PUT /v1/jobs/{job} and /v1/jobs/{namespace}/{name}."""
    target = changes.target_of(call)
    _check_names(target)
    conditions = read_conditions(call.request.headers)
    document = await call.json()
    by_name = target.job is None

    def read(current: Current | None) -> JobRequest:
        return parsed(call, document, call.now_ms(), _present(target, current))

    return await _put(call, target, conditions, read, creates=by_name)


async def patch_job(call: Call) -> web.Response:
    """PATCH /v1/jobs/{job} and /v1/jobs/{namespace}/{name}: a merge patch (RFC 7396)."""
    target = changes.target_of(call)
    conditions = read_conditions(call.request.headers)
    patch = await call.json(MERGE_PATCH, JSON)
    if not isinstance(patch, dict):
        raise Problem("invalid_document", f"A patch of a job is an object, not {shown(patch)}.")

    def read(current: Current | None) -> JobRequest:
        assert current is not None
        state, definition = current.state, current.definition
        before = render_definition(state.namespace, state.name, definition)
        merged = merge_patch(before, patch)
        return parsed(call, merged, call.now_ms(), _present(target, current))

    return await _put(call, target, conditions, read, creates=False)


async def _put(
    call: Call,
    target: Target,
    conditions: Conditions,
    read: Callable[[Current | None], JobRequest],
    *,
    creates: bool,
) -> web.Response:
    if call.query.get("dry_run"):
        return await _previewed(call, target, conditions, read, creates=creates)

    def work_out(current: Current | None) -> tuple[Command, JobRequest]:
        request = read(current)
        if current is not None:
            return changes.replacement(current, request, call.now_ms()), request
        job = changes.new_job(call)
        return changes.creation(job, request, born_ms(job)), request

    change = await changes.change(call, target, conditions, work_out, creates=creates)
    assert change.request is not None
    if change.done.created:
        assert isinstance(change.command, PutJob)
        return created(change.request, change.command, change.done)
    return _replaced(call, change.request, change.done)


def _replaced(call: Call, request: JobRequest, done: JobDone) -> web.Response:
    state = changes.read_state(call.cluster.view, done.job)
    assert state is not None
    # Somebody may have changed it again; the answer is about this change.
    state = msgspec.structs.replace(state, revision=done.revision, updated_ms=done.updated_ms)
    headers = {"ETag": format_tag(done.revision)}
    return answer(_with_forecast(request, done.job, state, call.now_ms()), 200, headers)


def _check_names(target: Target) -> None:
    """Refuse to create what could not be named in a document either."""
    if target.job is not None:
        return
    try:
        parse_namespace(target.namespace)
        parse_name(target.name)
    except Rejected as rejected:
        raise Problem("not_found", f"The address names no job: {rejected.detail}") from None


def _present(target: Target, current: Current | None) -> Present:
    """Return what a document that stands for a job may repeat of it."""
    if current is None:
        unpaused: Mapping[str, object] = {"status": "scheduled", "paused": False}
        return Present(
            namespace=target.namespace, name=target.name, shown=unpaused, definition=None
        )
    job, state, definition = current
    fixed = {"id": job.hex(), "status": state.status, "paused": state.status == "paused"}
    return Present(namespace=state.namespace, name=state.name, shown=fixed, definition=definition)


async def delete_job(call: Call) -> web.Response:
    """DELETE /v1/jobs/{job} and /v1/jobs/{namespace}/{name}."""
    target = changes.target_of(call)
    conditions = read_conditions(call.request.headers)

    def work_out(current: Current | None) -> tuple[Command, None]:
        assert current is not None
        return changes.deletion(current, call.now_ms(), conditional=conditions.any), None

    await changes.change(call, target, conditions, work_out)
    return web.Response(status=204)


async def validate_job(call: Call) -> web.Response:
    """POST /v1/jobs:validate: what putting this document under its name would do."""
    document = await call.json()
    target = _own_target(document)
    if target is None:
        request = parsed(call, document, call.now_ms())
        return answer(_preview(call, request, None))
    current = changes.read_current(call.cluster.view, target)
    request = parsed(call, document, call.now_ms(), _present(target, current))
    return answer(_preview(call, request, current))


def _own_target(document: object) -> Target | None:
    if not isinstance(document, dict):
        return None
    try:
        namespace = parse_namespace(document.get("namespace", NAMESPACE_DEFAULT))
        return Target(None, namespace, parse_name(document.get("name")))
    except Rejected:
        # The name is a fault of the document, and is reported with the others.
        return None


async def _previewed(
    call: Call,
    target: Target,
    conditions: Conditions,
    read: Callable[[Current | None], JobRequest],
    *,
    creates: bool,
) -> web.Response:
    current = await changes.checked(call, target, conditions, creates=creates)
    return answer(_preview(call, read(current), current))


def _preview(call: Call, request: JobRequest, current: Current | None) -> dict[str, Any]:
    namespace, name = request.namespace, request.name
    after = render_definition(namespace, name, request.definition)
    before = render_definition(namespace, name, current.definition) if current else {}
    coming = forecast(request.definition.schedule, call.now_ms())
    return {
        "action": "replace" if current else "create",
        "changes": [key for key in before | after if before.get(key) != after.get(key)],
        "job": after,
        "next_runs": coming.next_runs,
        "warnings": coming.warnings,
    }
