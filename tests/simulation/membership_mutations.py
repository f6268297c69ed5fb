"""Each rule about members taken out, one at a time; see `raft_mutations`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from consensus import configuration, frames
from consensus.raft import members as raft_members
from consensus.raft.configurations import Configurations
from consensus.raft.engine import RaftCore
from consensus.raft.log import RaftLog
from consensus.raft.members import Membership
from consensus.raft.rules import Rules
from storage.invariant import invariant
from storage.journal_format import Batch
from storage.memory_journal import MemoryDisk
from tests.simulation.raft_mutations import Patch


def _changes_at_once() -> list[Patch]:
    """E1: the library's guard tests a variable that is never set."""

    def check_wish(self: Any, after: configuration.Configuration) -> None:
        configuration.check_change(self.configuration[1], after)

    return [(Membership, "check_wish", check_wish)]


def _change_before_own_entry() -> list[Patch]:
    original = Membership.check_wish

    def check_wish(self: Any, after: configuration.Configuration) -> None:
        term_at = self._log.term_at
        self._log.term_at = lambda index: self._log.hard_state.term
        try:
            original(self, after)
        finally:
            self._log.term_at = term_at

    return [(Membership, "check_wish", check_wish)]


def _configuration_when_committed() -> list[Patch]:
    """Counting with the new voters only once the old ones have agreed to them."""

    def current(self: Membership) -> tuple[int, configuration.Configuration]:
        return self.committed_configuration

    return [(Membership, "configuration", property(current))]


def _configuration_not_cut() -> list[Patch]:
    def truncate_from(self: Configurations, index: int) -> None:
        """Keep what the log has lost."""

    return [(Configurations, "truncate_from", truncate_from)]


def _configuration_forgotten() -> list[Patch]:
    """E2: after a restart only what was applied counts."""

    def all_records(self: RaftLog) -> Iterator[Any]:
        return iter(())

    return [(RaftLog, "_all_records", all_records)]


def _base_forgotten() -> list[Patch]:
    original = MemoryDisk.write

    def write(self: MemoryDisk, batch: Batch) -> None:
        bare = Batch(
            truncate_from=batch.truncate_from,
            records=batch.records,
            trim_below=batch.trim_below,
            hard_state=batch.hard_state,
            disks=batch.disks,
        )
        original(self, bare)

    return [(MemoryDisk, "write", write)]


def _anybody_campaigns() -> list[Patch]:
    """E7: a member without a vote asks for votes, and counts for others."""

    def voters(self: configuration.Configuration) -> frozenset[str]:
        return self.names

    return [(configuration.Configuration, "voters", property(voters))]


def _learners_decide() -> list[Patch]:
    """E7: a newcomer counts from the moment it is there."""
    original = Membership._adopt

    def adopt(self: Any) -> None:
        original(self)
        self._SyncObj__otherNodes = set(self._others)

    def countable(self: Any, index: int) -> int:
        return index

    return [(Membership, "_adopt", adopt), (Membership, "_countable", countable)]


def _leaver_counts_itself() -> list[Patch]:
    """A member that is being removed counts itself, as the library does in any case."""

    def votes(self: Any) -> bool:
        return True

    def countable(self: Any, index: int) -> int:
        return index

    return [(Membership, "votes", property(votes)), (Membership, "_countable", countable)]


def _guests_decide() -> list[Patch]:
    """Whoever bears the name of a voter votes."""

    def is_guest(self: Any, member: str) -> bool:
        return False

    return [(Membership, "is_guest", is_guest)]


def _two_voters_at_once() -> list[Patch]:
    """Majorities of two configurations that need not meet."""

    def check_change(before: Any, after: Any) -> None:
        invariant(after.voters, "Somebody decides.", before=before)

    return [(raft_members, "check_change", check_change)]


def _newcomers_vote_at_once() -> list[Patch]:
    """E7: whoever is a learner counts as caught up, with whatever it has."""

    def caught_up(self: Any) -> str | None:
        if not self.leads:
            return None
        seats = self.configuration[1].seats
        return next((seat.name for seat in seats if seat.role == "learner"), None)

    return [(RaftCore, "caught_up_learner", caught_up)]


def _guests_confirm() -> list[Patch]:
    original = Rules._on_answer

    def on_answer(self: Any, node: Any, term: int, message: frames.AppendAnswer) -> None:
        guests, self._guests = self._guests, {}
        try:
            original(self, node, term, message)
        finally:
            self._guests = guests

    return [(Rules, "_on_answer", on_answer)]


def _leaver_commits_what_is_older() -> list[Patch]:
    def countable(self: Any, index: int) -> int:
        counted: int = max(self._commit, min(index, self._quorum_index()))
        return counted

    return [(Membership, "_countable", countable)]


MUTATIONS: dict[str, Callable[[], list[Patch]]] = {
    "changes_at_once": _changes_at_once,
    "change_before_own_entry": _change_before_own_entry,
    "configuration_when_committed": _configuration_when_committed,
    "configuration_not_cut": _configuration_not_cut,
    "configuration_forgotten": _configuration_forgotten,
    "base_forgotten": _base_forgotten,
    "anybody_campaigns": _anybody_campaigns,
    "learners_decide": _learners_decide,
    "leaver_counts_itself": _leaver_counts_itself,
    "guests_decide": _guests_decide,
    "guests_confirm": _guests_confirm,
    "leaver_commits_what_is_older": _leaver_commits_what_is_older,
    "two_voters_at_once": _two_voters_at_once,
    "newcomers_vote_at_once": _newcomers_vote_at_once,
}


@contextmanager
def without(name: str) -> Iterator[None]:
    """Take one rule out for the duration of the block."""
    patches = MUTATIONS[name]()
    kept = [(owner, field, vars(owner).get(field)) for owner, field, _ in patches]
    for owner, field, replacement in patches:
        setattr(owner, field, replacement)
    try:
        yield
    finally:
        for owner, field, original in kept:
            if original is None:
                delattr(owner, field)
            else:
                setattr(owner, field, original)
