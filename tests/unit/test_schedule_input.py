"""Schedules: what is accepted and how it is stored, what is refused and how."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from api.durations import (
    parse_time,
)
from api.faults import FAULTS_MAX
from api.schedule import (
    ScheduleSpec,
    parse_schedule,
    render_schedule,
)

NOW = "2026-11-23T10:00:00Z"
NOW_MS = parse_time(NOW)


def spec_of(raw: dict[str, object]) -> ScheduleSpec:
    spec, faults = parse_schedule(raw, now_ms=NOW_MS, seed=b"billing/report")
    assert spec is not None, faults
    return spec


def faults_of(raw: dict[str, object]) -> list[tuple[str, str]]:
    spec, faults = parse_schedule(raw, now_ms=NOW_MS, seed=b"billing/report")
    assert spec is None
    return [(fault.pointer, fault.code) for fault in faults]


def cron(expression: str, zone_name: str | None = None, **options: object) -> ScheduleSpec:
    zone_field = {} if zone_name is None else {"timezone": zone_name}
    return spec_of({"cron": expression, **zone_field, **options})


REFUSED_EXPRESSIONS = {
    "": "cron_field_count",
    "* * * *": "cron_field_count",
    "* * * * * * *": "cron_year_field",
    "0 0 30 2 *": "cron_never_fires",
    "0 0 31 4,6,9,11 *": "cron_never_fires",
    "5-5 * * * *": "cron_equal_range",
    "0 0 * JAN-JAN *": "cron_equal_range",
    "0 0 * * 7-7": "cron_equal_range",
    "*/61 * * * *": "cron_step_too_large",
    "1-5/6 * * * *": "cron_step_too_large",
    "50/15 * * * *": "cron_step_too_large",
    "H/61 * * * *": "cron_step_too_large",
    "H/0 * * * *": "cron_step_too_large",
    "*/0 * * * *": "cron_syntax",
    "*/x * * * *": "cron_syntax",
    "R * * * *": "cron_random",
    "R(0-5) * * * *": "cron_random",
    "R/15 * * * *": "cron_random",
    "@reboot": "cron_alias",
    "@every 5m": "cron_alias",
    "@fortnightly": "cron_alias",
    "TZ=UTC * * * * *": "cron_timezone_inside",
    "CRON_TZ=Europe/Berlin 0 3 * * *": "cron_timezone_inside",
    "60 * * * *": "cron_out_of_range",
    "* 24 * * *": "cron_out_of_range",
    "* * 0 * *": "cron_out_of_range",
    "* * * 0 *": "cron_out_of_range",
    "* * * * 8": "cron_out_of_range",
    "* * 32W * *": "cron_out_of_range",
    "H(0-60) * * * *": "cron_out_of_range",
    "H(9-3) * * * *": "cron_out_of_range",
    "-1 * * * *": "cron_syntax",
    "1- * * * *": "cron_syntax",
    "1,,2 * * * *": "cron_syntax",
    "? * * * *": "cron_syntax",
    "0 0 ?,1 * *": "cron_syntax",
    "0 0 L-3 * *": "cron_syntax",
    "0 0 LW * *": "cron_syntax",
    "0 0 1,15W * *": "cron_syntax",
    "0 0 * * L": "cron_syntax",
    "0 0 * * 5#6": "cron_syntax",
    "0 0 * * 1,5#2": "cron_syntax",
    "0 0 * * MONDAY": "cron_syntax",
    "0 0 13 * 5#2": "cron_mixed_days",
    "0 0 15W * 1": "cron_mixed_days",
    "0 0 1 * 5L": "cron_mixed_days",
    "\u0661 * * * *": "cron_syntax",
    "* * * * *\x00": "cron_syntax",
    "*" * 257: "cron_too_long",
    " ".join([",".join(["7/4"] * 10)] * 3 + ["*", "*"]) + "," * 150: "cron_too_long",
}


@pytest.mark.parametrize(("expression", "code"), REFUSED_EXPRESSIONS.items())
def test_an_ambiguous_or_impossible_expression_is_refused(expression: str, code: str) -> None:
    """Each trap of cron dialects has a code of its own, at the expression."""
    assert ("/schedule/cron", code) in faults_of({"cron": expression})


REFUSED_SCHEDULES: list[tuple[dict[str, object], set[tuple[str, str]]]] = [
    ({}, {("/schedule", "required")}),
    ({"at": NOW, "every": "5m"}, {("/schedule", "conflicting_fields")}),
    ({"every": 90}, {("/schedule/every", "wrong_type")}),
    ({"every": True}, {("/schedule/every", "wrong_type")}),
    ({"every": float("nan")}, {("/schedule/every", "wrong_type")}),
    ({"every": "-5s"}, {("/schedule/every", "invalid_duration")}),
    ({"every": "0s"}, {("/schedule/every", "out_of_range")}),
    ({"every": "99ms"}, {("/schedule/every", "out_of_range")}),
    ({"delay": "11y"}, {("/schedule/delay", "invalid_duration")}),
    ({"delay": "3654d"}, {("/schedule/delay", "out_of_range")}),
    ({"at": 0}, {("/schedule/at", "wrong_type")}),
    ({"at": "2026-11-23T10:00:00"}, {("/schedule/at", "invalid_time")}),
    ({"at": "2026-02-30T10:00:00Z"}, {("/schedule/at", "invalid_time")}),
    ({"manual": False}, {("/schedule/manual", "wrong_type")}),
    ({"manual": 1}, {("/schedule/manual", "wrong_type")}),
    ({"cron": ["* * * * *"]}, {("/schedule/cron", "wrong_type")}),
    ({"manual": True, "max_runs": True}, {("/schedule/max_runs", "wrong_type")}),
    ({"manual": True, "max_runs": 2.0}, {("/schedule/max_runs", "wrong_type")}),
    ({"manual": True, "max_runs": 0}, {("/schedule/max_runs", "out_of_range")}),
    ({"manual": True, "jitter": float("inf")}, {("/schedule/jitter", "wrong_type")}),
    ({"manual": True, "a/b~c": 1}, {("/schedule/a~1b~0c", "unknown_field")}),
    ({"every": "5m", "timezone": "UTC"}, {("/schedule/timezone", "not_applicable")}),
    ({"at": NOW, "anchor": NOW}, {("/schedule/anchor", "not_applicable")}),
    (
        {"cron": "0 3 * * *", "dst": {"gap": "both", "fold": 1, "x": 1}},
        {
            ("/schedule/dst/gap", "unknown_value"),
            ("/schedule/dst/fold", "wrong_type"),
            ("/schedule/dst/x", "unknown_field"),
        },
    ),
    ({"cron": "0 3 * * *", "dst": "skip"}, {("/schedule/dst", "wrong_type")}),
    ({"cron": "0 3 * * *", "timezone": None}, {("/schedule/timezone", "wrong_type")}),
    ({"cron": "0 3 * * *", "timezone": "localtime"}, {("/schedule/timezone", "unknown_timezone")}),
    ({"cron": "0 3 * * *", "timezone": "../UTC"}, {("/schedule/timezone", "unknown_timezone")}),
    (
        {"every": "5m", "not_before": NOW, "not_after": "2020-01-01T00:00:00Z"},
        {("/schedule/not_after", "conflicting_fields")},
    ),
    ({"at": NOW, "not_before": "2027-01-01T00:00:00Z"}, {("/schedule/at", "never_occurs")}),
    (
        {
            "cron": "0 0 1 1 *",
            "not_before": "2027-01-02T00:00:00Z",
            "not_after": "2027-12-31T00:00:00Z",
        },
        {("/schedule/cron", "never_occurs")},
    ),
]


@pytest.mark.parametrize(("raw", "expected"), REFUSED_SCHEDULES)
def test_a_wrong_schedule_is_refused_with_pointers(
    raw: dict[str, object], expected: set[tuple[str, str]]
) -> None:
    """A wrong value is named where it stands, with a stable code."""
    assert set(faults_of(raw)) == expected


def test_all_faults_are_named_at_once() -> None:
    """One answer is enough to repair a document."""
    found = faults_of(
        {"cron": "5-5 25 32 13 9", "timezone": "Mars", "jitter": "-1s", "max_runs": 0, "z": 1}
    )
    assert [code for pointer, code in found if pointer == "/schedule/cron"] == [
        "cron_equal_range",
        *["cron_out_of_range"] * 4,
    ]
    assert len(found) == 9


def test_the_answer_to_junk_is_bounded() -> None:
    """A hundred thousand wrong keys are not a hundred thousand faults."""
    assert len(faults_of({f"key{number}": number for number in range(100_000)})) == FAULTS_MAX


def test_what_is_no_object_is_no_schedule() -> None:
    """JSON that is not an object is refused like any other wrong type."""
    texts: list[Any] = ["0 3 * * *", None, [], 5]
    for raw in texts:
        _, faults = parse_schedule(raw, now_ms=0, seed=b"", pointer="/x")
        assert [(fault.pointer, fault.code) for fault in faults] == [("/x", "wrong_type")]


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("@hourly", "0 * * * *"),
        ("@Daily", "0 0 * * *"),
        ("@annually", "0 0 1 1 *"),
        ("0  3 * *\t mon-FRI", "0 3 * * 1-5"),
        ("0 3 * jan,Dec sun", "0 3 * 1,12 0"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * 0,5-6"),
        ("0 0 * * fri-mon", "0 0 * * 0-1,5-6"),
        ("0 22-2 * * *", "0 0-2,22-23 * * *"),
        ("*/1 */60 * * *".replace("*/60", "*"), "* * * * *"),
        ("*/60 * * * *", "0 * * * *"),
        ("5/15 * * * *", "5-59/15 * * * *"),
        ("0 0 ? * 5L", "0 0 * * L5"),
        ("0 0 W15 * ?", "0 0 15W * *"),
        ("0 0 * * fri#2", "0 0 * * 5#2"),
        ("*,5 007 * * *", "* 7 * * *"),
        ("30 0 3 * * *", "30 0 3 * * *"),
    ],
)
def test_an_expression_is_stored_in_its_canonical_form(written: str, canonical: str) -> None:
    """What different members and releases read is free of anything to interpret."""
    assert cron(written).expression == canonical


def test_a_hashed_field_is_frozen_by_the_job_and_not_by_chance() -> None:
    """`H` spreads jobs over its range, and the same job always gets the same value."""
    seen = set()
    for number in range(200):
        raw = {"cron": "H H(2-5) H * H"}
        spec, _ = parse_schedule(raw, now_ms=number, seed=f"ns/{number}".encode())
        again, _ = parse_schedule(raw, now_ms=0, seed=f"ns/{number}".encode())
        assert spec is not None
        assert spec == again
        minute, hour, day, month, weekday = (spec.expression or "").split()
        assert 2 <= int(hour) <= 5
        assert 1 <= int(day) <= 28
        assert (month, 0 <= int(weekday) <= 6) == ("*", True)
        seen.add(minute)
    assert len(seen) > 50


def test_a_hashed_step_keeps_its_distance() -> None:
    """`H/15` is four times an hour, from a hashed first minute."""
    first, rest = (cron("H/15 * * * *").expression or "").split("-")
    assert int(first) < 15
    assert rest == "59/15 * * * *"
    for number in range(20):
        raw = {"cron": "H(10-12)/2 H/24 * * *"}
        spec, _ = parse_schedule(raw, now_ms=0, seed=bytes([number]))
        assert spec is not None
        assert (spec.expression or "").split()[0] in {"10-12/2", "11"}


def test_the_log_form_skips_fields_of_a_later_release() -> None:
    """A member of an older release decodes what a newer one has written."""
    spec = cron("0 3 * * *", "Europe/Berlin", jitter="5m", max_runs=3)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(spec))
    assert set(stored) == {"kind", "expression", "timezone", "jitter_ms", "max_runs"}
    assert msgspec.convert(stored | {"calendar": "holidays"}, ScheduleSpec) == spec


def test_a_schedule_is_shown_as_it_can_be_sent() -> None:
    """The JSON form leaves out what is the default and names the anchor of an interval."""
    assert render_schedule(spec_of({"every": "90s"})) == {
        "every": "1m30s",
        "anchor": "2026-11-23T10:00:00.000Z",
    }
    assert render_schedule(cron("@daily", "Asia/Tehran", dst={"fold": "both"})) == {
        "cron": "0 0 * * *",
        "timezone": "Asia/Tehran",
        "dst": {"fold": "both"},
    }
    assert render_schedule(spec_of({"manual": True, "jitter": "0s"})) == {"manual": True}
