"""The bookkeeping of elections: who voted, who would, and who leads this term.

The library counts messages; here votes are sets of members, so a vote that arrives twice
is one vote. A member asks before it campaigns (PreVote) and does not listen to candidates
while it hears a leader (stickiness): one broken link or a member that returns then costs
no leader its term. See Ongaro's thesis, sections 4.2.3 and 9.6.
"""

from __future__ import annotations

from storage.invariant import invariant


class Election:
    """Votes, pre-votes and the leader of the current term, seen by one member."""

    def __init__(self, member: str, voters: frozenset[str]) -> None:
        self._member = member
        self._voters = voters
        self._votes: tuple[int, set[str]] = (0, set())
        self._would: tuple[int, set[str]] = (0, set())
        self._leader: tuple[int, str] = (0, "")
        self._heard_s = float("-inf")

    def set_voters(self, voters: frozenset[str]) -> None:
        """Take over the voters of the configuration that is in force."""
        self._voters = voters

    @property
    def majority(self) -> int:
        """Return how many members decide."""
        return len(self._voters) // 2 + 1

    def count_vote(self, term: int, member: str) -> bool:
        """Note a vote; True if this member's vote for this term is new."""
        if self._votes[0] != term:
            self._votes = (term, set())
        if member in self._votes[1] or member not in self._voters:
            return False
        self._votes[1].add(member)
        return True

    def votes(self, term: int) -> int:
        """Return how many voters have voted for this member in `term`, itself left out."""
        return len(self._votes[1] & self._voters) if self._votes[0] == term else 0

    def ask(self, term: int) -> None:
        """Begin to ask who would vote for this member in `term`."""
        self._would = (term, {self._member} & self._voters)

    def count_pre_vote(self, term: int, member: str) -> None:
        """Note that a member would vote for this one in `term`."""
        if term == self._would[0] and member in self._voters:
            self._would[1].add(member)

    def would_win(self, term: int) -> bool:
        """Tell whether a majority said that it would vote for this member in `term`."""
        return term == self._would[0] and len(self._would[1]) >= self.majority

    def leads(self, term: int, member: str) -> None:
        """Note who leads a term; two leaders of one term mean that a vote was forgotten."""
        known_term, known = self._leader
        invariant(
            term != known_term or member == known,
            "A term has one leader.",
            term=term,
            leader=known,
            other=member,
        )
        self._leader = (term, member)

    def heard(self, term: int, leader: str, now_s: float) -> None:
        """Note a message of the leader; whatever was asked before is void."""
        self.leads(term, leader)
        self._heard_s = now_s
        self._would = (0, set())

    def silence_s(self, now_s: float) -> float:
        """Return for how long no leader was heard."""
        return now_s - self._heard_s
