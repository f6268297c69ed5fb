"""The two kinds of connections: accepted ones, which are read, and dialed ones, which are written.

A frame on the wire is its length in four bytes and its content. The first one in each
direction is the handshake; after it, frames flow from the dialer to the acceptor alone.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Protocol, cast

from consensus import frames
from consensus.raft.types import Introduction, RaftSettings

HEADER = struct.Struct(">I")
HANDSHAKE_S_MAX = 2.0
HANDSHAKE_BYTES_MAX = 4096


class PeerRefused(Exception):
    """The other end is not who it has to be, or does not take us for a member.

    `removed` says that one of the two has no seat in the cluster any more.
    """

    def __init__(self, reason: str, *, removed: bool = False) -> None:
        super().__init__(reason)
        self.removed = removed


class Network(Protocol):
    """What a link needs of the network it belongs to; see `consensus.network.peers.PeerNetwork`."""

    member: str
    cluster: str
    settings: RaftSettings

    def admit_stranger(self, link: Accepted) -> None: ...
    def identify(self, transport: asyncio.BaseTransport) -> str | None: ...
    def greet(self, link: Accepted, proven: str | None, greeting: frames.Greeting) -> str: ...
    def introduction(self) -> Introduction: ...
    def told_removed(self, member: str, reason: str) -> None: ...
    def ready(self, member: str) -> None: ...
    def received(self, link: Accepted, member: str, frame: bytes) -> None: ...
    def lost(self, link: Accepted | Dialed) -> None: ...


class _Link(asyncio.Protocol):
    """Cuts what arrives into frames; a handshake that takes too long ends the connection."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._buffer = bytearray()
        self._bytes_max = HANDSHAKE_BYTES_MAX
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's without deriving from them.
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_S_MAX, self.abort)
        try:
            self.begin()
        except PeerRefused as refusal:
            self.refuse(refusal)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        consumed = 0
        while len(self._buffer) - consumed >= HEADER.size and not self._transport.is_closing():
            (size,) = HEADER.unpack_from(self._buffer, consumed)
            if size > self._bytes_max:
                self.refuse(PeerRefused(f"A frame of {size} bytes exceeds {self._bytes_max}."))
                break
            end = consumed + HEADER.size + size
            if end > len(self._buffer):
                break
            try:
                self.frame(bytes(self._buffer[consumed + HEADER.size : end]))
            except PeerRefused as refusal:
                self.refuse(refusal)
            except frames.FrameError as error:
                self.refuse(PeerRefused(str(error)))
            consumed = end
        del self._buffer[:consumed]

    def connection_lost(self, error: Exception | None) -> None:
        self.shaken()
        self._network.lost(self)  # type: ignore[arg-type]

    def shaken(self) -> None:
        """The handshake is over, one way or the other."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def abort(self) -> None:
        """Close the connection without sending what is queued."""
        self._transport.abort()

    def begin(self) -> None:
        """Begin the handshake."""
        raise NotImplementedError

    def frame(self, content: bytes) -> None:
        """Take one frame."""
        raise NotImplementedError

    def refuse(self, refusal: PeerRefused) -> None:
        """Close the connection for a reason."""
        raise NotImplementedError


class Accepted(_Link):
    """A connection that another member has dialed: it speaks, we listen."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._proven: str | None = None
        self._member: str | None = None

    def begin(self) -> None:
        self._network.admit_stranger(self)
        self._proven = self._network.identify(self._transport)

    def frame(self, content: bytes) -> None:
        if self._member is not None:
            self._network.received(self, self._member, content)
            return
        greeting = frames.decode_hand(content, frames.Greeting)
        member = self._network.greet(self, self._proven, greeting)
        self.shaken()
        self._bytes_max = self._network.settings.frame_bytes_max
        self._answer("")
        self._member = member
        self._network.ready(member)

    def refuse(self, refusal: PeerRefused) -> None:
        if self._member is None:
            self._answer(str(refusal), removed=refusal.removed)
        self._transport.close()

    def _answer(self, refusal: str, *, removed: bool = False) -> None:
        reason = refusal[: frames.REASON_CHARS_MAX]
        welcome = frames.Welcome(
            self._network.cluster, self._network.member, reason, removed=removed
        )
        content = frames.encode_hand(welcome)
        self._transport.write(HEADER.pack(len(content)) + content)


class Dialed(_Link):
    """A connection that we have dialed: we speak, and hear nothing but the welcome."""

    def __init__(self, network: Network, member: str) -> None:
        super().__init__(network)
        self._member = member
        loop = asyncio.get_running_loop()
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    @property
    def queued_bytes(self) -> int:
        """Return what the socket has not taken yet."""
        return self._transport.get_write_buffer_size()

    def send(self, frame: bytes) -> None:
        """Queue a frame."""
        self._transport.write(HEADER.pack(len(frame)) + frame)

    def begin(self) -> None:
        proven = self._network.identify(self._transport)
        if proven not in (None, self._member):
            raise PeerRefused(f"At its address {proven!r} answers.")
        introduction = self._network.introduction()
        greeting = frames.Greeting(
            frames.WIRE_VERSION,
            self._network.cluster,
            self._network.member,
            self._member,
            frames.WIRE_MINIMUM,
            seat_id=introduction.seat_id,
            configuration=introduction.configuration,
            address=introduction.address,
        )
        self.send(frames.encode_hand(greeting))

    def frame(self, content: bytes) -> None:
        if self.welcomed.done():
            raise PeerRefused("It speaks where it should listen.")
        welcome = frames.decode_hand(content, frames.Welcome)
        ours = (welcome.cluster, welcome.member) == (self._network.cluster, self._member)
        if welcome.refusal:
            if welcome.removed and ours:
                self._network.told_removed(self._member, welcome.refusal)
            raise PeerRefused(f"It refuses: {welcome.refusal}")
        if not ours:
            raise PeerRefused(
                f"At its address member {welcome.member!r} of {welcome.cluster!r} answers."
            )
        self.shaken()
        self.welcomed.set_result(None)

    def refuse(self, refusal: PeerRefused) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(refusal)
        self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.welcomed.done():
            self.welcomed.set_exception(PeerRefused(f"The connection was lost ({error})."))
        # Whoever waited may have given up; then nobody asks for the reason.
        self.welcomed.exception()
        if not self.closed.done():
            self.closed.set_result(None)
