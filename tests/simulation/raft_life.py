"""One life of a simulated member, from its start to its death, with what outlives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from consensus.configuration import encode_configuration, first_configuration
from consensus.driver import Raft
from consensus.errors import Overloaded
from consensus.raft.types import Entry, NotLeader, RaftSettings
from consensus.read_index import ReadIndex
from consensus.snapshots.types import SnapshotPorts
from storage.memory_journal import MemoryDisk, MemoryJournal
from storage.snapshot_memory import MemorySink, MemorySource
from tests.simulation.raft_oracle import Oracle, SafetyViolated
from tests.simulation.raft_snapshots import state_rows
from tests.simulation.virtual_loop import VirtualEnvironment, VirtualExecutor, VirtualLoop
from tests.simulation.virtual_network import VirtualNetwork

# Small bounds, so that short runs meet every one of them.
SETTINGS = RaftSettings(
    election_min_s=0.5,
    election_max_s=1.0,
    heartbeat_s=0.1,
    entry_bytes_max=128 * 1024,
    batch_bytes_max=4 * 1024,
    frame_bytes_max=256 * 1024,
    window_entries_max=16,
    window_bytes_max=256 * 1024,
    send_queue_bytes_max=1024 * 1024,
    in_flight_entries_max=32,
    in_flight_bytes_max=1024 * 1024,
    hot_entries_max=48,
    hot_bytes_max=512 * 1024,
    apply_entries_max=16,
    apply_bytes_max=64 * 1024,
    tail_entries_max=400,
    snapshot_chunk_bytes=4 * 1024,
    snapshot_window_bytes=16 * 1024,
    snapshot_bytes_per_s=2_000_000,
)
SHORT_LOG = replace(SETTINGS, tail_entries_max=80)


@dataclass(slots=True)
class Remains:
    """What of a member outlives its process: the journal's disk and the flushed state."""

    name: str
    voters: frozenset[str]
    disk: MemoryDisk
    # The commands that were applied, with their indexes, and how many of them are flushed.
    state: list[tuple[int, bytes]] = field(default_factory=list)
    terms: dict[int, int] = field(default_factory=dict)
    flushed: int = 0
    lives: int = 0
    # What was received and waits to be installed.
    sink: MemorySink = field(default_factory=MemorySink)
    # How long the disk takes for one transaction.
    sync_s: tuple[float, float] = (0.0005, 0.002)

    @property
    def commands(self) -> list[bytes]:
        return [command for _, command in self.state if command]


class PausableRaft(Raft):
    """A member that can be stopped and continued, as a process is by signals.

    Whatever reaches it meanwhile waits in the kernel, and comes all at once.
    """

    paused = False

    def guarded(self, work: Callable[..., None], *arguments: object) -> None:
        if self.paused:
            self.backlog.append((work, arguments))
        else:
            super().guarded(work, *arguments)

    def pause(self) -> None:
        """Let nothing through until `resume`."""
        if not self.paused:
            self.paused = True
            self.backlog: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def resume(self) -> None:
        """Take what has waited, in its order."""
        if self.paused:
            self.paused = False
            for work, arguments in self.backlog:
                self.guarded(work, *arguments)


class Life(Protocol):
    """What the world does with a running member, whatever it is made of."""

    @property
    def leads(self) -> bool: ...
    @property
    def term(self) -> int: ...
    @property
    def snapshot_bytes(self) -> int: ...
    def propose(self, command: bytes) -> None: ...
    def kill(self, *, power_loss: bool) -> None: ...
    def transfer(self) -> None: ...
    def pause(self, seconds: float) -> None: ...
    def resume(self) -> None: ...
    def trim(self) -> None: ...


