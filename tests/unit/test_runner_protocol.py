"""The frames between a node and its runner."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.runner.limits import FRAME_BYTES_MAX, OUTPUT_BYTES_MAX
from node.runner.protocol import (
    LENGTH_BYTES,
    Ended,
    FrameError,
    FromNode,
    Kill,
    Launch,
    Lease,
    LeaseHeld,
    OutputTail,
    Ready,
    Started,
    Stuck,
    encode_frame,
    node_frames,
    runner_frames,
)

FROM_NODE: list[FromNode] = [
    Launch(
        attempt_id="run/1",
        argv=["sh", "-c", "exit 3"],
        env={"A": "ä"},
        stdin=b"\x00\xff",
        timeout_ms=5,
        must_stop_with_lease=False,
    ),
    Kill(attempt_id="run/1", cause="cancelled", reason="Asked for.", grace_ms=None),
    Lease(until_s=1234.5),
]
FROM_RUNNER = [
    Ready(containment="processes", detail="No cgroups.", swept=2, attempts_max=9),
    LeaseHeld(until_s=1234.5),
    Started(attempt_id="run/1", pid=7, started_ms=1),
    OutputTail(attempt_id="run/1", offset=3, data=b"x"),
    Stuck(attempt_id="run/1", detail="Still there."),
    Ended(attempt_id="run/1", cause="exited", detail="", exit_code=0, ended_ms=2, output=b"\xff"),
]


def frame(body: bytes) -> bytes:
    """Return a frame of any body."""
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def test_every_message_comes_out_as_it_went_in() -> None:
    """Both directions know all of their kinds."""
    assert list(node_frames().feed(b"".join(map(encode_frame, FROM_NODE)))) == FROM_NODE
    assert list(runner_frames().feed(b"".join(map(encode_frame, FROM_RUNNER)))) == FROM_RUNNER


@given(st.lists(st.integers(min_value=1, max_value=40), min_size=1))
def test_a_stream_may_be_divided_anywhere(sizes: list[int]) -> None:
    """Frames are put together from whatever pieces the socket delivers."""
    stream = b"".join(map(encode_frame, FROM_NODE))
    reader = node_frames()
    got: list[FromNode] = []
    for size in sizes:
        piece, stream = stream[:size], stream[size:]
        got += reader.feed(piece)
    got += reader.feed(stream)
    assert got == FROM_NODE


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x00\x00\x00\x00", "0 bytes"),
        ((FRAME_BYTES_MAX + 1).to_bytes(4, "big"), "bytes, of 1 to"),
        (b"\xff\xff\xff\xff", "bytes, of 1 to"),
        (frame(b"\xc1"), "no message"),
        (frame(b"\x93\x01"), "no message"),
        (frame(msgspec.msgpack.encode({"type": "format_disk"})), "no message"),
        (frame(msgspec.msgpack.encode({"type": "lease"})), "no message"),
        (frame(msgspec.msgpack.encode({"type": "lease", "until_s": "soon"})), "no message"),
        (frame(msgspec.msgpack.encode({"type": "lease", "until_s": 1.0, "x": 1})), "no message"),
        (frame(encode_frame(Lease(until_s=1.0))[LENGTH_BYTES:] + b"\x00"), "no message"),
        (frame(b"\x91" * 5000), "no message"),
        (frame(msgspec.msgpack.encode({"type": "lease", "until_s": 1.0})[:-1]), "no message"),
    ],
)
def test_what_is_no_message_is_an_error(data: bytes, complaint: str) -> None:
    """Empty, endless, damaged, unknown, incomplete and surplus are refused."""
    with pytest.raises(FrameError, match=complaint):
        list(node_frames().feed(data))


@given(st.binary(max_size=200))
def test_random_bytes_never_do_worse_than_a_frame_error(data: bytes) -> None:
    """Whatever arrives, nothing but FrameError is raised."""
    try:
        list(node_frames().feed(frame(data or b"\x00")))
    except FrameError:
        return


def test_messages_before_a_damaged_one_are_delivered() -> None:
    """The error comes where the damage is."""
    reader = node_frames()
    messages = reader.feed(encode_frame(FROM_NODE[2]) + frame(b"\xc1"))
    assert next(messages) == FROM_NODE[2]
    with pytest.raises(FrameError):
        next(messages)


def test_a_message_that_is_too_long_is_not_sent() -> None:
    """The sender finds out, not the receiver."""
    huge = Launch(attempt_id="a", argv=["x"], stdin=b"x" * FRAME_BYTES_MAX)
    with pytest.raises(FrameError, match="longer than"):
        encode_frame(huge)


@pytest.mark.parametrize("launch", [{"argv": ["\ud800"]}, {"argv": ["x"], "grace_ms": 2**70}])
def test_a_message_without_a_msgpack_form_is_not_sent(launch: dict[str, object]) -> None:
    """Half a surrogate pair and a number beyond 64 bits are named errors."""
    message = Launch(attempt_id="a", **launch)  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="no msgpack form"):
        encode_frame(message)


def test_the_largest_end_fits_into_a_frame() -> None:
    """Full output and the longest sentence leave room."""
    end = Ended(
        attempt_id="a" * 100,
        cause="exited",
        detail="ü" * 1000,
        ended_ms=1,
        output=b"x" * OUTPUT_BYTES_MAX,
    )
    assert list(runner_frames().feed(encode_frame(end))) == [end]
