"""Identifiers of jobs and runs as text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.durations import TIME_MS_MAX
from api.ids import born_ms, format_job_id, format_run_id, parse_job_id, parse_run_id
from storage.clock import new_id
from storage.keys import TRIGGER_MANUAL, TRIGGER_SCHEDULE, run_key
from tests.support.single import START_MS, SetEnvironment

JOBS = st.binary(min_size=16, max_size=16)
INSTANTS = st.integers(0, TIME_MS_MAX)
JOB = "0193577f0a4b7c119e1d2f3a4b5c6d7e"


@given(JOBS)
def test_a_job_id_is_read_as_it_was_written(job: bytes) -> None:
    """A job's id is its 16 bytes in lower-case hexadecimal."""
    text = format_job_id(job)
    assert len(text) == 32
    assert parse_job_id(text) == job


@given(JOBS, INSTANTS, st.integers(0, 2**32 - 1))
def test_a_run_id_is_read_as_it_was_written(job: bytes, at_ms: int, nonce: int) -> None:
    """A run's id and its key stand for each other."""
    scheduled = run_key(job, at_ms, TRIGGER_SCHEDULE)
    manual = run_key(job, at_ms, TRIGGER_MANUAL, nonce)
    assert parse_run_id(format_run_id(scheduled)) == scheduled
    assert parse_run_id(format_run_id(manual)) == manual
    assert format_run_id(scheduled) != format_run_id(manual)


@pytest.mark.parametrize(
    "text",
    ["", JOB[:-1], JOB + "0", JOB.upper(), f" {JOB}", f"{JOB}\n", "g" * 32, "\u0660" * 32],
)
def test_what_is_almost_a_job_id_is_none(text: str) -> None:
    """There is one way to write an identifier."""
    assert parse_job_id(text) is None


@pytest.mark.parametrize(
    "text",
    [
        JOB,
        f"{JOB}.",
        f"{JOB}.007",
        f"{JOB}.-1",
        f"{JOB}.1.5",
        f"{JOB}.1.m",
        f"{JOB}.1.m1",
        f"{JOB}.1.m0000000G",
        f"{JOB}.1.M00000001",
        f"{JOB}.1.m000000001",
        f"{JOB}.{TIME_MS_MAX + 1}",
        f"{JOB}.{10**30}",
        f"{JOB}.1\n",
        f"{JOB}.\u0661",
    ],
)
def test_what_is_almost_a_run_id_is_none(text: str) -> None:
    """Leading zeros, other digits and times beyond the calendar name no run."""
    assert parse_run_id(text) is None


def test_a_job_id_tells_when_it_was_made() -> None:
    """The birth of a job can be read off its id, to the millisecond."""
    environment = SetEnvironment()
    environment.random = random.Random(5)
    assert born_ms(new_id(environment)) == START_MS
