"""What a member does with each message, before and instead of what the library does.

The library believes whatever it is told. Here every message passes the rules of terms
first, and is then cut down to what it proves: an append to the entries that differ, an
answer to the indexes that were compared, a vote to one per member. What is left is given
to the library in its own form, which then changes its state and calls the overrides in
`consensus.raft.engine`.

This is one half of `RaftCore`; the names that begin with `_SyncObj__` belong to the
library, of which this module imports nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consensus import frames
from consensus.raft.behind import FOLLOWER, LEADER, Behind
from consensus.raft.election import Election
from consensus.raft.log import RaftLog
from consensus.raft.progress import Progress
from consensus.raft.types import RaftSettings
from storage.clock import Environment
from storage.invariant import invariant

# Entries in one message: far above what a batch of real ones holds, far below the bound
# of the decoder.
RECORDS_PER_MESSAGE_MAX = 4096

# Takes (member, message, term, sequence of the log's change it has to wait for).
Post = Callable[[str, frames.Message, int, int], None]


class Rules(Behind):
    """The receiving and replicating half of `RaftCore`."""

    _log: RaftLog
    _election: Election
    _environment: Environment
    _settings: RaftSettings
    _post: Post
    _nodes: dict[str, Any]
    _others: list[Any]
    _progress: dict[str, Progress]
    _progress_term: int
    _sequence: int
    # The message that is being answered: its number, its anchor, and the index up to
    # which it was found to agree with this log.
    _answering: tuple[int, int, int]
    # Whether the next campaign is one that the leader asked for.
    _transfer_campaign: bool
    # Whether the library must not campaign in this tick, whatever its deadline is.
    _barred: bool
    # The highest index that is known to be committed, durable here or not.
    _commit_known: int

    _SyncObj__raftState: int
    _SyncObj__raftLeader: Any
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftElectionDeadline: float
    _SyncObj__transferInProgress: bool
    _SyncObj__raftNextIndex: dict[Any, int]
    _SyncObj__raftMatchIndex: dict[Any, int]
    _SyncObj__onMessageReceived: Callable[[Any, dict[str, Any]], None]
    _SyncObj__connectedNodes: set[Any]
    _SyncObj__generateRaftTimeout: Callable[[], float]
    _SyncObj__setState: Callable[[int], None]
    _SyncObj__setCurrentTerm: Callable[[int, str | None], None]

    def receive(self, member: str, term: int, message: frames.Message) -> None:
        """Act on one message of a member; the network has proven who sent it.

        Raises:
            SnapshotNeeded: this member cannot go on as it is.
        """
        node = self._node_of(member)
        match message:
            case frames.Append():
                self._on_append(node, term, message)
            case frames.AppendAnswer():
                self._on_answer(node, term, message)
            case frames.VoteRequest():
                self._on_vote_request(node, term, message)
            case frames.Vote():
                self._on_vote(node, term)
            case frames.PreVoteRequest():
                self._on_pre_vote_request(node, term, message)
            case frames.PreVote():
                self._on_pre_vote(node, term, message)
            case frames.StaleTerm():
                self._is_current(term)
            case frames.TimeoutNow():
                self._SyncObj__onMessageReceived(node, {"type": "timeout_now", "term": term})
            case frames.SnapshotRequired():
                self._on_snapshot_required(node, term, message)

    # --- Terms ------------------------------------------------------------------------

    def _is_current(self, term: int) -> bool:
        """Tell whether a message belongs to this term; a newer one ends ours (R3, R12)."""
        current = self._log.hard_state.term
        if term > current:
            self._SyncObj__transferInProgress = False
            self._SyncObj__setState(FOLLOWER)
            self._SyncObj__raftLeader = None
            self._SyncObj__setCurrentTerm(term, None)
        return term == current

    def _is_stale(self, node: Any, term: int) -> bool:
        """Tell whether a request comes out of the past, and let its sender know (R12)."""
        if term >= self._log.hard_state.term:
            return False
        self._say(node, frames.StaleTerm(), self._log.hard_sequence)
        return True

    def _say(self, node: Any, message: frames.Message, wait_for: int | None = None) -> None:
        """Post a message of this term, by default behind all changes made so far."""
        sequence = self._log.sequence if wait_for is None else wait_for
        self._post(node.id, message, self._log.hard_state.term, sequence)

    # --- Follower ---------------------------------------------------------------------

    def _on_append(self, node: Any, term: int, message: frames.Append) -> None:
        if self._is_stale(node, term):
            return
        self._election.heard(term, node.id, self._environment.monotonic_s())
        self._told_commit = max(self._told_commit, message.commit_index)
        verified = message.prev_index + len(message.records)
        self._answering = (message.sequence, message.prev_index, verified)
        prev_index, prev_term, records = self._remainder(message)
        self._SyncObj__onMessageReceived(
            node,
            {
                "type": "append_entries",
                "term": term,
                "prevLogIdx": prev_index,
                "prevLogTerm": prev_term,
                "entries": records,
                "commit_index": min(message.commit_index, verified),
            },
        )

    def _remainder(self, message: frames.Append) -> tuple[int, int, list[frames.Record]]:
        """Return the part of an append that this log does not have yet, and its anchor (R2).

        The library would cut its log behind any anchor that matches. So the anchor is
        moved to the last entry before the first difference, or, where there is none, to
        the end of this log, behind which there is nothing to cut.
        """
        log = self._log
        if log.term_at(message.prev_index) != message.prev_term:
            return message.prev_index, message.prev_term, message.records
        known = 0
        for _, index, term in message.records:
            if log.term_at(index) != term:
                break
            known += 1
        if known == len(message.records):
            return log.last_index, log.last_term, []
        first = message.prev_index + known + 1
        invariant(
            first > self._commit_known or first > log.last_index,
            "A committed entry is never replaced.",
            index=first,
            commit_index=self._commit_known,
            last_index=log.last_index,
            leader_term=message.records[known][2],
        )
        anchor_term = log.term_at(first - 1)
        assert anchor_term is not None
        return first - 1, anchor_term, message.records[known:]

    # --- Elections --------------------------------------------------------------------

    def _hears_leader(self) -> bool:
        """Tell whether this member has a leader, itself included, to whom it is loyal (E5)."""
        now_s = self._environment.monotonic_s()
        patience_s = self._settings.election_min_s
        return self._SyncObj__raftState == LEADER or self._election.silence_s(now_s) < patience_s

    def _on_vote_request(self, node: Any, term: int, message: frames.VoteRequest) -> None:
        if self._is_stale(node, term) or (self._hears_leader() and not message.transfer):
            return
        self._SyncObj__onMessageReceived(
            node,
            {
                "type": "request_vote",
                "term": term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            },
        )

    def _on_vote(self, node: Any, term: int) -> None:
        """Count a vote once per member and term (E4).

        The library counts the candidate itself. One that is being removed is not counted, so
        the library hears of its votes when there are enough of them.
        """
        if not self._is_current(term) or self.is_guest(node.id):
            return
        if not self._election.count_vote(term, node.id):
            return
        count = 1
        if not self.votes:
            votes = self._election.votes(term)
            count = votes if votes >= self._election.majority else 0
        for _ in range(count):
            self._SyncObj__onMessageReceived(node, {"type": "response_vote", "term": term})

    def _on_pre_vote_request(self, node: Any, term: int, message: frames.PreVoteRequest) -> None:
        """Say whether this member would vote; asking changes nothing here (E5)."""
        log = self._log
        complete = (message.last_term, message.last_index) >= (log.last_term, log.last_index)
        granted = complete and term >= log.hard_state.term and not self._hears_leader()
        self._say(node, frames.PreVote(term + 1, granted), log.hard_sequence)

    def _on_pre_vote(self, node: Any, term: int, message: frames.PreVote) -> None:
        self._is_current(term)
        asked = self._log.hard_state.term + 1
        if not message.granted or message.asked_term != asked or self.is_guest(node.id):
            return
        self._election.count_pre_vote(asked, node.id)
        if self._election.would_win(asked):
            self._SyncObj__raftElectionDeadline = float("-inf")

    def _gate_campaign(self) -> None:
        """E5, E7: before the library campaigns, ask whether a majority would vote at all.

        The library reads the clock again. A deadline that passes just then is left to the
        next tick, so that nothing slips through between the two readings.
        """
        now_s = self._environment.monotonic_s()
        if self._SyncObj__raftState == LEADER or now_s <= self._SyncObj__raftElectionDeadline:
            self._barred = True
            return
        self._barred = self._asked_in_vain or not self.may_campaign
        if self._barred:
            self._SyncObj__transferInProgress = False
            self._SyncObj__raftElectionDeadline = now_s + self._SyncObj__generateRaftTimeout()
            return
        self._transfer_campaign = self._SyncObj__transferInProgress
        asked = self._log.hard_state.term + 1
        if self._transfer_campaign or self._election.would_win(asked):
            return
        if not self._SyncObj__otherNodes:
            return
        self._barred = True
        self._SyncObj__raftElectionDeadline = now_s + self._SyncObj__generateRaftTimeout()
        self._election.ask(asked)
        for node in filter(self._SyncObj__otherNodes.__contains__, self._reachable()):
            self._say(node, frames.PreVoteRequest(self._log.last_index, self._log.last_term))

    @property
    def _asked_in_vain(self) -> bool:
        """Tell whether the leader has asked this member to lead, and nobody would hear it.

        Kept for later, the wish would depose whoever leads then.
        """
        return self._SyncObj__transferInProgress and not self._reachable()

    # --- Leader -----------------------------------------------------------------------

    def _on_answer(self, node: Any, term: int, message: frames.AppendAnswer) -> None:
        """Believe an answer of this term for what it compared, and for nothing more (R3)."""
        if not self._is_current(term) or self._SyncObj__raftState != LEADER:
            return
        progress = self._progress.get(node.id)
        if progress is None or self.is_guest(node.id):
            return
        progress.answered_s = self._environment.monotonic_s()
        progress.answered_sequence = max(progress.answered_sequence, message.sequence)
        invariant(
            message.next_index <= self._log.last_index + 1,
            "A leader has every entry that a follower has matched or committed.",
            member=node.id,
            next_index=message.next_index,
            last_index=self._log.last_index,
        )
        match_index = self._SyncObj__raftMatchIndex[node]
        if message.matched:
            progress.matched(message.next_index - 1)
        elif self._denies(message, match_index):
            self._refuse(node, message.prev_index)
            return
        next_index = self._SyncObj__raftNextIndex[node]
        self._SyncObj__onMessageReceived(
            node,
            {
                "type": "next_node_idx",
                "reset": False,
                "success": message.matched,
                "next_node_idx": message.next_index,
            },
        )
        # The library moves the next index with every answer. It moves forward with what
        # is sent, and back only once for everything that was under way (R2, R15).
        match_index = self._SyncObj__raftMatchIndex[node]
        self._SyncObj__raftNextIndex[node] = max(next_index, match_index + 1)
        if not message.matched and message.sequence >= progress.sequence_floor:
            self._start_over(node, max(match_index + 1, self._retreat(message)))

    def _retreat(self, message: frames.AppendAnswer) -> int:
        """Return from where to compare again after a refusal (R8).

        Behind the follower's committed entries the logs agree. Where this log does not
        reach back that far, its first entry is tried before a snapshot is called for: once,
        for who lacks an entry lacks all that follow it, although the log may have been
        trimmed meanwhile and have another first one.
        """
        first_index = self._log.first_index
        tried = message.next_index <= message.prev_index <= first_index
        if message.next_index <= first_index and not tried:
            return first_index + 1
        return message.next_index

    def _denies(self, message: frames.AppendAnswer, match_index: int) -> bool:
        """Tell whether a refusal is about an entry that its sender confirmed in this very term.

        Who has committed what comes behind the entry denies nothing: it has trimmed it, or a
        snapshot of another leader has taken the place of what was confirmed (R13).
        """
        return message.next_index <= message.prev_index <= match_index

    def _refuse(self, node: Any, index: int) -> None:
        """Tell a follower that it denies an entry it has confirmed."""
        reason = (
            f"Member {node.id} confirmed entry {index} and does not have it any more: its disk "
            "lost what was synced to it, or an older copy was put in its place. Remove it from "
            "the cluster and add it back with an empty disk."
        )
        self._say(node, frames.Refusal(reason), self._log.hard_sequence)

    def _start_over(self, node: Any, next_index: int) -> None:
        self._SyncObj__raftNextIndex[node] = next_index
        self._progress[node.id].start_over(self._sequence + 1)

    def _replicate(self, node: Any, now_s: float) -> None:
        """Send a follower what its window allows: durable entries, else a heartbeat if due."""
        progress = self._progress[node.id]
        log, next_index = self._log, self._SyncObj__raftNextIndex[node]
        if next_index <= log.first_index:
            self._require_snapshot(node, progress, now_s)
            return
        spoken = False
        while next_index <= log.durable_index and progress.has_room(self._settings):
            last = min(log.durable_index, next_index + RECORDS_PER_MESSAGE_MAX - 1)
            records = log.read(next_index, last, self._settings.batch_bytes_max)
            self._append_to(node, next_index - 1, records)
            next_index = records[-1][1] + 1
            progress.sent(next_index - 1, len(records), sum(len(r[0]) for r in records))
            spoken = True
        self._SyncObj__raftNextIndex[node] = next_index
        commit_index = self._SyncObj__raftCommitIndex
        if not spoken and (
            commit_index > progress.told_commit or now_s >= progress.heartbeat_due_s
        ):
            self._append_to(node, next_index - 1, [])
            spoken = True
        if spoken:
            progress.told_commit = commit_index
            progress.heartbeat_due_s = now_s + self._settings.heartbeat_s

    def _append_to(self, node: Any, prev_index: int, records: list[frames.Record]) -> None:
        prev_term = self._log.term_at(prev_index)
        assert prev_term is not None
        self._sequence += 1
        commit_index = self._SyncObj__raftCommitIndex
        message = frames.Append(self._sequence, prev_index, prev_term, commit_index, records)
        # The entries are durable already; the term and the anchor may still be under way.
        anchored = prev_index <= self._log.durable_index
        self._say(node, message, self._log.hard_sequence if anchored else None)

    # --- Rounds of reads (see consensus.read_rounds) ------------------------------------

    def begin_round(self) -> int:
        """Have every follower answer once more; return the number that answers must exceed."""
        for progress in self._progress.values():
            progress.heartbeat_due_s = float("-inf")
        return self._sequence

    def round_answered(self, floor: int) -> bool:
        """Tell whether a majority has answered messages sent after number `floor`."""
        return self._count(lambda one: one.answered_sequence > floor) >= self._election.majority
