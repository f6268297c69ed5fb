"""The cluster and this node, for whoever operates them."""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from api import schedule
from api.calls import Call, answer, answer_page
from api.durations import format_time
from api.faults import FaultList
from api.forecasts import SHOWN_NEXT, explanation
from api.object_reader import ObjectReader, whole_number
from api.paging import read_page
from api.problems import Problem, invalid_document
from api.schedule import zones
from consensus.configuration import Configuration
from consensus.state.apply_seats import configuration_of
from storage import keys, models
from storage.limits import NAME_CHARS_MAX
from storage.models import Member

# What the answer shows is read by people; more of it is a page of GET .../next.
EXPLAINED_MAX = 100
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_parse_count = whole_number(1, EXPLAINED_MAX)


async def cluster_status(call: Call) -> web.Response:
    """GET /v1/cluster."""
    status = call.cluster.status()
    shown: dict[str, Any] = msgspec.structs.asdict(status)
    shown["clock"] = format_time(shown.pop("clock_ms"))
    shown["counters"] = dict(status.counters)
    return answer(shown)


async def list_members(call: Call) -> web.Response:
    """GET /v1/members, in the order of their names."""
    clock_ms = call.cluster.status().clock_ms
    configuration = configuration_of(call.cluster.view)

    def pick(_: bytes, value: bytes) -> dict[str, Any]:
        return _member(models.decode_member(value), clock_ms, configuration)

    page = read_page(call.cluster.view, keys.MEMBER, keys.after(keys.MEMBER), call.query, pick)
    return answer_page(call, page.items, page.next_key)


def _member(member: Member, clock_ms: int, configuration: Configuration | None) -> dict[str, Any]:
    seat = None if configuration is None else configuration.seat(member.name)
    return {
        "name": member.name,
        "status": _member_status(member, clock_ms),
        "incarnation": member.incarnation.hex(),
        "lease_until": format_time(member.lease_until_ms),
        "joined_at": format_time(member.joined_ms),
        "slots": member.slots,
        "running": member.running,
        "role": None if seat is None else seat.role,
        "http_address": member.http_address,
        "version": member.version,
        "feature_level_supported": member.level,
        "tzdata": member.tzdata,
        "labels": member.labels,
    }


def _member_status(member: Member, clock_ms: int) -> str:
    if member.expired and not member.slots:
        return "left"
    if member.expired or member.lease_until_ms < clock_ms:
        return "lost"
    if member.leaving:
        return "leaving"
    return "accepting" if member.accepting else "not_accepting"


async def drain_member(call: Call) -> web.Response:
    """POST /v1/members/{member}/drain: the member that is asked drains, and nobody else."""
    call.repeatable()
    await call.optional_object()
    name = call.path_part("member")
    if name != call.cluster.status().member:
        key = keys.MEMBER + name.encode()
        raw = call.cluster.view.get(key) if len(key) <= NAME_CHARS_MAX else None
        if raw is None:
            raise Problem("not_found", "There is no member with this name.")
        address = models.decode_member(raw).http_address
        raise Problem("other_member", f"A member drains itself; ask {name} at {address}.")
    call.cluster.leave()
    return answer({"name": name, "status": "draining"}, 202)


async def explain_schedule(call: Call) -> web.Response:
    """POST /v1/schedule:explain; the body is a schedule, and `count` beside it."""
    document = await call.json()
    if not isinstance(document, dict):
        raise Problem("invalid_document", 'The body is a schedule such as {"cron": "0 3 * * *"}.')
    faults = FaultList()
    count = ObjectReader(document, "", faults).read("count", _parse_count, SHOWN_NEXT)
    raw = {name: value for name, value in document.items() if name != "count"}
    now_ms = call.now_ms()
    spec, found = schedule.parse_schedule(raw, now_ms=now_ms, seed=b"", pointer="")
    for fault in found:
        faults.add(fault.pointer, fault.code, fault.detail)
    if spec is None or faults:
        raise invalid_document(faults.faults)
    return answer(explanation(spec, now_ms, count))


async def health(call: Call) -> web.Response:
    """GET /healthz: the process lives, whatever the cluster does."""
    return answer({"status": "ok"})


async def ready(call: Call) -> web.Response:
    """GET /readyz: whether this node can serve, and what is missing."""
    missing = call.cluster.readiness()
    if missing:
        raise Problem("not_ready", " ".join(missing))
    return answer({"status": "ready"})


async def metrics(call: Call) -> web.Response:
    """GET /metrics."""
    body = call.cluster.metrics_text()
    return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})


async def version(call: Call) -> web.Response:
    """GET /version."""
    return answer(
        {
            "version": call.service.version,
            "python": ".".join(str(part) for part in sys.version_info[:3]),
            "aiohttp": aiohttp.__version__,
            "tzdata": zones.tzdata_version(),
        }
    )


async def document(call: Call) -> web.Response:
    """GET /openapi.json."""
    return web.Response(body=call.service.document, headers={"Content-Type": "application/json"})
