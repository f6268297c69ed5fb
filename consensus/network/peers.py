"""The wire between members: frames over TCP, both sides proven by certificate.

Every member dials every other and speaks on the connection it has dialed; it listens on
those that it has accepted. Who is at the other end is decided by the certificate, before
the first byte of the protocol is read, and compared with what the handshake claims. A pair
counts as connected when both directions are; a direction that is replaced or lost ends
the session, so that no frame of an old connection is taken for one of the new.

Everything is bounded: connects and handshakes in time, frames and queues in bytes,
strangers in number. A peer that does not drain its queue is disconnected, and what it
missed is sent again from the log. The kernel watches silent connections.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Mapping

from consensus import features, frames
from consensus.configuration import split_address
from consensus.network.certificates import CertificateError, peer_member
from consensus.network.links import Accepted, Dialed, PeerRefused
from consensus.raft.types import Introduction, Listener, RaftSettings
from storage.clock import Environment

logger = logging.getLogger(__name__)

Address = tuple[str, int]
# Contexts for accepting and for dialing, see `certificates.contexts`.
Tls = tuple[ssl.SSLContext, ssl.SSLContext]

CONNECT_S_MAX = 2.0
RETRY_S_MIN, RETRY_S_MAX = 0.1, 1.0
# Accepted connections that have not said who they are.
STRANGERS_MAX = 64
# For how long sent bytes may stay unacknowledged, and a silent peer is believed alive.
SILENCE_MS_MAX = 4000


class PeerNetwork:
    """One member's connections to all others (`consensus.raft.types.Network`).

    `listen` is bound at `start`; port 0 takes a free one, see `port`. `set_peers` says whom
    to dial; whom to let in is asked of the listener. Without `tls` nothing
    is encrypted and nobody is proven, which is for tests on the loopback interface.
    """

    def __init__(
        self,
        *,
        member: str,
        cluster: str,
        listen: Address,
        tls: Tls | None,
        environment: Environment,
        settings: RaftSettings,
    ) -> None:
        self.member = member
        self.cluster = cluster
        self.settings = settings
        self._listen = listen
        self._addresses: dict[str, str] = {}
        self._tls = tls
        self._environment = environment
        self._server: asyncio.Server | None = None
        self._dialers: dict[str, asyncio.Task[None]] = {}
        # Set when it is worth trying a member again at once.
        self._hints: dict[str, asyncio.Event] = {}
        self._strangers: set[Accepted] = set()
        self._accepted: dict[str, Accepted] = {}
        self._dialed: dict[str, Dialed] = {}
        # The pairs of connections that the listener was told about.
        self._pairs: dict[str, tuple[Accepted, Dialed]] = {}

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        if self._server is None:
            raise RuntimeError("The network is not started, so no port is bound yet.")
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, listener: Listener) -> None:
        """Listen for members and dial them.

        Raises:
            OSError: the address cannot be bound.
        """
        self._listener = listener
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Accepted(self),
            *self._listen,
            ssl=self._tls[0] if self._tls else None,
            ssl_handshake_timeout=CONNECT_S_MAX if self._tls else None,
        )
        for name in sorted(self._hints):
            self._dialers[name] = loop.create_task(self._keep_dialing(name))
        self._loop = loop

    async def stop(self) -> None:
        """Close every connection. May be repeated."""
        dialers = list(self._dialers.values())
        self._dialers.clear()
        for task in dialers:
            task.cancel()
        await asyncio.gather(*dialers, return_exceptions=True)
        for link in [*self._strangers, *self._accepted.values(), *self._dialed.values()]:
            link.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """Dial these members from now on, and no others; where an address changed, at once."""
        wanted = {n: address for n, address in addresses.items() if n != self.member}
        for name in self._hints.keys() - wanted.keys():
            self._forget(name)
        for name, address in sorted(wanted.items()):
            if self._addresses.get(name) == address:
                continue
            self._addresses[name] = address
            if name in self._dialed:
                self._dialed[name].abort()
            self._hints.setdefault(name, asyncio.Event()).set()
            if self._server is not None and name not in self._dialers:
                self._dialers[name] = self._loop.create_task(self._keep_dialing(name))

    def _forget(self, member: str) -> None:
        del self._hints[member]
        del self._addresses[member]
        if (dialer := self._dialers.pop(member, None)) is not None:
            dialer.cancel()
        for link in (self._accepted.get(member), self._dialed.get(member)):
            if link is not None:
                link.abort()

    # --- Frames -----------------------------------------------------------------------

    def send(self, member: str, frame: bytes) -> bool:
        """Queue a frame; False if it cannot be sent. A queue that overflows is closed."""
        link = self._dialed.get(member)
        if link is None or member not in self._pairs:
            return False
        if link.queued_bytes + len(frame) > self.settings.send_queue_bytes_max:
            self.close(member, "it does not take what is sent to it")
            return False
        link.send(frame)
        return True

    def queued_bytes(self, member: str) -> int:
        """Return what the member's socket has not taken yet."""
        link = self._dialed.get(member)
        return 0 if link is None else link.queued_bytes

    def close(self, member: str, reason: str) -> None:
        """Drop both connections to a member; it is dialed again."""
        logger.warning("Member %s is disconnected: %s.", member, reason)
        for link in (self._accepted.get(member), self._dialed.get(member)):
            if link is not None:
                link.abort()

    # --- What the links report --------------------------------------------------------

    def admit_stranger(self, link: Accepted) -> None:
        """Count a connection that was just accepted.

        Raises:
            PeerRefused: too many have not said who they are.
        """
        if len(self._strangers) >= STRANGERS_MAX:
            raise PeerRefused("Too many connections have not said who they are.")
        self._strangers.add(link)

    def identify(self, transport: asyncio.BaseTransport) -> str | None:
        """Return whom the certificate at the other end names; None without certificates.

        Raises:
            PeerRefused: it names nobody of this cluster.
        """
        if self._tls is None:
            return None
        try:
            return peer_member(transport.get_extra_info("peercert"), self.cluster)
        except CertificateError as error:
            raise PeerRefused(str(error)) from error

    def greet(self, link: Accepted, proven: str | None, greeting: frames.Greeting) -> str:
        """Check who dialed, and take it for that member from now on.

        Raises:
            PeerRefused: it is not a member, or means somebody else.
        """
        sender = greeting.sender
        if features.spoken(greeting.wire_minimum, greeting.wire_version) is None:
            raise PeerRefused(
                f"Wire versions {greeting.wire_minimum} to {greeting.wire_version} have nothing "
                f"in common with {frames.WIRE_MINIMUM} to {frames.WIRE_VERSION}."
            )
        if (greeting.cluster, greeting.receiver) != (self.cluster, self.member):
            raise PeerRefused(
                f"This is member {self.member!r} of cluster {self.cluster!r}, not "
                f"{greeting.receiver!r} of {greeting.cluster!r}."
            )
        if proven not in (None, sender):
            raise PeerRefused(f"{sender!r} is not admitted (its certificate names {proven!r}).")
        introduction = Introduction(greeting.seat_id, greeting.configuration, greeting.address)
        rejection = self._listener.judge(sender, introduction)
        if rejection is not None:
            raise PeerRefused(rejection.reason, removed=rejection.removed)
        self._strangers.discard(link)
        before = self._accepted.get(sender)
        self._accepted[sender] = link
        if before is not None:
            before.abort()
        if sender in self._hints:
            self._hints[sender].set()
        return sender

    def introduction(self) -> Introduction:
        """Return what to say to the members that are dialed."""
        return self._listener.introduction()

    def told_removed(self, member: str, reason: str) -> None:
        """Tell the listener that it has lost its seat."""
        self._listener.removed(member, reason)

    def ready(self, member: str) -> None:
        """Tell the listener if both directions to a member are up now."""
        accepted, dialed = self._accepted.get(member), self._dialed.get(member)
        if accepted is None or dialed is None:
            return
        if self._pairs.get(member) != (accepted, dialed):
            self._part(member)
            self._pairs[member] = (accepted, dialed)
            self._listener.connected(member)

    def received(self, link: Accepted, member: str, frame: bytes) -> None:
        """Take a frame, unless the connection has been replaced."""
        if self._accepted.get(member) is link:
            self._listener.received(member, frame)

    def lost(self, link: Accepted | Dialed) -> None:
        """Take note that a connection is closed."""
        if isinstance(link, Accepted):
            self._strangers.discard(link)
            gone = [name for name, known in self._accepted.items() if known is link]
            self._accepted = {n: known for n, known in self._accepted.items() if known is not link}
        else:
            gone = [name for name, known in self._dialed.items() if known is link]
            self._dialed = {n: known for n, known in self._dialed.items() if known is not link}
        for member in gone:
            self._part(member)

    def _part(self, member: str) -> None:
        if self._pairs.pop(member, None) is not None:
            self._listener.disconnected(member)

    # --- Dialing ----------------------------------------------------------------------

    async def _keep_dialing(self, member: str) -> None:
        """Keep one connection to a member up, for as long as this member lives."""
        complaint = ""
        while True:
            hint = self._hints.get(member)
            if hint is None:
                return
            hint.clear()
            try:
                link = await self._dial(member)
            except (OSError, TimeoutError, ValueError, PeerRefused) as error:
                # A ValueError is a host that no look-up takes; the next address may be one.
                if (reason := str(error) or "it does not answer in time") != complaint:
                    complaint = reason
                    logger.warning("Member %s cannot be reached: %s", member, complaint)
            else:
                complaint = ""
                await asyncio.wait([link.closed])
            await self._pause(hint)

    async def _dial(self, member: str) -> Dialed:
        address = split_address(self._addresses[member])
        if address is None:
            raise PeerRefused(f"Its address {self._addresses[member]!r} is none.")
        async with asyncio.timeout(CONNECT_S_MAX):
            loop = asyncio.get_running_loop()
            transport, link = await loop.create_connection(
                lambda: Dialed(self, member), *address, ssl=self._tls[1] if self._tls else None
            )
            try:
                await asyncio.shield(link.welcomed)
            except BaseException:
                transport.abort()
                raise
        if transport.is_closing():
            raise PeerRefused("The connection was lost right behind the welcome.")
        watch(transport)
        self._dialed[member] = link
        self.ready(member)
        return link

    async def _pause(self, hint: asyncio.Event) -> None:
        spread_s = (RETRY_S_MAX - RETRY_S_MIN) * self._environment.random.random()
        try:
            async with asyncio.timeout(RETRY_S_MIN + spread_s):
                await hint.wait()
        except TimeoutError:
            return


def watch(transport: asyncio.BaseTransport) -> None:
    """Let the kernel send at once, and give up a peer that has fallen silent."""
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS_MAX)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENCE_MS_MAX // 1000)
