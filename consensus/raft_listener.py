"""The network's events on their way into the Raft layer, each guarded like a turn."""

from __future__ import annotations

from collections.abc import Callable

from consensus.raft_log import RaftLog
from consensus.transport import Transport


class GuardedListener:
    """A `Listener` whose errors end the layer; what the log has to write wakes it."""

    def __init__(
        self,
        guarded: Callable[..., None],
        transport: Transport,
        log: RaftLog,
        wake: Callable[[], None],
    ) -> None:
        self._guarded = guarded
        self._transport = transport
        self._log = log
        self._wake = wake

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
