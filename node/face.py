"""The half of a member that the API and its duties see (`api.cluster.Cluster`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from api.cluster import ClusterStatus
from api.faults import Fault
from consensus.driver import Raft
from consensus.errors import NoQuorum
from consensus.proposer import Proposer
from consensus.read_index import ReadIndex
from consensus.state.commands import Command, Refused, Result
from consensus.timekeeper import Timekeeper
from node.backups import Backup, Backups
from node.executors.registry import Registry
from node.metrics import Metrics
from node.replica import Replica
from node.self_report import SelfReport
from node.services.disk_watch import DiskWatch
from node.services.reporter import Reporter
from node.state_guard import StateGuard
from storage.clock import Environment
from storage.store import FlushedStore


class Face:
    """Commands in, the state and what is to be known of this member out."""

    environment: Environment
    timekeeper: Timekeeper
    replica: Replica
    raft: Raft
    registry: Registry
    metrics: Metrics
    reporter: Reporter
    state_guard: StateGuard
    self_report: SelfReport
    _store: FlushedStore
    _proposer: Proposer
    _reads: ReadIndex
    _backups: Backups | None
    _disk_watch: DiskWatch | None

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

    def write_refusal(self) -> str | None:
        return None if self._disk_watch is None else self._disk_watch.refusal()

    def now_ms(self) -> int:
        """Return the time of day as the cluster has it."""
        return max(self.replica.machine.clock_ms, self.timekeeper.cluster_ms())

    @property
    def time_confirmed(self) -> bool:
        return self.timekeeper.confirmed

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
            **self.raft.snapshots.facts(),
            **({} if self._disk_watch is None else self._disk_watch.gauges()),
        )
