"""Each fix taken out again, one at a time: the simulation has to notice.

A mutation replaces one method by what the library would have done, or by the mistake that
the method exists to prevent. They are named after the holes they open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from consensus import frames
from consensus.driver import Raft
from consensus.raft import engine as raft
from consensus.raft import rules as raft_rules
from consensus.raft.behind import LEADER
from consensus.raft.election import Election
from consensus.raft.engine import RaftCore
from consensus.raft.log import RaftLog
from consensus.raft.progress import Progress
from consensus.raft.rules import Rules
from consensus.raft.transfer import Transfer
from consensus.raft.transport import Transport
from consensus.raft.types import RaftSettings
from consensus.raft.writer import JournalWriter
from storage.journal_format import Batch
from storage.memory_journal import MemoryDisk
from tests.simulation.raft_life import ReadLife
from tests.simulation.raft_mutations_snapshots import SNAPSHOT_MUTATIONS
from tests.simulation.raft_registers import Answer, RegisterClients

# A class or a module, the name in it, and what takes its place.
Patch = tuple[Any, str, Any]


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
        self._transfer_campaign, self._barred = True, False

    return [(Rules, "_gate_campaign", gate)]


def _campaign_between_two_readings() -> list[Patch]:
    original = Rules._gate_campaign

    def gate(self: Any) -> None:
        original(self)
        self._barred = False

    return [(Rules, "_gate_campaign", gate)]


def _no_first_probe() -> list[Patch]:
    def retreat(self: Any, message: frames.AppendAnswer) -> int:
        return message.next_index

    return [(Rules, "_retreat", retreat)]


def _first_probe_repeated() -> list[Patch]:
    def retreat(self: Any, message: frames.AppendAnswer) -> int:
        first_index: int = self._log.first_index
        again = message.next_index <= first_index != message.prev_index
        return first_index + 1 if again else message.next_index

    return [(Rules, "_retreat", retreat)]


def _snapshot_taken_for_a_loss() -> list[Patch]:
    def denies(self: Any, message: frames.AppendAnswer, match_index: int) -> bool:
        return message.prev_index <= match_index

    return [(Rules, "_denies", denies)]


def _wish_to_lead_is_kept() -> list[Patch]:
    return [(Rules, "_asked_in_vain", False)]


def _cut_while_writing_ignored() -> list[Patch]:
    original = RaftLog.confirm

    def confirm(self: RaftLog) -> None:
        self._lowest_cut = 0
        original(self)

    return [(RaftLog, "confirm", confirm)]


def _answers_undo_a_retreat() -> list[Patch]:
    def start_over(self: Progress, sequence: int) -> None:
        original(self, sequence)
        self.sequence_floor = 0

    original = Progress.start_over
    return [(Progress, "start_over", start_over)]


def _stale_leader_unanswered() -> list[Patch]:
    def is_stale(self: Any, node: Any, term: int) -> bool:
        return bool(term < self._log.hard_state.term)

    return [(Rules, "_is_stale", is_stale)]


def _two_leaders_tolerated() -> list[Patch]:
    def leads(self: Election, term: int, member: str) -> None:
        """Nobody compares."""

    return [(Election, "leads", leads)]


def _committed_entries_replaced() -> list[Patch]:
    def tolerant(condition: bool, message: str, **numbers: object) -> None:
        """The library logs that it is critical, and goes on."""

    return [(raft_rules, "invariant", tolerant)]


def _no_window() -> list[Patch]:
    def has_room(self: Progress, settings: RaftSettings) -> bool:
        return True

    return [(Progress, "has_room", has_room)]


def _log_taken_for_committed() -> list[Patch]:
    original = RaftCore.__init__

    def init(self: Any, **arguments: Any) -> None:
        original(self, **arguments)
        self._commit_known = max(self._commit_known, self._log.last_index)
        self.durable()

    return [(RaftCore, "__init__", init)]


def _no_loyalty() -> list[Patch]:
    def hears_leader(self: Any) -> bool:
        return False

    return [(Rules, "_hears_leader", hears_leader)]


def _lost_entries_ignored() -> list[Patch]:
    def refuse(self: Any, node: Any, index: int) -> None:
        """The follower is led in circles."""

    return [(Rules, "_refuse", refuse)]


def _any_disk_accepted() -> list[Patch]:
    original = Transport._greet

    def greet(self: Any, member: str, session: Any, envelope: Any, hello: frames.Hello) -> None:
        self._disks[member] = hello.disk_id
        original(self, member, session, envelope, hello)

    return [(Transport, "_greet", greet)]


def _old_connections_heard() -> list[Patch]:
    original = Transport._accept

    def accept(self: Any, member: str, session: Any, envelope: frames.Envelope) -> None:
        if not isinstance(envelope.message, frames.Hello) and session.peer_epoch is not None:
            envelope = replace(envelope, epoch=session.peer_epoch)
        original(self, member, session, envelope)

    return [(Transport, "_accept", accept)]


def _lonely_leader_stays() -> list[Patch]:
    original = raft._configure

    def configure(settings: RaftSettings) -> Any:
        conf = original(settings)
        # What the library does unless it is told otherwise.
        conf.leaderFallbackTimeout = 30.0
        return conf

    return [(raft, "_configure", configure)]


def _transfer_takes_commands() -> list[Patch]:
    original = Raft.propose

    def propose(self: Any, command: bytes) -> int:
        transfer, self._transfer = self._transfer, Transfer()
        try:
            return original(self, command)
        finally:
            self._transfer = transfer

    return [(Raft, "propose", propose)]


def _silent_disk_leads_on() -> list[Patch]:
    def stalled_s(self: JournalWriter) -> float:
        return 0.0

    return [(JournalWriter, "stalled_s", stalled_s)]


def _reads_without_asking() -> list[Patch]:
    async def read(self: RegisterClients, life: ReadLife, key: str) -> Answer:
        return self.look(life, key)

    return [(RegisterClients, "read", read)]


def _reads_without_a_round() -> list[Patch]:
    def round_answered(self: Any, floor: int) -> bool:
        return True

    return [(Rules, "round_answered", round_answered)]


def _rounds_count_older_answers() -> list[Patch]:
    original = Rules.round_answered

    def round_answered(self: Any, floor: int) -> bool:
        return original(self, 0)

    return [(Rules, "round_answered", round_answered)]


def _reads_before_an_entry_of_the_term() -> list[Patch]:
    return [(RaftCore, "committed_in_term", True)]


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
    "campaign_between_two_readings": _campaign_between_two_readings,
    "no_first_probe": _no_first_probe,
    "first_probe_repeated": _first_probe_repeated,
    "snapshot_taken_for_a_loss": _snapshot_taken_for_a_loss,
    "wish_to_lead_is_kept": _wish_to_lead_is_kept,
    "cut_while_writing_ignored": _cut_while_writing_ignored,
    "answers_undo_a_retreat": _answers_undo_a_retreat,
    "stale_leader_unanswered": _stale_leader_unanswered,
    "two_leaders_tolerated": _two_leaders_tolerated,
    "committed_entries_replaced": _committed_entries_replaced,
    "no_window": _no_window,
    "log_taken_for_committed": _log_taken_for_committed,
    "no_loyalty": _no_loyalty,
    "lost_entries_ignored": _lost_entries_ignored,
    "any_disk_accepted": _any_disk_accepted,
    "old_connections_heard": _old_connections_heard,
    "lonely_leader_stays": _lonely_leader_stays,
    "transfer_takes_commands": _transfer_takes_commands,
    "silent_disk_leads_on": _silent_disk_leads_on,
    **SNAPSHOT_MUTATIONS,
    "reads_without_asking": _reads_without_asking,
    "reads_without_a_round": _reads_without_a_round,
    "rounds_count_older_answers": _rounds_count_older_answers,
    "reads_before_an_entry_of_the_term": _reads_before_an_entry_of_the_term,
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
