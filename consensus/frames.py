"""What members say to each other, and how it looks on the wire.

A frame is one MessagePack array, read by a strict schema: an unknown kind, a missing or
surplus field, a number out of range or a record out of order is refused before anything
acts on it, and nothing on the wire can name a type to be built. Every frame carries who
sent it, in which cluster, over which connection and in which term; the receiver compares
all four with what it knows before it looks at the message.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

import msgspec

from consensus import features
from storage.snapshot_format import CHUNK_BYTES_MAX

# What a release can read and write on the wire is what feature levels it supports. A
# message never changes; a newer form is a message of its own, and is said only in sessions
# that have agreed on its level.
WIRE_MINIMUM, WIRE_VERSION = features.MINIMUM, features.CURRENT

NAME_CHARS_MAX = 128
ADDRESS_CHARS_MAX = 300
REASON_CHARS_MAX = 1000
RECORDS_MAX = 65_536

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Record: TypeAlias = tuple[Annotated[bytes, msgspec.Meta(min_length=1)], Number, Number]

SnapshotId: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
# A chunk and its head, see `storage.snapshot_format`.
SNAPSHOT_CHUNK_BYTES_MAX = CHUNK_BYTES_MAX + 64


class FrameError(Exception):
    """The bytes are not a frame of this version; whoever sent them is not to be listened to."""


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A message travels as an array whose first element is its tag."""


class Hello(_Message, frozen=True, tag=0):
    """Open a session: the first frame of a connection, in both directions.

    It says which levels the sender speaks: from its envelope's version to `highest`. With
    `seat_id` the disk is remembered for the seat that its member holds, and for no other
    that its name has had or will have. It and a refusal have to be read by all releases, and
    so they never change.
    """

    disk_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    last_index: Number
    highest: Number = 1
    seat_id: Annotated[bytes, msgspec.Meta(max_length=16)] = b""


class Append(_Message, frozen=True, tag=1):
    """Leader to follower: continue your log behind (`prev_index`, `prev_term`) with these.

    Without records it is the heartbeat. `sequence` numbers the leader's messages, so that
    it can tell which of them an answer is about.
    """

    sequence: Number
    prev_index: Number
    prev_term: Number
    commit_index: Number
    records: Annotated[list[Record], msgspec.Meta(max_length=RECORDS_MAX)]


class AppendAnswer(_Message, frozen=True, tag=2):
    """Follower to leader: I have what you sent up to before `next_index`, or I do not.

    Where `matched` is false, `next_index` is behind the follower's committed entries,
    from where the two logs are certain to agree.
    """

    sequence: Number
    prev_index: Number
    matched: bool
    next_index: Number


class VoteRequest(_Message, frozen=True, tag=3):
    """Candidate to all: vote for me in this frame's term.

    `transfer` says that the leader itself asked for the election.
    """

    last_index: Number
    last_term: Number
    transfer: bool


class Vote(_Message, frozen=True, tag=4):
    """You have my vote for this frame's term."""


class PreVoteRequest(_Message, frozen=True, tag=5):
    """Would you vote for me in the term after this frame's? Nothing changes by asking."""

    last_index: Number
    last_term: Number


class PreVote(_Message, frozen=True, tag=6):
    """The answer to `PreVoteRequest` for the term that was asked about."""

    asked_term: Number
    granted: bool


class StaleTerm(_Message, frozen=True, tag=7):
    """What you sent belongs to a term that is over; this frame carries the newer one."""


class TimeoutNow(_Message, frozen=True, tag=8):
    """Leader to the member that is to lead next: start an election at once."""


class SnapshotRequired(_Message, frozen=True, tag=9):
    """Leader to follower: the entries you lack are gone; my log begins at `first_index`."""

    first_index: Number


class Refusal(_Message, frozen=True, tag=10):
    """You cannot take part as you are, and here is why."""

    reason: Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)]


class SnapshotRequest(_Message, frozen=True, tag=20):
    """Follower to leader: send me a snapshot, under this name that I have given it.

    Everything below `next_chunk` is stored; the first request has 0. With `again`, what
    was sent beyond it is lost and has to be sent once more.
    """

    snapshot: SnapshotId
    next_chunk: Number
    again: bool


