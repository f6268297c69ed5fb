"""What the node and its runner say to each other, and how it is framed.

The two share a socket pair, a machine, a clock and one installation, so the messages need
neither versions nor negotiation. A frame is four bytes of length, big endian, and one
msgpack map whose `type` names its kind. Fields are checked when a frame is decoded; a
frame that is too long, damaged or unknown is an error that ends the runner (and with it
everything it launched), for after it nothing on the connection can be trusted. What a user
may have written wrongly is no such error: it comes back as an attempt that could not start.

Instants that end in `_s` are seconds of CLOCK_BOOTTIME, which both processes read;
instants that end in `_ms` are wall-clock time, for people; durations are measured on the
former.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Literal, TypeVar

import msgspec

from node.runner.limits import FRAME_BYTES_MAX

Cause = Literal["exited", "killed", "timeout", "lease", "cancelled", "spawn_failed"]
KillCause = Literal["killed", "cancelled"]
Containment = Literal["cgroup", "processes"]

LENGTH_BYTES = 4


class FrameError(Exception):
    """The bytes on the connection are not a message of this protocol."""


class Message(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True
):
    """A message of either direction."""


# --- from the node --------------------------------------------------------------------


class Launch(Message, frozen=True, kw_only=True, tag="launch"):
    """Start a command.

    `env` is its whole environment apart from a few harmless variables of the runner's own
    (`spawn.INHERITED_VARIABLES`), which it may override. `stdin` is given whole; without
    any, the command reads an end of file. No shell is involved unless `argv` names one, and
    a relative `argv[0]` is looked up in the environment's PATH. With `follow`, output is
    also sent while it arrives.
    """

    attempt_id: str
    argv: list[str]
    env: dict[str, str] = {}
    cwd: str = "/"
    stdin: bytes = b""
    timeout_ms: int | None = None
    grace_ms: int = 10_000
    output_bytes_max: int = 256 * 1024
    must_stop_with_lease: bool = True
    follow: bool = False


class Kill(Message, frozen=True, kw_only=True, tag="kill"):
    """End an attempt: SIGTERM, the grace (the launch's own if None), SIGKILL.

    `cause` is what the end will report, `reason` its sentence. A second Kill can shorten
    the grace and never lengthens it. An attempt that has ended is no error.
    """

    attempt_id: str
    cause: KillCause
    reason: str
    grace_ms: int | None = None


class Lease(Message, frozen=True, kw_only=True, tag="lease"):
    """Say until when the node's lease is good; the last one said counts, also an earlier one."""

    until_s: float


FromNode = Launch | Kill | Lease

# --- from the runner ------------------------------------------------------------------


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """The first message: the lock is held and nothing of an earlier runner is left alive.

    `detail` says why a containment was chosen; `swept` counts leftovers that were killed;
    `attempts_max` is how many attempts it has descriptors for at once.
    """

    containment: Containment
    detail: str
    swept: int
    attempts_max: int


class LeaseHeld(Message, frozen=True, kw_only=True, tag="lease_held"):
    """Confirm that the runner now guards this lease."""

    until_s: float


class Started(Message, frozen=True, kw_only=True, tag="started"):
    """The command's program runs."""

    attempt_id: str
    pid: int
    started_ms: int


class OutputTail(Message, frozen=True, kw_only=True, tag="output"):
    """Output as it arrives; `offset` is the place of its first byte in the whole stream.

    A gap before `offset` is output that came faster than it is passed on.
    """

    attempt_id: str
    offset: int
    data: bytes


class Stuck(Message, frozen=True, kw_only=True, tag="stuck"):
    """An attempt that was killed is not dead; its end will be told when it is."""

    attempt_id: str
    detail: str


class Ended(Message, frozen=True, kw_only=True, tag="ended"):
    """An attempt is over: no process of it is left, unless `detail` names the ones that are.

    `cause` is why it ended: `exited` by itself, whatever its status; `spawn_failed` and, if
    `started_ms` is None, `lease`, `killed` and `cancelled` mean that it never ran. One of
    `exit_code` and `signal` is set if it ran. stdout and stderr are one stream in the order
    of arrival; `output` is what was kept of it.
    """

    attempt_id: str
    cause: Cause
    detail: str
    exit_code: int | None = None
    signal: int | None = None
    started_ms: int | None = None
    ended_ms: int
    duration_ms: int = 0
    output: bytes = b""
    output_total_bytes: int = 0


FromRunner = Ready | LeaseHeld | Started | OutputTail | Stuck | Ended

# --- framing --------------------------------------------------------------------------

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: Message) -> bytes:
    """Return the frame of a message.

    Raises:
        FrameError: it is longer than FRAME_BYTES_MAX or has no msgpack form.
    """
    try:
        body = _encoder.encode(message)
    except (UnicodeError, OverflowError, TypeError) as error:
        raise FrameError(f"A message has no msgpack form: {error}.") from error
    if len(body) > FRAME_BYTES_MAX:
        raise FrameError(f"A message of {len(body)} bytes is longer than {FRAME_BYTES_MAX}.")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameReader(Generic[T]):
    """Cut a stream of bytes into frames and decode them."""

    def __init__(self, kinds: type[T]) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kinds)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """Yield the messages that are complete with `data`, in order.

        Raises:
            FrameError: a frame is empty, too long, damaged or of an unknown kind.
        """
        self._buffer += data
        at = 0
        try:
            while (body := self._body_at(at)) is not None:
                at += LENGTH_BYTES + len(body)
                yield self._decode(body)
        finally:
            del self._buffer[:at]

    def _body_at(self, at: int) -> bytes | None:
        start = at + LENGTH_BYTES
        if len(self._buffer) < start:
            return None
        length = int.from_bytes(self._buffer[at:start], "big")
        if not 0 < length <= FRAME_BYTES_MAX:
            raise FrameError(f"A frame says it has {length} bytes, of 1 to {FRAME_BYTES_MAX}.")
        if len(self._buffer) < start + length:
            return None
        return bytes(self._buffer[start : start + length])

    def _decode(self, body: bytes) -> T:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise FrameError(f"A frame of {len(body)} bytes is no message: {error}.") from error


def node_frames() -> FrameReader[FromNode]:
    """Return the reader of what a node sends."""
    return FrameReader(FromNode)  # type: ignore[arg-type]


def runner_frames() -> FrameReader[FromRunner]:
    """Return the reader of what a runner sends."""
    return FrameReader(FromRunner)  # type: ignore[arg-type]
