"""Schedules under any input: arithmetic that holds everywhere, and text that may be hostile."""

from __future__ import annotations

import contextlib
import os

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.durations import (
    DURATION_MS_MAX,
    TIME_MS_MAX,
    format_duration,
    format_time,
    parse_duration,
    parse_time,
)
from api.faults import FAULTS_MAX, Fault, Rejected
from api.schedule import (
    ScheduleSpec,
    explain,
    missed_summary,
    next_occurrence,
    occurrences,
    parse_schedule,
    render_schedule,
    start_ms,
)
from api.schedule.cron import ticks
from api.schedule.syntax import parse_expression

SCALE = int(os.environ.get("CRONCLAVE_SCHEDULE_CASES", "1"))
NOW_MS = parse_time("2026-11-23T10:00:00Z")
ZONES = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia"]

instants = st.integers(0, 4_000_000_000_000)


@given(every=st.integers(100, 10**9), anchor=instants, after=instants)
def test_an_interval_never_drifts_from_its_anchor(every: int, anchor: int, after: int) -> None:
    """The next occurrence is the one instant of the grid within the next interval."""
    spec = ScheduleSpec(kind="every", every_ms=every, anchor_ms=anchor)
    found = next_occurrence(spec, after)
    assert found is not None
    assert after < found <= after + every
    assert (found - anchor) % every == 0


@given(
    every=st.integers(100, 10**6),
    anchor=instants,
    begin=instants,
    span=st.integers(0, 10**7),
    keep=st.integers(0, 5),
)
def test_counting_intervals_equals_listing_them(
    every: int, anchor: int, begin: int, span: int, keep: int
) -> None:
    """A count by division finds what a walk finds."""
    spec = ScheduleSpec(kind="every", every_ms=every, anchor_ms=anchor)
    begin, until = max(begin, 1), begin + min(span, 200 * every)
    listed = occurrences(spec, begin - 1, until, 1000)
    missed = missed_summary(spec, begin, until, keep)
    assert missed.count == len(listed)
    assert missed.kept == (listed[-keep:] if keep else [])
    assert [missed.first_ms, missed.last_ms] == ([listed[0], listed[-1]] if listed else [None] * 2)


@given(
    jitter=st.integers(0, 10**8),
    seed=st.binary(max_size=40),
    after=instants,
    cron=st.sampled_from(["*/5 * * * *", "30 2 * * *", "* * * * * *", "0 0 29 2 *"]),
)
def test_jitter_keeps_the_order_of_starts(jitter: int, seed: bytes, after: int, cron: str) -> None:
    """A start lies between its occurrence and the next, and is the same on every member."""
    spec = ScheduleSpec(kind="cron", expression=cron, timezone="Europe/Berlin", jitter_ms=jitter)
    first, second = occurrences(spec, after, TIME_MS_MAX, 2)
    start = start_ms(spec, seed, first)
    assert first <= start < second
    assert start - first <= jitter
    assert start == start_ms(spec, seed, first)


cron_items = st.text(alphabet="0123456789*/-,?HLWR#()@ \tabeijmnorstuvy=", max_size=30)
CRON_TOKENS = (
    "* */2 */15 0 5 7 1-5 22-2 5/15 1,15 H H/5 H(0-9) H(3-7)/2 ? L 15W W15 5#2 L5 5L 7L fri "
    "mon-fri fri-mon JAN 0-7 1-7/2 5-5 */61 R * * * 0 0 31 30 6-7 */7 29"
)
cron_texts = cron_items | st.lists(
    st.sampled_from(CRON_TOKENS.split()), min_size=4, max_size=7
).map(" ".join)


@given(cron_texts)
@example("@daily")
@example("59-57/2 " * 5)
@example(",".join(["5/15"] * 50) + " * * * *")
@settings(max_examples=400 * SCALE)
def test_any_text_is_read_or_refused_and_what_is_read_stays_the_same(text: str) -> None:
    """A canonical expression is its own canonical form, and means the same to croniter."""
    fields, faults = parse_expression(text, b"ns/job")
    assert (fields is None) == bool(faults)
    if fields is None:
        assert all(fault.detail.endswith((".", "?")) for fault in faults), faults
        return
    again, _ = parse_expression(fields.text, b"another")
    assert again == fields
    times = ticks(fields.text).times
    assert times == (fields.hour.values, fields.minute.values, fields.second.values)
    spec = ScheduleSpec(kind="cron", expression=fields.text)
    assert next_occurrence(spec, NOW_MS) is not None


