"""The leader's half of ReadIndex: proving, again and again, that it still leads.

Whoever wants to read what was acknowledged before asks the leader for its commit index.
The number is worth something only if nobody else led when the question came, so the
leader has a majority answer a message that it sent after that: each of them was still in
its term, hence had elected nobody newer. Clocks prove nothing here, for a process may be
stopped between any two lines; an answer to an older message does not count, however late
it is read. See Ongaro's thesis, section 6.4.

A new leader does not know at first how far its predecessor committed. It begins no round
before an entry of its own term is committed, which makes everything before it so.

One round serves everybody who asked before it began. Whoever asks while one is under way
waits for the next, so a thousand readers cost two rounds and not a thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from consensus.errors import Overloaded

# Waiting for a round at a leader, its own readers and one question of each other member's
# readers. Rounds take milliseconds, so so many come together only while none succeeds.
WAITING_MAX = 10_000

# Called with the index to wait for, or with None: ask the leader, this member is none.
Answer = Callable[[int | None], None]


class Leadership(Protocol):
    """What a round needs of the consensus core."""

    @property
    def leads(self) -> bool: ...
    @property
    def term(self) -> int: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def committed_in_term(self) -> bool: ...

    def begin_round(self) -> int: ...

    def round_answered(self, floor: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Round:
    """Under way in `term` for `answers`; messages numbered above `floor` count."""

    term: int
    floor: int
    index: int
    answers: list[Answer]


class ReadRounds:
    """The questions that wait at one member, which may lead."""

    def __init__(self, core: Leadership) -> None:
        self._core = core
        self._waiting: list[Answer] = []
        self._round: _Round | None = None

    def ask(self, answer: Answer) -> None:
        """Let `answer` be called once it is known up to where a reader has to wait.

        Raises:
            Overloaded: too many wait already.
        """
        under_way = len(self._round.answers) if self._round is not None else 0
        if len(self._waiting) + under_way >= WAITING_MAX:
            raise Overloaded(f"{WAITING_MAX} reads wait for this leader already.")
        self._waiting.append(answer)

    def advance(self) -> bool:
        """Answer what can be answered; return whether a round began, for which to speak."""
        if not self._core.leads or (self._round and self._round.term != self._core.term):
            self._refuse()
        self._conclude()
        if not self._waiting or self._round is not None or not self._core.committed_in_term:
            return False
        core, answers = self._core, self._waiting
        self._waiting = []
        self._round = _Round(core.term, core.begin_round(), core.commit_index, answers)
        self._conclude()  # a member that is a majority by itself needs no answers
        return self._round is not None

    def _conclude(self) -> None:
        current = self._round
        if current is not None and self._core.round_answered(current.floor):
            self._round = None
            for answer in current.answers:
                answer(current.index)

    def _refuse(self) -> None:
        answers = [*(self._round.answers if self._round is not None else ()), *self._waiting]
        self._round, self._waiting = None, []
        for answer in answers:
            answer(None)
