"""What leader and follower say to each other where the log does not reach back far enough.

The library sends such a follower a dump and lets the message with it move its commit index.
Here the leader says once per heartbeat from where its log begins, and the follower fetches
the state itself beside the log (see `consensus.snapshots.exchange`). Nothing of that confirms an
entry or commits one: a follower's log and commit index stay as they are until it begins
another life behind the snapshot.

The upper part of `Rules`; the names that begin with `_SyncObj__` belong to the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from consensus import frames
from consensus.raft.configurations import packed
from consensus.raft.election import Election
from consensus.raft.log import RaftLog
from consensus.raft.members import Membership
from consensus.raft.progress import Progress
from consensus.raft.types import RaftSettings, SnapshotNeeded
from storage.clock import Environment
from storage.snapshot_format import pack_configuration

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2

# Takes the member to fetch a snapshot from, or None: the log goes on by itself.
OnBehind = Callable[[str | None], None]


class Behind(Membership):
    """Followers that lack entries which their leader has trimmed."""

    _log: RaftLog
    _election: Election
    _environment: Environment
    _settings: RaftSettings
    _nodes: dict[str, Any]
    _progress: dict[str, Progress]
    _commit_known: int
    # Called whenever this member hears that it needs a snapshot; without one it stops.
    _on_behind: OnBehind | None
    _is_behind: bool = False
    # Whether an append has matched this log in this life, and the highest commit index that
    # a leader told of.
    _in_step: bool = False
    _told_commit: int = 0

    _SyncObj__raftState: int
    _SyncObj__raftLastApplied: int
    _SyncObj__raftLeader: Any
    _SyncObj__raftElectionDeadline: float
    _SyncObj__transferInProgress: bool
    _SyncObj__lastResponseTime: dict[Any, float]
    _SyncObj__generateRaftTimeout: Callable[[], float]
    _SyncObj__setState: Callable[[int], None]
    _SyncObj__onLeaderChanged: Callable[[], None]

    if TYPE_CHECKING:

        def _enter(self) -> None: ...
        def _is_stale(self, node: Any, term: int) -> bool: ...
        def _is_current(self, term: int) -> bool: ...
        def _say(self, node: Any, message: frames.Message, wait_for: int | None = None) -> None: ...

    # --- Follower ---------------------------------------------------------------------

    def _on_snapshot_required(self, node: Any, term: int, message: frames.SnapshotRequired) -> None:
        """Hear the leader, and have the state fetched if its log begins too late (R1, R13).

        What is committed here reaches up to the leader's first entry or does not; the
        message says nothing else, and moves nothing.
        """
        if self._is_stale(node, term):
            return
        self._hear(node, term)
        if self._commit_known >= message.first_index:
            return
        if self._on_behind is None:
            raise SnapshotNeeded(
                f"This member has committed entries up to {self._commit_known}, but leader "
                f"{node.id} has entries only from {message.first_index} on, and this member "
                "takes no snapshots."
            )
        self._is_behind, self._in_step = True, False
        self._on_behind(node.id)

    def _hear(self, node: Any, term: int) -> None:
        """Take note of the leader of a term, as an append of it would have this member do."""
        self._is_current(term)
        now_s = self._environment.monotonic_s()
        self._election.heard(term, node.id, now_s)
        if not self._SyncObj__transferInProgress:
            self._SyncObj__raftElectionDeadline = now_s + self._SyncObj__generateRaftTimeout()
        if self._SyncObj__raftLeader != node:
            self._SyncObj__onLeaderChanged()
        self._SyncObj__raftLeader = node
        self._SyncObj__setState(FOLLOWER)

    def _goes_on(self) -> None:
        """Take note that this log and the leader's have met, so that no snapshot is needed."""
        self._in_step = True
        if self._is_behind and self._on_behind is not None:
            self._is_behind = False
            self._on_behind(None)

    @property
    def lag(self) -> int | None:
        """Return how many committed entries wait to be applied here; None if nobody knows."""
        leads = self._SyncObj__raftState == LEADER
        if not leads and not self._in_step:
            return None
        told = self._commit_known if leads else max(self._told_commit, self._commit_known)
        return max(0, told - int(self._SyncObj__raftLastApplied))

    # --- Leader -----------------------------------------------------------------------

    def _require_snapshot(self, node: Any, progress: Progress, now_s: float) -> None:
        """Say once per heartbeat that the log does not reach back far enough (R10)."""
        if now_s >= progress.heartbeat_due_s:
            self._say(node, frames.SnapshotRequired(self._log.first_index), self._log.hard_sequence)
            progress.heartbeat_due_s = now_s + self._settings.heartbeat_s

    def _next_after(self, match_index: int) -> int:
        """Return from where to go on with a follower over a new connection.

        If what it had confirmed is trimmed, the first entry that is left is compared: it may
        have got there by a snapshot.
        """
        next_index = match_index + 1 if match_index else self._log.last_index + 1
        return max(next_index, self._log.first_index + 1)

    def configuration_as_of(self, index: int) -> bytes:
        """Return the cluster's configuration at an entry, as a snapshot of it carries it."""
        return pack_configuration(packed(self._log.configurations.at(index)))

    # --- Both -------------------------------------------------------------------------

    def admits(self, member: str, term: int) -> bool:
        """Tell whether a message beside the log belongs to this term.

        A follower that fetches a snapshot answers no appends. That it asks shows its leader
        that it is there, and shows nothing about its log. Its leader may be a guest to it: it
        was away while the members changed.
        """
        self._enter()
        node = self._node_of(member)
        if self._is_stale(node, term) or not self._is_current(term):
            return False
        if self.replicates_to(member):
            now_s = self._environment.monotonic_s()
            self._progress[member].answered_s = self._SyncObj__lastResponseTime[node] = now_s
        return True

    def replicates_to(self, member: str) -> bool:
        """Tell whether this member leads and the other one belongs to its cluster."""
        leads = self._SyncObj__raftState == LEADER
        return leads and member in self._progress and not self.is_guest(member)

    def tell(self, member: str, message: frames.Message) -> None:
        """Say something beside the log in this term; it waits for the term alone."""
        self._say(self._node_of(member), message, self._log.hard_sequence)
