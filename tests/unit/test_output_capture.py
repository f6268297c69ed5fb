"""The bounded capture keeps the beginning and the end of any output."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.output import MARKED_BYTES_MIN, OutputCapture

MARK = re.compile(rb"\n\[\.\.\. (\d+) bytes cut \.\.\.\]\n")


def capture(chunks: list[bytes], bytes_max: int) -> OutputCapture:
    """Return a capture that was given all chunks."""
    kept = OutputCapture(bytes_max)
    for chunk in chunks:
        kept.append(chunk)
    return kept


def test_output_within_the_limit_is_kept_whole() -> None:
    """Exactly `bytes_max` bytes are not cut."""
    kept = capture([b"a" * 500, b"b" * 500], 1000)
    assert kept.render() == b"a" * 500 + b"b" * 500
    assert kept.total == 1000


def test_one_byte_more_than_the_limit_is_cut_and_marked() -> None:
    """The mark counts its own room as missing."""
    text = bytes(range(250)) * 4 + b"!"
    shown = capture([text], 1000).render()
    assert len(shown) <= 1000
    assert MARK.search(shown)
    assert shown.startswith(text[:250])
    assert shown.endswith(text[-600:])


def test_the_mark_stands_on_a_line_of_its_own_between_head_and_tail() -> None:
    """A reader finds the beginning, how much is missing, and the end."""
    shown = capture([b"begin" + b"." * 10_000 + b"end"], 200).render()
    head, _, tail = MARK.split(shown)
    assert head == b"begin" + b"." * 45
    assert tail.endswith(b"...end")


def test_a_limit_too_small_for_the_mark_keeps_the_end_alone() -> None:
    """No room is spent on a mark that would be longer than what it separates."""
    assert capture([b"0123456789" * 100], 10).render() == b"0123456789"


def test_nothing_is_kept_with_a_limit_of_zero() -> None:
    """The stream is still counted."""
    kept = capture([b"abc", b"def"], 0)
    assert kept.render() == b""
    assert kept.total == 6


def test_a_negative_limit_is_refused() -> None:
    """A limit is a number of bytes."""
    with pytest.raises(ValueError, match="must not be negative"):
        OutputCapture(-1)


@given(
    st.lists(st.binary(max_size=300), max_size=30),
    st.integers(min_value=0, max_value=600),
)
def test_what_is_kept_and_what_is_cut_add_up(chunks: list[bytes], bytes_max: int) -> None:
    """However output is divided, head and tail are its ends and the count is exact."""
    whole = b"".join(chunks)
    kept = capture(chunks, bytes_max)
    shown = kept.render()
    assert kept.total == len(whole)
    assert len(shown) <= bytes_max
    if len(whole) <= bytes_max:
        assert shown == whole
    elif bytes_max < MARKED_BYTES_MIN:
        assert shown == whole[len(whole) - bytes_max :]
    else:
        head = whole[: bytes_max // 4]
        assert shown.startswith(head)
        # The output itself may look like a mark; ours follows the head.
        mark = MARK.match(shown, len(head))
        assert mark is not None
        tail = shown[mark.end() :]
        assert whole.endswith(tail)
        assert len(head) + int(mark[1]) + len(tail) == len(whole)
