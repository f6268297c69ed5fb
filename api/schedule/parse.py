"""From the JSON form of a schedule to its specification, or to all that is wrong with it.

This is the only way in: what is stored has passed here and is trusted afterwards. Each key
is judged by itself, so that one answer names every fault; only then are the keys judged
together, for a contradiction between two wrong values would only confuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TypedDict, TypeVar

from api.durations import parse_duration, parse_time
from api.faults import FAULTS_MAX, Fault, FaultList, Rejected, child, shown
from api.schedule.instants import next_occurrence
from api.schedule.syntax import parse_expression
from api.schedule.zones import parse_zone
from storage.models import FoldRule, GapRule, ScheduleKind, ScheduleSpec

# Every occurrence costs an entry in the replicated log; ten a second is already a poll.
SPACING_MS_MIN = 100
# More runs than this would take an every-second job three centuries.
MAX_RUNS_MAX = 10_000_000_000

KINDS: tuple[ScheduleKind, ...] = ("at", "every", "delay", "cron", "manual")
OPTIONS = frozenset({"not_before", "not_after", "max_runs", "jitter"})
# The keys that belong to one kind alone.
BELONGS_TO: dict[str, ScheduleKind] = {"anchor": "every", "timezone": "cron", "dst": "cron"}
KNOWN = frozenset({*KINDS, *OPTIONS, *BELONGS_TO})
GAP_RULES: dict[object, GapRule] = {"run_after": "run_after", "skip": "skip"}
FOLD_RULES: dict[object, FoldRule] = {"first": "first", "both": "both"}

T = TypeVar("T")


def parse_schedule(
    raw: Mapping[str, object], *, now_ms: int, seed: bytes, pointer: str = "/schedule"
) -> tuple[ScheduleSpec | None, list[Fault]]:
    """Return the specification of a schedule in JSON form, or None and all of its faults.

    `now_ms` anchors an interval without an anchor. `seed` identifies the job, by name and not
    by revision, so that `H` keeps its value when the job is changed. Never raises.
    """
    faults = FaultList()
    if not isinstance(raw, Mapping):
        faults.add(pointer, "wrong_type", f"A schedule is an object, not {shown(raw)}.")
        return None, faults.faults
    kind = _kind(raw, pointer, faults)
    _check_keys(raw, kind, pointer, faults)
    reader = _Reader(raw, pointer, faults)
    every_ms = reader.read("every", _parse_spacing)
    anchor_ms = reader.read("anchor", parse_time)
    spec = ScheduleSpec(
        kind=kind or "manual",
        at_ms=reader.read("at", parse_time),
        every_ms=every_ms,
        anchor_ms=now_ms if kind == "every" and anchor_ms is None else anchor_ms,
        delay_ms=reader.read("delay", _parse_spacing),
        expression=reader.expression(seed),
        timezone=reader.read("timezone", parse_zone),
        not_before_ms=reader.read("not_before", parse_time),
        not_after_ms=reader.read("not_after", parse_time),
        max_runs=reader.read("max_runs", _parse_max_runs),
        jitter_ms=reader.read("jitter", _parse_jitter) or 0,
        **reader.jump_rules(),
    )
    if not faults:
        _check_occurs(spec, now_ms, pointer, faults)
    return (None if faults else spec), faults.faults


class _JumpRules(TypedDict):
    dst_gap: GapRule
    dst_fold: FoldRule


class _Reader:
    """Reads the members of one JSON object and records what is wrong with them."""

    def __init__(self, raw: Mapping[str, object], pointer: str, faults: FaultList) -> None:
        self._raw = raw
        self._pointer = pointer
        self._faults = faults

    def read(self, key: str, parser: Callable[[object], T]) -> T | None:
        """Return the parsed member `key`; None if it is absent or wrong."""
        if key not in self._raw:
            return None
        return self._faults.parse(child(self._pointer, key), parser, self._raw[key])

    def expression(self, seed: bytes) -> str | None:
        """Return the canonical form of the member `cron`."""
        if "cron" not in self._raw:
            return None
        text, pointer = self._raw["cron"], child(self._pointer, "cron")
        if not isinstance(text, str):
            detail = f'A cron expression is a text such as "0 3 * * *", not {shown(text)}.'
            self._faults.add(pointer, "wrong_type", detail)
            return None
        fields, rejected = parse_expression(text, seed)
        for fault in rejected:
            self._faults.add(pointer, fault.code, fault.detail)
        return None if fields is None else fields.text

    def jump_rules(self) -> _JumpRules:
        """Return the member `dst`, with the defaults for what it leaves out."""
        rules: _JumpRules = {"dst_gap": "run_after", "dst_fold": "first"}
        if "dst" not in self._raw:
            return rules
        raw, pointer = self._raw["dst"], child(self._pointer, "dst")
        if not isinstance(raw, Mapping):
            detail = f'"dst" is an object with "gap" and "fold", not {shown(raw)}.'
            self._faults.add(pointer, "wrong_type", detail)
            return rules
        for key in sorted(raw.keys() - {"gap", "fold"})[:FAULTS_MAX]:
            detail = f'{shown(key)} is not known here; use "gap" and "fold".'
            self._faults.add(child(pointer, key), "unknown_field", detail)
        inner = _Reader(raw, pointer, self._faults)
        rules["dst_gap"] = inner.read("gap", lambda value: _choice(GAP_RULES, value)) or "run_after"
        rules["dst_fold"] = inner.read("fold", lambda value: _choice(FOLD_RULES, value)) or "first"
        return rules


def _kind(raw: Mapping[str, object], pointer: str, faults: FaultList) -> ScheduleKind | None:
    """Return the one kind that is present, or None after recording why there is none."""
    present = [kind for kind in KINDS if kind in raw]
    if not present:
        names = ", ".join(f'"{kind}"' for kind in KINDS)
        faults.add(pointer, "required", f"A schedule has one of {names}; none is given.")
        return None
    if len(present) > 1:
        names = " and ".join(f'"{kind}"' for kind in present)
        detail = (
            f"A schedule has one of {names}, not several; make two jobs for two schedules, or in"
            " a patch set the one that goes to null."
        )
        faults.add(pointer, "conflicting_fields", detail)
        return None
    if present == ["manual"] and raw["manual"] is not True:
        detail = f'"manual" is true or left out, not {shown(raw["manual"])}.'
        faults.add(child(pointer, "manual"), "wrong_type", detail)
    return present[0]


def _check_keys(
    raw: Mapping[str, object], kind: ScheduleKind | None, pointer: str, faults: FaultList
) -> None:
    for key in raw:
        if len(faults.faults) >= FAULTS_MAX:
            return
        owner = BELONGS_TO.get(key)
        if key not in KNOWN:
            meant = get_close_matches(str(key)[:32], KNOWN, n=1)
            hint = f'did you mean "{meant[0]}"?' if meant else "leave it out."
            detail = f"{shown(key)} is not a field of a schedule; {hint}"
            faults.add(child(pointer, key), "unknown_field", detail)
        elif owner and kind and owner != kind:
            detail = f'"{key}" goes with "{owner}" only; leave it out with "{kind}".'
            faults.add(child(pointer, key), "not_applicable", detail)


def _check_occurs(spec: ScheduleSpec, now_ms: int, pointer: str, faults: FaultList) -> None:
    """Refuse a schedule that will never occur, which nobody can want."""
    first_ms, last_ms = spec.not_before_ms, spec.not_after_ms
    if first_ms is not None and last_ms is not None and first_ms > last_ms:
        detail = '"not_after" lies before "not_before"; exchange them.'
        faults.add(child(pointer, "not_after"), "conflicting_fields", detail)
        return
    try:
        # Without a last time, the future alone decides; with one, a schedule that is over
        # already may still be stored again.
        begin_ms = now_ms if last_ms is None else 0
        if spec.kind == "at":
            begin_ms = 0
        after_ms = max(begin_ms, first_ms or 0) - 1
        if spec.kind in ("manual", "delay") or next_occurrence(spec, after_ms) is not None:
            return
    except Rejected as rejected:
        faults.add(child(pointer, spec.kind), rejected.code, rejected.detail)
        return
    where = "" if first_ms is None and last_ms is None else ' between "not_before" and "not_after"'
    detail = f"This schedule never occurs{where}; choose a time that exists."
    faults.add(child(pointer, spec.kind), "never_occurs", detail)


def _parse_spacing(value: object) -> int:
    return parse_duration(value, minimum_ms=SPACING_MS_MIN)


def _parse_jitter(value: object) -> int:
    return parse_duration(value, minimum_ms=0)


def _parse_max_runs(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Rejected("wrong_type", f"A number of runs is a whole number, not {shown(value)}.")
    if not 1 <= value <= MAX_RUNS_MAX:
        raise Rejected("out_of_range", f"A number of runs is 1 to {MAX_RUNS_MAX}.")
    return value


def _choice(choices: Mapping[object, T], value: object) -> T:
    if not isinstance(value, str) or value not in choices:
        names = " or ".join(f'"{choice}"' for choice in choices)
        code = "wrong_type" if not isinstance(value, str) else "unknown_value"
        raise Rejected(code, f"{shown(value)} is not known here; use {names}.")
    return choices[value]