SCALARS = [None, True, 0, -1, 2.5, float("nan"), float("inf"), "", "5m", "1h", "Europe/Berlin"]
SCALARS += ["* * * * *", "H 2 * * *", "2027-01-01T00:00:00Z", "run_after", "both", 10**30]
KEYS = "at every delay cron manual anchor timezone not_before not_after max_runs jitter dst gap"
scalars = st.sampled_from(SCALARS) | st.text(max_size=5)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(scalars.map(str), scalars)
keys = st.sampled_from(KEYS.split()) | st.text(max_size=5)


@given(st.dictionaries(keys, values, max_size=6))
@settings(max_examples=200 * SCALE)
def test_any_json_object_gives_a_schedule_or_faults(raw: dict[str, object]) -> None:
    """Hostile input is answered with pointers and sentences, never with an exception."""
    spec, faults = parse_schedule(raw, now_ms=NOW_MS, seed=b"")
    assert (spec is None) == bool(faults)
    assert len(faults) <= FAULTS_MAX
    for fault in faults:
        assert isinstance(fault, Fault)
        assert fault.pointer.startswith("/schedule")
        assert fault.code.replace("_", "").isalnum()


durations = st.integers(100, DURATION_MS_MAX).map(format_duration)
times = instants.map(format_time)
kinds = st.one_of(
    st.fixed_dictionaries({"at": times}),
    st.fixed_dictionaries({"every": durations}, optional={"anchor": times}),
    st.fixed_dictionaries({"delay": durations}),
    st.just({"manual": True}),
    st.fixed_dictionaries(
        {"cron": st.sampled_from(["H H * * *", "*/7 2 * * fri-mon", "30 2 31 * 7", "@weekly"])},
        optional={
            "timezone": st.sampled_from(ZONES),
            "dst": st.fixed_dictionaries(
                {},
                optional={
                    "gap": st.sampled_from(["run_after", "skip"]),
                    "fold": st.sampled_from(["first", "both"]),
                },
            ),
        },
    ),
)
options = st.fixed_dictionaries(
    {},
    optional={
        "not_before": times,
        "max_runs": st.integers(1, 1000),
        "jitter": st.integers(0, 10**6).map(format_duration),
    },
)


@given(kind=kinds, option=options)
def test_a_schedule_survives_its_json_form(kind: dict[str, object], option: object) -> None:
    """What the API shows of a schedule can be sent back and means the same."""
    raw = kind | (option if isinstance(option, dict) else {})
    spec, faults = parse_schedule(raw, now_ms=NOW_MS, seed=b"ns/job")
    if spec is None:
        assert [fault.code for fault in faults] == ["never_occurs"]
        return
    assert parse_schedule(render_schedule(spec), now_ms=0, seed=b"other") == (spec, [])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=ScheduleSpec) == spec
    explained = explain(spec, NOW_MS)
    assert explained.sentence
    assert all(occurrence_ms > NOW_MS for occurrence_ms, _ in explained.occurrences)


@given(st.integers(1, DURATION_MS_MAX))
def test_a_duration_survives_its_text(duration_ms: int) -> None:
    """What is written out is read in again as the same number of milliseconds."""
    assert parse_duration(format_duration(duration_ms)) == duration_ms


@given(st.integers(0, TIME_MS_MAX))
def test_a_time_survives_its_text(time_ms: int) -> None:
    """What is written out is read in again as the same instant."""
    assert parse_time(format_time(time_ms)) == time_ms


@given(st.text(max_size=20) | st.text(alphabet="0123456789.PTDHMSWdhmsw-", max_size=70))
def test_any_text_is_a_duration_within_bounds_or_refused(text: str) -> None:
    """There is no text that gives a duration of zero, below zero or beyond ten years."""
    with contextlib.suppress(Rejected):
        assert 1 <= parse_duration(text) <= DURATION_MS_MAX