class SnapshotChunk(_Message, frozen=True, tag=21):
    """Leader to follower: one chunk in the form of `storage.snapshot_format`."""

    snapshot: SnapshotId
    number: Number
    content: Annotated[bytes, msgspec.Meta(min_length=1, max_length=SNAPSHOT_CHUNK_BYTES_MAX)]


class SnapshotAbort(_Message, frozen=True, tag=22):
    """Either to the other: this transfer is over without success."""

    snapshot: SnapshotId
    reason: Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)]


class Application(_Message, frozen=True, tag=11):
    """A message of the layer above; it may be lost and waits for no disk."""

    payload: bytes


Message: TypeAlias = (
    Hello
    | Append
    | AppendAnswer
    | VoteRequest
    | Vote
    | PreVoteRequest
    | PreVote
    | StaleTerm
    | TimeoutNow
    | SnapshotRequired
    | Refusal
    | SnapshotRequest
    | SnapshotChunk
    | SnapshotAbort
    | Application
)


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A message with its sender, as it travels."""

    version: Number
    cluster: Name
    member: Name
    # Which of the sender's connections to this receiver it is; grows with each.
    epoch: Number
    # The sender's term when it wrote the message; 0 where the message speaks of no term.
    term: Number
    message: Message


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)
# Text that is not UTF-8 is reported by an error of its own.
_NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError)


def encode(envelope: Envelope) -> bytes:
    """Return the frame of an envelope."""
    return _encoder.encode(envelope)


def decode(frame: bytes) -> Envelope:
    """Return the envelope in a frame.

    Raises:
        FrameError: it is not exactly one well-formed envelope of a version that this
            release speaks.
    """
    try:
        envelope = _decoder.decode(frame)
    except _NOT_DECODED as error:
        raise FrameError(f"The frame cannot be read: {error}") from error
    opening = isinstance(envelope.message, Hello | Refusal)
    if not opening and not WIRE_MINIMUM <= envelope.version <= WIRE_VERSION:
        raise FrameError(
            f"The frame has wire version {envelope.version}, and this member speaks "
            f"{WIRE_MINIMUM} to {WIRE_VERSION}."
        )
    if isinstance(envelope.message, Append):
        _check_records(envelope.term, envelope.message)
    return envelope


def _check_records(term: int, message: Append) -> None:
    last_index, last_term = message.prev_index, message.prev_term
    for _, index, record_term in message.records:
        if index != last_index + 1 or not last_term <= record_term <= term:
            raise FrameError(
                f"The frame of term {term} has entry {index} of term {record_term} right after "
                f"entry {last_index} of term {last_term}."
            )
        last_index, last_term = index, record_term


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    """The first bytes of a connection: who dials, whom it means to reach, what it speaks.

    For the last three fields see `consensus.raft.types.Introduction`. Both hands are read by
    all releases: they may grow at their end, and what is surplus is ignored.
    """

    wire_version: Number
    cluster: Name
    sender: Name
    receiver: Name
    wire_minimum: Number = 1
    seat_id: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    configuration: Number = 0
    address: Annotated[str, msgspec.Meta(max_length=ADDRESS_CHARS_MAX)] = ""


class Welcome(msgspec.Struct, frozen=True, array_like=True):
    """The only bytes that come back: who was reached, and why not, if it does not listen.

    `removed` says that the dialer has no seat in the cluster any more.
    """

    cluster: Name
    member: Name
    refusal: Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)]
    removed: bool = False


_Hand = TypeVar("_Hand", Greeting, Welcome)


def encode_hand(hand: Greeting | Welcome) -> bytes:
    """Return the bytes of one side of the handshake."""
    return _encoder.encode(hand)


def decode_hand(content: bytes, kind: type[_Hand]) -> _Hand:
    """Return one side of the handshake.

    Raises:
        FrameError: the bytes are something else.
    """
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except _NOT_DECODED as error:
        raise FrameError(f"The handshake cannot be read: {error}") from error
