"""What must hold in every simulated run, checked at every single step of it."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable

from consensus.configuration import Configuration

# How much of what happened last is kept, to be shown when a run fails.
EVENTS_KEPT = 4000


class SafetyViolated(BaseException):
    """The cluster did something that no fault excuses."""


class LivenessViolated(Exception):
    """All faults are over and the cluster does not get going again."""


class RunInvalid(Exception):
    """So little happened that the run says nothing."""


class Oracle:
    """Knows everything that any member ever did; `trace` is equal for equal runs."""

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self._now = now
        self.by_index: dict[int, bytes] = {}
        self.leaders: dict[int, str] = {}
        self.acknowledged: dict[bytes, int] = {}
        # The configurations that were applied anywhere, by their index.
        self.configurations: dict[int, Configuration] = {}
        self.counts: Counter[str] = Counter()
        # The longest that a majority that was left alone took for a write.
        self.progress_s_max = 0.0
        self._trace = hashlib.sha256()
        self._events: deque[tuple[float, tuple[object, ...]]] = deque(maxlen=EVENTS_KEPT)

    @property
    def trace(self) -> str:
        return self._trace.hexdigest()

    @property
    def story(self) -> list[str]:
        """Return what happened last, oldest first, one line each."""
        return [f"{at:10.4f}  {' '.join(map(_shown, facts))}" for at, facts in self._events]

    def note(self, *facts: object) -> None:
        """Add something that happened to the trace."""
        event = (self._now(), facts)
        self._trace.update(b"%r" % (event,))
        self._events.append(event)

    def tell(self, *facts: object) -> None:
        """Add something to the story that is no part of the trace."""
        self._events.append((self._now(), facts))

    def progressed(self, seconds: float) -> None:
        """A majority that was left alone took a write."""
        self.note("progressed", seconds)
        self.counts["progressed"] += 1
        self.progress_s_max = max(self.progress_s_max, seconds)

    def applied(self, member: str, index: int, command: bytes) -> None:
        """An index has the same bytes wherever it is applied."""
        # Most of a command is padding; its bytes are compared, and need not be told.
        self.note("applied", member, index, command[:16])
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
        if self.by_index.get(index) != command:
            raise SafetyViolated(
                f"{command[:40]!r} was acknowledged at index {index}, where it does not stand."
            )
        self.acknowledged[command] = index

    def check_configurations(self, first: Configuration) -> None:
        """S16: majorities of configurations that follow on each other have a member in common."""
        check_configurations(first, self.configurations)

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


def check_configurations(first: Configuration, following: dict[int, Configuration]) -> None:
    """S16: majorities of configurations that follow on each other have a member in common.

    Raises:
        SafetyViolated: some two have not.
    """
    before = first
    for index, after in sorted(following.items()):
        quorums = len(before.voters) // 2 + len(after.voters) // 2 + 2
        if quorums <= len(before.voters | after.voters):
            raise SafetyViolated(
                f"At entry {index} the voters {sorted(before.voters)} become "
                f"{sorted(after.voters)}: either could decide without the other."
            )
        before = after


def _shown(fact: object) -> str:
    return repr(fact[:40]) if isinstance(fact, bytes) else str(fact)
