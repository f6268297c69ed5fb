"""pysyncobj as the consensus engine, with its holes closed.

The library decides who leads, what is replicated and what is committed. This subclass
gives it our log, our messages and our clock, and overrides those private methods in which
version 0.3.17 loses data, stalls or trusts a peer too far; DESIGN.md lists the holes by
number, and every override names the one it closes. The overrides are written against the
exact text of that version, so a different text is refused at import.

Nothing here waits, sends or writes: messages go to `post`, changes to the `RaftLog`, and
the driver decides when both leave the process. The library's own journal, dump files, TCP
transport, pickled commands and tick thread are never reached.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pysyncobj import syncobj as library
from pysyncobj.config import SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from consensus import frames
from consensus.raft.behind import LEADER, OnBehind
from consensus.raft.election import Election
from consensus.raft.log import RaftLog
from consensus.raft.progress import Progress
from consensus.raft.rules import Post, Rules
from consensus.raft.seams import REGULAR, LogSeam, NoPoller, entry_of
from consensus.raft.types import MIB, Entry, RaftSettings
from storage.clock import Environment
from storage.invariant import invariant
from storage.journal_format import LogRecord

LIBRARY_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

_NEVER = float("-inf")


class _Clock:
    """The clock the library reads: that of the member whose turn it is.

    The library asks a module-level function. Every call into it starts in this module, in
    the event loop's thread, so the member that called last is the one that is running.
    """

    environment: Environment

    @classmethod
    def now(cls) -> float:
        return cls.environment.monotonic_s()


def use_clock(environment: Environment) -> None:
    """Let the library read this environment's clock until the next call."""
    _Clock.environment = environment


def check_library() -> None:
    """Refuse to work with any other text of the library than the overrides were written for.

    Raises:
        ImportError: the text differs; the message says what to do.
    """
    found = hashlib.sha256(Path(library.__file__).read_bytes()).hexdigest()
    if found != LIBRARY_SHA256:
        raise ImportError(
            f"{library.__file__} has SHA-256 {found}, but the consensus layer was written for "
            f"{LIBRARY_SHA256} (pysyncobj 0.3.17). Install exactly that version."
        )


check_library()
library.monotonicTime = _Clock.now


