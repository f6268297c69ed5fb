"""The member's metrics, in the names and units that Prometheus expects.

Labels are bounded: outcomes, reasons and members are few, jobs are not and never a label.
What is true of the whole cluster is exported by its leader only, so that adding members
up does not count it several times.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from api.cluster import ClusterStatus
from api.schedule.zones import tzdata_version
from consensus.state.context import Effects

LAG_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)


class Metrics:
    """One registry a member; `render` brings the gauges up to date first."""

    def __init__(
        self, member: str, status: Callable[[], ClusterStatus], leads: Callable[[], bool]
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._status = status
        self._leads = leads
        registry = self.registry
        info = Info("cronclave_build", "Versions of this member.", registry=registry)
        info.info(
            {
                "version": version("cronclave"),
                "tzdata": tzdata_version(),
                "croniter": version("croniter"),
                "member": member,
            }
        )
        self._lag = Histogram(
            "cronclave_schedule_lag_seconds",
            "Start of an attempt on this member minus the moment it was due.",
            buckets=LAG_BUCKETS_S,
            registry=registry,
        )
        self._ended = Counter(
            "cronclave_runs_total", "Runs that ended while this member led.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self._gauges = {
            name: Gauge(f"cronclave_{name}", text, registry=registry)
            for name, text in {
                "raft_is_leader": "1 on the member that leads.",
                "raft_term": "The term of this member.",
                "raft_commit_index": "The highest committed log index known here.",
                "raft_applied_index": "The highest log index applied here.",
                "raft_has_quorum": "1 while a majority is in contact.",
                "runs_active": "Attempts that this member holds.",
                "slots": "Attempts that this member can hold.",
                "feature_level": "The cluster's feature level.",
                "feature_level_supported": "The highest level that this member supports.",
                "clock_offset_seconds": "How far the cluster's time is ahead of this member's.",
                "journal_entries": "Log entries in this member's journal.",
                "state_bytes": "Used size of this member's state file.",
                "commands_waiting": "Commands that wait on this member to be proposed.",
                "state_differs": "Members whose state differs from this one's at the same index.",
                "snapshots_sending": "Snapshots on their way to other members.",
                "snapshots_sent": "Snapshots that other members have received from this one.",
                "snapshot_bytes_sent": "Bytes of snapshots sent, repetitions included.",
                "snapshot_bytes_received": "Bytes of snapshots received.",
                "snapshots_failed": "Snapshots received and thrown away because of a fault.",
                "snapshots_installed": "Snapshots that this process has installed.",
                "disk_free_bytes": "What the disk of the data directory has left.",
                "disk_low": "1 while that is too little to take writes.",
                "journal_map_used_ratio": "Used part of the journal's address space.",
                "state_map_used_ratio": "Used part of the state's address space.",
                "state_reader_age_seconds": "For how long a reader has held old pages.",
                "reports_waiting": "Ends of attempts that the cluster has not accepted yet.",
            }.items()
        }
        self._cluster = Gauge(
            "cronclave_cluster", "Counters of the cluster, from its leader.", ["name"],
            registry=registry,
        )  # fmt: skip

    def started(self, lag_ms: int) -> None:
        self._lag.observe(lag_ms / 1000)

    def applied(self, effects: Effects) -> None:
        """Count what a batch of entries has brought about, on one of those who apply it."""
        if self._leads():
            for _, outcome in effects.ended:
                self._ended.labels(outcome).inc()

    def render(self, **facts: float) -> bytes:
        """Return all metrics as text; `facts` are the gauges that only the node knows."""
        status = self._status()
        values = {
            "raft_is_leader": status.role == "leader",
            "raft_term": status.term,
            "raft_commit_index": status.commit_index,
            "raft_applied_index": status.applied_index,
            "raft_has_quorum": status.has_quorum,
            "runs_active": status.slots_used,
            "slots": status.slots,
            "feature_level": status.feature_level,
            "feature_level_supported": status.feature_level_supported,
            "clock_offset_seconds": (status.clock_offset_ms or 0) / 1000,
            **facts,
        }
        for name, value in values.items():
            self._gauges[name].set(float(value))
        self._cluster.clear()
        if status.role == "leader":
            for name, count in status.counters.items():
                self._cluster.labels(name).set(count)
        return generate_latest(self.registry)
