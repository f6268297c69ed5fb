"""Pausing, resuming and running a job."""

from __future__ import annotations

from aiohttp import web

from api.calls import Call, answer
from api.durations import format_time
from api.faults import FaultList
from api.ids import format_run_id
from api.jobs import changes
from api.object_reader import ObjectReader
from api.problems import invalid_document
from consensus.state.commands import Command, JobDone, PauseJob, RunDone, TriggerJob
from storage.keys import split_run

NONCE_BITS = 32


async def pause_job(call: Call) -> web.Response:
    """POST .../pause."""
    return await _pause(call, paused=True)


async def resume_job(call: Call) -> web.Response:
    """POST .../resume."""
    return await _pause(call, paused=False)


async def _pause(call: Call, *, paused: bool) -> web.Response:
    target = changes.target_of(call)
    key = call.request_key(await _nothing(call))

    def command(job: bytes) -> Command:
        return PauseJob(job, paused, None, key)

    done = await changes.act(call, target, command, repeated=key is not None)
    assert isinstance(done, JobDone)
    shown = {
        "id": done.job.hex(),
        "revision": done.revision,
        "paused": paused,
        "updated_at": format_time(done.updated_ms),
    }
    return answer(shown, 200, {"ETag": f'"{done.revision}"'})


async def run_job(call: Call) -> web.Response:
    """POST .../run: start a run now, beside the schedule."""
    target = changes.target_of(call)
    key = call.request_key(await _nothing(call))
    now_ms = call.now_ms()
    nonce = call.cluster.environment.random.getrandbits(NONCE_BITS)

    def command(job: bytes) -> Command:
        return TriggerJob(job, now_ms, nonce, key)

    done = await changes.act(call, target, command, repeated=key is not None)
    assert isinstance(done, RunDone)
    job, scheduled_ms, _, _ = split_run(done.run)
    run_id = format_run_id(done.run)
    shown = {
        "id": run_id,
        "job_id": job.hex(),
        "trigger": "manual",
        "scheduled_at": format_time(scheduled_ms),
        "state": done.state,
    }
    return answer(shown, 201, {"Location": f"/v1/runs/{run_id}"})


async def _nothing(call: Call) -> dict[str, object]:
    """Return the empty body of an action that takes no members."""
    document = await call.optional_object()
    faults = FaultList()
    ObjectReader(document, "", faults).known(())
    if faults:
        raise invalid_document(faults.faults)
    return document
