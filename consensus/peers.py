"""Connections between members: TCP, mutual TLS, whole frames, bounded queues.

Of two members, the one whose name sorts first dials; the other accepts. So there is one
connection a pair, and a new one replaces the old, which is closed and not read any more.
Who is at the other end is proven by its certificate before a byte of a frame is looked
at; the greeting that follows only says which wire and cluster it believes to be in.

A peer that does not read is cut off when its queue is full: consensus repeats what was
lost, and nothing else may grow.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from consensus.certificates import load_context, peer_member
from consensus.raft_types import Listener
from storage.clock import Environment

logger = logging.getLogger(__name__)

CONNECT_S_MAX = 2.0
HANDSHAKE_S_MAX = 5.0
RETRY_S_MIN, RETRY_S_MAX = 0.1, 1.0
GREETING_BYTES_MAX = 1_024
# Unanswered data, or silence, for this long means that the other end is gone.
SILENCE_MS_MAX = 10_000
_LENGTH = struct.Struct(">I")

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSecurity:
    """The files by which a member proves who it is; see `consensus.certificates`."""

    ca: Path
    certificate: Path
    key: Path


class PeerNetwork:
    """A `consensus.raft_types.Network` over TCP.

    `addresses` has an entry for every member, this one included, which listens there.
    Without `security` anybody may claim to be a member: for tests on loopback.
    """

    def __init__(
        self,
        *,
        member: str,
        cluster: str,
        addresses: Mapping[str, Address],
        security: PeerSecurity | None,
        environment: Environment,
        frame_bytes_max: int,
        send_queue_bytes_max: int,
    ) -> None:
        self.member = member
        self.cluster = cluster
        self.addresses = dict(addresses)
        self.frame_bytes_max = frame_bytes_max
        self.secured = security is not None
        self._queue_bytes_max = send_queue_bytes_max
        self._environment = environment
        self._server_tls: ssl.SSLContext | None = None
        self._client_tls: ssl.SSLContext | None = None
        if security is not None:
            files = (security.ca, security.certificate, security.key)
            self._server_tls = load_context(*files, server=True)
            self._client_tls = load_context(*files, server=False)
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None
        self._links: dict[str, Link] = {}
        self._dialers: list[asyncio.Task[None]] = []

    async def start(self, listener: Listener) -> None:
        """Listen, and dial those members whose names sort behind this one's."""
        self._listener = listener
        loop = asyncio.get_running_loop()
        host, port = self.addresses[self.member]
        self._server = await loop.create_server(
            lambda: Link(self, None),
            host,
            port,
            ssl=self._server_tls,
            ssl_handshake_timeout=HANDSHAKE_S_MAX if self._server_tls else None,
        )
        self._dialers = [
            loop.create_task(self._dial(name)) for name in self.addresses if name > self.member
        ]

    async def stop(self) -> None:
        for task in self._dialers:
            task.cancel()
        await asyncio.gather(*self._dialers, return_exceptions=True)
        self._dialers.clear()
        for link in list(self._links.values()):
            link.abort("this member is stopping")
        if self._server is not None:
            self._server.close()
            self._server = None

    def send(self, member: str, frame: bytes) -> bool:
        link = self._links.get(member)
        if link is None:
            return False
        if link.queued_bytes + len(frame) > self._queue_bytes_max:
            link.abort("its queue is full")
            return False
        link.send(frame)
        return True

    def queued_bytes(self, member: str) -> int:
        link = self._links.get(member)
        return 0 if link is None else link.queued_bytes

    def close(self, member: str, reason: str) -> None:
        link = self._links.get(member)
        if link is not None:
            link.abort(reason)

    # --- Links -----------------------------------------------------------------------------

    async def _dial(self, member: str) -> None:
        """Keep a connection to a member up, for ever."""
        delay_s = RETRY_S_MIN
        while True:
            closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._connect(member, closed), CONNECT_S_MAX)
            except (OSError, TimeoutError) as error:
                logger.debug("Member %s cannot be reached: %s", member, error)
            else:
                await closed
                delay_s = RETRY_S_MIN
            jitter = 0.5 + self._environment.random.random() / 2
            await asyncio.sleep(delay_s * jitter)
            delay_s = min(delay_s * 2, RETRY_S_MAX)

    async def _connect(self, member: str, closed: asyncio.Future[None]) -> None:
        host, port = self.addresses[member]
        await asyncio.get_running_loop().create_connection(
            lambda: Link(self, member, closed), host, port, ssl=self._client_tls
        )

    def established(self, link: Link, member: str) -> None:
        """Take a link into use whose other end is proven; it replaces an older one."""
        assert self._listener is not None
        before = self._links.get(member)
        self._links[member] = link
        if before is not None:
            before.abort("a new connection took its place")
        self._listener.connected(member)

    def lost(self, link: Link, member: str) -> None:
        if self._links.get(member) is link:
            del self._links[member]
            assert self._listener is not None
            self._listener.disconnected(member)

    def received(self, link: Link, member: str, frame: bytes) -> None:
        if self._links.get(member) is link:
            assert self._listener is not None
            self._listener.received(member, frame)


