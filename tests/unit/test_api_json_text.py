"""JSON from strangers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.json_text import DEPTH_MAX, canonical, parse_json
from api.problems import Problem

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=9,
)


def refused(body: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        parse_json(body)
    assert caught.value.code == "malformed_json"
    return caught.value


@given(DOCUMENTS, st.booleans())
def test_valid_json_is_read_as_the_standard_library_reads_it(
    document: object, escaped: bool
) -> None:
    """Strictness refuses nothing that RFC 8259 calls interoperable."""
    body = json.dumps(document, ensure_ascii=escaped).encode()
    assert parse_json(body) == document


@given(DOCUMENTS)
def test_equal_documents_have_one_canonical_form(document: object) -> None:
    """Neither the order of members nor white space makes two requests different."""
    one = parse_json(json.dumps(document, indent=2).encode())
    other = parse_json(json.dumps(document, sort_keys=True).encode())
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{]",
        b"[1,]",
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        b"01",
        b"1 2",
        b'{"a":1}{"b":2}',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\ud800 and something behind"',
        b'"a\x00b"',
        b'"unfinished',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b"1e999",
        b"1" * 4_000,
        b"1" * 100_000,
        b"/* */ {}",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """NaN, broken texts, other encodings and trailing characters are malformed."""
    assert refused(body).detail


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (b'{"a":1,"a":1}', ["/a"]),
        (b'{"a":{"b":1,"c":[{"d":1,"d":2}],"b":2},"x":1,"x":1}', ["/x", "/a/b", "/a/c/0/d"]),
        (b'{"a":1,"\\u0061":2}', ["/a"]),
        (b'{"a":"\\u003a","b":1,"b":1}', ["/b"]),
        (b'{"a/b":1,"a/b":1,"~":2,"~":3}', ["/a~1b", "/~0"]),
        (b'[18446744073709551616,{"n":-9223372036854775809}]', ["/0", "/1/n"]),
    ],
)
def test_repeated_members_and_huge_numbers_are_named_by_their_place(
    body: bytes, pointers: list[str]
) -> None:
    """All such faults are found at once, each with its pointer."""
    assert [fault.pointer for fault in refused(body).errors] == pointers


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused_at_any_depth(opening: bytes) -> None:
    """A document of the greatest depth is read, anything deeper is refused, without a crash."""
    closing = b"]" if opening == b"[" else b"}"
    parse_json(opening * DEPTH_MAX + b"0" + closing * DEPTH_MAX)
    for depth in (DEPTH_MAX + 1, 900, 5_000, 100_000):
        problem = refused(opening * depth + b"0" + closing * depth)
        assert str(DEPTH_MAX) in problem.detail


def test_many_repeated_members_take_no_time() -> None:
    """The work is linear in the size of the body, and the answer is bounded."""
    body = b"{" + b",".join(b'"a":1' for _ in range(100_000)) + b"}"
    assert len(refused(body).errors) == 1
    several = b"[" + b",".join(b'{"a":1,"a":2}' for _ in range(10_000)) + b"]"
    assert len(refused(several).errors) == 50
