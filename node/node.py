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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

from api.cluster import ClusterStatus
from api.faults import Fault
from api.zones import tzdata_version
from consensus import features
from consensus.commands import Command, Heartbeat, Refused, Result
from consensus.context import Effects
from consensus.driver import Raft
from consensus.errors import NoQuorum
from consensus.machine import BatchResults
from consensus.proposer import Proposer
from consensus.raft_types import Journal, Network, RaftSettings
from consensus.read_index import ReadIndex
from consensus.snapshot_types import SnapshotPorts, SnapshotSink, SnapshotSource
from consensus.state_check import StateCheck
from consensus.timekeeper import Timekeeper
from node.backups import Backup, Backups
from node.definitions import Definitions
from node.executors.protocol import Runner
from node.executors.protocol import Services as ExecutorServices
from node.executors.registry import Registry
from node.lease import Lease
from node.metrics import Metrics
from node.ownership import Ownership
from node.replica import Listeners, Replica
from node.self_report import SelfReport
from node.services.cleaner import Cleaner
from node.services.due_loop import DueLoop
from node.services.heartbeat import HeartbeatService
from node.services.levels import LevelService
from node.services.reaper import Reaper
from node.services.reporter import Reporter
from node.services.service import Services
from node.services.worker import Worker
from node.settings import NodeSettings
from node.spool import Spool
from node.state_guard import StateGuard
from storage import keys, models
from storage.clock import Environment, new_id
from storage.models import Member
from storage.store import FlushedStore, View

logger = logging.getLogger(__name__)

BATCH_KIND, TIME_KIND, MARKS_KIND, READ_KIND = b"b", b"t", b"m", b"r"
MEMBERS_MAX = 100


class Guard(Runner, Protocol):
    """The process that launches commands, and kills what the lease does not cover."""

    def extend_lease(self, until_s: float) -> None: ...


