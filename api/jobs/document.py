"""A job as JSON: from a document to its definition, and from a definition to a document.

What is rendered can be parsed again and gives the same definition, so a client may read a
job, change a field, and write it back. For the same reason the members that only the
cluster sets are accepted where a job is replaced, as long as they do not pretend to
change anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from api import schedule
from api.durations import format_duration
from api.faults import Fault, FaultList, shown
from api.jobs import fields
from api.object_reader import ObjectReader, one_of, text, truth, whole_number
from storage.limits import (
    ATTEMPTS_MAX,
    DEFINITION_BYTES_MAX,
    DESCRIPTION_CHARS_MAX,
    OUTPUT_BYTES_MAX,
    PRIORITY_MAX,
)
from storage.models import CatchUp, JobDefinition, Retry, ScheduleSpec, encode

NAMESPACE_DEFAULT = "default"
WRITABLE = (
    "name",
    "namespace",
    "schedule",
    "action",
    "description",
    "priority",
    "timeout",
    "retry",
    "overlap",
    "delivery",
    "catch_up",
    "placement",
    "labels",
    "output_limit",
)
READ_ONLY = (
    "id",
    "revision",
    "status",
    "paused",
    "created_at",
    "updated_at",
    "next_run_at",
    "last_run",
)
# What the answer to a change shows in addition; it is no part of the job.
FORECAST = ("next_runs", "warnings")
_KNOWN = frozenset(WRITABLE) | frozenset(READ_ONLY) | frozenset(FORECAST)
_DEFAULT = JobDefinition(schedule=ScheduleSpec(kind="manual"), action={})
# Intervals, and expressions without a hash, mean the same for every job; many share one.
SCHEDULES_CACHED_MAX = 4_096
# Longer texts are rare, and a cache must not keep what strangers fill it with.
CACHED_CHARS_MAX = 64

ActionCheck = Callable[[Mapping[str, Any], str], list[Fault]]

_parse_priority = whole_number(0, PRIORITY_MAX)
_parse_description = text(DESCRIPTION_CHARS_MAX)
_parse_overlap = one_of(fields.OVERLAPS)
_parse_delivery = one_of(fields.DELIVERIES)
_parse_catch_up = one_of(fields.CATCH_UPS)
_parse_attempts = whole_number(1, ATTEMPTS_MAX)
_parse_output_limit = whole_number(0, OUTPUT_BYTES_MAX)


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A valid document: the job's name, its definition, and its bytes in the store."""

    namespace: str
    name: str
    definition: JobDefinition
    encoded: bytes


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """The job that a document is to replace."""

    namespace: str
    name: str
    shown: Mapping[str, object]
    definition: JobDefinition | None


def parse_job(
    raw: object, *, now_ms: int, check_action: ActionCheck, present: Present | None = None
) -> tuple[JobRequest | None, list[Fault]]:
    """Return what a document asks for, or None and all of its faults.

    `now_ms` is the anchor of an interval that names none. With `present` the name may be
    left out and must not differ, and an interval that stays the same keeps its phase.
    """
    faults = FaultList()
    if not isinstance(raw, dict):
        faults.add("", "wrong_type", f"A job is an object, not {shown(raw)}.")
        return None, faults.faults
    reader = ObjectReader(raw, "", faults)
    if not raw.keys() <= _KNOWN:
        reader.known(_KNOWN if present else WRITABLE)
    _check_read_only(raw, reader, present)
    namespace, name = _identity(reader, present)
    spec = _schedule(raw, reader, faults, now_ms, f"{namespace}/{name}".encode(), present)
    action = reader.require("action", fields.parse_action)
    if action is not None:
        _take(check_action(action, "/action"), faults)
    definition = _definition(reader, spec or _DEFAULT.schedule, action or {})
    encoded = b"" if faults else _encoded(definition, faults)
    if faults:
        return None, faults.faults
    return JobRequest(namespace=namespace, name=name, definition=definition, encoded=encoded), []


def _take(found: list[Fault], faults: FaultList) -> None:
    for fault in found:
        faults.add(fault.pointer, fault.code, fault.detail)


def _identity(reader: ObjectReader, present: Present | None) -> tuple[str, str]:
    if present is None:
        namespace = reader.read("namespace", fields.parse_namespace, NAMESPACE_DEFAULT)
        return namespace, reader.require("name", fields.parse_name) or ""
    for field in ("namespace", "name"):
        fixed: str = getattr(present, field)
        if reader.read(field, fields.parse_name, fixed) != fixed:
            detail = f'A job keeps its {field}, "{fixed}"; leave it out, or make another job.'
            reader.fault(field, "not_changeable", detail)
    return present.namespace, present.name


def _check_read_only(raw: dict[str, object], reader: ObjectReader, present: Present | None) -> None:
    for field in (*READ_ONLY, *FORECAST):
        if field not in raw:
            continue
        if present is None:
            reader.fault(field, "read_only", f'"{field}" is set by the cluster; leave it out.')
        elif field in present.shown and raw[field] != present.shown[field]:
            # Pausing has a request of its own; to ignore it here would be to lose it.
            detail = f'"{field}" cannot be changed this way; leave it out or as it is.'
            reader.fault(field, "read_only", detail)