class Link(asyncio.Protocol):
    """One connection: framing, and the greeting that opens it."""

    def __init__(
        self,
        network: PeerNetwork,
        dialled: str | None,
        closed: asyncio.Future[None] | None = None,
    ) -> None:
        self._network = network
        self._dialled = dialled
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._member: str | None = None
        self._buffer = bytearray()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by inheritance, only by what they do.
        self._transport = cast(asyncio.Transport, transport)
        _tune(transport.get_extra_info("socket"))
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(HANDSHAKE_S_MAX, self.abort, "it did not greet in time")
        network = self._network
        greeting = f"cronclave/1\n{network.cluster}\n{network.member}".encode()
        self.send(greeting)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            limit = GREETING_BYTES_MAX if self._member is None else self._network.frame_bytes_max
            if length > limit:
                self.abort(f"it sent a frame of {length} bytes, of at most {limit}")
                return
            end = start + _LENGTH.size + length
            if len(buffer) < end:
                break
            frame = bytes(buffer[start + _LENGTH.size : end])
            start = end
            self._take(frame)
            if self._transport is None:
                return
        del buffer[:start]

    def _take(self, frame: bytes) -> None:
        if self._member is not None:
            self._network.received(self, self._member, frame)
            return
        member = self._judge(frame)
        if member is None:
            self.abort("it is not a member of this cluster")
            return
        assert self._deadline is not None
        self._deadline.cancel()
        self._member = member
        self._network.established(self, member)

    def _judge(self, greeting: bytes) -> str | None:
        """Return who is at the other end, None if it is nobody of ours."""
        assert self._transport is not None
        network = self._network
        parts = greeting.decode(errors="replace").split("\n")
        if len(parts) != len(("wire", "cluster", "member")):
            return None
        wire, cluster, member = parts
        if wire != "cronclave/1" or cluster != network.cluster or member == network.member:
            return None
        if self._dialled not in {None, member} or member not in network.addresses:
            return None
        if network.secured:
            certificate = self._transport.get_extra_info("peercert")
            if peer_member(certificate, network.cluster) != member:
                return None
        return member

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._transport = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        if self._member is not None:
            self._network.lost(self, self._member)

    @property
    def queued_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(_LENGTH.pack(len(frame)) + frame)

    def abort(self, reason: str) -> None:
        """Close at once; what is queued is lost."""
        if self._transport is not None:
            who = self._member or self._dialled or "a stranger"
            logger.info("The connection with %s is closed: %s.", who, reason)
            transport, self._transport = self._transport, None
            transport.abort()


def _tune(connection: socket.socket | None) -> None:
    if connection is None:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS_MAX)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_MS_MAX // 2_000)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5)
