"""What a member tells about itself: to its API, its operators, and in a post-mortem."""

from __future__ import annotations

from typing import Any

import msgspec

from api.cluster import ClusterStatus
from api.schedule.zones import tzdata_version
from consensus import features
from consensus.driver import Raft
from consensus.raft.types import Journal
from consensus.state.commands import Heartbeat
from consensus.timekeeper import Timekeeper
from node.lease import Lease
from node.replica import Replica
from node.services.disk_watch import DiskWatch
from node.services.worker import Worker
from node.settings import NodeSettings
from node.state_guard import StateGuard
from storage.clock import Environment

CATCH_UP_ENTRIES = 1_000  # a member this far behind is not ready


class SelfReport:
    """Reads the parts of one member; it changes nothing."""

    def __init__(
        self,
        settings: NodeSettings,
        environment: Environment,
        raft: Raft,
        replica: Replica,
        journal: Journal,
        timekeeper: Timekeeper,
        lease: Lease,
        worker: Worker,
        state_guard: StateGuard,
        disk_watch: DiskWatch | None,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._raft = raft
        self._replica = replica
        self._journal = journal
        self._timekeeper = timekeeper
        self._lease = lease
        self._worker = worker
        self._state_guard = state_guard
        self._disk_watch = disk_watch

    def status(self) -> ClusterStatus:
        """Return how this member sees the cluster at this moment."""
        raft, machine = self._raft, self._replica.machine
        role = "leader" if raft.is_leader else "follower" if raft.leader else "candidate"
        return ClusterStatus(
            cluster=self._settings.cluster,
            member=self._settings.name,
            role=role,
            leader=raft.leader,
            term=raft.term,
            commit_index=raft.commit_index,
            applied_index=machine.applied_index,
            has_quorum=raft.has_quorum_contact,
            caught_up=self._caught_up(),
            clock_ms=machine.clock_ms,
            clock_offset_ms=self._timekeeper.offset_ms,
            state_hash=machine.state_hash.hex(),
            voters=tuple(sorted(raft.configuration.voters)),
            counters=dict(machine.counters),
            slots=self._settings.slots,
            slots_used=self._worker.held_count,
            feature_level=features.in_force(self._replica.store),
            feature_level_supported=features.CURRENT,
        )

    def heartbeat(self, incarnation: bytes, *, accepting: bool, supersedes: bool) -> Heartbeat:
        """Return the heartbeat of this moment."""
        settings = self._settings
        return Heartbeat(
            settings.name,
            incarnation,
            settings.lease_ms,
            settings.slots,
            settings.http_address,
            settings.version,
            tzdata_version(),
            dict(settings.labels),
            # While it catches up, its share of the launches would wait for it.
            accepting=accepting and self._caught_up(),
            running=self._worker.held_count,
            supersedes=supersedes,
            level=features.CURRENT,
            level_min=features.MINIMUM,
        )

    @property
    def in_step(self) -> bool:
        """Tell whether this member hears what becomes of the commands that it proposes."""
        return self._raft.snapshots.lag is not None

    def _caught_up(self) -> bool:
        lag = self._raft.snapshots.lag
        return lag is not None and lag < CATCH_UP_ENTRIES

    def readiness(self) -> list[str]:
        """Return what is missing for this member to be ready, as sentences."""
        missing = []
        if self._raft.snapshots.receiving:
            megabytes = self._raft.snapshots.received_bytes / 1_000_000
            missing.append(
                "The log does not reach back to this member, which is installing a snapshot of "
                f"the state ({megabytes:.0f} MB so far)."
            )
        if not self._raft.has_quorum_contact:
            missing.append("There is no contact with a majority of the members.")
        if not self._caught_up():
            missing.append("The log is still being applied.")
        if not self._lease.held:
            missing.append("This member has no valid lease yet.")
        if self._worker.draining:
            missing.append("This member is draining, and takes nothing more.")
        if not self._timekeeper.confirmed:
            missing.append("No majority has confirmed this member's time of day yet.")
        elif self._timekeeper.suspect:
            missing.append(
                f"This member's clock is off by {self._timekeeper.offset_ms} ms or has jumped."
            )
        disk = () if self._disk_watch is None else self._disk_watch.missing()
        return [*missing, *self._state_guard.missing(), *disk]

    def post_mortem(self) -> dict[str, Any]:
        """Return what is to be known about this member's state once it has stopped."""
        raft, journal = self._raft, self._journal
        return {
            **msgspec.structs.asdict(self.status()),
            "version": self._settings.version,
            "tzdata": tzdata_version(),
            "stopped_ms": self._environment.wall_ms(),
            "applied_term": self._replica.machine.applied_term,
            "journal": {
                "first_index": raft.first_index,
                "last_index": raft.last_index,
                "disk_id": journal.disk_id.hex(),
                "boots": journal.boots,
            },
            **self._state_guard.report(),
        }
