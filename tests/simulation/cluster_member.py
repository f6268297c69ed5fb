"""One process of a simulated member, made of the real node.

Everything of `node.node.Node` is real: consensus, state machine, proposer, due loop,
worker, reporter, reaper, heartbeat. Around it stand a host with its clocks and disks
(`cluster_host`), a network, and a runner that launches nothing. The process may be killed,
paused or stopped in order, its host may lose power, and each takes exactly what it would
take in life. When a snapshot has arrived, another life of the member follows in the same
process, beside the same runner, as `node.boot` has it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from consensus.configuration import Configuration
from consensus.driver import Raft
from consensus.errors import ConsensusError, NoQuorum, OutcomeUnknown
from consensus.raft.types import Introduction, MemberRemoved, RaftSettings, Rejection
from consensus.raft.types import Listener as RaftListener
from consensus.snapshots.types import SnapshotPorts, SnapshotReady
from consensus.state.context import Effects
from consensus.state.machine import BatchResults
from node.boot import FAREWELL_S_MAX
from node.executors.command import CommandExecutor
from node.executors.protocol import Services
from node.executors.registry import Registry
from node.node import Node
from node.runner_client import RunnerDied
from node.settings import NodeSettings
from node.spool import Spool
from storage.memory_journal import MemoryJournal
from storage.memory_store import FlushedMemoryStore
from storage.snapshot_memory import MemorySource
from tests.simulation.cluster_host import BrokenOff, Host
from tests.simulation.cluster_oracle import ClusterOracle
from tests.simulation.virtual_loop import VirtualExecutor, VirtualLoop
from tests.simulation.virtual_network import Listener, VirtualEnd, VirtualNetwork
from tests.simulation.virtual_process import Process, ProcessEnvironment
from tests.simulation.virtual_runner import VirtualRunner

# How long runs may go on when their member is told to stop.
GRACES_S = (0.0, 1.0, 10.0)
# What the simulation's bounds are, so that short runs meet them.
RAFT = RaftSettings(
    entry_bytes_max=2 * 1024 * 1024,
    batch_bytes_max=64 * 1024,
    window_entries_max=32,
    hot_entries_max=1024,
    apply_entries_max=8,
    # Short, so that members which were away need snapshots.
    tail_entries_max=40,
    snapshot_chunk_bytes=4 * 1024,
    snapshot_window_bytes=16 * 1024,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all members of a world share."""

    seed: int
    loop: VirtualLoop
    network: VirtualNetwork
    oracle: ClusterOracle
    lease_ms: int
    slots: int
    raft: RaftSettings
    # Whether a snapshot that has arrived begins another life in the same process; otherwise
    # the process ends, as one that is killed just then.
    lives_on: bool
    # Takes note of how a member's consensus has ended; tells whether that is in order.
    ends: Callable[[str, BaseException], bool]
    # Called when a process has ended by itself, with the reason.
    on_exit: Callable[[str, BaseException | None], None]


class _Posted:
    """Brings the network's events into the process."""

    def __init__(self, process: Process, listener: Listener) -> None:
        self._process = process
        self._listener = listener

    def introduction(self) -> Introduction:
        return cast(RaftListener, self._listener).introduction()

    def judge(self, member: str, introduction: Introduction) -> Rejection | None:
        with self._process.entered():
            return cast(RaftListener, self._listener).judge(member, introduction)

    def removed(self, member: str, reason: str) -> None:
        self._process.post(cast(RaftListener, self._listener).removed, member, reason)

    def connected(self, member: str) -> None:
        self._process.post(self._listener.connected, member)

    def disconnected(self, member: str) -> None:
        self._process.post(self._listener.disconnected, member)

    def received(self, member: str, frame: Any) -> None:
        self._process.post(self._listener.received, member, frame)


class ProcessEnd(VirtualEnd):
    """A process's sockets."""

    def __init__(self, network: VirtualNetwork, member: str, process: Process) -> None:
        super().__init__(network, member)
        self._process = process

    def join(self, listener: Listener) -> None:
        super().join(_Posted(self._process, listener))


