"""A member of the cluster, put together: what there is, and how it is connected.

    entries --> replica --effects--> due loop, worker, ownership, metrics
    requests, services --commands--> proposer --> raft --> entries

Nothing is decided here. Starting goes from the disk to the network to the duties to the
API, stopping the other way round. What fails beyond repair ends in `fatal`, once, and the
process with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

import msgspec

from consensus import features
from consensus.driver import Raft
from consensus.errors import NoQuorum
from consensus.proposer import Proposer
from consensus.raft.types import Journal, Network, RaftSettings
from consensus.read_index import ReadIndex
from consensus.snapshots.types import SnapshotPorts, SnapshotSource
from consensus.state.commands import Command, Expire, Heartbeat
from consensus.state.context import Effects
from consensus.state.machine import BatchResults
from consensus.state_check import StateCheck
from consensus.timekeeper import Timekeeper
from node.backups import Backups
from node.definitions import Definitions
from node.departure import Departure
from node.disk import Disk, DiskAlmostFull, Marks
from node.executors.protocol import Runner
from node.executors.protocol import Services as ExecutorServices
from node.executors.registry import Registry
from node.face import Face
from node.incarnation import later_incarnation
from node.lease import Lease
from node.mailbox import Mailbox
from node.metrics import Metrics
from node.ownership import Ownership
from node.replica import Listeners, Replica
from node.self_report import SelfReport
from node.services.cleaner import Cleaner
from node.services.disk_watch import DiskWatch
from node.services.due_loop import DueLoop
from node.services.heartbeat import HeartbeatService
from node.services.levels import LevelService
from node.services.reaper import Reaper
from node.services.reporter import Reporter
from node.services.service import Services
from node.services.steward import Steward
from node.services.worker import Worker
from node.settings import NodeSettings
from node.spool import Spool
from node.state_guard import StateGuard
from node.time_exchange import TimeExchange
from storage import keys, models
from storage.clock import Environment, new_id
from storage.models import Member
from storage.store import FlushedStore, View

logger = logging.getLogger(__name__)

BATCH_KIND, MARKS_KIND, READ_KIND, DISK_KIND = b"b", b"m", b"r", b"d"
MEMBERS_MAX = 100


class Guard(Runner, Protocol):
    """The process that launches commands, and kills what the lease does not cover."""

    def extend_lease(self, until_s: float) -> None: ...


class Node(Face):
    """One member. `await start()`, `await stop()`; `fatal` is done when it must die, and
    `leaving` when somebody has asked for its orderly end.

    `registry` holds the executors, by default all that are installed; `state_writer` runs
    the commits of the state, by default in a thread of its own. Without `source` there are
    no backups of this member, without `snapshots` it neither sends nor takes any (when one has
    arrived, `fatal` is `SnapshotReady`), and without `disk` nobody watches how much room it has.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        environment: Environment,
        journal: Journal,
        network: Network,
        store: FlushedStore,
        spool: Spool,
        runner: Guard,
        raft_settings: RaftSettings,
        raft_class: Callable[..., Raft] = Raft,
        registry: Registry | None = None,
        state_writer: Executor | None = None,
        source: SnapshotSource | None = None,
        snapshots: SnapshotPorts | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.settings = settings
        self.environment = environment
        self.view: View = store
        loop = asyncio.get_running_loop()
        self.fatal: asyncio.Future[BaseException] = loop.create_future()
        self.leaving: asyncio.Future[DiskAlmostFull | None] = loop.create_future()
        self._runner = runner
        self._journal = journal
        self._store = store
        self._incarnation = later_incarnation(environment, store, settings.name)
        # Only the first heartbeat of a life says that its predecessors are dead: the locks on
        # the data directory and of the runner have proven it, or that they ended before.
        self._supersedes = True
        self.timekeeper = Timekeeper(
            environment,
            settings.clock_skew_ms_max,
            lambda: len(self.raft.configuration.voters) // 2,
        )
        self.replica = Replica(
            store, environment, Listeners(self._take_results), self.fail, state_writer
        )
        self.timekeeper.log_said(self.replica.machine.clock_ms)
        self._build_consensus(network, raft_settings, raft_class, snapshots)
        self._backups = None if source is None else Backups(source, self.replica)
        self.state_guard = self._make_state_guard()
        self._open_mailbox()
        self._disk_watch = None if disk is None else self._make_disk_watch(disk)
        self._build_duties(spool, registry)
        self.self_report = SelfReport(
            settings, environment, self.raft, self.replica, journal,
            self.timekeeper, self.lease, self.worker, self.state_guard, self._disk_watch,
        )  # fmt: skip

    def _build_consensus(
        self,
        network: Network,
        raft_settings: RaftSettings,
        raft_class: Callable[..., Raft],
        snapshots: SnapshotPorts | None,
    ) -> None:
        settings, environment = self.settings, self.environment
        self._proposer = Proposer(
            session=new_id(environment),
            environment=environment,
            clock_ms=self.timekeeper.stamp_ms,
            message_kind=BATCH_KIND,
            level=self._level,
        )
        self._mailbox = Mailbox(lambda: self.raft.configuration.names - {settings.name})
        self.raft = raft_class(
            member=settings.name,
            bootstrap=settings.bootstrap,
            cluster=settings.cluster,
            journal=self._journal,
            network=network,
            environment=environment,
            settings=raft_settings,
            applied_index=self.replica.applied_index,
            apply=self.replica.apply,
            receive=self._mailbox.receive,
            on_leadership=self._on_leadership,
            on_fatal=self.fail,
            snapshots=snapshots,
            may_apply=lambda: self.replica.has_room,
        )
        self._proposer.attach(self.raft)
        self._reads = ReadIndex(
            session=new_id(environment), environment=environment, message_kind=READ_KIND
        )
        self._reads.attach(self.raft)

    def _make_state_guard(self) -> StateGuard:
        check = StateCheck(
            self.settings.name,
            self.environment,
            voters=lambda: self.raft.configuration.voters,
            own_marks=lambda: self.replica.machine.marks,
        )
        return StateGuard(check, lambda marks: self._mailbox.tell_all(MARKS_KIND, marks), self.fail)

    def _make_disk_watch(self, disk: Disk) -> DiskWatch:
        settings = self.settings
        watch = DiskWatch(
            disk,
            Marks(low_bytes=settings.disk_low_bytes, critical_bytes=settings.disk_critical_bytes),
            self.environment,
            self.raft,
            voters=lambda: self.raft.configuration.voters,
            tell=lambda state: self._mailbox.tell_all(DISK_KIND, state),
            on_critical=self.leave,
        )
        self._mailbox.on(DISK_KIND, watch.heard)
        return watch

    def _build_duties(self, spool: Spool, registry: Registry | None) -> None:
        settings, environment = self.settings, self.environment
        lease = self.lease = Lease(environment, settings.lease_ms)
        definitions = Definitions(self.view)
        self.registry = registry or Registry.load(
            ExecutorServices(environment=environment, runner=self._runner)
        )
        self.metrics = Metrics(settings.name, self.status, lambda: self.raft.is_leader)
        self.ownership = Ownership(settings.name)
        self.reporter = Reporter(self, spool)
        self.worker = Worker(
            self.view, definitions, self.registry, self.reporter, lease, self.timekeeper,
            self._on_slot_free, self.metrics.started, self.fail,
        )  # fmt: skip
        self.due_loop = DueLoop(
            self, self.view, definitions, self.ownership, lease, self.timekeeper,
            lambda: self._incarnation, self._free_slots,
            settings.horizon_ms, settings.steal_after_ms,
        )  # fmt: skip
        self.heartbeat = HeartbeatService(
            self, lease, self.timekeeper, environment, settings.heartbeat_ms,
            self._make_heartbeat, self._on_renewed, self._on_given_up, self._beat,
            lambda: self.self_report.in_step,
        )  # fmt: skip
        self.reaper = Reaper(self, self.view, environment, settings.lease_ms)
        self.reaper.own = self._incarnation
        cleaner = Cleaner(
            self, settings.output_kept_ms, lambda: self.replica.machine.clock_ms,
            lambda: self.raft.is_leader,
        )  # fmt: skip
        levels = LevelService(
            self, self.view, lambda: self.raft.configuration.names, lambda: self.raft.is_leader
        )
        steward = Steward(self.raft, self.view, settings.name)
        duties = (
            self.heartbeat, self.due_loop, self.reporter, self.reaper, cleaner, levels, steward,
        )  # fmt: skip
        watches = () if self._disk_watch is None else (self._disk_watch,)
        self._services = Services((*duties, *watches), self.fail)
        self.departure = Departure(
            self, self.raft, self.due_loop, self.heartbeat, self.worker, self.reporter,
            self._make_farewell,
        )  # fmt: skip
        listeners = self.replica.listeners
        listeners.effects += [self._take_effects, self.metrics.applied]
        listeners.applied.append(self._applied)
        listeners.flushed = self.raft.trim

    # --- Life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the cluster and take up the duties; readiness comes by itself."""
        await self.registry.start()
        self._update_members()
        await self.raft.start()
        self.reporter.recover()
        self._services.start()

    async def stop(self) -> None:
        """Leave, without any grace for what still runs, and close everything."""
        await self.departure.drain(grace_s=0)
        await self._services.stop()
        await self.departure.leave()
        await self.raft.stop()
        self._reads.close()
        self._proposer.close(NoQuorum("This member is stopping."))
        await self.registry.stop()
        if self._backups is not None:
            await self._backups.stop()
        await self.replica.stop()

    def release(self) -> None:
        """Let nobody wait for a log that has stopped: what was sent ends as unknown (A7)."""
        self._reads.close()
        self._proposer.close(NoQuorum("This member installs a snapshot."))

    def fail(self, error: BaseException) -> None:
        """Take note of what ends this member; the first reason counts."""
        if not self.fatal.done():
            self.fatal.set_result(error)

    # --- What members tell each other --------------------------------------------------------

    def _level(self) -> int:
        return features.in_force(self.view)

    def _open_mailbox(self) -> None:
        """Connect what members tell each other past the log with who listens to it."""
        mailbox = self._mailbox
        mailbox.on(BATCH_KIND, lambda _, content: self._proposer.receive(content))
        mailbox.on(READ_KIND, self._reads.receive)
        mailbox.on(MARKS_KIND, self.state_guard.receive)
        self._times = TimeExchange(self.timekeeper, self.environment, mailbox)
        mailbox.attach(self.raft)

    def _beat(self) -> None:
        """Ask and tell the other members, past the log, what goes with every heartbeat."""
        self._times.ask()
        self.state_guard.beat()

    def _on_leadership(self, leads: bool) -> None:
        logger.info("This member %s.", "leads" if leads else "does not lead")
        self._proposer.progress()

    # --- What the log says ------------------------------------------------------------------

    def _applied(self, _: int) -> None:
        self.timekeeper.log_said(self.replica.machine.clock_ms)
        self._proposer.progress()

    def _take_results(self, results: list[BatchResults]) -> None:
        for session, sequence, outcome in results:
            self._proposer.applied(session, sequence, outcome)

    def _take_effects(self, effects: Effects) -> None:
        for partition, band, start_ms in effects.due:
            self.due_loop.note(partition, band, start_ms)
        incarnation = self._incarnation
        for owner, run in effects.granted:
            if owner == incarnation:
                self.worker.granted(run, incarnation)
        for owner, run in effects.cancelled:
            if owner == incarnation:
                self.worker.cancelled(run)
        if effects.members_changed:
            self._update_members()

    def members(self) -> list[Member]:
        rows = self.view.scan(keys.MEMBER, keys.after(keys.MEMBER), MEMBERS_MAX)
        return [models.decode_member(raw) for _, raw in rows]

    def _update_members(self) -> None:
        if self.ownership.update(self.members()):
            self.due_loop.rebuild()

    # --- Lease and slots --------------------------------------------------------------------

    def _make_heartbeat(self) -> Heartbeat:
        accepting = self.due_loop.enabled and not self.timekeeper.suspect
        return self.self_report.heartbeat(
            self._incarnation, accepting=accepting, supersedes=self._supersedes
        )

    def _make_farewell(self) -> tuple[Command, ...]:
        """Return the commands that end this life: a lease that is over, and its expiry."""
        last = msgspec.structs.replace(
            self._make_heartbeat(), slots=0, lease_ms=-1, accepting=False
        )
        return last, Expire(self._incarnation)

    def leave(self, reason: DiskAlmostFull | None = None) -> None:
        """Ask for the end of this member, see `leaving`; it drains before that."""
        if not self.leaving.done():
            self.leaving.set_result(reason)

    def _on_renewed(self) -> None:
        self._supersedes = False
        self._runner.extend_lease(self.lease.until_s)
        self.worker.lease_renewed()
        self.due_loop.wake()

    def _on_given_up(self) -> None:
        self.worker.lease_lost()
        self._incarnation = later_incarnation(self.environment, self.view, self.settings.name)
        self.reaper.own = self._incarnation

    def _free_slots(self) -> int:
        return self.settings.slots - self.worker.held_count

    def _on_slot_free(self) -> None:
        self.due_loop.slot_freed()
