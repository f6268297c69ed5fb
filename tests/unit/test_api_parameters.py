"""Query parameters, pages, preconditions and idempotency keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from api import parameters
from api.conditions import Conditions, format_tag, read_conditions
from api.idempotency import Repeatable, read_key
from api.paging import Page, read_page
from api.parameters import Parameter, format_cursor, parse_query
from api.problems import Problem
from storage import keys
from storage.limits import PAGE_ROWS_SCANNED_MAX
from storage.memory_store import MemoryStore

DECLARED: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        parameters.LIMIT,
        parameters.CURSOR,
        parameters.LABEL,
        parameters.SINCE,
        parameters.JOB,
        parameters.NAMESPACE,
        parameters.DRY_RUN,
        parameters.CONSISTENCY,
        parameters.MIN_INDEX,
    )
}


def parse(*pairs: tuple[str, str]) -> dict[str, object]:
    return dict(parse_query(DECLARED, MultiDict(pairs)))


def test_parameters_are_read_by_their_types() -> None:
    """Numbers, times, flags, labels and cursors arrive parsed."""
    assert parse(
        ("limit", "7"),
        ("since", "2026-01-01T00:00:00Z"),
        ("label", "team=a=b"),
        ("label", "env="),
        ("dry_run", "true"),
        ("consistency", "linearizable"),
        ("cursor", format_cursor(b"\x05key")),
        ("job", "0a" * 16),
        ("namespace", "billing"),
        ("min_index", "12"),
    ) == {
        "limit": 7,
        "since": 1_767_225_600_000,
        "label": [("team", "a=b"), ("env", "")],
        "dry_run": True,
        "consistency": "linearizable",
        "cursor": b"\x05key",
        "job": b"\x0a" * 16,
        "namespace": "billing",
        "min_index": 12,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "-1"),
        ("limit", "1e3"),
        ("limit", "٣"),
        ("limit", "9" * 5_000),
        ("limit", ""),
        ("cursor", ""),
        ("cursor", "!!"),
        ("cursor", "A" * 5_000),
        ("cursor", "ä"),
        ("label", "team"),
        ("label", "=x"),
        ("since", "yesterday"),
        ("since", "2026-01-01T00:00:00"),
        ("job", "0A" * 16),
        ("namespace", "x" * 5_000),
        ("dry_run", "yes"),
        ("consistency", "strong"),
        ("min_index", str(10**18)),
        ("limt", "5"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_refused(name: str, text: str) -> None:
    """No value is guessed at or cut to fit, and no unknown parameter is passed over."""
    with pytest.raises(Problem) as caught:
        parse((name, text))
    assert caught.value.code == "invalid_parameter"
    assert [fault.pointer for fault in caught.value.errors] == [f"?{name}"]


def test_all_faults_of_a_query_are_named_at_once() -> None:
    """A repeated parameter, an unknown one and a wrong one are three faults."""
    with pytest.raises(Problem) as caught:
        parse(("limit", "1"), ("limit", "2"), ("limt", "1"), ("job", "x"))
    codes = {fault.pointer: fault.code for fault in caught.value.errors}
    assert codes == {"?limit": "repeated", "?limt": "unknown_parameter", "?job": "invalid_id"}
    assert 'did you mean "limit"?' in caught.value.errors[1].detail


# --- Pages -------------------------------------------------------------------------------

PREFIX = keys.NAME + b"a\x00"


def filled(rows: int) -> MemoryStore:
    store = MemoryStore()
    for number in range(rows):
        store.put(PREFIX + number.to_bytes(4, "big"), b"")
    store.put(keys.NAME + b"b\x00other", b"")
    return store


@given(st.integers(0, 40), st.integers(1, 15), st.integers(1, 5), st.booleans())
def test_the_pages_of_a_list_are_the_list(rows: int, limit: int, every: int, reverse: bool) -> None:
    """Every row that passes comes once and in order, on pages of at most `limit` items."""
    store = filled(rows)
    expected = [number for number in range(rows) if number % every == 0]
    found: list[int] = []
    query: dict[str, object] = {"limit": limit}
    while True:
        page = read_page(
            store, PREFIX, keys.after(PREFIX), query, lambda k, _: picked(k, every), reverse=reverse
        )
        assert len(page.items) <= limit
        found += page.items
        if page.next_key is None:
            break
        query["cursor"] = page.next_key
    assert found == (expected[::-1] if reverse else expected)


def picked(key: bytes, every: int) -> int | None:
    number = int.from_bytes(key[-4:], "big")
    return None if number % every else number


def test_a_filter_that_matches_nothing_ends_the_page_and_not_the_list() -> None:
    """The rows that one request looks at are bounded; the cursor goes on behind them."""
    store = filled(PAGE_ROWS_SCANNED_MAX + 1)
    page: Page[int] = read_page(store, PREFIX, keys.after(PREFIX), {}, lambda key, _: None)
    assert page.items == []
    assert page.next_key is not None
    last = read_page(store, PREFIX, keys.after(PREFIX), {"cursor": page.next_key}, picked_all)
    assert last.items == [PAGE_ROWS_SCANNED_MAX]
    assert last.next_key is None


def picked_none(key: bytes, _: bytes) -> int | None:
    return None


def picked_all(key: bytes, _: bytes) -> int | None:
    return picked(key, 1)


def test_a_cursor_of_another_list_shows_nothing_of_this_one() -> None:
    """A cursor cannot lead a list out of its bounds."""
    store = filled(3)
    stop = keys.after(PREFIX)
    with pytest.raises(Problem) as caught:
        read_page(store, PREFIX, stop, {"cursor": keys.JOB + bytes(16)}, picked_all)
    assert caught.value.code == "invalid_parameter"
    beyond = read_page(store, PREFIX, stop, {"cursor": keys.NAME + b"zzz"}, picked_all)
    assert (beyond.items, beyond.next_key) == ([], None)
    before = {"cursor": keys.NAME + b"\x00"}
    assert read_page(store, PREFIX, stop, before, picked_all).items == [0, 1, 2]
    assert read_page(store, PREFIX, stop, before, picked_all, reverse=True).items == []


# --- Conditions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Conditions(None, None)),
        ({"If-Match": '"3"'}, Conditions(frozenset({3}), True)),
        ({"If-Match": '"3" , "5"'}, Conditions(frozenset({3, 5}), True)),
        ({"If-Match": "*"}, Conditions(None, True)),
        ({"If-Match": 'W/"3"'}, Conditions(frozenset(), True)),
        ({"If-Match": '"other"'}, Conditions(frozenset(), True)),
        ({"If-None-Match": "*"}, Conditions(None, False)),
    ],
)
def test_conditions_are_read_as_their_standard_says(
    headers: dict[str, str], expected: Conditions
) -> None:
    """RFC 9110, section 13.1: weak and foreign tags match nothing."""
    assert read_conditions(headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"If-Match": "3"},
        {"If-Match": ""},
        {"If-Match": '"3'},
        {"If-Match": '"3",'},
        {"If-None-Match": '"3"'},
        {"If-None-Match": "*", "If-Match": "*"},
    ],
)
def test_conditions_that_cannot_be_read_are_refused(headers: dict[str, str]) -> None:
    """A precondition is never ignored."""
    with pytest.raises(Problem) as caught:
        read_conditions(headers)
    assert caught.value.code == "invalid_header"


@pytest.mark.parametrize(
    ("conditions", "revision", "met"),
    [
        (Conditions(None, None), None, True),
        (Conditions(None, True), None, False),
        (Conditions(None, True), 7, True),
        (Conditions(None, False), None, True),
        (Conditions(None, False), 7, False),
        (Conditions(frozenset({7}), True), 7, True),
        (Conditions(frozenset({7}), True), 8, False),
        (Conditions(frozenset({7}), True), None, False),
    ],
)
def test_a_condition_holds_or_not(conditions: Conditions, revision: int | None, met: bool) -> None:
    """`If-Match` needs a job at that revision, `If-None-Match: *` needs none."""
    assert conditions.met_by(revision) == met
    assert format_tag(7) == '"7"'


# --- Idempotency keys --------------------------------------------------------------------


def test_the_same_word_for_another_operation_is_another_key() -> None:
    """A key belongs to the method and route that it was sent to."""
    first = Repeatable("POST /v1/jobs", "k").request_key(b"body")
    assert first == Repeatable("POST /v1/jobs", "k").request_key(b"body")
    assert len(first.key_hash) == len(first.request_hash) == 16
    others = [
        Repeatable("POST /v1/jobs", "l").request_key(b"body"),
        Repeatable("POST /v1/jobs:batch", "k").request_key(b"body"),
        Repeatable("POST /v1/jobs", "k").request_key(b"body", 0),
        Repeatable("POST /v1/jobs", "k").request_key(b"body", 1),
    ]
    assert len({first.key_hash, *(other.key_hash for other in others)}) == 5
    assert Repeatable("POST /v1/jobs", "k").request_key(b"x").request_hash != first.request_hash


@pytest.mark.parametrize("key", ["", "x" * 256, "ä", "a\x7f"])
def test_a_key_that_is_empty_long_or_not_ascii_is_refused(key: str) -> None:
    """A key has 1 to 255 visible characters."""
    with pytest.raises(Problem) as caught:
        read_key(key, "POST /v1/jobs")
    assert caught.value.code == "invalid_header"


def test_a_request_without_a_key_has_none() -> None:
    """Idempotency is asked for."""
    assert read_key(None, "POST /v1/jobs") is None
    assert read_key("x" * 255, "POST /v1/jobs") is not None