class Node:
    """One member. `await start()`, `await stop()`; `fatal` is done when it must die.

    `registry` holds the executors, by default all that are installed; `state_writer` runs
    the commits of the state, by default in a thread of its own. Without `source` there are
    no backups of this member, and without `sink` as well it neither sends nor takes snapshots;
    so many were installed by this process. When one has arrived, `fatal` is `SnapshotReady`.
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
        sink: SnapshotSink | None = None,
        snapshots_installed: int = 0,
    ) -> None:
        self.settings = settings
        self.environment = environment
        self.view: View = store
        self.fatal: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._runner = runner
        self._journal = journal
        self._store = store
        self._incarnation = new_id(environment)
        # Only the first heartbeat of a life says that its predecessors are dead: the locks on
        # the data directory and of the runner have proven it, or that they ended before.
        self._supersedes = True
        self.timekeeper = Timekeeper(environment, settings.clock_skew_ms_max)
        self.replica = Replica(
            store, environment, Listeners(self._take_results), self.fail, state_writer
        )
        self._proposer = Proposer(
            session=new_id(environment),
            environment=environment,
            clock_ms=self._stamp_ms,
            message_kind=BATCH_KIND,
            level=self._level,
        )
        self.raft = raft_class(
            member=settings.name,
            voters=settings.voters,
            cluster=settings.cluster,
            journal=journal,
            network=network,
            environment=environment,
            settings=raft_settings,
            applied_index=self.replica.applied_index,
            apply=self.replica.apply,
            receive=self._receive,
            on_leadership=self._on_leadership,
            on_fatal=self.fail,
            snapshots=SnapshotPorts(source=source, sink=sink) if source and sink else None,
        )
        self._snapshots_installed = snapshots_installed
        self._proposer.attach(self.raft)
        self._reads = ReadIndex(
            session=new_id(environment), environment=environment, message_kind=READ_KIND
        )
        self._reads.attach(self.raft)
        self._backups = None if source is None else Backups(source, self.replica)
        self.state_guard = self._make_state_guard()
        self._build_duties(spool, registry)
        self.self_report = SelfReport(
            settings, environment, self.raft, self.replica, journal,
            self.timekeeper, self.lease, self.worker, self.state_guard,
        )  # fmt: skip

    def _make_state_guard(self) -> StateGuard:
        check = StateCheck(
            self.settings.name,
            self.environment,
            voters=lambda: self.settings.voters,
            own_marks=lambda: self.replica.machine.marks,
        )
        return StateGuard(check, lambda marks: self._tell_all(MARKS_KIND + marks), self.fail)

    def _build_duties(self, spool: Spool, registry: Registry | None) -> None:
        settings, environment = self.settings, self.environment
        lease = self.lease = Lease(environment, settings.lease_ms)
        definitions = Definitions(self.view)
        self.registry = registry or Registry.load(
            ExecutorServices(environment=environment, runner=self._runner)
        )
        self.metrics = Metrics(settings.name, self.status)
        self.ownership = Ownership(settings.name)
        self.reporter = Reporter(self, spool)
        self.worker = Worker(
            self.view, definitions, self.registry, self.reporter, lease, self.timekeeper,
            self._on_slot_free, self.metrics.started,
        )  # fmt: skip
        self.due_loop = DueLoop(
            self, self.view, definitions, self.ownership, lease, self.timekeeper,
            lambda: self._incarnation, self._free_slots,
            settings.horizon_ms, settings.steal_after_ms,
        )  # fmt: skip
        self.heartbeat = HeartbeatService(
            self, lease, self.timekeeper, environment, settings.heartbeat_ms,
            self._make_heartbeat, self._on_renewed, self._on_given_up, self._beat,
        )  # fmt: skip
        self.reaper = Reaper(self, self.view, environment, settings.lease_ms)
        self.reaper.own = self._incarnation
        cleaner = Cleaner(
            self, settings.output_kept_ms, self.timekeeper.now_ms, lambda: self.raft.is_leader
        )
        levels = LevelService(self, self.view, settings.voters, lambda: self.raft.is_leader)
        duties = (self.heartbeat, self.due_loop, self.reporter, self.reaper, cleaner, levels)
        self._services = Services(duties, self.fail)
        listeners = self.replica.listeners
        listeners.effects += [self._take_effects, self.metrics.applied]
        listeners.applied.append(lambda _: self._proposer.progress())
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
        """Hand back what is held, hand over leadership, and close everything."""
        self.due_loop.enabled = False
        await self.worker.stop()
        if self.raft.has_quorum_contact:
            try:
                await asyncio.wait_for(self.reporter.drained(), timeout=5)
            except TimeoutError:
                logger.warning("%d ends stay in the spool.", self.reporter.waiting)
        await self._services.stop()
        await self.raft.stop()
        self._reads.close()
        self._proposer.close(NoQuorum("This member is stopping."))
        await self.registry.stop()
        if self._backups is not None:
            await self._backups.stop()
        await self.replica.stop()

    def release(self) -> None:
        """Let nobody wait any longer for a log that has stopped; `stop` comes next.

        What was sent may be in the snapshot that ends this life, so its outcome is unknown;
        whoever asks again with the same key gets the answer from the state (A7).
        """
        self._reads.close()
        self._proposer.close(NoQuorum("This member installs a snapshot."))

    def fail(self, error: BaseException) -> None:
        """Take note of what ends this member; the first reason counts."""
        if not self.fatal.done():
            self.fatal.set_result(error)

    # --- Door to the log (api.cluster.Cluster, services) ------------------------------------

    async def propose(self, commands: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        results = await self._proposer.propose(commands, timeout_s=timeout_s)
        for result in results:
            if isinstance(result, Refused) and result.code == "expired":
                raise NoQuorum(result.detail)
        return results

    async def barrier(self, *, timeout_s: float) -> None:
        """Wait until this member shows all that was acknowledged before the call."""
        until_s = self.environment.monotonic_s() + timeout_s
        index = await self._reads.read_index(timeout_s=timeout_s)
        left_s = max(0.0, until_s - self.environment.monotonic_s())
        if not await self.replica.wait_applied(index, timeout_s=left_s):
            raise NoQuorum(f"Log index {index} was not applied on this member in time.")

    async def wait_applied(self, index: int, *, timeout_s: float) -> bool:
        return await self.replica.wait_applied(index, timeout_s=timeout_s)

    def _stamp_ms(self) -> int:
        return max(self.replica.machine.clock_ms, self.timekeeper.now_ms())

    def _level(self) -> int:
        return features.in_force(self.view)

    def _receive(self, member: str, payload: bytes) -> None:
        kind, content = payload[:1], payload[1:]
        if kind == BATCH_KIND:
            self._proposer.receive(content)
        elif kind == TIME_KIND:
            self.timekeeper.heard(member, int.from_bytes(content, "big"))
        elif kind == READ_KIND:
            self._reads.receive(member, content)
        elif kind == MARKS_KIND:
            self.state_guard.receive(member, content)

    def _beat(self, now_ms: int) -> None:
        """Tell the other members, past the log, what goes with every heartbeat."""
        self._tell_all(TIME_KIND + now_ms.to_bytes(8, "big"))
        self.state_guard.beat()

    def _tell_all(self, payload: bytes) -> None:
        for member in self.settings.voters - {self.settings.name}:
            self.raft.send(member, payload)

    def _on_leadership(self, leads: bool) -> None:
        logger.info("This member %s.", "leads" if leads else "does not lead")
        self._proposer.progress()

    # --- What the log says ------------------------------------------------------------------

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
        settings = self.settings
        return Heartbeat(
            settings.name,
            self._incarnation,
            settings.lease_ms,
            settings.slots,
            settings.http_address,
            settings.version,
            tzdata_version(),
            dict(settings.labels),
            accepting=self.due_loop.enabled and not self.timekeeper.suspect,
            running=self.worker.held_count,
            supersedes=self._supersedes,
            level=features.CURRENT,
            level_min=features.MINIMUM,
        )

    def _on_renewed(self) -> None:
        self._supersedes = False
        self._runner.extend_lease(self.lease.until_s)
        self.worker.lease_renewed()
        self.due_loop.wake()

    def _on_given_up(self) -> None:
        self.worker.lease_lost()
        self._incarnation = new_id(self.environment)
        self.reaper.own = self._incarnation

    def _free_slots(self) -> int:
        return self.settings.slots - self.worker.held_count

    def _on_slot_free(self) -> None:
        self.due_loop.slot_freed()

    # --- What the API shows -----------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        return self.replica.applied_index

    @property
    def has_quorum(self) -> bool:
        return self.raft.has_quorum_contact

    def status(self) -> ClusterStatus:
        return self.self_report.status()

    def readiness(self) -> list[str]:
        return self.self_report.readiness()

    async def open_backup(self) -> Backup:
        if self._backups is None:
            raise NoQuorum("This member makes no backups.")
        return await self._backups.open()

    def validate_action(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
        return self.registry.validate(action, pointer)

    def metrics_text(self) -> bytes:
        return self.metrics.render(
            journal_entries=self.raft.last_index - self.raft.first_index + 1,
            state_bytes=self._store.used_bytes(),
            commands_waiting=self._proposer.waiting_commands,
            reports_waiting=self.reporter.waiting,
            state_differs=self.state_guard.differing_count,
            snapshots_installed=self._snapshots_installed,
            **self.raft.snapshots.facts(),
        )