class Member(Node):  # type: ignore[misc]
    """A member by its name.

    T11: the library iterates over sets of nodes; a hash that does not depend on the
    process makes their order, and with it a simulated run, the same every time.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._hash = zlib.crc32(name.encode())

    def __hash__(self) -> int:
        return self._hash


class _TransportSeam(Transport):  # type: ignore[misc]
    """Where the library's own messages become frames; the rest of a transport is not used."""

    def __init__(self, say: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__(None, None, ())
        self._say = say

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self._say(node.id, message)
        return True


class RaftCore(Rules, library.SyncObj):  # type: ignore[misc]
    """One member's decisions over its log; messages leave through `post`."""

    def __init__(
        self,
        *,
        member: str,
        log: RaftLog,
        post: Post,
        environment: Environment,
        settings: RaftSettings,
        applied_index: int,
        on_behind: OnBehind | None = None,
    ) -> None:
        self._log = log
        self._on_behind = on_behind
        self._seam = LogSeam(log, applied_index)
        self._post = post
        self._environment = environment
        self._settings = settings
        self._member = member
        self._election = Election(member, log.configurations.current[1].voters)
        self._make_node = Member
        self._nodes = {member: Member(member)}
        self._others = []
        self._progress = {}
        self._rounds = {}
        self._guests = {}
        self._progress_term = self._sequence = 0
        self._answering = (0, 0, 0)
        self._transfer_campaign = self._barred = False
        # A leader whose disk does not answer falls silent, so that another may take over.
        self.silent = False
        self._commit = 0
        # The first entry is the same on all members, hence committed from the beginning.
        self._commit_known = max(applied_index, 1)
        self._enter()
        super().__init__(
            self._nodes[member],
            [],
            conf=_configure(settings),
            nodeClass=Member,
            transport=_TransportSeam(self._translate),
        )
        self._poller = NoPoller()
        self._SyncObj__raftLastApplied = applied_index
        self._adopt()

    def _enter(self) -> None:
        use_clock(self._environment)

    # --- What the driver asks ---------------------------------------------------------

    @property
    def leads(self) -> bool:
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def leader(self) -> str | None:
        """Return who is believed to lead; nobody once an election timeout went by in silence."""
        node = self._SyncObj__raftLeader
        if self.leads or node is None:
            return self._SyncObj__selfNode.id if self.leads else None
        silence = self._election.silence_s(self._environment.monotonic_s())
        return str(node.id) if silence <= self._settings.election_max_s else None

    @property
    def term(self) -> int:
        return self._log.hard_state.term

    @property
    def commit_index(self) -> int:
        return self._commit

    @property
    def applied_index(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    def next_deadline_s(self) -> float:
        """Return when the next tick is due although nothing happens until then."""
        if not self.leads:
            return float(self._SyncObj__raftElectionDeadline)
        due = [self._environment.monotonic_s() + self._settings.heartbeat_s]
        due += [self._progress[node.id].heartbeat_due_s for node in self._reachable()]
        return min(time for time in due if time > _NEVER)

    # --- What the driver does ---------------------------------------------------------

    def tick(self) -> None:
        """Let the library act on what arrived and on the time."""
        self._enter()
        self._barred = False
        self._gate_campaign()
        # What there is to say is known per follower, so look with every tick.
        self._SyncObj__newAppendEntriesTime = _NEVER
        self._onTick(0.0)
        self._adopt()

    def propose(self, command: bytes, kind: int = REGULAR) -> int:
        """Append a command as leader and return its index."""
        self._enter()
        index = self._log.last_index + 1
        self._applyCommand(command, None, kind)
        self._checkCommandsToApply()
        invariant(
            self._log.last_index == index,
            "A leader appends a command when it is proposed.",
            last_index=self._log.last_index,
            index=index,
        )
        return index

    def durable(self) -> None:
        """Take note that the disk has caught up with the log, or with a part of it."""
        self._commit = max(self._commit, min(self._commit_known, self._log.durable_index))

    def committed(self) -> list[Entry]:
        """Return the next committed entries to apply, a bounded number of them."""
        first = self.applied_index + 1
        if first > self._commit:
            return []
        last = min(self._commit, first + self._settings.apply_entries_max - 1)
        return [entry_of(r) for r in self._log.read(first, last, self._settings.apply_bytes_max)]

    def applied(self, index: int) -> None:
        """Take note that entries up to `index` are applied."""
        self._SyncObj__raftLastApplied = index

    def receive(self, member: str, term: int, message: frames.Message) -> None:
        """Act on one message of a member, see `Rules.receive`."""
        self._enter()
        super().receive(member, term, message)
        self._adopt()

    def connected(self, member: str) -> None:
        """A session with a member is open; whatever was under way before it is lost."""
        self._enter()
        node = self._node_of(member)
        self._SyncObj__onNodeConnected(node)
        if self.leads and member in self._progress and not self.is_guest(member):
            self._start_over(node, self._next_after(self._SyncObj__raftMatchIndex[node]))

    def disconnected(self, member: str) -> None:
        """The session with a member is closed."""
        self._SyncObj__onNodeDisconnected(self._node_of(member))

    def transfer(self, member: str | None) -> bool:
        """Ask a follower that has everything to take over; False if there is none (E8)."""
        self._enter()
        reasons: list[int] = []
        target = None if member is None else self._nodes[member]
        self.transferLeadership(target, lambda _, reason: reasons.append(reason))
        return reasons == [0]

    # --- Seams that the library offers ------------------------------------------------

    def _translate(self, member: str, message: dict[str, Any]) -> None:
        """Post what the library itself says; everything else it could say has an override."""
        node = self._nodes[member]
        match message["type"]:
            case "request_vote" | "timeout_now" if self.is_guest(member):
                """It bears the name of the one that this is meant for."""
            case "request_vote":
                last_index, last_term = message["last_log_index"], message["last_log_term"]
                self._say(node, frames.VoteRequest(last_index, last_term, self._transfer_campaign))
            case "response_vote":
                self._say(node, frames.Vote())
            case "timeout_now":
                self._say(node, frames.TimeoutNow())
            case kind:
                invariant(False, "The library sends no other message.", kind=kind)

    # --- Overrides --------------------------------------------------------------------

    @property
    def _SyncObj__raftLog(self) -> LogSeam:
        """D1, D2, D4, D6, D7: our log takes the place of the library's journal."""
        return self._seam

    @_SyncObj__raftLog.setter
    def _SyncObj__raftLog(self, journal: object) -> None:
        """The constructor would put the library's journal here."""

    @property
    def _SyncObj__raftCommitIndex(self) -> int:
        return self._commit

    @_SyncObj__raftCommitIndex.setter
    def _SyncObj__raftCommitIndex(self, index: int) -> None:
        """D5, D10, R1: never back, and never beyond what this disk holds.

        The library counts the leader itself without asking its disk, so what it found is
        kept until the disk has caught up, see `durable`.
        """
        invariant(
            self._commit <= index <= max(self._log.last_index, self._commit_known),
            "The commit index grows within the log.",
            commit_index=self._commit,
            index=index,
            last_index=self._log.last_index,
        )
        counted = self._countable(index) if self.leads else index
        self._commit_known = max(self._commit_known, counted)
        self.durable()

    def _SyncObj__generateRaftTimeout(self) -> float:
        """T11: chance comes from the environment, so that a simulated run can be repeated."""
        spread_s = self._settings.election_max_s - self._settings.election_min_s
        return self._settings.election_min_s + spread_s * self._environment.random.random()

    def _SyncObj__connectedToAnyone(self) -> bool:
        """E5, E7: the last thing the library asks before it campaigns."""
        return not self._barred and bool(
            self._SyncObj__connectedNodes or not self._SyncObj__otherNodes
        )

    def _SyncObj__getEntries(
        self, fromIDx: int | None, count: int | None = None, maxSizeBytes: int | None = None
    ) -> list[LogRecord]:
        """R14: read what is asked for, instead of slicing the whole tail of the log."""
        log = self._log
        if fromIDx is None or not log.first_index <= fromIDx <= log.last_index:
            return []
        last = log.last_index if count is None else min(log.last_index, fromIDx + count - 1)
        records: list[LogRecord] = []
        while fromIDx + len(records) <= last:
            records += log.read(fromIDx + len(records), last, MIB)
        return records

    def _SyncObj__sendNextNodeIdx(
        self,
        node: Member,
        reset: bool = False,
        nextNodeIdx: int | None = None,
        success: bool = False,
    ) -> None:
        """R2, R4, R8, R15: confirm what was compared, or point behind what is committed."""
        if success:
            self._goes_on()
        sequence, prev_index, verified = self._answering
        next_index = (verified if success else max(self._commit, 1)) + 1
        self._say(node, frames.AppendAnswer(sequence, prev_index, success, next_index))

    def _SyncObj__sendAppendEntries(self) -> None:
        """R7, R10, R11: durable entries within a window, one heartbeat, never a loop."""
        now_s = self._environment.monotonic_s()
        self._SyncObj__newAppendEntriesTime = now_s + self._settings.heartbeat_s
        if self._progress_term != self.term:
            self._progress_term = self.term
            self._progress = {node.id: Progress() for node in self._others}
            self._election.leads(self.term, self._SyncObj__selfNode.id)
        if not self.silent:
            for node in self._reachable():
                self._replicate(node, now_s)

    def _SyncObj__applyLogEntries(self) -> bool:
        """A1, A2, A9, R6: entries are applied by the driver, in batches, after messages left."""
        return False

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:
        """E1, E2, T1: the library changes no members and unpickles nothing; see `_adopt`."""

    def _SyncObj__tryLogCompaction(self) -> None:
        """D3, D9, R4, R5, R9, T8: the library makes no dumps; the driver trims the journal."""


def _configure(settings: RaftSettings) -> SyncObjConf:
    return SyncObjConf(
        autoTick=False,
        # One command is queued at a time and taken at once, see `propose`.
        commandsQueueSize=1,
        raftMinTimeout=settings.election_min_s,
        raftMaxTimeout=settings.election_max_s,
        appendEntriesPeriod=settings.heartbeat_s,
        connectionTimeout=settings.election_max_s,
        # E6: a leader that hears no majority for that long is none any more.
        leaderFallbackTimeout=settings.election_max_s,
        appendEntriesUseBatch=True,
        # R7: above any entry, so that the path for larger ones is never taken.
        appendEntriesBatchSizeBytes=2 * settings.entry_bytes_max,
        # A6: a command without a leader is an error at once, not an effect at some time.
        commandsWaitLeader=False,
        dynamicMembershipChange=True,
        useFork=False,
    )
