"""The JSON Schemas of what the API takes and gives, by the names the routes use.

What goes in is described tightly, for clients are generated from it and editors check job
files with it; the parser is stricter still, where a schema cannot say what it means. What
comes out is described by its members and their types.
"""

from __future__ import annotations

from typing import Any, get_args

from api.ids import JOB_ID_PATTERN, RUN_ID_PATTERN
from api.jobs.document import READ_ONLY
from api.jobs.fields import CATCH_UPS, DELIVERIES, LABEL_PATTERN, NAME_PATTERN, OVERLAPS
from api.operations import EXPLAINED_MAX
from api.outcomes import RUN_OUTCOMES, RUN_STATES, SKIP_REASONS
from api.seats import HASH_PATTERN, MEMBER_PATTERN, ROLES
from consensus.configuration import Role
from storage.limits import (
    ATTEMPTS_MAX,
    BATCH_ITEMS_MAX,
    DESCRIPTION_CHARS_MAX,
    LABEL_CHARS_MAX,
    LABELS_MAX,
    NAME_CHARS_MAX,
    NAMESPACE_CHARS_MAX,
    OUTPUT_BYTES_MAX,
    PRIORITY_MAX,
)

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
TRUTH: Schema = {"type": "boolean"}
TIME: Schema = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$",
}
DURATION: Schema = {
    "type": "string",
    "maxLength": 64,
    "description": "Such as `90s`, `1h30m`, `250ms`, or ISO 8601 `PT90S`.",
}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str, **members: Schema) -> Schema:
    return {
        "type": "object",
        "properties": members,
        "required": required.split(),
        "additionalProperties": False,
    }


def _shown(**members: Schema) -> Schema:
    """Return an answer's object: all members are there, and later releases may add some."""
    return {"type": "object", "properties": members, "required": list(members)}


def _page(name: str) -> Schema:
    return _shown(items={"type": "array", "items": reference(name)}, next_cursor=_or_null(TEXT))


def _or_null(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}


def _choice(choices: Any, default: object = None) -> Schema:
    schema: Schema = {"type": "string", "enum": list(choices)}
    return schema if default is None else schema | {"default": default}


def _whole(low: int, high: int, default: object = None) -> Schema:
    schema: Schema = {"type": "integer", "minimum": low, "maximum": high}
    return schema if default is None else schema | {"default": default}


def _name(pattern: str, characters_max: int) -> Schema:
    return {"type": "string", "pattern": f"^{pattern}$", "maxLength": characters_max}


JOB_ID: Schema = {"type": "string", "pattern": f"^{JOB_ID_PATTERN}$"}
RUN_ID: Schema = {"type": "string", "pattern": f"^{RUN_ID_PATTERN}$"}
LABELS: Schema = {
    "type": "object",
    "propertyNames": _name(LABEL_PATTERN, LABEL_CHARS_MAX),
    "additionalProperties": {"type": "string", "maxLength": LABEL_CHARS_MAX},
    "maxProperties": LABELS_MAX,
}
_OPTIONS: dict[str, Schema] = {
    "not_before": TIME,
    "not_after": TIME,
    "max_runs": {"type": "integer", "minimum": 1},
    "jitter": DURATION,
}
_DST = _object("", gap=_choice(("run_after", "skip")), fold=_choice(("first", "both")))
_CRON: dict[str, Schema] = {
    "cron": {"type": "string", "maxLength": 256},
    "timezone": {"type": "string", "default": "UTC"},
    "dst": _DST,
}
_SCHEDULES = [
    _object("at", at=TIME, **_OPTIONS),
    _object("every", every=DURATION, anchor=TIME, **_OPTIONS),
    _object("delay", delay=DURATION, **_OPTIONS),
    _object("cron", **_CRON, **_OPTIONS),
    _object("manual", manual={"const": True}, **_OPTIONS),
]