class RaftLife:
    """A life of a member made of the real consensus layer."""

    def __init__(
        self,
        remains: Remains,
        loop: VirtualLoop,
        network: VirtualNetwork,
        oracle: Oracle,
        on_fatal: Callable[[str, BaseException], None],
        seed: str,
        settings: RaftSettings = SETTINGS,
    ) -> None:
        remains.lives += 1
        self._remains = remains
        self._oracle = oracle
        self._waiting: dict[int, bytes] = {}
        self._environment = VirtualEnvironment(loop, f"{seed}/{remains.name}/{remains.lives}")
        # Clocks run at different rates; nothing that is promised may depend on theirs.
        self._environment.rate = self._environment.random.uniform(0.95, 1.05)
        self._executor = VirtualExecutor(loop, self._sync_s)
        self._snapshots = VirtualExecutor(
            loop, lambda: self._environment.random.uniform(0.0002, 0.002)
        )
        self._end = network.end(remains.name)
        self.raft = PausableRaft(
            member=remains.name,
            bootstrap=first_configuration({name: f"{name}:7901" for name in remains.voters}),
            cluster="simulated",
            journal=MemoryJournal(remains.disk),
            network=self._end,
            environment=self._environment,
            settings=settings,
            applied_index=remains.state[-1][0] if remains.state else 0,
            apply=self.apply,
            receive=self._receive,
            on_leadership=self._on_leadership,
            on_fatal=lambda error: on_fatal(remains.name, error),
            writer=self._executor,
            snapshots=SnapshotPorts(
                source=MemorySource(
                    lambda: state_rows(remains), cluster="simulated", environment=self._environment
                ),
                sink=remains.sink,
                thread=self._snapshots,
            ),
        )
        self.heard: list[tuple[str, bytes]] = []
        self._start = loop.create_task(self.raft.start())
        self._loop = loop
        self._killed = False
        if remains.disk.lazy:
            self._sync_later()

    @property
    def name(self) -> str:
        return self._remains.name

    @property
    def leads(self) -> bool:
        return self.raft.is_leader and not self.raft.paused

    @property
    def term(self) -> int:
        return self.raft.term

    @property
    def snapshot_bytes(self) -> int:
        """How much of snapshots has come in this life."""
        return self.raft.snapshots.counts.bytes_received

    def propose(self, command: bytes) -> None:
        try:
            self._waiting[self.raft.propose(command)] = command
        except (NotLeader, Overloaded):
            self._oracle.counts["refused"] += 1

    def pause(self, seconds: float) -> None:
        self.raft.pause()
        self._loop.call_later(seconds, self.raft.resume)

    def resume(self) -> None:
        self.raft.resume()

    def transfer(self) -> None:
        if self.leads:
            self.raft.transfer_leadership(None)

    def trim(self) -> None:
        flushed = self._remains.flushed
        if flushed:
            self.raft.trim(self._remains.state[flushed - 1][0])

    def kill(self, *, power_loss: bool) -> None:
        """End the process. With a power loss, its disk forgets what was not synced."""
        finish = self._environment.random.random() < 0.5
        self._killed = True
        self._start.cancel()
        self.raft.abort()
        self._end.leave()
        self._executor.crash(finish=finish)
        self._snapshots.crash(finish=self._environment.random.random() < 0.5)
        if power_loss:
            self._remains.disk.lose_power()
        del self._remains.state[self._remains.flushed :]

    def _sync_later(self) -> None:
        """Sync as rarely as the library's own journal writes its files."""
        if not self._killed:
            self._remains.disk.sync()
            self._loop.call_later(1.0, self._sync_later)

    def _sync_s(self) -> float:
        if self._environment.random.random() < 0.1:
            self._remains.flushed = len(self._remains.state)
        return self._environment.random.uniform(*self._remains.sync_s)

    def apply(self, entries: Sequence[Entry]) -> None:
        """Take committed entries, as the state of a member does."""
        state = self._remains.state
        for entry in entries:
            expected = state[-1][0] + 1 if state else 1
            if entry.index != expected:
                raise SafetyViolated(f"Entry {entry.index} was applied instead of {expected}.")
            self._oracle.applied(self._remains.name, entry.index, _content(entry))
            if entry.configuration is not None:
                self._oracle.configurations[entry.index] = entry.configuration
            state.append((entry.index, entry.command))
            self._remains.terms[entry.index] = entry.term
            command = self._waiting.pop(entry.index, None)
            if command is not None and command == entry.command:
                self._oracle.acknowledge(self._remains.name, entry.index, command)

    def _receive(self, member: str, payload: bytes) -> None:
        self.heard.append((member, payload))

    def _on_leadership(self, leads: bool) -> None:
        if leads:
            self._oracle.leads(self._remains.name, self.raft.term)


class ReadLife(RaftLife):
    """A life whose messages past the log are questions and answers of readers."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        session = b"%s/%d" % (self._remains.name.encode(), self._remains.lives)
        self.reads = ReadIndex(session=session, environment=self._environment, message_kind=b"")
        self.reads.attach(self.raft)

    def kill(self, *, power_loss: bool) -> None:
        self.reads.close()
        super().kill(power_loss=power_loss)

    def _receive(self, member: str, payload: bytes) -> None:
        super()._receive(member, payload)
        self.reads.receive(member, payload)


def _content(entry: Entry) -> bytes:
    """Return what of an entry has to be the same everywhere."""
    if entry.configuration is None:
        return entry.command
    return b"members " + encode_configuration(entry.configuration)
