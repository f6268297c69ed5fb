"""A job as JSON, in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.durations import DURATION_MS_MAX, format_time, parse_time
from api.faults import Fault
from api.forecasts import SHOWN_NEXT, forecast
from api.jobs.document import JobRequest, Present, parse_job
from api.jobs.merge_patch import merge_patch
from api.jobs.rendering import render_definition
from api.schedule import explain, render_schedule
from storage.limits import (
    DEFINITION_BYTES_MAX,
    LABELS_MAX,
    OUTPUT_BYTES_MAX,
    TIMEOUT_MS_MAX,
)
from storage.models import CatchUp, JobDefinition, Retry, ScheduleSpec, decode_definition
from tests.support.single import START_MS

MINIMAL: dict[str, Any] = {"name": "a", "schedule": {"manual": True}, "action": {"type": "noop"}}


def no_faults(action: Mapping[str, Any], pointer: str) -> list[Fault]:
    return []


def parse(
    document: object, present: Present | None = None
) -> tuple[JobRequest | None, list[Fault]]:
    return parse_job(document, now_ms=START_MS, check_action=no_faults, present=present)


def accepted(document: object, present: Present | None = None) -> JobRequest:
    request, faults = parse(document, present)
    assert not faults
    assert request is not None
    return request


def faults_of(document: object, present: Present | None = None) -> dict[str, str]:
    request, faults = parse(document, present)
    assert request is None
    assert faults
    assert all(fault.detail.endswith((".", "?")) for fault in faults)
    return {fault.pointer: fault.code for fault in faults}


DURATIONS = st.integers(0, DURATION_MS_MAX)
LABELS = st.dictionaries(
    st.from_regex("[a-z][a-z0-9._/-]{0,9}", fullmatch=True), st.text(max_size=9), max_size=3
)


@st.composite
def retries(draw: st.DrawFn) -> Retry:
    backoff_ms = draw(DURATIONS)
    return Retry(
        attempts_max=draw(st.integers(1, 100)),
        backoff_ms=backoff_ms,
        backoff_ms_max=draw(st.integers(backoff_ms, DURATION_MS_MAX)),
        jitter=draw(st.booleans()),
    )


SCHEDULES = st.one_of(
    st.just(ScheduleSpec(kind="manual")),
    st.builds(ScheduleSpec, kind=st.just("at"), at_ms=st.integers(START_MS, 2 * START_MS)),
    st.builds(
        ScheduleSpec,
        kind=st.just("every"),
        every_ms=st.integers(100, DURATION_MS_MAX),
        anchor_ms=st.integers(0, START_MS),
        jitter_ms=st.integers(0, 5_000),
    ),
    st.builds(ScheduleSpec, kind=st.just("delay"), delay_ms=st.integers(100, 10**9)),
    st.builds(
        ScheduleSpec,
        kind=st.just("cron"),
        expression=st.sampled_from(["0 3 * * *", "*/5 * * * *", "30 0 3 * * 1"]),
        timezone=st.sampled_from([None, "Europe/Berlin", "America/New_York"]),
        dst_gap=st.sampled_from(["run_after", "skip"]),
    ),
)
DEFINITIONS = st.builds(
    JobDefinition,
    schedule=SCHEDULES,
    action=st.fixed_dictionaries({"type": st.just("http"), "n": st.integers(0, 9)}),
    description=st.text(max_size=20),
    priority=st.integers(0, 100),
    timeout_ms=st.none() | st.integers(1, TIMEOUT_MS_MAX),
    retry=retries(),
    overlap=st.sampled_from(["skip", "allow", "buffer_one", "cancel_other"]),
    delivery=st.sampled_from(["at_least_once", "at_most_once"]),
    catch_up=st.builds(
        CatchUp, policy=st.sampled_from(["skip", "last", "first", "all"]), window_ms=DURATIONS
    ),
    placement=LABELS,
    labels=LABELS,
    output_bytes_max=st.integers(0, OUTPUT_BYTES_MAX),
)


@given(DEFINITIONS)
def test_what_is_shown_can_be_written_back(definition: JobDefinition) -> None:
    """Rendering a definition and parsing it again gives the same definition."""
    shown = render_definition("billing", "report", definition)
    sent = msgspec.json.decode(msgspec.json.encode(shown))
    request = accepted(sent)
    assert request.definition == definition
    assert (request.namespace, request.name) == ("billing", "report")
    assert decode_definition(request.encoded) == definition


def test_defaults_are_left_out() -> None:
    """A document shows what somebody decided, and nothing else."""
    request = accepted(MINIMAL)
    assert render_definition("default", "a", request.definition) == {
        "namespace": "default",
        **MINIMAL,
    }


def test_the_example_of_the_conventions_is_accepted_as_it_stands() -> None:
    """Every field that the reference shows is understood."""
    document = {
        "name": "nightly-report",
        "namespace": "billing",
        "schedule": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
        "action": {"type": "http", "method": "POST", "url": "https://reports.example/run"},
        "priority": 60,
        "timeout": "10m",
        "retry": {"max_attempts": 4, "max_backoff": "10m"},
        "catch_up": {"policy": "first"},
        "placement": {"labels": {"region": "eu"}},
        "labels": {"team": "billing"},
    }
    request = accepted(document)
    assert render_definition("billing", "nightly-report", request.definition) == document


def test_all_faults_of_a_document_are_named_at_once() -> None:
    """One answer is enough to repair a document, however many faults it has."""
    document = {
        "name": "x" * 10_000,
        "namespace": "not a name",
        "shedule": {},
        "schedule": {"cron": "61 * * * *", "timezone": "Europe/Berln", "jitter": 5},
        "action": "run",
        "description": "x" * 2_001,
        "priority": 101,
        "timeout": "-1s",
        "retry": {"max_attempts": 0, "backoff": "9m", "max_backoff": "5m", "attempts": 1},
        "overlap": "alow",
        "delivery": None,
        "catch_up": {"policy": "newest", "window": 3_600},
        "placement": {"labels": {"": "x"}},
        "labels": {"ok": 1},
        "output_limit": True,
        "id": "0" * 32,
    }
    assert faults_of(document) == {
        "/name": "too_long",
        "/namespace": "invalid_name",
        "/shedule": "unknown_field",
        "/schedule/cron": "cron_out_of_range",
        "/schedule/timezone": "unknown_timezone",
        "/schedule/jitter": "wrong_type",
        "/action": "wrong_type",
        "/description": "too_long",
        "/priority": "out_of_range",
        "/timeout": "invalid_duration",
        "/retry/max_attempts": "out_of_range",
        "/retry/max_backoff": "conflicting_fields",
        "/retry/attempts": "unknown_field",
        "/overlap": "unknown_value",
        "/delivery": "wrong_type",
        "/catch_up/policy": "unknown_value",
        "/catch_up/window": "wrong_type",
        "/placement/labels": "invalid_label",
        "/labels": "invalid_label",
        "/output_limit": "wrong_type",
        "/id": "read_only",
    }


@pytest.mark.parametrize("document", [None, 7, "x", [], [{}], True])
def test_a_job_is_an_object(document: object) -> None:
    """Anything else is refused as a whole."""
    assert faults_of(document) == {"": "wrong_type"}


def test_an_empty_object_lacks_what_is_required() -> None:
    """A job has a name, a schedule and an action."""
    assert faults_of({}) == dict.fromkeys(("/name", "/schedule", "/action"), "required")


def test_a_slip_in_a_name_is_answered_with_what_was_meant() -> None:
    """Unknown fields and values say which known one is near."""
    _, faults = parse({**MINIMAL, "prioritty": 1, "overlap": "alow"})
    assert ['did you mean "priority"?' in faults[0].detail] == [True]
    assert 'did you mean "allow"?' in faults[1].detail


@pytest.mark.parametrize(
    "namespace", ["0123456789abcdef" * 2, "", ".", "..", "-a", "a/b", "a b", "ä", "a\n", "a\x00"]
)
def test_a_namespace_is_plain_and_cannot_be_taken_for_an_id(namespace: str) -> None:
    """Addresses with an id and with a namespace can always be told apart."""
    assert faults_of({**MINIMAL, "namespace": namespace}) == {"/namespace": "invalid_name"}


def test_a_job_that_is_too_large_to_keep_is_refused() -> None:
    """A definition has a bound of its own, below that of the body."""
    action = {"type": "noop", "data": "x" * DEFINITION_BYTES_MAX}
    assert faults_of({**MINIMAL, "action": action}) == {"": "too_long"}


def test_the_number_of_faults_and_labels_is_bounded() -> None:
    """An answer to junk is not larger than an answer to a mistake."""
    _, faults = parse({f"field{n}": n for n in range(1_000)})
    assert len(faults) == 50
    labels = {f"k{n}": "v" for n in range(LABELS_MAX + 1)}
    assert faults_of({**MINIMAL, "labels": labels}) == {"/labels": "too_many"}


def test_a_first_delay_above_the_usual_ceiling_raises_it() -> None:
    """A delay that was asked for is not cut down by a default nobody wrote."""
    request = accepted({**MINIMAL, "retry": {"backoff": "1h"}})
    assert request.definition.retry.backoff_ms_max == 3_600_000


def present(**shown: object) -> Present:
    definition = accepted({**MINIMAL, "schedule": {"every": "5m"}}).definition
    fixed = {"id": "0" * 32, "status": "scheduled", "paused": False, **shown}
    return Present(namespace="default", name="a", shown=fixed, definition=definition)


def test_a_replacement_may_repeat_what_only_the_cluster_sets() -> None:
    """A job that was read can be written back as a whole."""
    extra = {
        "id": "0" * 32,
        "revision": 3,
        "status": "scheduled",
        "paused": False,
        "created_at": "x",
        "updated_at": "x",
        "next_run_at": None,
        "last_run": None,
        "next_runs": [],
        "warnings": [],
    }
    accepted({**MINIMAL, **extra}, present())


def test_a_replacement_cannot_rename_pause_or_exchange_a_job() -> None:
    """What would be lost silently is refused instead."""
    document = {**MINIMAL, "name": "b", "namespace": "other", "id": "1" * 32, "paused": True}
    assert faults_of(document, present()) == {
        "/name": "not_changeable",
        "/namespace": "not_changeable",
        "/id": "read_only",
        "/paused": "read_only",
    }


def test_an_interval_that_stays_the_same_keeps_its_phase() -> None:
    """Putting the same document twice does not move a job's occurrences."""
    known = present()
    assert known.definition is not None
    anchor_ms = known.definition.schedule.anchor_ms
    later_ms = START_MS + 123_456
    for schedule, expected_ms in (({"every": "5m"}, anchor_ms), ({"every": "6m"}, later_ms)):
        document = {**MINIMAL, "schedule": schedule}
        request, _ = parse_job(document, now_ms=later_ms, check_action=no_faults, present=known)
        assert request is not None
        assert request.definition.schedule.anchor_ms == expected_ms