class MemberLife:
    """A member from the start of its process to its end.

    Raises:
        BrokenOff: the process was killed while it installed a snapshot.
        MemberRemoved: its own log says that it has no seat.
    """

    def __init__(self, around: Surroundings, host: Host) -> None:
        host.install(around.oracle)
        around.oracle.note(host.name, "starts")
        host.lives += 1
        self.host = host
        self._around = around
        # In their order, which a set does not keep.
        self._asked: dict[asyncio.Future[Any], None] = {}
        self.process = Process(around.loop, host.clock)
        self.process.set_exception_handler(self._uncaught)
        self.environment = ProcessEnvironment(host.clock, f"{around.seed}/{host.name}/{host.lives}")
        self._rng = random.Random(f"{around.seed}/{host.name}/{host.lives}/host")
        self._journal_writer = VirtualExecutor(around.loop, self._sync_s)
        self._state_writer = VirtualExecutor(around.loop, self._sync_s)
        self._snapshots = VirtualExecutor(around.loop, self._sync_s)
        self._end = ProcessEnd(around.network, host.name, self.process)
        self.runner = VirtualRunner(
            around.loop, host.clock, self.process, host.name, around.oracle, self._rng,
            self._runner_died,
        )  # fmt: skip
        self.stopping = False
        # Between two lives, when a snapshot is to be installed.
        self.changing = False
        with self.process.entered():
            self._begin()
        self.process.spawn(self.node.start)

    def _begin(self) -> None:
        """Open what is on the disks, and put the node together."""
        self._spool: Spool | None = Spool(self.host.spool.path)
        try:
            self.node = self._make_node(self._spool)
        except MemberRemoved:
            self._spool.close()
            self._spool = None
            raise
        self.node.fatal.add_done_callback(self._failed)
        self.node.leaving.add_done_callback(lambda _: self.stop())
        self._watch()

    def _make_node(self, spool: Spool) -> Node:
        around, name = self._around, self.host.name
        services = Services(environment=self.environment, runner=self.runner)
        return Node(
            NodeSettings(
                name=name,
                cluster="simulated",
                bootstrap=self.host.bootstrap,
                http_address=name,
                version="0",
                slots=around.slots,
                lease_ms=around.lease_ms,
                labels={"kind": "all"},
            ),
            environment=self.environment,
            journal=MemoryJournal(self.host.journal),
            network=self._end,
            store=FlushedMemoryStore(self.host.state),
            spool=spool,
            runner=self.runner,
            raft_settings=around.raft,
            raft_class=self._make_raft,
            registry=Registry({"command": CommandExecutor(services)}),
            state_writer=self._state_writer,
            snapshots=SnapshotPorts(
                source=MemorySource(
                    lambda: sorted(self.host.state.rows.items()),
                    cluster="simulated",
                    environment=self.environment,
                ),
                sink=self.host.sink,
                thread=self._snapshots,
            ),
            disk=self.host.disk,
        )

    def _make_raft(self, **given: Any) -> Raft:
        tell = given.pop("on_leadership")

        def on_leadership(leads: bool) -> None:
            if leads:
                self._around.oracle.leads(self.host.name, self.node.raft.term)
            tell(leads)

        return Raft(**given, on_leadership=on_leadership, writer=self._journal_writer)

    def _watch(self) -> None:
        """Let the oracle see every entry that this member applies."""
        machine, oracle, name = self.node.replica.machine, self._around.oracle, self.host.name
        apply = machine.apply

        def observed(
            index: int,
            term: int,
            command: bytes,
            effects: Effects,
            configuration: Configuration | None = None,
        ) -> list[BatchResults]:
            results = apply(index, term, command, effects, configuration)
            oracle.applied(name, index, term, command, machine.state_hash, configuration)
            oracle.require(not effects.faults, f"Entry {index} met a fault: {effects.faults}.")
            return results

        machine.apply = observed  # type: ignore[method-assign]

    # --- What it says -----------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self.node.raft.is_leader and not self.process.paused

    def _sync_s(self) -> float:
        return self._rng.uniform(*self.host.sync_s)

    def _uncaught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Nobody catches errors in callbacks; there must not be any."""
        if self.process.dead:
            return  # Tasks that were killed with their process are collected some day.
        error = context.get("exception")
        oracle = self._around.oracle
        oracle.failure = oracle.failure or AssertionError(
            f"{self.host.name}: {context['message']} {type(error).__name__}: {error}"
        )

    def _failed(self, fatal: asyncio.Future[BaseException]) -> None:
        error = fatal.result()
        if isinstance(error, SnapshotReady) and self._around.lives_on:
            self._change()
        else:
            self._die(error)

    def _die(self, error: BaseException) -> None:
        oracle = self._around.oracle
        if not isinstance(error, SnapshotReady) and not self._around.ends(self.host.name, error):
            oracle.failure = oracle.failure or error
        self._exit(error)

    def _runner_died(self, error: RunnerDied) -> None:
        self._exit(error)

    def _exit(self, error: BaseException | None) -> None:
        self._around.loop.call_soon(self._around.on_exit, self.host.name, error)

    # --- What others want of it ---------------------------------------------------------------

    def ask(self, work: Callable[[Node], Awaitable[Any]]) -> asyncio.Future[Any]:
        """Have a request served, as over a connection to its API; an error is an answer.

        Without an answer the connection ends with the process, and the client knows
        nothing.
        """
        answer: asyncio.Future[Any] = self._around.loop.create_future()
        self._asked[answer] = None
        self.process.spawn(lambda: self._serve(work, answer))
        return answer

    async def _serve(
        self, work: Callable[[Node], Awaitable[Any]], answer: asyncio.Future[Any]
    ) -> None:
        try:
            result = await work(self.node)
        except ConsensusError as error:
            result = error
        self._around.loop.call_later(0.0005, self._answer, answer, result)

    def _answer(self, answer: asyncio.Future[Any], result: object) -> None:
        self._asked.pop(answer, None)
        if not answer.done():
            answer.set_result(result)

    def stop(self) -> None:
        """Leave in order, as upon SIGTERM."""
        if not self.stopping:
            self.stopping = True
            if not self.changing:
                self.process.spawn(self._leave)

    async def _leave(self) -> None:
        await self.node.departure.drain(self._rng.choice(GRACES_S))
        await self.node.stop()
        self._exit(None)

    def _change(self) -> None:
        """Begin another life behind the snapshot that has arrived, if this one is to go on."""
        self.node.release()
        if self.stopping:
            self.node.departure.hurry()
        else:
            self.changing = True
            self.process.spawn(self._live_again)

    async def _live_again(self) -> None:
        """Close everything but the runner, install, and begin anew; see `node.boot`."""
        node, spool = self.node, self._spool
        try:
            await asyncio.wait_for(node.stop(), timeout=FAREWELL_S_MAX)
        except TimeoutError as error:
            self._exit(error)
            return
        self.changing = False
        if self.stopping:
            self._exit(None)
        elif node.worker.running_count:
            self._exit(RuntimeError("Attempts go on after they were stopped."))
        else:
            assert spool is not None
            spool.close()
            self._spool = None
            await self._follow()

    async def _follow(self) -> None:
        try:
            self.host.install(self._around.oracle)
        except BrokenOff as killed:
            self._exit(killed)
            return
        try:
            self._begin()
        except MemberRemoved as error:
            self._die(error)
            return
        self._around.oracle.counts["lives in the same process"] += 1
        self._around.oracle.note(self.host.name, "lives on")
        await self.node.start()

    # --- How it ends --------------------------------------------------------------------------

    def kill(self, *, power_loss: bool) -> float:
        """End the process; return when nothing of what it launched is alive any more."""
        finish = self._rng.random() < 0.5
        self.process.kill()
        self._end.leave()
        self._journal_writer.crash(finish=finish)
        self._state_writer.crash(finish=finish)
        self._snapshots.crash(finish=finish)
        if self._spool is not None:
            self._spool.close()
        gone_s = self._around.loop.time()
        if power_loss:
            self.runner.lose_power()
            self.host.journal.lose_power()
            self.host.spool.lose_power(self._rng)
            if self._rng.random() < 0.5:
                self.host.state.lose_last()
        else:
            gone_s = self.runner.node_died()
        for answer in list(self._asked):
            self._answer(answer, OutcomeUnknown("The connection was closed."))
        return gone_s

    def refused(self) -> NoQuorum:
        """Return what a client makes of a member that does not listen."""
        return NoQuorum(f"{self.host.name} does not listen.")
