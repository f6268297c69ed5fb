"""What a node needs to know, checked and in the program's own units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from consensus.configuration import Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """The settings of one member; see cluster.example.toml for their meaning."""

    name: str
    cluster: str
    # The first members of the cluster; the log knows who belongs to it since. None for one
    # that has joined later.
    bootstrap: Configuration | None
    http_address: str
    version: str
    slots: int = 512
    labels: Mapping[str, str] = field(default_factory=dict)
    horizon_ms: int = 1_000
    steal_after_ms: int = 250
    lease_ms: int = 5_000
    heartbeat_ms: int = 1_000
    clock_skew_ms_max: int = 500
    output_kept_ms: int = 30 * 86_400_000
    drain_grace_ms: int = 20_000
    disk_low_bytes: int = 512 * 1_048_576
    disk_critical_bytes: int = 128 * 1_048_576
