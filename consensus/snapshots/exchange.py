"""Snapshots between members, as the driver of the layer sees them: both halves and one thread.

A member sends while it leads and receives while it follows one whose log begins too late.
Nothing here touches the log or the commit index: what the log has to keep for a follower is
asked for with every trim, and what was received is installed in another life.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus import frames
from consensus.raft.behind import OnBehind
from consensus.raft.engine import RaftCore
from consensus.raft.types import Network, RaftSettings
from consensus.snapshots.receiver import SnapshotReceiver
from consensus.snapshots.sender import SnapshotSender
from consensus.snapshots.thread import SnapshotThread
from consensus.snapshots.types import SnapshotCounts, SnapshotPorts
from storage.clock import Environment

MESSAGES = (frames.SnapshotRequest, frames.SnapshotChunk, frames.SnapshotAbort)


class Snapshots:
    """The transfers of one member, in and out; used in the event loop's thread.

    Without `ports` there are none, and whoever asks for one is not answered.
    """

    def __init__(
        self,
        ports: SnapshotPorts | None,
        core: Callable[[], RaftCore],
        *,
        cluster: str,
        settings: RaftSettings,
        environment: Environment,
        network: Network,
        guarded: Callable[..., None],
    ) -> None:
        self._core = core
        self.counts = SnapshotCounts()
        self._installed = ports.installed if ports else 0
        self._sender: SnapshotSender | None = None
        self._receiver: SnapshotReceiver | None = None
        if ports is None:
            return
        self._thread = SnapshotThread(ports.thread, guarded)
        self._sender = SnapshotSender(
            ports.source, settings, environment, self._thread, self.counts,
            guarded=guarded, tell=self._tell, queued_bytes=network.queued_bytes,
            configuration=lambda index: core().configuration_as_of(index),
        )  # fmt: skip
        self._receiver = SnapshotReceiver(
            ports.sink, settings, environment, self._thread, self.counts,
            cluster=cluster, tell=self._tell, position=self._position,
        )  # fmt: skip

    @property
    def on_behind(self) -> OnBehind | None:
        """Return whom a follower tells that it needs a snapshot, if it can get one."""
        return None if self._receiver is None else self._behind

    @property
    def receiving(self) -> bool:
        """Tell whether a snapshot is on its way to this member."""
        return self._receiver is not None and self._receiver.receiving

    @property
    def lag(self) -> int | None:
        """Return how many committed entries wait to be applied here.

        None until the log is known to continue a leader's, and while a snapshot is needed.
        """
        return self._core().lag

    @property
    def received_bytes(self) -> int:
        """Return how much of it is stored."""
        return 0 if self._receiver is None else self._receiver.received_bytes

    @property
    def sending(self) -> int:
        """Return how many snapshots are on their way to others."""
        return 0 if self._sender is None else self._sender.sending

    def facts(self) -> dict[str, float]:
        """Return what is to be measured, by name."""
        counts = self.counts
        return {
            "snapshots_sending": self.sending,
            "snapshots_sent": counts.transfers_sent,
            "snapshot_bytes_sent": counts.bytes_sent,
            "snapshot_bytes_received": counts.bytes_received,
            "snapshots_failed": counts.transfers_failed,
            "snapshots_installed": self._installed,
        }

    def held_index(self) -> int | None:
        """Return from which entry on followers will need the log behind their snapshots."""
        return None if self._sender is None else self._sender.held_index()

    def receive(self, member: str, term: int, message: frames.Message) -> bool:
        """Take a message about a snapshot; False if it is about something else.

        One of another term is not acted upon: who leads then sends its own.
        """
        if not isinstance(message, MESSAGES):
            return False
        core, sender, receiver = self._core(), self._sender, self._receiver
        if sender is None or receiver is None or not core.admits(member, term):
            return True
        match message:
            case frames.SnapshotRequest():
                if core.replicates_to(member):
                    sender.requested(member, message)
            case frames.SnapshotChunk():
                receiver.chunk(member, message)
            case frames.SnapshotAbort():
                sender.aborted(member, message)
                receiver.aborted(member, message)
        return True

    def disconnected(self, member: str) -> None:
        """Take note that what was on its way from a member is lost."""
        if self._receiver is not None:
            self._receiver.disconnected(member)

    def look(self) -> None:
        """Do what is due by time, or because this member leads no more."""
        if self._sender is None or not self._sender.sending:
            return
        if self._core().leads:
            self._sender.look(self._core().peer_progress())
        else:
            self._sender.stop("this member leads no more")

    async def close(self) -> None:
        """End everything; what was not committed is thrown away."""
        if self._sender is not None and self._receiver is not None:
            self._sender.stop("this member stops")
            await self._thread.close([self._receiver.close])

    def _behind(self, member: str | None) -> None:
        assert self._receiver is not None
        if member is None:
            self._receiver.not_needed()
        else:
            self._receiver.needed(member)

    def _tell(self, member: str, message: frames.Message) -> None:
        self._core().tell(member, message)

    def _position(self) -> int:
        core = self._core()
        return max(core.applied_index, core.commit_index)
