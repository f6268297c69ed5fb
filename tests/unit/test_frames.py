"""Frames mean exactly one thing, and bytes that are not frames are refused."""

from __future__ import annotations

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import frames
from consensus.frames import Envelope, FrameError

NUMBERS = st.integers(0, 2**63 - 1)
INDEXES = st.integers(1, 2**40)
NAMES = st.text(min_size=1, max_size=frames.NAME_CHARS_MAX)


@st.composite
def appends(draw: st.DrawFn) -> tuple[int, frames.Append]:
    """An append with a log that could be one, and the term it is sent in."""
    prev_index, term = draw(INDEXES), draw(st.integers(0, 5))
    records: list[frames.Record] = []
    prev_term = term
    for number, payload in enumerate(draw(st.lists(st.binary(min_size=1), max_size=5)), 1):
        term += draw(st.integers(0, 2))
        records.append((payload, prev_index + number, term))
    message = frames.Append(draw(NUMBERS), prev_index, prev_term, draw(NUMBERS), records)
    return term + draw(st.integers(0, 3)), message


OTHERS = st.one_of(
    st.builds(frames.Hello, st.binary(min_size=16, max_size=16), NUMBERS),
    st.builds(frames.AppendAnswer, NUMBERS, NUMBERS, st.booleans(), NUMBERS),
    st.builds(frames.VoteRequest, NUMBERS, NUMBERS, st.booleans()),
    st.builds(frames.Vote),
    st.builds(frames.PreVoteRequest, NUMBERS, NUMBERS),
    st.builds(frames.PreVote, NUMBERS, st.booleans()),
    st.builds(frames.StaleTerm),
    st.builds(frames.TimeoutNow),
    st.builds(frames.SnapshotRequired, NUMBERS),
    st.builds(frames.SnapshotRequest, st.binary(min_size=16, max_size=16), NUMBERS, st.booleans()),
    st.builds(
        frames.SnapshotChunk, st.binary(min_size=16, max_size=16), NUMBERS, st.binary(min_size=1)
    ),
    st.builds(frames.SnapshotAbort, st.binary(min_size=16, max_size=16), st.text(max_size=1000)),
    st.builds(frames.Refusal, st.text(max_size=frames.REASON_CHARS_MAX)),
    st.builds(frames.Application, st.binary(max_size=5000)),
)


def envelope(term: int, message: frames.Message) -> Envelope:
    return Envelope(frames.WIRE_VERSION, "c", "m", 7, term, message)


@given(NAMES, NAMES, NUMBERS, st.one_of(appends(), st.tuples(NUMBERS, OTHERS)))
def test_every_message_comes_back_as_it_was_sent(
    cluster: str, member: str, epoch: int, sent: tuple[int, frames.Message]
) -> None:
    """Decoding is the inverse of encoding."""
    term, message = sent
    original = Envelope(frames.WIRE_VERSION, cluster, member, epoch, term, message)
    assert frames.decode(frames.encode(original)) == original


def test_the_wire_format_is_plain_messagepack() -> None:
    """Another implementation reads a frame as nested arrays, in this order."""
    append = frames.Append(3, 10, 2, 9, [(b"\x00cmd", 11, 2)])
    assert msgpack.unpackb(frames.encode(envelope(2, append))) == [
        frames.WIRE_VERSION, "c", "m", 7, 2, [1, 3, 10, 2, 9, [[b"\x00cmd", 11, 2]]],
    ]  # fmt: skip


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_a_reason(content: bytes) -> None:
    """Nothing but a frame is read as one, and nothing else is raised."""
    with pytest.raises(FrameError):
        frames.decode(content)


@given(st.one_of(appends(), st.tuples(NUMBERS, OTHERS)), st.data())
def test_a_damaged_frame_is_refused_or_well_formed(
    sent: tuple[int, frames.Message], data: st.DataObject
) -> None:
    """A changed byte gives another valid envelope or a refusal, never another error."""
    content = bytearray(frames.encode(envelope(*sent)))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        again = frames.decode(bytes(content))
    except FrameError:
        return
    assert frames.decode(frames.encode(again)) == again


@pytest.mark.parametrize(
    "content",
    [
        [2, "c", "m", 7, 2, [4]],
        [1, "c", "m", 7, 2, [99]],
        [1, "c", "m", 7, 2, [4, "more"]],
        [1, "c", "m", 7, 2, [4], "more"],
        [1, "c", "m", 7, -1, [4]],
        [1, "c", "m", 2**63, 1, [4]],
        [1, "", "m", 7, 2, [4]],
        [1, "c", "m" * 200, 7, 2, [4]],
        [1, "c", "m", 7.0, 2, [4]],
        [1, "c", "m", 7, 2, [3, 1, 1]],
        [1, "c", "m", 7, 2, [3, 1, 1, "yes"]],
        [1, "c", "m", 7, 2, [0, b"short", 1]],
        [1, "c", "m", 7, 2, [1, 3, 10, 2, 9, [[b"x", 12, 2]]]],
        [1, "c", "m", 7, 2, [1, 3, 10, 2, 9, [[b"x", 11, 3]]]],
        [1, "c", "m", 7, 2, [1, 3, 10, 2, 9, [[b"x", 11, 1]]]],
        [1, "c", "m", 7, 2, [1, 3, 10, 2, 9, [[b"", 11, 2]]]],
        [1, "c", "m", 7, 2, [1, 3, 10, 2, 9, [["x", 11, 2]]]],
        {"version": 1},
    ],
)
def test_a_frame_that_contradicts_itself_is_refused(content: object) -> None:
    """Versions, kinds, surplus fields, ranges, types and the order of entries are checked."""
    with pytest.raises(FrameError):
        frames.decode(msgpack.packb(content))
