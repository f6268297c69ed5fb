"""Comparing the rolling hash with the other members', and knowing who is wrong.

Members tell each other, with every heartbeat, their hashes at the last marks. Two hashes
are compared at an index that both members have; since each hash contains all those before
it, one comparison judges everything up to there.

A member is wrong if its hash at an index is not the one that a majority of the voters,
all of them heard lately, report for the same index. Only then does it stop: those that
outvote it are up and are a majority, so the cluster goes on without it, and two members
that contradict each other with nobody to decide never stop each other. That is an alarm
instead. A member without a vote is judged like any other and counts for nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from storage.clock import Environment

# The newest marks that a member tells; each contains all that came before it.
MARKS_TOLD = 16
# Kept of what a member has told: enough until one that catches up has reached them.
MARKS_KEPT_OF_A_MEMBER = 64
# Who was not heard for this long may be down, and is no evidence any more. Several
# heartbeats, for a slow member is up.
HEARD_S_MAX = 10.0
MEMBERS_MAX = 100

Mark = tuple[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """This member is wrong: at `index` its hash is `own`, that of `outvoted_by` is `right`."""

    index: int
    own: bytes
    right: bytes
    outvoted_by: frozenset[str]


class StateDiverged(Exception):
    """This member's state is not that of the majority; it must not go on with it."""

    def __init__(self, verdict: Verdict) -> None:
        others = ", ".join(sorted(verdict.outvoted_by))
        super().__init__(
            f"The state of this member differs from that of the majority: at log index "
            f"{verdict.index} its hash is {verdict.own.hex()}, that of {others} is "
            f"{verdict.right.hex()}."
        )
        self.verdict = verdict


class StateCheck:
    """The marks of all members, as far as they were heard here."""

    def __init__(
        self,
        member: str,
        environment: Environment,
        voters: Callable[[], frozenset[str]],
        own_marks: Callable[[], Iterable[Mark]],
    ) -> None:
        self._member = member
        self._environment = environment
        self._voters = voters
        self._own_marks = own_marks
        self._heard: dict[str, tuple[float, dict[int, bytes]]] = {}

    def heard(self, member: str, marks: Iterable[Mark]) -> None:
        """Take what another member has told."""
        if member not in self._heard and len(self._heard) >= MEMBERS_MAX:
            return
        _, known = self._heard.get(member, (0.0, {}))
        known.update(marks)
        newest = sorted(known)[-MARKS_KEPT_OF_A_MEMBER:]
        now_s = self._environment.monotonic_s()
        self._heard[member] = (now_s, {index: known[index] for index in newest})

    def to_tell(self) -> list[Mark]:
        """Return what the others are to hear of this member."""
        return list(self._own_marks())[-MARKS_TOLD:]

    def evidence(self) -> Mapping[str, Mapping[int, bytes]]:
        """Return the marks of every member that was heard lately, without this one's."""
        now_s = self._environment.monotonic_s()
        return {
            member: marks
            for member, (heard_s, marks) in self._heard.items()
            if now_s - heard_s <= HEARD_S_MAX
        }

    def outvoted(self) -> Verdict | None:
        """Return the newest index at which this member is wrong, if there is one."""
        evidence = self.evidence()
        for index, own in reversed(list(self._own_marks())):
            right = self._majority_hash(index, evidence)
            if right is not None and right != own:
                agreed = (name for name, marks in evidence.items() if marks.get(index) == right)
                return Verdict(index=index, own=own, right=right, outvoted_by=frozenset(agreed))
        return None

    def differing(self) -> Mapping[str, int]:
        """Return the members whose hash is another than this one's, and at which index.

        What counts is the newest index that both have.
        """
        own = dict(self._own_marks())
        found = {}
        for member, marks in self.evidence().items():
            index = max(own.keys() & marks.keys(), default=None)
            if index is not None and marks[index] != own[index]:
                found[member] = index
        return found

    def undecided(self) -> Mapping[str, int]:
        """Return the members that contradict this one while no majority says who is wrong."""
        evidence = self.evidence()
        return {
            member: index
            for member, index in self.differing().items()
            if self._majority_hash(index, evidence) is None
        }

    def _majority_hash(
        self, index: int, evidence: Mapping[str, Mapping[int, bytes]]
    ) -> bytes | None:
        """Return the hash that a majority of the voters has at an index, if there is one."""
        voters = self._voters()
        votes = Counter(
            marks[index]
            for member, marks in evidence.items()
            if member in voters and index in marks
        )
        if self._member in voters:
            votes.update(digest for at, digest in self._own_marks() if at == index)
        if not votes:
            return None
        digest, count = votes.most_common(1)[0]
        return digest if count > len(voters) // 2 else None
