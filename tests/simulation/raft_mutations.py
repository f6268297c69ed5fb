"""Each fix taken out again, one at a time: the simulation has to notice.

A mutation replaces one method by what the library would have done, or by the mistake that
the method exists to prevent. They are named after the holes they open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from consensus import frames
from consensus.raft import RaftCore
from consensus.raft_behind import LEADER, Behind
from consensus.raft_election import Election
from consensus.raft_log import RaftLog
from consensus.raft_rules import Rules
from consensus.snapshot_receiver import SnapshotReceiver
from consensus.snapshots import Snapshots
from consensus.transport import Transport
from storage import snapshot_format
from storage.journal_format import Batch
from storage.memory_journal import MemoryDisk
from storage.snapshot_format import SnapshotReader

Patch = tuple[type[Any], str, Any]


def _visible_before_durable() -> list[Patch]:
    original = Transport.post

    def post(self: Transport, member: str, message: Any, term: int, sequence: int) -> None:
        original(self, member, message, term, 0)

    return [(Transport, "post", post)]


def _committed_before_durable() -> list[Patch]:
    def durable(self: Any) -> None:
        self._commit = max(self._commit, self._commit_known)

    return [(RaftCore, "durable", durable)]


def _vote_forgotten() -> list[Patch]:
    original = MemoryDisk.write

    def write(self: MemoryDisk, batch: Batch) -> None:
        original(
            self,
            Batch(
                truncate_from=batch.truncate_from,
                records=batch.records,
                trim_below=batch.trim_below,
                disks=batch.disks,
            ),
        )

    return [(MemoryDisk, "write", write)]


def _cut_behind_any_match() -> list[Patch]:
    def remainder(self: Any, message: frames.Append) -> tuple[int, int, list[Any]]:
        return message.prev_index, message.prev_term, message.records

    return [(Rules, "_remainder", remainder)]


def _confirm_own_end() -> list[Patch]:
    def answer(
        self: Any,
        node: Any,
        reset: bool = False,
        nextNodeIdx: int | None = None,
        success: bool = False,
    ) -> None:
        sequence, prev_index, _ = self._answering
        next_index = (self._log.last_index if success else max(self._commit, 1)) + 1
        self._say(node, frames.AppendAnswer(sequence, prev_index, success, next_index))

    return [(RaftCore, "_SyncObj__sendNextNodeIdx", answer)]


def _commit_own_end() -> list[Patch]:
    original = Rules._on_append

    def on_append(self: Any, node: Any, term: int, message: frames.Append) -> None:
        known = self._log.term_at(message.prev_index) == message.prev_term
        original(self, node, term, message)
        if known and not self._is_stale(node, term):
            self._SyncObj__raftCommitIndex = max(
                self._commit_known, min(message.commit_index, self._log.last_index)
            )

    return [(Rules, "_on_append", on_append)]


def _answers_of_any_term() -> list[Patch]:
    original = Rules._on_answer

    def on_answer(self: Any, node: Any, term: int, message: frames.AppendAnswer) -> None:
        if self._SyncObj__raftState == LEADER and term < self._log.hard_state.term:
            message = frames.AppendAnswer(
                message.sequence,
                message.prev_index,
                message.matched,
                min(message.next_index, self._log.last_index + 1),
            )
            term = self._log.hard_state.term
        original(self, node, term, message)

    return [(Rules, "_on_answer", on_answer)]


def _step_back_one_by_one() -> list[Patch]:
    original = Rules._retreat

    def retreat(self: Any, message: frames.AppendAnswer) -> int:
        original(self, message)
        return max(2, message.prev_index)

    return [(Rules, "_retreat", retreat)]


def _votes_by_message() -> list[Patch]:
    def count_vote(self: Election, term: int, member: str) -> bool:
        return True

    return [(Election, "count_vote", count_vote)]


def _no_pre_vote() -> list[Patch]:
    def gate(self: Any) -> None:
        self._transfer_campaign = True

    return [(Rules, "_gate_campaign", gate)]


def _no_first_probe() -> list[Patch]:
    def retreat(self: Any, message: frames.AppendAnswer) -> int:
        return message.next_index

    return [(Rules, "_retreat", retreat)]


def _cut_while_writing_ignored() -> list[Patch]:
    original = RaftLog.confirm

    def confirm(self: RaftLog) -> None:
        self._lowest_cut = 0
        original(self)

    return [(RaftLog, "confirm", confirm)]


def _commit_moves_with_snapshot() -> list[Patch]:
    original = Behind._on_snapshot_required

    def required(self: Any, node: Any, term: int, message: frames.SnapshotRequired) -> None:
        original(self, node, term, message)
        self._commit_known = max(self._commit_known, message.first_index)
        self.durable()

    return [(Behind, "_on_snapshot_required", required)]


def _damaged_snapshot_accepted() -> list[Patch]:
    def open_chunk(self: Any, chunk: bytes) -> tuple[int, memoryview]:
        head = snapshot_format._HEAD
        return head.unpack_from(chunk)[0], memoryview(chunk)[head.size : -4]

    def read_footer(self: Any, content: memoryview) -> Any:
        return snapshot_format._decode_footer(content)

    return [
        (SnapshotReader, "_open", open_chunk),
        (SnapshotReader, "_read_footer", read_footer),
    ]


def _old_snapshot_accepted() -> list[Patch]:
    return [(SnapshotReceiver, "_check_new", lambda self, incoming: None)]


def _log_not_kept_for_transfers() -> list[Patch]:
    return [(Snapshots, "held_index", lambda self: None)]


def _requests_are_no_contact() -> list[Patch]:
    def admits(self: Any, member: str, term: int) -> bool:
        self._enter()
        return not self._is_stale(self._nodes[member], term) and self._is_current(term)

    return [(Behind, "admits", admits)]


def _no_probe_after_snapshot() -> list[Patch]:
    def next_after(self: Any, match_index: int) -> int:
        return match_index + 1 if match_index else self._log.last_index + 1

    return [(Behind, "_next_after", next_after)]


MUTATIONS: dict[str, Callable[[], list[Patch]]] = {
    "visible_before_durable": _visible_before_durable,
    "committed_before_durable": _committed_before_durable,
    "vote_forgotten": _vote_forgotten,
    "cut_behind_any_match": _cut_behind_any_match,
    "confirm_own_end": _confirm_own_end,
    "commit_own_end": _commit_own_end,
    "answers_of_any_term": _answers_of_any_term,
    "step_back_one_by_one": _step_back_one_by_one,
    "votes_by_message": _votes_by_message,
    "no_pre_vote": _no_pre_vote,
    "no_first_probe": _no_first_probe,
    "cut_while_writing_ignored": _cut_while_writing_ignored,
    "commit_moves_with_snapshot": _commit_moves_with_snapshot,
    "damaged_snapshot_accepted": _damaged_snapshot_accepted,
    "old_snapshot_accepted": _old_snapshot_accepted,
    "log_not_kept_for_transfers": _log_not_kept_for_transfers,
    "requests_are_no_contact": _requests_are_no_contact,
    "no_probe_after_snapshot": _no_probe_after_snapshot,
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Take one fix out for the duration of the block."""
    patches = MUTATIONS[name]()
    originals = [(owner, method, getattr(owner, method)) for owner, method, _ in patches]
    for owner, method, replacement in patches:
        setattr(owner, method, replacement)
    try:
        yield
    finally:
        for owner, method, original in originals:
            setattr(owner, method, original)
