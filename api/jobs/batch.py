"""Creating many jobs with one request.

Every item is judged, created and answered by itself, as if it had been sent alone. Items
travel to the cluster in groups, one group after the other: that is the back pressure, and
it keeps an entry of the log small enough to be applied without holding up heartbeats. If
the cluster fails in between, the answer says so for every item that was not decided, and
the same request with its key can be sent again.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from aiohttp import web

from api.calls import (
    JSON,
    NDJSON,
    REQUEST_ID,
    Call,
    answer,
    check_media_type,
    read_body,
)
from api.durations import format_time
from api.idempotency import Repeatable
from api.ids import born_ms
from api.jobs import changes
from api.jobs.document import JobRequest
from api.jobs.rendering import next_run_at
from api.jobs.writes import initial_state, parsed
from api.json_text import canonical, parse_json
from api.problems import Problem, not_carried_out, refused
from consensus.errors import ConsensusError
from consensus.state.commands import JobDone, PutJob, Refused, Result
from storage.clock import new_id
from storage.limits import (
    BATCH_BODY_BYTES_MAX,
    BATCH_BYTES_MAX,
    BATCH_COMMANDS_MAX,
    BATCH_ITEMS_MAX,
)

# A quarter of what an entry may hold: other requests find room in it.
GROUP_ITEMS_MAX = BATCH_COMMANDS_MAX // 4
GROUP_BYTES_MAX = BATCH_BYTES_MAX // 4
# What a command takes beside the definition: names, ids, the policy.
COMMAND_BYTES = 512
# Some two milliseconds of work, after which other requests have their turn.
SLICE_ITEMS = 32

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclasses.dataclass(slots=True)
class _Item:
    """One job of the batch: its text, then its command, then its answer."""

    text: bytes
    document: object = None
    request: JobRequest | None = None
    command: PutJob | None = None
    answer: dict[str, Any] | None = None


async def create_jobs(call: Call) -> web.Response:
    """POST /v1/jobs:batch."""
    check_media_type(call.request, (JSON, NDJSON))
    repeatable = call.repeatable()
    body = await read_body(call.request, BATCH_BODY_BYTES_MAX)
    items = [_Item(text) for text in _texts(body, lines=_is_lines(call.request))]
    del body
    decided = False
    groups = _groups(call, items, repeatable)
    async for group in groups:
        try:
            await _create(call, group)
        except ConsensusError as error:
            if not decided:
                raise
            _give_up(call, group, items, not_carried_out(error))
            break
        decided = True
    return answer(_summary(items))


def _is_lines(request: web.Request) -> bool:
    return request.content_type == NDJSON


def _texts(body: bytes, *, lines: bool) -> Sequence[bytes]:
    if lines:
        texts = [line for line in body.split(b"\n") if line.strip()]
    else:
        try:
            texts = [bytes(raw) for raw in _split(body)]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            parse_json(body)
            detail = "A batch is a JSON array of jobs, or one job a line."
            raise Problem("invalid_document", detail) from None
    if len(texts) > BATCH_ITEMS_MAX:
        detail = f"The batch has {len(texts)} items, {BATCH_ITEMS_MAX} are allowed."
        raise Problem("invalid_document", detail)
    return texts


async def _groups(
    call: Call, items: Sequence[_Item], repeatable: Repeatable | None
) -> AsyncIterator[list[_Item]]:
    """Read the items and yield those that are valid, in groups."""
    group: list[_Item] = []
    size = 0
    # What is read in one go is read as of one time: to ask for it takes a while.
    now_ms = call.now_ms()
    for index, item in enumerate(items):
        if index % SLICE_ITEMS == SLICE_ITEMS - 1:
            await asyncio.sleep(0)
            now_ms = call.now_ms()
        _read(call, item, index, repeatable, now_ms)
        if item.request is None:
            continue
        bytes_needed = len(item.request.encoded) + COMMAND_BYTES
        if group and (len(group) == GROUP_ITEMS_MAX or size + bytes_needed > GROUP_BYTES_MAX):
            yield group
            group, size = [], 0
        group.append(item)
        size += bytes_needed
    if group:
        yield group


def _read(call: Call, item: _Item, index: int, repeatable: Repeatable | None, now_ms: int) -> None:
    """Turn an item into its command as of `now_ms`, or answer it with its problem."""
    job = new_id(call.cluster.environment, now_ms)
    try:
        item.document = parse_json(item.text)
        item.request = parsed(call, item.document, now_ms)
    except Problem as problem:
        item.answer = _failure(call, problem)
        return
    key = None
    if repeatable is not None:
        key = repeatable.request_key(canonical(item.document), index)
    item.command = changes.creation(job, item.request, now_ms, key)


async def _create(call: Call, group: Sequence[_Item]) -> None:
    commands = [item.command for item in group if item.command is not None]
    results = await call.propose_all(commands)
    for item, result in zip(group, results, strict=True):
        item.answer = _answer(call, item, result)


def _answer(call: Call, item: _Item, result: Result) -> dict[str, Any]:
    if isinstance(result, Refused):
        return _failure(call, refused(result))
    assert isinstance(result, JobDone)
    assert item.request is not None
    assert item.command is not None
    request, command = item.request, item.command
    if result.job != command.job:
        request = parsed(call, item.document, born_ms(result.job))
        command = changes.creation(result.job, request, born_ms(result.job))
    return {
        "status": 201,
        "id": result.job.hex(),
        "namespace": request.namespace,
        "name": request.name,
        "revision": result.revision,
        "created_at": format_time(result.created_ms),
        "next_run_at": next_run_at(initial_state(command, result)),
    }


def _failure(call: Call, problem: Problem) -> dict[str, Any]:
    body = problem.body(instance=call.request.path, request_id=call.request[REQUEST_ID])
    return {"status": problem.status, "problem": body}


def _give_up(call: Call, group: Sequence[_Item], items: Sequence[_Item], problem: Problem) -> None:
    """Answer the items of a group that failed, and those that were not tried any more."""
    for item in group:
        item.answer = _failure(call, problem)
    untried = Problem("not_applied", "An item before it failed; this one was not tried.")
    for item in items:
        if item.answer is None:
            item.answer = _failure(call, untried)


def _summary(items: Sequence[_Item]) -> dict[str, Any]:
    answers = [item.answer for item in items]
    failed = sum(item is not None and "problem" in item for item in answers)
    return {"created": len(items) - failed, "failed": failed, "items": answers}
