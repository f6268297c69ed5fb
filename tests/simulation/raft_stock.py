"""The library as it comes, in the same world: the run that has to fail.

Its journal here is one that never loses anything, its clock is the simulated one, and its
messages travel over the same links. What it does wrong then, it does wrong by itself. Log
compaction is set to happen often, as everything else is compressed in time.
"""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj import syncobj as library
from pysyncobj.journal import MemoryJournal
from pysyncobj.transport import Transport

from consensus.raft.engine import Member, use_clock
from tests.simulation.raft_life import Life, Remains
from tests.simulation.raft_oracle import Oracle, SafetyViolated
from tests.simulation.raft_world import World
from tests.simulation.virtual_loop import VirtualEnvironment
from tests.simulation.virtual_network import VirtualEnd

TICK_S = 0.02


def _create_journal(journal: MemoryJournal | None) -> MemoryJournal:
    return MemoryJournal() if journal is None else journal


class _StockTransport(Transport):  # type: ignore[misc]
    """The library's messages, as they are, over a simulated link."""

    def __init__(self, end: VirtualEnd, environment: VirtualEnvironment) -> None:
        super().__init__(None, None, ())
        self._end = end
        self._environment = environment

    def send(self, node: Member, message: dict[str, Any]) -> bool:
        size = 64 + sum(32 + len(entry[0]) for entry in message.get("entries", ()))
        size += len((message.get("serialized") or (b"",))[0]) + len(message.get("data", b""))
        return self._end.send_sized(node.id, message, size)

    def connected(self, member: str) -> None:
        use_clock(self._environment)
        self._onNodeConnected(Member(member))

    def disconnected(self, member: str) -> None:
        use_clock(self._environment)
        self._onNodeDisconnected(Member(member))

    def received(self, member: str, frame: dict[str, Any]) -> None:
        use_clock(self._environment)
        try:
            self._onMessageReceived(Member(member), frame)
        except Exception:
            # The library's own transport would log it and go on.
            logging.getLogger(__name__).debug("A message failed.", exc_info=True)


class _StockMember(SyncObj):  # type: ignore[misc]
    """A replicated list of commands."""

    def __init__(self, name: str, oracle: Oracle, **arguments: Any) -> None:
        self.name = name
        self.oracle = oracle
        super().__init__(**arguments)
        # Whatever is set behind the constructor is the replicated state.
        self.values: list[bytes] = []

    @replicated  # type: ignore[untyped-decorator]
    def put(self, command: bytes) -> int:
        index = self.raftLastApplied + 1
        self.oracle.applied(self.name, index, command)
        self.values.append(command)
        return int(index)


class StockLife:
    """A life of a member made of the library alone."""

    def __init__(self, world: World, remains: Remains, journal: Any, directory: Path) -> None:
        remains.lives += 1
        self._world = world
        self._remains = remains
        seed = f"{world.options.seed}/{remains.name}/{remains.lives}"
        self._environment = VirtualEnvironment(world.loop, seed)
        self._end = world.network.end(remains.name)
        transport = _StockTransport(self._end, self._environment)
        use_clock(self._environment)
        library.random.seed(seed)
        self._member = _StockMember(
            remains.name,
            world.oracle,
            selfNode=Member(remains.name),
            otherNodes=[Member(name) for name in sorted(remains.voters)],
            nodeClass=Member,
            transport=transport,
            conf=SyncObjConf(
                autoTick=False,
                raftMinTimeout=0.5,
                raftMaxTimeout=1.0,
                appendEntriesPeriod=0.1,
                appendEntriesBatchSizeBytes=8192,
                dynamicMembershipChange=True,
                commandsWaitLeader=False,
                useFork=False,
                journalFile=journal,
                fullDumpFile=str(directory / remains.name),
                logCompactionMinEntries=40,
                logCompactionMinTime=1e9,
                logCompactionBatchSize=2048,
                onStateChanged=self._on_state,
            ),
        )
        self._led = False
        self._end.join(transport)
        self._tick()

    @property
    def leads(self) -> bool:
        return bool(self._member._isLeader())

    @property
    def term(self) -> int:
        return int(self._member.raftCurrentTerm)

    @property
    def snapshot_bytes(self) -> int:
        """The library's own way of sending a state is switched off."""
        return 0

    def propose(self, command: bytes) -> None:
        def done(index: int | None, reason: int) -> None:
            if reason == 0 and index is not None:
                self._world.oracle.acknowledge(self._remains.name, index, command)

        self._member.put(command, callback=done)

    def kill(self, *, power_loss: bool) -> None:
        self._timer.cancel()
        self._end.leave()

    def transfer(self) -> None:
        """The library is not asked to."""

    def pause(self, seconds: float) -> None:
        """The library is left alone."""

    def resume(self) -> None:
        """It never paused."""

    def trim(self) -> None:
        """The library compacts its log by itself."""

    def _on_state(self, before: int, after: int) -> None:
        if after == library._RAFT_STATE.LEADER:
            self._world.oracle.leads(self._remains.name, self.term)

    def _tick(self) -> None:
        use_clock(self._environment)
        try:
            self._member.doTick()
        except SafetyViolated as violation:
            self._world.failed(self._remains.name, violation)
        except Exception:
            logging.getLogger(__name__).debug("A tick failed.", exc_info=True)
        self._remains.state = list(enumerate(self._member.values, 1))
        self._timer = self._world.loop.call_later(TICK_S, self._tick)


class StockMaker:
    """Makes lives of the library; used as a context manager, for its dumps are files."""

    def __enter__(self) -> StockMaker:
        self._directory = TemporaryDirectory(dir="/dev/shm")
        self._journals: dict[str, Any] = {}
        self._create_journal = library.createJournal
        library.createJournal = _create_journal
        return self

    def __exit__(self, *_: object) -> None:
        library.createJournal = self._create_journal
        # The library leaves files open; they are closed here and not during another test.
        gc.collect()
        self._directory.cleanup()

    def __call__(self, world: World, remains: Remains) -> Life:
        journal = self._journals.setdefault(remains.name, MemoryJournal())
        return StockLife(world, remains, journal, Path(self._directory.name))