def _schedule(
    raw: dict[str, object],
    reader: ObjectReader,
    faults: FaultList,
    now_ms: int,
    seed: bytes,
    present: Present | None,
) -> ScheduleSpec | None:
    if "schedule" not in raw:
        reader.fault("schedule", "required", '"schedule" is required.')
        return None
    value = raw["schedule"]
    if not isinstance(value, dict):
        reader.fault("schedule", "wrong_type", f"A schedule is an object, not {shown(value)}.")
        return None
    spec = _remembered(value, now_ms)
    if spec is None:
        spec, found = schedule.parse_schedule(value, now_ms=now_ms, seed=seed)
        _take(found, faults)
    return spec if spec is None or "anchor" in value else _same_phase(spec, present)


def _remembered(value: dict[str, object], now_ms: int) -> ScheduleSpec | None:
    """Return the specification of a plain schedule, if it is valid and needs no seed."""
    if not all(isinstance(text, str) and len(text) <= CACHED_CHARS_MAX for text in value.values()):
        return None
    names = value.keys()
    if names == {"every"}:
        spec = _plain("every", value["every"], None)
        return spec and msgspec.structs.replace(spec, anchor_ms=now_ms)
    if "cron" in names and names <= {"cron", "timezone"}:
        hashed = "H" in str(value["cron"]).upper()
        return None if hashed else _plain("cron", value["cron"], value.get("timezone"))
    return None


@lru_cache(maxsize=SCHEDULES_CACHED_MAX)
def _plain(kind: str, text: object, timezone: object) -> ScheduleSpec | None:
    raw = {kind: text} if timezone is None else {kind: text, "timezone": timezone}
    return schedule.parse_schedule(raw, now_ms=0, seed=b"")[0]


def _same_phase(spec: ScheduleSpec, present: Present | None) -> ScheduleSpec:
    """Keep the anchor of an interval that is written again without one."""
    before = present.definition.schedule if present and present.definition else None
    if spec.kind != "every" or before is None or before.every_ms != spec.every_ms:
        return spec
    return msgspec.structs.replace(spec, anchor_ms=before.anchor_ms)


def _definition(reader: ObjectReader, spec: ScheduleSpec, action: dict[str, Any]) -> JobDefinition:
    return JobDefinition(
        schedule=spec,
        action=action,
        description=reader.read("description", _parse_description, ""),
        priority=reader.read("priority", _parse_priority, _DEFAULT.priority),
        timeout_ms=reader.read("timeout", fields.parse_timeout, None),
        retry=_retry(reader),
        overlap=reader.read("overlap", _parse_overlap, _DEFAULT.overlap),
        delivery=reader.read("delivery", _parse_delivery, _DEFAULT.delivery),
        catch_up=_catch_up(reader),
        placement=_placement(reader),
        labels=reader.read("labels", fields.parse_labels, {}),
        output_bytes_max=reader.read(
            "output_limit", _parse_output_limit, _DEFAULT.output_bytes_max
        ),
    )


def _retry(reader: ObjectReader) -> Retry:
    inner = reader.inner("retry")
    if inner is None:
        return _DEFAULT.retry
    inner.known(("max_attempts", "backoff", "max_backoff", "jitter"))
    default = _DEFAULT.retry
    backoff_ms = inner.read("backoff", fields.parse_wait, default.backoff_ms)
    # A first delay above the usual ceiling is meant, so it raises the ceiling.
    ceiling_ms = max(default.backoff_ms_max, backoff_ms)
    backoff_ms_max = inner.read("max_backoff", fields.parse_wait, ceiling_ms)
    if backoff_ms_max < backoff_ms:
        detail = f'"max_backoff" is less than "backoff", {format_duration(backoff_ms)}.'
        inner.fault("max_backoff", "conflicting_fields", detail)
    return Retry(
        attempts_max=inner.read("max_attempts", _parse_attempts, default.attempts_max),
        backoff_ms=backoff_ms,
        backoff_ms_max=backoff_ms_max,
        jitter=inner.read("jitter", truth, default.jitter),
    )


def _catch_up(reader: ObjectReader) -> CatchUp:
    inner = reader.inner("catch_up")
    if inner is None:
        return _DEFAULT.catch_up
    inner.known(("policy", "window"))
    return CatchUp(
        policy=inner.read("policy", _parse_catch_up, _DEFAULT.catch_up.policy),
        window_ms=inner.read("window", fields.parse_wait, _DEFAULT.catch_up.window_ms),
    )


def _placement(reader: ObjectReader) -> dict[str, str]:
    inner = reader.inner("placement")
    if inner is None:
        return {}
    inner.known(("labels",))
    return inner.read("labels", fields.parse_labels, {})


def _encoded(definition: JobDefinition, faults: FaultList) -> bytes:
    encoded = encode(definition)
    if len(encoded) > DEFINITION_BYTES_MAX:
        detail = f"The job takes {len(encoded)} bytes, {DEFINITION_BYTES_MAX} are allowed."
        faults.add("", "too_long", detail)
    return encoded