_WRITABLE: dict[str, Schema] = {
    "name": _name(NAME_PATTERN, NAME_CHARS_MAX),
    "namespace": _name(NAME_PATTERN, NAMESPACE_CHARS_MAX) | {"default": "default"},
    "schedule": reference("Schedule"),
    "action": {
        "type": "object",
        "properties": {"type": TEXT},
        "description": "What to do; its other members depend on its type.",
    },
    "description": {"type": "string", "maxLength": DESCRIPTION_CHARS_MAX, "default": ""},
    "priority": _whole(0, PRIORITY_MAX, 50),
    "timeout": DURATION,
    "retry": _object(
        "",
        max_attempts=_whole(1, ATTEMPTS_MAX, 1),
        backoff=DURATION | {"default": "5s"},
        max_backoff=DURATION | {"default": "5m"},
        jitter=TRUTH | {"default": True},
    ),
    "overlap": _choice(OVERLAPS, "skip"),
    "delivery": _choice(DELIVERIES, "at_least_once"),
    "catch_up": _object("", policy=_choice(CATCH_UPS, "last"), window=DURATION | {"default": "1h"}),
    "placement": _object("", labels=LABELS),
    "labels": LABELS,
    "output_limit": _whole(0, OUTPUT_BYTES_MAX, 262_144) | {"description": "Bytes."},
}
_MEMBER_NAME: Schema = {"type": "string", "pattern": f"^{MEMBER_PATTERN}$"}
_HASH: Schema = {"type": "string", "pattern": f"^{HASH_PATTERN}$"}
_LAST_RUN = _or_null(_shown(id=RUN_ID, outcome=_choice(RUN_OUTCOMES)))
_READ_ONLY: dict[str, Schema] = {
    "id": JOB_ID,
    "revision": WHOLE | {"minimum": 1},
    "status": _choice(("scheduled", "paused", "finished", "deleted")),
    "paused": TRUTH,
    "created_at": TIME,
    "updated_at": TIME,
    "next_run_at": _or_null(TIME),
    "last_run": _LAST_RUN,
}
assert tuple(_READ_ONLY) == READ_ONLY
_FORECAST: dict[str, Schema] = {
    "next_runs": {"type": "array", "items": TIME},
    "warnings": {"type": "array", "items": reference("Warning")},
}
_REQUIRED = ["name", "schedule", "action"]


def _job(required: list[str], *extra: dict[str, Schema]) -> Schema:
    members = dict(_WRITABLE)
    for more in extra:
        members |= {name: schema | {"readOnly": True} for name, schema in more.items()}
    schema: Schema = {"type": "object", "properties": members, "required": required}
    return schema | {"additionalProperties": False}


_JOB_OF: dict[str, Schema] = {
    "job_id": JOB_ID,
    "namespace": _or_null(TEXT),
    "name": _or_null(TEXT),
}
_RUN: dict[str, Schema] = {
    "kind": {"const": "run"},
    "id": RUN_ID,
    **_JOB_OF,
    "revision": WHOLE,
    "trigger": _choice(("schedule", "manual")),
    "state": _choice(RUN_STATES),
    "outcome": {"enum": [*RUN_OUTCOMES, None]},
    "scheduled_at": TIME,
    "start_at": TIME,
    "created_at": TIME,
    "started_at": _or_null(TIME),
    "ended_at": _or_null(TIME),
    "priority": WHOLE,
    "attempt": WHOLE,
    "member": _or_null(TEXT),
    "fence": WHOLE,
    "exit_code": _or_null(WHOLE),
    "detail": TEXT,
    "cancel_reason": _or_null(TEXT),
    "output_bytes": WHOLE,
}
_ATTEMPT = _shown(
    number=WHOLE,
    fence=WHOLE,
    member=TEXT,
    outcome=_choice(RUN_OUTCOMES),
    started_at=_or_null(TIME),
    ended_at=TIME,
    exit_code=_or_null(WHOLE),
    detail=TEXT,
)

