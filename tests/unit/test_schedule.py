"""Schedules: what each kind does, and what it does at its edges."""

from __future__ import annotations

import pytest

from api.durations import (
    DAY_MS,
    MINUTE_MS,
    TIME_MS_MAX,
    format_time,
    parse_time,
)
from api.faults import Rejected
from api.schedule import (
    ScheduleSpec,
    missed_summary,
    next_occurrence,
    occurrences,
    parse_schedule,
    start_ms,
)

NOW = "2026-11-23T10:00:00Z"
NOW_MS = parse_time(NOW)
YEAR_MS = 365 * DAY_MS


def spec_of(raw: dict[str, object]) -> ScheduleSpec:
    spec, faults = parse_schedule(raw, now_ms=NOW_MS, seed=b"billing/report")
    assert spec is not None, faults
    return spec


def cron(expression: str, zone_name: str | None = None, **options: object) -> ScheduleSpec:
    zone_field = {} if zone_name is None else {"timezone": zone_name}
    return spec_of({"cron": expression, **zone_field, **options})


def shown_times(spec: ScheduleSpec, after: str, until: str) -> list[str]:
    found = occurrences(spec, parse_time(after), parse_time(until), 100)
    return [format_time(found_ms).removesuffix(":00.000Z") for found_ms in found]


def test_an_instant_occurs_once() -> None:
    """`at` is its own only occurrence, also when it lies in the past."""
    spec = spec_of({"at": "2026-11-23T11:00:00+01:00"})
    assert next_occurrence(spec, NOW_MS - 1) == NOW_MS
    assert next_occurrence(spec, NOW_MS) is None
    assert missed_summary(spec, NOW_MS, NOW_MS, 1).kept == [NOW_MS]
    assert missed_summary(spec, NOW_MS + 1, NOW_MS + DAY_MS, 1).count == 0


def test_an_interval_counts_from_its_anchor() -> None:
    """The anchor sets the phase, in the past or the future, and is now if not given."""
    assert next_occurrence(spec_of({"every": "90s"}), NOW_MS) == NOW_MS + 90_000
    spec = spec_of({"every": "1h", "anchor": "2030-01-01T00:05:00Z"})
    assert next_occurrence(spec, NOW_MS) == NOW_MS + 5 * MINUTE_MS
    bounded = spec_of({"every": "1h", "not_before": "2027-01-01T00:30:00Z"})
    assert next_occurrence(bounded, NOW_MS) == parse_time("2027-01-01T01:00:00Z")


def test_an_outage_of_a_year_of_every_second_is_counted_exactly() -> None:
    """Long outages cost no more than short ones, for intervals as for cron."""
    for spec in (spec_of({"every": "1s"}), cron("* * * * * *", "Europe/Berlin")):
        missed = missed_summary(spec, NOW_MS, NOW_MS + YEAR_MS, 2)
        assert missed.count == 365 * 86_400 + 1
        assert missed.kept == [NOW_MS + YEAR_MS - 1000, NOW_MS + YEAR_MS]
        assert (missed.first_ms, missed.last_ms) == (NOW_MS, NOW_MS + YEAR_MS)
        assert missed.complete


def test_a_delay_counts_from_the_end_of_the_last_run() -> None:
    """The first one counts from now, and so does one whose instant has passed untaken."""
    spec = spec_of({"delay": "10m"})
    assert next_occurrence(spec, NOW_MS) == NOW_MS + 10 * MINUTE_MS
    assert next_occurrence(spec, NOW_MS, last_end_ms=NOW_MS + 5) == NOW_MS + 10 * MINUTE_MS + 5
    assert next_occurrence(spec, NOW_MS, last_end_ms=NOW_MS - DAY_MS) == NOW_MS + 10 * MINUTE_MS
    assert occurrences(spec, NOW_MS, TIME_MS_MAX, 5) == [NOW_MS + 10 * MINUTE_MS]
    assert missed_summary(spec, 0, NOW_MS, 5).count == 0
    later = spec_of(
        {"delay": "1m", "not_before": "2027-01-01T00:00:00Z", "not_after": "2027-01-01T00:01:00Z"}
    )
    first_ms = parse_time("2027-01-01T00:00:00Z")
    assert next_occurrence(later, NOW_MS) == first_ms
    assert next_occurrence(later, first_ms, last_end_ms=first_ms + 1) is None


