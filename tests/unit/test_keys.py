"""The keys of the state: what sorts before what, and that nothing is lost on the way back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import keys
from storage.limits import ENTRY_BYTES_MAX, NAME_CHARS_MAX, NAMESPACE_CHARS_MAX

JOBS = st.binary(min_size=16, max_size=16)
TIMES = st.integers(0, (1 << 63) - 1)
PRIORITIES = st.integers(0, 100)
NONCES = st.integers(0, (1 << 32) - 1)

TABLES = [
    getattr(keys, name)
    for name in dir(keys)
    if name.isupper() and isinstance(getattr(keys, name), bytes)
]


def test_every_table_has_a_byte_of_its_own() -> None:
    """They share one ordered key space."""
    assert len(set(TABLES)) == len(TABLES) == 20
    assert {len(table) for table in TABLES} == {1}


@given(job=JOBS, at=TIMES, trigger=st.integers(0, 1), nonce=NONCES)
def test_a_run_is_known_by_its_key(job: bytes, at: int, trigger: int, nonce: int) -> None:
    """Job, instant, trigger and number can be read from it."""
    run = keys.run_key(job, at, trigger, nonce)
    assert len(run) == keys.RUN_KEY_BYTES
    assert keys.split_run(run) == (job, at, trigger, nonce)
    assert keys.partition_of(run[: keys.JOB_ID_BYTES]) == keys.partition_of(job)


@given(job=JOBS, one=TIMES, two=TIMES)
def test_the_runs_of_a_job_sort_by_their_instants(job: bytes, one: int, two: int) -> None:
    """The history of a job is a range."""
    assert (keys.run_key(job, one) < keys.run_key(job, two)) == (one < two)


@given(job=JOBS, start=TIMES, priority=PRIORITIES, selective=st.booleans())
def test_a_due_entry_is_read_as_it_was_written(
    job: bytes, start: int, priority: int, *, selective: bool
) -> None:
    """Partition, band, start, priority and the job."""
    band = keys.band_of(priority, selective=selective)
    found = keys.split_due(keys.due_key(job, band, start, priority))
    assert found == (keys.partition_of(job), band, start, priority, job)


@given(
    job=JOBS,
    entries=st.lists(st.tuples(TIMES, PRIORITIES), min_size=2, max_size=2, unique=True),
    until=TIMES,
)
def test_due_entries_of_a_place_sort_by_start_and_priority(
    job: bytes, entries: list[tuple[int, int]], until: int
) -> None:
    """Earlier ones first, at the same instant those of higher priority."""
    one, two = (keys.due_key(job, 3, start, priority) for start, priority in entries)
    ranked = [(start, -priority) for start, priority in entries]
    assert (one < two) == (ranked[0] < ranked[1])
    low, high = keys.due_range(keys.partition_of(job), 3, until)
    assert (low <= one < high) == (entries[0][0] < until)


@pytest.mark.parametrize("selective", [False, True])
def test_higher_priorities_stand_in_lower_bands(*, selective: bool) -> None:
    """Bands of ten, and those of selective jobs are others altogether."""
    bands = [keys.band_of(priority, selective=selective) for priority in range(101)]
    assert bands == sorted(bands, reverse=True)
    assert len(set(bands)) == keys.BANDS
    assert {band >= keys.SELECTIVE_BAND for band in bands} == {selective}


@given(at=TIMES, rest=st.binary(max_size=40))
def test_an_age_is_read_as_it_was_written(at: int, rest: bytes) -> None:
    """What is old enough to go is a range from the beginning of its table."""
    for make in (keys.output_age_key, keys.answer_age_key):
        assert keys.age_of(make(at, rest)) == (at, rest)
        assert make(at, rest) >= make(at, b"")
        assert make(at, rest) < make(at + 1, b"")


@given(prefix=st.binary(min_size=1, max_size=6), rest=st.binary(max_size=4), other=st.binary())
def test_after_is_the_end_of_a_prefix(prefix: bytes, rest: bytes, other: bytes) -> None:
    """All keys with the prefix are in the range, and no others."""
    prefix = b"\x05" + prefix
    stop = keys.after(prefix)
    assert prefix <= prefix + rest < stop
    other = b"\x05" + other
    assert (prefix <= other < stop) == other.startswith(prefix)


@given(
    namespace=st.text("ab._-", min_size=1, max_size=5),
    name=st.text("ab._-", min_size=1, max_size=5),
)
def test_the_names_of_a_namespace_are_a_range(namespace: str, name: str) -> None:
    """No other namespace's names are among them."""
    key = keys.name_key(namespace, name)
    assert key[1:].split(b"\x00") == [namespace.encode(), name.encode()]
    start = keys.name_key(namespace, "")
    assert start <= key < keys.after(start)


@given(run=st.binary(min_size=29, max_size=29), attempt=st.integers(0, 65_535))
def test_output_sorts_by_attempt_and_sequence(run: bytes, attempt: int) -> None:
    """It is read in the order in which it was written."""
    first, second = keys.output_key(run, attempt, 0), keys.output_key(run, attempt, 256)
    assert keys.OUTPUT + run < first < second < keys.after(keys.OUTPUT + run)


def test_no_key_is_too_long_for_the_store() -> None:
    """The longest is a name; everything else is made of numbers and identifiers."""
    longest = keys.name_key("n" * NAMESPACE_CHARS_MAX, "j" * NAME_CHARS_MAX)
    assert len(longest) <= keys.KEY_BYTES_MAX
    assert ENTRY_BYTES_MAX < 1 << 32


@given(jobs=st.sets(JOBS, min_size=1, max_size=5))
def test_a_partition_is_one_of_so_many(jobs: set[bytes]) -> None:
    """And the same for ever."""
    for job in jobs:
        assert 0 <= keys.partition_of(job) < keys.PARTITIONS
    assert keys.partition_of(b"\x00" * 16) == 853