SCHEMAS: dict[str, Schema] = {
    "Schedule": {"oneOf": _SCHEDULES},
    "Job": _job(_REQUIRED),
    "JobPatch": {
        "type": "object",
        "description": "Members to change; null removes one (RFC 7396).",
    },
    "JobBatch": {"type": "array", "items": reference("Job"), "maxItems": BATCH_ITEMS_MAX},
    "ShownJob": _job([*_REQUIRED, *READ_ONLY], _READ_ONLY),
    "CreatedJob": _job([*_REQUIRED, *READ_ONLY, *_FORECAST], _READ_ONLY, _FORECAST),
    "ChangedJob": {"oneOf": [reference("CreatedJob"), reference("Preview")]},
    "Warning": _shown(code=TEXT, detail=TEXT),
    "JobPage": _page("ShownJob"),
    "Preview": _shown(
        action=_choice(("create", "replace")),
        changes={"type": "array", "items": TEXT},
        job=reference("Job"),
        **_FORECAST,
    ),
    "BatchItem": {
        "type": "object",
        "properties": {
            "status": WHOLE,
            "id": JOB_ID,
            "namespace": TEXT,
            "name": TEXT,
            "revision": WHOLE,
            "created_at": TIME,
            "next_run_at": _or_null(TIME),
            "problem": reference("Problem"),
        },
        "required": ["status"],
    },
    "BatchResult": _shown(
        created=WHOLE, failed=WHOLE, items={"type": "array", "items": reference("BatchItem")}
    ),
    "Nothing": _object(""),
    "PausedJob": _shown(id=JOB_ID, revision=WHOLE, paused=TRUTH, updated_at=TIME),
    "StartedRun": _shown(
        id=RUN_ID,
        job_id=JOB_ID,
        trigger={"const": "manual"},
        scheduled_at=TIME,
        state=_choice(RUN_STATES),
    ),
    "NextOccurrences": _shown(
        items={"type": "array", "items": _shown(scheduled_at=TIME, local=TEXT, start_at=TIME)},
        paused=TRUTH,
        sentence=TEXT,
    ),
    "Run": _shown(**_RUN),
    "FullRun": _shown(**_RUN, attempts={"type": "array", "items": _ATTEMPT}),
    "Skip": _shown(
        kind={"const": "skip"},
        **_JOB_OF,
        outcome=_choice(SKIP_REASONS),
        scheduled_at=TIME,
        last_scheduled_at=TIME,
        count=WHOLE,
        recorded_at=TIME,
    ),
    "Outcome": {
        "oneOf": [reference("Run"), reference("Skip")],
        "discriminator": {
            "propertyName": "kind",
            "mapping": {"run": "#/components/schemas/Run", "skip": "#/components/schemas/Skip"},
        },
    },
    "OutcomePage": _page("Outcome"),
    "RunPage": _page("Run"),
    "Cancellation": _object("", reason={"type": "string", "maxLength": DESCRIPTION_CHARS_MAX}),
    "CancelledRun": _shown(id=RUN_ID, state=_choice(RUN_STATES), cancel_reason=TEXT),
    "ExplainedSchedule": {
        "oneOf": [
            schedule | {"properties": schedule["properties"] | {"count": _whole(1, EXPLAINED_MAX)}}
            for schedule in _SCHEDULES
        ]
    },
    "Explanation": _shown(
        schedule=reference("Schedule"),
        sentence=TEXT,
        next_runs={"type": "array", "items": _shown(scheduled_at=TIME, local=TEXT)},
        warnings=_FORECAST["warnings"],
    ),
    "ClusterStatus": _shown(
        cluster=TEXT,
        member=TEXT,
        role=_choice(("leader", "follower", "candidate")),
        leader=_or_null(TEXT),
        term=WHOLE,
        commit_index=WHOLE,
        applied_index=WHOLE,
        has_quorum=TRUTH,
        caught_up=TRUTH,
        clock=TIME,
        clock_offset_ms=_or_null(WHOLE),
        state_hash=TEXT,
        voters={"type": "array", "items": TEXT},
        counters={"type": "object", "additionalProperties": WHOLE},
        slots=WHOLE,
        slots_used=WHOLE,
        feature_level=WHOLE,
        feature_level_supported=WHOLE,
    ),
    "Member": _shown(
        name=TEXT,
        status=_choice(("accepting", "not_accepting", "leaving", "lost", "left")),
        incarnation=TEXT,
        lease_until=TIME,
        joined_at=TIME,
        slots=WHOLE,
        running=WHOLE,
        role=_or_null(_choice(get_args(Role))),
        http_address=TEXT,
        version=TEXT,
        feature_level_supported=WHOLE,
        tzdata=TEXT,
        labels={"type": "object", "additionalProperties": TEXT},
    ),
    "MemberPage": _page("Member"),
    "Configuration": _shown(
        index=WHOLE,
        content=TEXT | {"description": "What a new member begins with, in base64."},
        members={
            "type": "array",
            "items": _shown(
                name=TEXT,
                role=_or_null(_choice(get_args(Role))),
                address=_or_null(TEXT),
                wanted_role=_or_null(_choice(tuple(ROLES))),
                wanted_address=_or_null(TEXT),
                replaces=_or_null(TEXT),
            ),
        },
    ),
    "NewToken": _object(
        "token_hash name bundle",
        token_hash=_HASH | {"description": "SHA-256 of the proof that the token contains."},
        name=_MEMBER_NAME,
        role=_choice(tuple(ROLES), "voter"),
        replaces=_MEMBER_NAME,
        expires_in=DURATION,
        bundle=TEXT | {"description": "Sealed; only who has the token can open it. Base64."},
    ),
    "IssuedToken": _shown(name=TEXT, role=_choice(tuple(ROLES)), expires_at=TIME),
    "NewMember": _object("proof name address", proof=_HASH, name=_MEMBER_NAME, address=TEXT),
    "JoinedMember": _shown(name=TEXT, bundle=TEXT),
    "MemberChange": _object("", role=_choice(tuple(ROLES)), address=TEXT),
    "NamedMember": _shown(name=TEXT),
    "Draining": _shown(name=TEXT, status=_choice(("draining",))),
    "Status": _shown(status=TEXT),
    "Version": _shown(version=TEXT, python=TEXT, aiohttp=TEXT, tzdata=TEXT),
    "Document": {"type": "object"},
    "Fault": _shown(
        pointer=TEXT | {"description": "A JSON Pointer (RFC 6901), or `?name` of a parameter."},
        code=TEXT,
        detail=TEXT,
    ),
    "Problem": {
        "type": "object",
        "properties": {
            "type": TEXT,
            "title": TEXT,
            "status": WHOLE,
            "detail": TEXT,
            "instance": TEXT,
            "code": TEXT,
            "request_id": TEXT,
            "errors": {"type": "array", "items": reference("Fault")},
            "revision": WHOLE,
        },
        "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
    },
}