def test_a_manual_schedule_never_occurs_by_itself() -> None:
    """`manual` waits for somebody."""
    spec = spec_of({"manual": True})
    assert next_occurrence(spec, NOW_MS) is None
    assert occurrences(spec, 0, TIME_MS_MAX, 5) == []
    assert missed_summary(spec, 0, TIME_MS_MAX, 5).count == 0


def test_occurrences_lie_within_their_bounds() -> None:
    """`not_before` and `not_after` are inclusive, for every question that can be asked."""
    spec = cron("0 * * * *", not_before="2026-12-01T00:00:00Z", not_after="2026-12-01T02:00:00Z")
    assert shown_times(spec, NOW, "2027-01-01T00:00:00Z") == [
        "2026-12-01T00:00",
        "2026-12-01T01:00",
        "2026-12-01T02:00",
    ]
    assert missed_summary(spec, 0, TIME_MS_MAX, 1).count == 3
    assert next_occurrence(spec, parse_time("2026-12-01T02:00:00Z")) is None


@pytest.mark.parametrize(
    ("expression", "dst", "expected"),
    [
        ("30 2 * * *", {}, ["2026-03-29T01:00", "2026-03-30T00:30"]),
        ("30 2 * * *", {"gap": "skip"}, ["2026-03-30T00:30"]),
        ("15,45 2 * * *", {}, ["2026-03-29T01:00", "2026-03-30T00:15", "2026-03-30T00:45"]),
        ("0 2,3 29 * *", {}, ["2026-03-29T01:00"]),
        ("0 */2 29 * *", {}, [f"2026-03-29T{hour:02}:00" for hour in range(2, 21, 2)]),
    ],
)
def test_a_fixed_time_that_the_clock_skips_runs_once_right_after(
    expression: str, dst: dict[str, str], expected: list[str]
) -> None:
    """In Berlin 02:00 to 03:00 does not exist on 29 March 2026."""
    spec = cron(expression, "Europe/Berlin", dst=dst)
    assert shown_times(spec, "2026-03-28T23:00:00Z", "2026-03-30T20:00:00Z") == expected


@pytest.mark.parametrize(
    ("expression", "dst", "expected"),
    [
        ("30 2 * * *", {}, ["2026-10-25T00:30"]),
        ("30 2 * * *", {"fold": "both"}, ["2026-10-25T00:30", "2026-10-25T01:30"]),
        ("0 * 25 * *", {}, ["2026-10-24T23:00", "2026-10-25T00:00", "2026-10-25T01:00"]),
    ],
)
def test_a_fixed_time_that_the_clock_repeats_runs_the_first_time(
    expression: str, dst: dict[str, str], expected: list[str]
) -> None:
    """In Berlin 02:00 to 03:00 exists twice on 25 October 2026."""
    spec = cron(expression, "Europe/Berlin", dst=dst)
    assert shown_times(spec, "2026-10-24T22:30:00Z", "2026-10-25T01:59:00Z") == expected


def test_a_job_stored_without_a_known_zone_says_so() -> None:
    """A zone that only a newer release knows is an error to act on, not a wrong instant."""
    spec = ScheduleSpec(kind="cron", expression="0 3 * * *", timezone="Moon/Tranquility")
    with pytest.raises(Rejected, match="Moon/Tranquility"):
        next_occurrence(spec, NOW_MS)


def test_jitter_moves_the_start_and_never_the_occurrence() -> None:
    """Starts are spread over the jitter, differ between jobs, and stay before the next."""
    spec = spec_of({"every": "10s", "jitter": "1h"})
    starts = [start_ms(spec, f"job {number}".encode(), NOW_MS) - NOW_MS for number in range(300)]
    assert min(starts) < 1000
    assert 9000 < max(starts) < 10_000
    assert start_ms(spec_of({"every": "10s"}), b"job", NOW_MS) == NOW_MS
    once = spec_of({"at": NOW, "jitter": "1m"})
    assert NOW_MS <= start_ms(once, b"job", NOW_MS) <= NOW_MS + MINUTE_MS
