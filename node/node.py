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
from consensus.commands import Command, Heartbeat, Refused, Result
from consensus.context import Effects
from consensus.driver import Raft
from consensus.errors import NoQuorum
from consensus.machine import BatchResults
from consensus.proposer import Proposer
from consensus.raft_types import Journal, Network, RaftSettings
from consensus.timekeeper import Timekeeper
from node.definitions import Definitions
from node.executors.protocol import Runner
from node.executors.protocol import Services as ExecutorServices
from node.executors.registry import Registry
from node.lease import Lease
from node.metrics import Metrics
from node.ownership import Ownership
from node.replica import Listeners, Replica
from node.services.cleaner import Cleaner
from node.services.due_loop import DueLoop
from node.services.heartbeat import HeartbeatService
from node.services.reaper import Reaper
from node.services.reporter import Reporter
from node.services.service import Services
from node.services.worker import Worker
from node.settings import NodeSettings
from node.spool import Spool
from storage import keys, models
from storage.clock import Environment, new_id
from storage.models import Member
from storage.store import FlushedStore, View

logger = logging.getLogger(__name__)

BATCH_KIND, TIME_ASKED_KIND, TIME_KIND = b"b", b"a", b"t"
MEMBERS_MAX = 100
CATCH_UP_ENTRIES = 1_000  # a member this far behind is not ready


class Guard(Runner, Protocol):
    """The process that launches commands, and kills what the lease does not cover."""

    def extend_lease(self, until_s: float) -> None: ...


class Node:
    """One member. `await start()`, `await stop()`; `fatal` is done when it must die.

    `registry` holds the executors, by default all that are installed; `state_writer` runs
    the commits of the state, by default in a thread of its own.
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
    ) -> None:
        self.settings = settings
        self.environment = environment
        self.view: View = store
        self.fatal: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._runner = runner
        self._journal = journal
        self._store = store
        self._incarnation = self._new_incarnation()
        # Only the first heartbeat of a process says that its predecessors are dead: the
        # locks on the data directory and of the runner have proven it.
        self._supersedes = True
        self.timekeeper = Timekeeper(
            environment, settings.clock_skew_ms_max, len(settings.voters) // 2
        )
        self.replica = Replica(
            store, environment, Listeners(self._take_results), self.fail, state_writer
        )
        self.timekeeper.log_said(self.replica.machine.clock_ms)
        self._proposer = Proposer(
            session=new_id(environment),
            environment=environment,
            clock_ms=self.timekeeper.stamp_ms,
            message_kind=BATCH_KIND,
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
        )
        self._proposer.attach(self.raft)
        self._build_duties(spool, registry)

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
            self._make_heartbeat, self._on_renewed, self._on_given_up, self._ask_time,
        )  # fmt: skip
        self.reaper = Reaper(self, self.view, environment, settings.lease_ms)
        self.reaper.own = self._incarnation
        cleaner = Cleaner(
            self, settings.output_kept_ms, self.timekeeper.now_ms, lambda: self.raft.is_leader
        )
        duties = (self.heartbeat, self.due_loop, self.reporter, self.reaper, cleaner)
        self._services = Services(duties, self.fail)
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
        self._proposer.close(NoQuorum("This member is stopping."))
        await self.registry.stop()
        await self.replica.stop()

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
        """Wait for a round trip through the log, which shows all that came before it."""
        await self._proposer.propose((), timeout_s=timeout_s)

    async def wait_applied(self, index: int, *, timeout_s: float) -> bool:
        return await self.replica.wait_applied(index, timeout_s=timeout_s)

    def now_ms(self) -> int:
        """Return the time of day as the cluster has it."""
        return max(self.replica.machine.clock_ms, self.timekeeper.cluster_ms())

    @property
    def time_confirmed(self) -> bool:
        return self.timekeeper.confirmed

    def _receive(self, member: str, payload: bytes) -> None:
        kind, content = payload[:1], payload[1:]
        if kind == BATCH_KIND:
            self._proposer.receive(content)
        elif kind == TIME_ASKED_KIND:
            now_ms = self.timekeeper.now_ms()
            self.raft.send(member, TIME_KIND + content + now_ms.to_bytes(8, "big"))
        elif kind == TIME_KIND:
            asked_ms, now_ms = (int.from_bytes(part, "big") for part in (content[:8], content[8:]))
            self.timekeeper.answered(member, asked_ms, now_ms)

    def _ask_time(self) -> None:
        asked_ms = int(self.environment.monotonic_s() * 1000)
        for member in sorted(self.settings.voters - {self.settings.name}):
            self.raft.send(member, TIME_ASKED_KIND + asked_ms.to_bytes(8, "big"))

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
        )

    def _on_renewed(self) -> None:
        self._supersedes = False
        self._runner.extend_lease(self.lease.until_s)
        self.worker.lease_renewed()
        self.due_loop.wake()

    def _on_given_up(self) -> None:
        self.worker.lease_lost()
        self._incarnation = self._new_incarnation()
        self.reaper.own = self._incarnation

    def _new_incarnation(self) -> bytes:
        """Return an id behind those of all earlier lives, wherever the clock stands by now."""
        fresh = new_id(self.environment)
        raw = self.view.get(keys.MEMBER + self.settings.name.encode())
        known = b"" if raw is None else models.decode_member(raw).incarnation
        if fresh > known:
            return fresh
        born_ms = int.from_bytes(known[:6], "big") + 1
        return born_ms.to_bytes(6, "big") + fresh[6:]

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
        raft, machine = self.raft, self.replica.machine
        role = "leader" if raft.is_leader else "follower" if raft.leader else "candidate"
        return ClusterStatus(
            cluster=self.settings.cluster,
            member=self.settings.name,
            role=role,
            leader=raft.leader,
            term=raft.term,
            commit_index=raft.commit_index,
            applied_index=machine.applied_index,
            has_quorum=raft.has_quorum_contact,
            caught_up=self._caught_up(),
            clock_ms=machine.clock_ms,
            clock_offset_ms=self.timekeeper.offset_ms,
            state_hash=machine.state_hash.hex(),
            voters=tuple(sorted(self.settings.voters)),
            counters=dict(machine.counters),
            slots=self.settings.slots,
            slots_used=self.worker.held_count,
        )

    def _caught_up(self) -> bool:
        return self.raft.commit_index - self.replica.applied_index < CATCH_UP_ENTRIES

    def readiness(self) -> list[str]:
        missing = []
        if not self.raft.has_quorum_contact:
            missing.append("There is no contact with a majority of the members.")
        if not self._caught_up():
            missing.append("The log is still being applied.")
        if not self.lease.held:
            missing.append("This member has no valid lease yet.")
        if not self.timekeeper.confirmed:
            missing.append("No majority has confirmed this member's time of day yet.")
        elif self.timekeeper.suspect:
            missing.append(
                f"This member's clock is off by {self.timekeeper.offset_ms} ms or has jumped."
            )
        return missing

    def validate_action(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
        return self.registry.validate(action, pointer)

    def metrics_text(self) -> bytes:
        return self.metrics.render(
            journal_entries=self.raft.last_index - self.raft.first_index + 1,
            state_bytes=self._store.used_bytes(),
            commands_waiting=self._proposer.waiting_commands,
            reports_waiting=self.reporter.waiting,
        )