def test_an_expression_that_many_jobs_share_means_the_same_for_each() -> None:
    """Remembering an expression changes nothing, and `H` depends on the job's name."""
    hashed = []
    for name in ("a", "b"):
        document = {**MINIMAL, "name": name}
        plain = accepted({**document, "schedule": {"cron": "0 3 * * MON"}}).definition.schedule
        assert render_schedule(plain) == {"cron": "0 3 * * 1"}
        hashed.append(accepted({**document, "schedule": {"cron": "H H * * *"}}))
    assert hashed[0].definition.schedule != hashed[1].definition.schedule


def test_times_take_any_offset() -> None:
    """A time with an offset is the instant it names."""
    request = accepted({**MINIMAL, "schedule": {"at": "2026-11-23T10:00:00+01:00"}})
    assert request.definition.schedule.at_ms == parse_time("2026-11-23T09:00:00Z")


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_follows_the_examples_of_its_standard(
    target: object, patch: object, expected: object
) -> None:
    """RFC 7396, appendix A."""
    assert merge_patch(target, patch) == expected


@pytest.mark.parametrize("every", ["100ms", "59s", "1m", "PT90S", "1d"])
@pytest.mark.parametrize(
    "more", [{}, {"max_runs": 2}, {"jitter": "1ms"}, {"anchor": "1970-01-01T00:00:07Z"}]
)
def test_the_forecast_of_an_interval_is_what_explaining_it_says(
    every: str, more: dict[str, Any]
) -> None:
    """What is remembered and divided instead of explained comes to the same."""
    spec = accepted({**MINIMAL, "schedule": {"every": every, **more}}).definition.schedule
    explained = explain(spec, START_MS, SHOWN_NEXT)
    coming = forecast(spec, START_MS)
    assert coming.next_runs == [format_time(at_ms) for at_ms, _ in explained.occurrences]
    assert [(one["code"], one["detail"]) for one in coming.warnings] == explained.warnings
