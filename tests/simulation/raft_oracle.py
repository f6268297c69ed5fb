"""What must hold in every simulated run, checked at every single step of it."""

from __future__ import annotations

import hashlib
from collections import Counter

from consensus.configuration import Configuration


class SafetyViolated(BaseException):
    """The cluster did something that no fault excuses."""


class LivenessViolated(Exception):
    """All faults are over and the cluster does not get going again."""


class Oracle:
    """Knows everything that any member ever did; `trace` is equal for equal runs."""

    def __init__(self) -> None:
        self.by_index: dict[int, bytes] = {}
        self.leaders: dict[int, str] = {}
        self.acknowledged: dict[bytes, int] = {}
        # The configurations that were applied anywhere, by their index.
        self.configurations: dict[int, Configuration] = {}
        self.counts: Counter[str] = Counter()
        self._trace = hashlib.sha256()

    @property
    def trace(self) -> str:
        return self._trace.hexdigest()

    def note(self, *facts: object) -> None:
        """Add something that happened to the trace."""
        self._trace.update(repr(facts).encode())

    def applied(self, member: str, index: int, command: bytes) -> None:
        """An index has the same bytes wherever it is applied."""
        self.note("applied", member, index, command)
        first = self.by_index.setdefault(index, command)
        if first != command:
            raise SafetyViolated(
                f"Member {member} applied {command[:40]!r} at index {index}, where another "
                f"member applied {first[:40]!r}."
            )

    def leads(self, member: str, term: int) -> None:
        """A term has at most one leader."""
        self.note("leads", member, term)
        self.counts["leaders"] += 1
        first = self.leaders.setdefault(term, member)
        if first != member:
            raise SafetyViolated(f"Both {first} and {member} lead in term {term}.")

    def acknowledge(self, member: str, index: int, command: bytes) -> None:
        """A client was told that its command took effect."""
        self.note("acknowledged", member, index)
        self.acknowledged[command] = index

    def check_configurations(self, first: Configuration) -> None:
        """S16: majorities of configurations that follow on each other have a member in common."""
        before = first
        for index, after in sorted(self.configurations.items()):
            quorums = len(before.voters) // 2 + len(after.voters) // 2 + 2
            if quorums <= len(before.voters | after.voters):
                raise SafetyViolated(
                    f"At entry {index} the voters {sorted(before.voters)} become "
                    f"{sorted(after.voters)}: either could decide without the other."
                )
            before = after

    def check_end(self, states: dict[str, list[bytes]]) -> None:
        """All members have the same state, with every acknowledged command in it once."""
        reference = next(iter(states.values()))
        for member, state in states.items():
            if state != reference:
                raise SafetyViolated(
                    f"Member {member} has {len(state)} commands, another has {len(reference)}, "
                    "and they differ."
                )
        seen = Counter(reference)
        lost = [command for command in self.acknowledged if seen[command] != 1]
        if lost:
            raise SafetyViolated(
                f"{len(lost)} of {len(self.acknowledged)} acknowledged commands are not in the "
                f"state exactly once, {lost[0][:40]!r} is one."
            )
