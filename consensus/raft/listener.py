"""The network's events on their way into the Raft layer, each guarded like a turn."""

from __future__ import annotations

from collections.abc import Callable

from consensus.configuration import Seat
from consensus.raft.admission import rejection
from consensus.raft.log import RaftLog
from consensus.raft.members import Membership
from consensus.raft.transport import Transport
from consensus.raft.types import Introduction, MemberRemoved, Rejection


class GuardedListener:
    """A `Listener` whose errors end the layer; what the log has to write wakes it."""

    def __init__(
        self,
        guarded: Callable[..., None],
        transport: Transport,
        log: RaftLog,
        wake: Callable[[], None],
        core: Membership,
        seat: Seat,
    ) -> None:
        self._guarded = guarded
        self._transport = transport
        self._log = log
        self._wake = wake
        self._core = core
        self._seat = seat

    def introduction(self) -> Introduction:
        seat = self._core.configuration[1].seat(self._seat.name) or self._seat
        index = self._core.committed_configuration[0]
        return Introduction(self._seat.seat_id, index, seat.address)

    def judge(self, member: str, introduction: Introduction) -> Rejection | None:
        core = self._core
        in_force, committed = core.configuration[1], core.committed_configuration
        found = rejection(member, introduction, in_force, committed)
        if found is None or member == core.member or introduction.configuration <= committed[0]:
            return found
        core.take_guest(member, introduction)
        self._wake()
        return None

    def removed(self, member: str, reason: str) -> None:
        self._guarded(self._leave, f"Member {member} says: {reason}")

    def connected(self, member: str) -> None:
        self._guarded(self._transport.connected_to, member)

    def disconnected(self, member: str) -> None:
        self._guarded(self._transport.disconnected_from, member)

    def received(self, member: str, frame: bytes) -> None:
        self._guarded(self._received, member, frame)

    def _received(self, member: str, frame: bytes) -> None:
        self._transport.received(member, frame)
        if self._log.pending:
            self._wake()

    @staticmethod
    def _leave(reason: str) -> None:
        raise MemberRemoved(reason)
