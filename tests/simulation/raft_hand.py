"""One member driven by hand: what it is told, what it says, and when its disk answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from consensus import frames
from consensus.configuration import Configuration, first_configuration
from consensus.raft.engine import RaftCore
from consensus.raft.log import RaftLog
from consensus.raft.types import RaftSettings
from storage.journal_format import Batch, HardState, LogRecord
from storage.memory_journal import MemoryDisk, MemoryJournal
from tests.simulation.raft_life import SETTINGS
from tests.simulation.virtual_loop import VirtualEnvironment, VirtualLoop


@dataclass(frozen=True, slots=True)
class Said:
    """A message that was posted; `held` while the disk has not answered for it."""

    to: str
    message: frames.Message
    term: int
    held: bool


def command(index: int, term: int) -> LogRecord:
    """A record as a leader of that term would have written it."""
    return b"\x00%d/%d" % (index, term), index, term


def voters(*names: str) -> Configuration:
    """The first configuration of a cluster of these members."""
    return first_configuration({name: f"{name}:7901" for name in names})


class Hand:
    """A member `n1` of a cluster of `members`, with a log from which to begin."""

    def __init__(
        self,
        members: int = 3,
        *,
        terms: tuple[int, ...] = (),
        term: int | None = None,
        applied: int = 0,
        settings: RaftSettings = SETTINGS,
        trim_below: int | None = None,
        snapshots: bool = False,
        configuration: Configuration | None = None,
    ) -> None:
        # Whom it would fetch a snapshot from, each time that it was told to.
        self.behind: list[str | None] = []
        self.loop = VirtualLoop()
        self.environment = VirtualEnvironment(self.loop, 7)
        self.names = [f"n{number}" for number in range(1, members + 1)]
        self.journal = MemoryJournal(MemoryDisk(b"n1".ljust(16, b".")))
        if terms:
            records: list[LogRecord] = [(b"\x01", 1, 0)]
            records += [command(index, t) for index, t in enumerate(terms, 2)]
            state = HardState(max(terms) if term is None else term)
            self.journal.write(Batch(records=records, hard_state=state))
        if trim_below is not None:
            self.journal.write(Batch(trim_below=trim_below))
        self.settings = replace(settings)
        first = configuration or voters(*self.names)
        self.log = RaftLog(self.journal, settings, applied, first)
        self.said: list[Said] = []
        self.core = RaftCore(
            member="n1",
            log=self.log,
            post=self._post,
            environment=self.environment,
            settings=settings,
            applied_index=applied,
            on_behind=self.behind.append if snapshots else None,
        )
        self.sync()

    def _post(self, member: str, message: frames.Message, term: int, sequence: int) -> None:
        held = sequence > self.log.durable_sequence
        self.said.append(Said(member, message, term, held))

    def close(self) -> None:
        """Give the loop back."""
        self.loop.close()

    def sync(self) -> None:
        """Let the disk answer."""
        if self.log.pending:
            self.journal.write(self.log.take())
            self.log.confirm()
            self.core.durable()

    def wait(self, seconds: float) -> None:
        """Let time pass and have one tick."""
        self.loop.advance(seconds)
        self.core.tick()

    def connect(self, *members: str) -> None:
        """Open sessions with some members, by default with all."""
        for member in members or self.names[1:]:
            self.core.connected(member)

    def tell(self, member: str, term: int, message: frames.Message) -> list[Said]:
        """Tell it something and return what it says to that."""
        before = len(self.said)
        self.core.receive(member, term, message)
        return self.said[before:]

    def elect(self) -> int:
        """Make it the leader of its next term with everybody's votes; return the term."""
        self.connect()
        self.wait(1.1)
        asked = self.core.term + 1
        for name in self.names[1:]:
            self.tell(name, self.core.term, frames.PreVote(asked, True))
        self.core.tick()
        self.sync()
        for name in self.names[1:]:
            self.tell(name, self.core.term, frames.Vote())
        self.sync()
        self.core.tick()
        assert self.core.leads
        return self.core.term

    def appends_to(self, member: str) -> list[frames.Append]:
        """Return the appends that were sent to a member, oldest first."""
        return [
            said.message
            for said in self.said
            if said.to == member and isinstance(said.message, frames.Append)
        ]

    def confirm(self, member: str) -> None:
        """Let a member confirm the last append that was sent to it."""
        last = self.appends_to(member)[-1]
        next_index = last.prev_index + len(last.records) + 1
        answer = frames.AppendAnswer(last.sequence, last.prev_index, True, next_index)
        self.tell(member, self.core.term, answer)
