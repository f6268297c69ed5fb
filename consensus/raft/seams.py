"""What the library is given in place of its own journal and poller."""

from __future__ import annotations

from consensus.configuration import MEMBERSHIP_PREFIX, decode_configuration
from consensus.raft.log import RaftLog
from consensus.raft.types import Entry
from storage.invariant import invariant
from storage.journal_format import REGULAR_KIND, LogRecord

# The library's kinds of entries, by the first byte of their payload; another one, its own
# number 1, is the entry with which a log or a leader begins.
REGULAR = REGULAR_KIND
MEMBERSHIP = MEMBERSHIP_PREFIX[0]


def entry_of(record: LogRecord) -> Entry:
    """Return a record of the log as it is applied."""
    payload, index, term = record
    if payload[0] == MEMBERSHIP:
        after = decode_configuration(payload[1:])
        return Entry(index=index, term=term, command=b"", configuration=after)
    command = payload[1:] if payload[0] == REGULAR else b""
    return Entry(index=index, term=term, command=command)


class LogSeam:
    """The `RaftLog` under the names that the library's journal has."""

    def __init__(self, log: RaftLog, applied_index: int) -> None:
        self._log = log
        self._applied_index = applied_index

    def __len__(self) -> int:
        return self._log.last_index - self._log.first_index + 1 if self._log.last_index else 0

    def __getitem__(self, position: int) -> LogRecord:
        if position == -1:
            return self._log.last
        invariant(position == 0, "The library reads ranges of the log through __getEntries.")
        return b"", self._log.first_index, 0

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._log.append(command, idx, term)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        self._log.truncate_from(self._log.first_index + entryFrom)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._log.set_hard_state(term, votedForNodeId)

    def getCurrentTerm(self) -> int:
        return self._log.hard_state.term

    def getVotedForNodeId(self) -> str | None:
        return self._log.hard_state.vote

    def getRaftCommitIndex(self) -> int:
        """D5: what the state has applied was committed; nothing else is known at start."""
        return self._applied_index

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """The commit index is not stored: it follows from the log and the next leader."""

    def onOneSecondTimer(self) -> None:
        """The library's journal would flush here; ours is written by the driver."""

    def _destroy(self) -> None:
        """Whoever opened the journal closes it."""


class NoPoller:
    """There are no sockets to wait for: the event loop has them."""

    def poll(self, timeout: float) -> None:
        """Return at once."""
