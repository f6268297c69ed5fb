"""Between the consensus engine and the network: sessions, the filter, and the barrier.

**The barrier.** A message names the change of the log that it speaks of, and leaves only
when the journal transaction with that change has returned. Nothing that a member says can
therefore be forgotten by it afterwards. Messages that speak of nothing new leave at once.

**The filter.** A session with a member begins with a `Hello` in both directions. It fixes
the connection's number, so that frames of an earlier connection are recognized, and the
identity of the member's disk, so that a member that lost its disk is not taken for the
one that made promises. Frames of strangers, of other clusters and of other connections
end here. What passes is a message of a known member over its present connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consensus import features, frames
from consensus.configuration import Seat
from consensus.raft.log import RaftLog
from consensus.raft.types import Journal, MemberRefused, Network

logger = logging.getLogger(__name__)

# Messages that wait for one journal transaction. A leader's windows bound what can come;
# beyond this the disk has stalled, and what is dropped will be said again.
HELD_MESSAGES_MAX = 10_000


@dataclass(slots=True)
class Session:
    """One member, as seen over the present pair of connections to it."""

    # Which of the seats that its name ever had it is about.
    seat: Seat
    # The number of our connection to it; 0 while there is none.
    epoch: int = 0
    # The number it gave its connection to us; None before its Hello, or after a loss.
    peer_epoch: int | None = None
    # The highest number it ever gave: an older Hello comes from a connection that is over.
    peer_epoch_max: int = 0
    # The change of our log that remembers its disk; its messages wait for that.
    admitted_at: int = 0
    # Why it cannot take part; said again over every connection.
    refusal: str | None = None
    open: bool = False
    # What both sides speak, as their greetings have it.
    level: int = frames.WIRE_MINIMUM


@dataclass(frozen=True, slots=True)
class Events:
    """What the filter lets through, each called with the member's name first."""

    opened: Callable[[str], None]
    closed: Callable[[str], None]
    message: Callable[[str, int, frames.Message], None]
    application: Callable[[str, bytes], None]


