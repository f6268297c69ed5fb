"""Who is replicated to, who is counted, and what a leader answers to a wish for a change.

The library's own way of changing members is not used: it trusts a guard that is never set,
forgets uncommitted changes at a restart, and lets a newcomer vote with an empty log (E1,
E2, E7). Here the configuration is read from the log, see `consensus.configuration`, and the
library is told the result: who votes, and who is replicated to without a vote.

A member that is being removed is kept in touch until its removal is committed. It may even
be needed: if it alone has the entry that removes it, only it can be elected, by the voters
that stay. It then counts neither itself for votes nor its disk for commitment.

This is one part of `RaftCore`; the names that begin with `_SyncObj__` belong to the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consensus.configuration import (
    SEATS_MAX,
    Configuration,
    ConfigurationError,
    Seat,
    check_change,
    decode_configuration,
    encode_configuration,
)
from consensus.errors import ChangeRefused
from consensus.raft.configurations import Placed
from consensus.raft.election import Election
from consensus.raft.log import RaftLog
from consensus.raft.progress import Progress
from consensus.raft.seams import MEMBERSHIP
from consensus.raft.types import Introduction, PeerProgress, RaftSettings
from storage.clock import Environment


class Membership:
    """The half of `RaftCore` that follows the configuration in the log."""

    _member: str
    _log: RaftLog
    _election: Election
    _environment: Environment
    _settings: RaftSettings
    _nodes: dict[str, Any]
    _others: list[Any]
    _progress: dict[str, Progress]
    _progress_term: int
    _commit: int
    _make_node: Callable[[str], Any]
    # The configurations in force and committed that the fields here were made from.
    _adopted: tuple[Configuration, Configuration] | None = None
    # Who was let in without a seat here, with the configuration that it knows of.
    _guests: dict[str, tuple[Seat, int]]
    # For each learner, what it has to reach in this round, and when the round began.
    _rounds: dict[str, tuple[int, float]]

    _SyncObj__connectedNodes: set[Any]
    _SyncObj__otherNodes: set[Any]
    _SyncObj__readonlyNodes: set[Any]
    _SyncObj__raftNextIndex: dict[Any, int]
    _SyncObj__raftMatchIndex: dict[Any, int]
    _SyncObj__lastResponseTime: dict[Any, float]

    @property
    def leads(self) -> bool:
        raise NotImplementedError

    def propose(self, command: bytes, kind: int) -> int:
        raise NotImplementedError

    @property
    def other_voters(self) -> list[str]:
        """Return the names of the other members that have a vote."""
        return [node.id for node in self._others if node in self._SyncObj__otherNodes]

    @property
    def member(self) -> str:
        """Return this member's name."""
        return self._member

    @property
    def configuration(self) -> Placed:
        """Return index and content of the configuration that is in force."""
        return self._log.configurations.current

    @property
    def committed_configuration(self) -> Placed:
        """Return index and content of the newest configuration known to be committed."""
        return self._log.configurations.at(self._commit)

    @property
    def peers(self) -> dict[str, Seat]:
        """Return the seats to talk to: those in force, those that may be yet again, and guests."""
        guests = {name: seat for name, (seat, _) in self._guests.items()}
        return _seats(self.committed_configuration[1], self.configuration[1]) | guests

    def take_guest(self, member: str, introduction: Introduction) -> None:
        """Listen to a member that knows more of the members than this one does."""
        seat = Seat(member, introduction.address, "nonvoting", introduction.seat_id)
        if len(self._guests) < SEATS_MAX:
            self._guests[member] = (seat, introduction.configuration)

    def is_guest(self, member: str) -> bool:
        """Tell whether who bears this name is not the one that the configuration means."""
        return member in self._guests

    @property
    def votes(self) -> bool:
        """Tell whether this member is a voter of the configuration that is in force."""
        return self._member in self.configuration[1].voters

    @property
    def may_campaign(self) -> bool:
        """Tell whether this member may ask for votes: only who has no vote for certain must not."""
        return self.votes or self._member in self.committed_configuration[1].voters

    def _adopt(self) -> None:
        """Take over the configurations of the log, if they are others than before."""
        wanted = (self.configuration[1], self.committed_configuration[1])
        if wanted == self._adopted:
            return
        self._adopted = wanted
        voters = wanted[0].voters
        seats = _seats(wanted[1], wanted[0])
        index = self.committed_configuration[0]
        self._guests = {
            name: (guest, known)
            for name, (guest, known) in self._guests.items()
            if known > index and not _same(guest, seats.get(name))
        }
        names = sorted(seats.keys() - {self._member})
        self._others = [self._node_of(name) for name in names]
        self._election.set_voters(voters)
        self._SyncObj__otherNodes = {n for n in self._others if n.id in voters}
        self._SyncObj__readonlyNodes = {n for n in self._others if n.id not in voters}
        self._rounds = {name: round_ for name, round_ in self._rounds.items() if name in names}
        if self.leads:
            self._follow_others()

    def _node_of(self, name: str) -> Any:
        if name not in self._nodes:
            self._nodes[name] = self._make_node(name)
        return self._nodes[name]

    def _follow_others(self) -> None:
        """As the leader, begin to replicate to whoever is new, and forget who is gone."""
        now_s = self._environment.monotonic_s()
        for node in self._others:
            if node.id not in self._progress:
                self._progress[node.id] = Progress()
                self._SyncObj__raftNextIndex[node] = self._log.last_index + 1
                self._SyncObj__raftMatchIndex[node] = 0
                self._SyncObj__lastResponseTime[node] = now_s
        names = {node.id for node in self._others}
        self._progress = {n: progress for n, progress in self._progress.items() if n in names}

    # --- Counting -----------------------------------------------------------------------

    def _quorum_index(self) -> int:
        """Return the highest index that a majority of the voters has, this one by its disk."""
        found = [self._SyncObj__raftMatchIndex[node] for node in self._SyncObj__otherNodes]
        if self.votes:
            found.append(self._log.last_index)
        return sorted(found, reverse=True)[self._election.majority - 1]

    def _countable(self, index: int) -> int:
        """Return how much of what the library takes for committed a majority does have.

        The library counts the leader in any case. A leader that is being removed must not.
        """
        quorum_index = self._quorum_index()
        if index <= quorum_index:
            return index
        of_this_term = self._log.term_at(quorum_index) == self._log.hard_state.term
        return max(self._commit, quorum_index) if of_this_term else self._commit

    def _count(
        self, wanted: Callable[[Progress], bool], voters: frozenset[str] | None = None
    ) -> int:
        """Return for how many voters something holds; this leader is one if it has a vote.

        Learners and other members without a vote answer like everybody else, and do not count.
        """
        counted = self.configuration[1].voters if voters is None else voters
        names = {name for name, progress in self._progress.items() if wanted(progress)}
        return len((names | {self._member}) & counted)

    def quorum_contact(self, now_s: float, within_s: float) -> bool:
        """Tell whether a majority, or for a follower the leader, was heard lately."""
        if not self.leads:
            return self._election.silence_s(now_s) <= within_s
        return self._count(_answered_since(now_s - within_s)) >= self._election.majority

    def _reachable(self) -> list[Any]:
        """Return the members of the configuration with an open session."""
        connected = self._SyncObj__connectedNodes
        return [n for n in self._others if n in connected and not self.is_guest(n.id)]

    @property
    def committed_in_term(self) -> bool:
        """Tell whether an entry of this term is committed, hence all of its predecessors."""
        return self._log.term_at(self._commit) == self._log.hard_state.term

    def peer_progress(self) -> dict[str, PeerProgress]:
        """Return how far each follower's log is known to agree with this leader's."""
        return {
            name: PeerProgress(
                match_index=self._SyncObj__raftMatchIndex[self._nodes[name]],
                last_contact_s=progress.answered_s,
            )
            for name, progress in self._progress.items()
        }

    # --- Changing -----------------------------------------------------------------------

    def change(self, after: Configuration) -> int:
        """Append a configuration as leader and return its index.

        Raises:
            ChangeRefused: it must not follow on the present one, or not now.
        """
        self.check_wish(after)
        content = encode_configuration(after)
        try:
            decode_configuration(content)
        except ConfigurationError as error:
            # In the log it would stop every member.
            raise ChangeRefused(str(error)) from error
        index = self.propose(content, MEMBERSHIP)
        self._adopt()
        return index

    def check_wish(self, after: Configuration) -> None:
        """Refuse a configuration that this leader must not append now (E1).

        Raises:
            ChangeRefused: with the reason.
        """
        index, before = self.configuration
        if not self.committed_in_term:
            raise ChangeRefused(
                "This leader has not committed an entry of its own term yet, so it may not know "
                "of a change that is under way. Ask again in a moment."
            )
        if index > self._commit:
            raise ChangeRefused(
                f"The change before this one, entry {index}, is not committed yet. Ask again in "
                "a moment."
            )
        check_change(before, after)
        if self._member not in after.voters:
            raise ChangeRefused("A leader hands leadership over before it gives up its vote.")
        if before.voters != after.voters:
            self._check_contact(after)

    def _check_contact(self, after: Configuration) -> None:
        since_s = self._environment.monotonic_s() - self._settings.election_max_s
        majority = len(after.voters) // 2 + 1
        contact = self._count(_answered_since(since_s), after.voters)
        if contact < majority:
            raise ChangeRefused(
                f"Of the {len(after.voters)} voters there would be, {contact} answer at the "
                f"moment and {majority} are needed: the cluster would stand still."
            )

    def caught_up_learner(self) -> str | None:
        """Return a learner that is ready to vote, if this leader may make it a voter now (E7).

        It has caught up when a round, in which it gets what the log held when the round began,
        took less than an election timeout: the entries that came meanwhile will not take longer.
        """
        learners = [seat for seat in self.configuration[1].seats if seat.role == "learner"]
        if not learners or not self.leads:
            self._rounds.clear()
            return None
        now_s = self._environment.monotonic_s()
        for seat in learners:
            match_index = self._SyncObj__raftMatchIndex[self._nodes[seat.name]]
            target, began_s = self._rounds.setdefault(seat.name, (self._log.last_index, now_s))
            if match_index < target:
                continue
            self._rounds[seat.name] = (self._log.last_index, now_s)
            if now_s - began_s <= self._settings.election_min_s:
                return seat.name
        return None


def _answered_since(since_s: float) -> Callable[[Progress], bool]:
    return lambda progress: progress.answered_s is not None and progress.answered_s >= since_s


def _same(guest: Seat, seat: Seat | None) -> bool:
    return seat is not None and seat.seat_id == guest.seat_id


def _seats(*configurations: Configuration) -> dict[str, Seat]:
    """Return the seats of some configurations by name; the last one counts."""
    return {seat.name: seat for one in configurations for seat in one.seats}
