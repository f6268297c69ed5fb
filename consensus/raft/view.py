"""What a member knows of itself and of the others; see `consensus.driver.Raft`."""

from __future__ import annotations

from collections.abc import Mapping

from consensus.configuration import Configuration
from consensus.raft.configurations import Placed
from consensus.raft.engine import RaftCore
from consensus.raft.log import RaftLog
from consensus.raft.transport import Transport
from consensus.raft.types import PeerProgress, RaftSettings
from storage.clock import Environment


class RaftView:
    """The reading half of `Raft`."""

    _running: bool
    _core: RaftCore
    _log: RaftLog
    _transport: Transport
    _environment: Environment
    _settings: RaftSettings

    @property
    def is_leader(self) -> bool:
        """Tell whether this member believes that it leads; another may, in a newer term."""
        return self._running and self._core.leads

    @property
    def leader(self) -> str | None:
        """Return who is believed to lead, or None."""
        return self._core.leader if self._running else None

    @property
    def configuration(self) -> Configuration:
        """Return who belongs to the cluster, as the newest entry in the log has it."""
        return self._core.configuration[1]

    @property
    def configuration_index(self) -> int:
        """Return the index of that entry, or of what the log begins with."""
        return self._core.configuration[0]

    @property
    def committed_configuration(self) -> Placed:
        """Return index and content of the newest configuration known to be committed."""
        return self._core.committed_configuration

    @property
    def term(self) -> int:
        """Return the current term, durable or not."""
        return self._core.term

    @property
    def commit_index(self) -> int:
        """Return the highest index known to be committed and durable here."""
        return self._core.commit_index

    @property
    def applied_index(self) -> int:
        """Return the highest index that `apply` has returned from."""
        return self._core.applied_index

    @property
    def first_index(self) -> int:
        """Return the oldest index in the log."""
        return self._log.first_index

    @property
    def last_index(self) -> int:
        """Return the newest index in the log, durable or not."""
        return self._log.last_index

    @property
    def connected(self) -> frozenset[str]:
        """Return the members with whom messages can be exchanged."""
        return self._transport.connected

    @property
    def has_quorum_contact(self) -> bool:
        """Tell whether a majority answered this leader, or a leader was heard, lately.

        Lately is within the longest election timeout.
        """
        now_s, within_s = self._environment.monotonic_s(), self._settings.election_max_s
        return self._running and self._core.quorum_contact(now_s, within_s)

    @property
    def in_flight_entries(self) -> int:
        """Return how many entries are in the log and not yet applied."""
        return self.last_index - self.applied_index

    @property
    def progress(self) -> Mapping[str, PeerProgress]:
        """Return how far the other members are; empty unless this member leads."""
        return self._core.peer_progress() if self.is_leader else {}