class Transport:
    """The sessions of one member with all others; called from the event loop alone."""

    def __init__(
        self,
        *,
        seat: Seat,
        cluster: str,
        journal: Journal,
        log: RaftLog,
        network: Network,
        events: Events,
    ) -> None:
        self._member = seat.name
        self._seat_id = seat.seat_id
        self._cluster = cluster
        self._journal = journal
        self._log = log
        self._network = network
        self._events = events
        self._sessions: dict[str, Session] = {}
        self._disks = dict(journal.known_disks)
        self._epoch = journal.boots << 32
        self._held: list[tuple[int, str, frames.Envelope]] = []
        # Frames that were not listened to, by reason; for the metrics.
        self.dropped: dict[str, int] = {}

    @property
    def connected(self) -> frozenset[str]:
        """Return the members with an open session."""
        return frozenset(name for name, session in self._sessions.items() if session.open)

    def set_peers(self, seats: Mapping[str, Seat]) -> None:
        """Have sessions with the members in these seats and with nobody else.

        A seat that was given up and filled again is another member, whose disk is not known
        yet, even if the name is the same.
        """
        others = {name: seat for name, seat in sorted(seats.items()) if name != self._member}
        for member, session in list(self._sessions.items()):
            seat = others.get(member)
            if seat is None or seat.seat_id != session.seat.seat_id:
                self.disconnected_from(member)
                self._network.close(member, "it has given up its seat")
                del self._sessions[member]
        for member, seat in others.items():
            self._sessions.setdefault(member, Session(seat))

    # --- The network's events ---------------------------------------------------------

    def connected_to(self, member: str) -> None:
        """Begin a session: give the new connection a number and say who we are."""
        session = self._sessions.get(member)
        if session is None:
            self._drop(member, "stranger", "it is no member of this cluster")
            return
        self._close(member, session)
        self._epoch += 1
        session.epoch = self._epoch
        hello = frames.Hello(
            self._journal.disk_id, self._log.last_index, frames.WIRE_VERSION, self._seat_id
        )
        self._send(member, self._envelope(member, hello, 0))
        self._say_refusal(member, session)
        self._maybe_open(member, session)

    def disconnected_from(self, member: str) -> None:
        """End a session; what was held for it is lost with it."""
        session = self._sessions.get(member)
        if session is not None:
            session.epoch, session.peer_epoch = 0, None
            self._close(member, session)

    def received(self, member: str, frame: bytes) -> None:
        """Take a frame through the filter.

        Raises:
            MemberRefused: another member tells this one that it cannot take part.
        """
        session = self._sessions.get(member)
        if session is None:
            self._drop(member, "stranger", "it is no member of this cluster")
            return
        try:
            envelope = frames.decode(frame)
        except frames.FrameError as error:
            self._drop(member, "unreadable", str(error))
            return
        if (envelope.cluster, envelope.member) != (self._cluster, member):
            self._drop(member, "impostor", f"its frame names {envelope.member!r}")
            return
        self._accept(member, session, envelope)

    def _accept(self, member: str, session: Session, envelope: frames.Envelope) -> None:
        message = envelope.message
        if isinstance(message, frames.Hello):
            self._greet(member, session, envelope, message)
        elif isinstance(message, frames.Refusal):
            raise MemberRefused(f"Member {member} refuses this member: {message.reason}")
        elif envelope.epoch != session.peer_epoch or not session.open:
            self.dropped["epoch"] = self.dropped.get("epoch", 0) + 1
        elif isinstance(message, frames.Application):
            self._events.application(member, message.payload)
        else:
            self._events.message(member, envelope.term, message)

    def _drop(self, member: str, kind: str, reason: str) -> None:
        self.dropped[kind] = self.dropped.get(kind, 0) + 1
        logger.warning("The connection of %s is closed: %s.", member, reason)
        self._network.close(member, reason)

    # --- Sessions ---------------------------------------------------------------------

    def _greet(
        self, member: str, session: Session, envelope: frames.Envelope, hello: frames.Hello
    ) -> None:
        epoch, level = envelope.epoch, features.spoken(envelope.version, hello.highest)
        if level is None:
            theirs = f"it speaks wire versions {envelope.version} to {hello.highest}"
            ours = f"this member {frames.WIRE_MINIMUM} to {frames.WIRE_VERSION}"
            self._drop(member, "version", f"{theirs}, {ours}")
            return
        if hello.seat_id != session.seat.seat_id:
            self._drop(member, "stranger", "it holds another seat than the one that is known")
            return
        key = disk_key(session.seat)
        known = self._disks.get(key)
        if epoch <= session.peer_epoch_max and hello.disk_id == known:
            # Either the connection is over, or an older copy of its disk was put back.
            logger.warning("Member %s greets with the old number %d.", member, epoch)
            self.dropped["epoch"] = self.dropped.get("epoch", 0) + 1
            return
        if known is None:
            self._log.note_disk(key, hello.disk_id)
            self._disks[key] = hello.disk_id
            session.admitted_at = self._log.sequence
        elif known != hello.disk_id:
            session.refusal = (
                f"the disk of member {member} is not the one this cluster knows it by, so what "
                "it promised before is lost. Put the old disk back, or remove the member from "
                "the cluster and add it back as a new one."
            )
            self._say_refusal(member, session)
            return
        session.refusal = None
        self._close(member, session)
        session.peer_epoch = session.peer_epoch_max = epoch
        session.level = level
        self._maybe_open(member, session)

    def _say_refusal(self, member: str, session: Session) -> None:
        if session.refusal is not None and session.epoch:
            self._send(member, self._envelope(member, frames.Refusal(session.refusal), 0))
            logger.error("Member %s is refused: %s", member, session.refusal)

    def _maybe_open(self, member: str, session: Session) -> None:
        ready = session.epoch and session.peer_epoch is not None and not session.open
        if ready and session.refusal is None and self._log.durable_sequence >= session.admitted_at:
            session.open = True
            self._events.opened(member)

    def _close(self, member: str, session: Session) -> None:
        if session.open:
            session.open = False
            self._held = [held for held in self._held if held[1] != member]
            self._events.closed(member)

    # --- The barrier ------------------------------------------------------------------

    def post(self, member: str, message: frames.Message, term: int, sequence: int) -> None:
        """Send a message once the change with this number is durable; it may get lost."""
        session = self._sessions.get(member)
        if session is None or not session.open:
            return
        envelope = self._envelope(member, message, term)
        if sequence <= self._log.durable_sequence:
            self._send(member, envelope)
        elif len(self._held) < HELD_MESSAGES_MAX:
            self._held.append((sequence, member, envelope))
        else:
            self.dropped["held"] = self.dropped.get("held", 0) + 1

    def release(self) -> None:
        """Send what the last journal transaction has made true."""
        durable = self._log.durable_sequence
        ready = [held for held in self._held if held[0] <= durable]
        if ready:
            self._held = [held for held in self._held if held[0] > durable]
        for _, member, envelope in ready:
            self._send(member, envelope)
        for member, session in list(self._sessions.items()):
            self._maybe_open(member, session)

    def send_application(self, member: str, payload: bytes) -> bool:
        """Send a message of the layer above past the barrier; False if there is no session."""
        session = self._sessions.get(member)
        if session is None or not session.open:
            return False
        return self._send(member, self._envelope(member, frames.Application(payload), 0))

    def _envelope(self, member: str, message: frames.Message, term: int) -> frames.Envelope:
        session = self._sessions[member]
        opening = isinstance(message, frames.Hello | frames.Refusal)
        version = frames.WIRE_MINIMUM if opening else session.level
        return frames.Envelope(version, self._cluster, self._member, session.epoch, term, message)

    def _send(self, member: str, envelope: frames.Envelope) -> bool:
        return self._network.send(member, frames.encode(envelope))


def disk_key(seat: Seat) -> str:
    """Return the name under which the journal remembers the disk of whoever has a seat.

    With every seat comes a key of its own, so that a member that is added again is taken in
    with another disk, and on no other occasion.
    """
    return f"{seat.name}@{seat.seat_id.hex()}" if seat.seat_id else seat.name
