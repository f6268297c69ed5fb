"""Rules of members that come back by a snapshot taken out; see `cluster_mutations`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from consensus.raft.types import Entry
from node.departure import Departure
from node.replica import Replica
from node.services.worker import Worker
from tests.simulation.raft_mutations_snapshots import SNAPSHOT_MUTATIONS

Patch = tuple[Any, str, Any]


def _log_forgets_what_was_applied() -> list[Patch]:
    """What was applied in memory counts as if it were on the disk."""
    original = Replica.apply

    def apply(self: Replica, entries: Sequence[Entry]) -> None:
        original(self, entries)
        self.listeners.flushed(self.machine.applied_index)

    return [(Replica, "apply", apply)]


def _log_forgets_what_was_flushed() -> list[Patch]:
    """The newest transaction counts as if no power cut could take it."""
    original = Replica._commit

    async def commit(self: Replica, index: int) -> None:
        self._newest_index = index
        await original(self, index)

    return [(Replica, "_commit", commit)]


def _attempts_outlive_their_life() -> list[Patch]:
    """The next life of a process begins although the last one's commands go on."""

    async def drain(self: Departure, grace_s: float) -> None:
        self._due_loop.enabled = False

    async def leave(self: Departure) -> None:
        """The lease ends by itself."""

    return [
        (Departure, "drain", drain),
        (Departure, "leave", leave),
        (Worker, "running_count", property(lambda self: 0)),
    ]


def _commit_moves_with_snapshot() -> list[Patch]:
    """The same mistake as in the layer beneath, see `raft_mutations_snapshots`."""
    patches: list[Patch] = SNAPSHOT_MUTATIONS["commit_moves_with_snapshot"]()
    return patches


SNAPSHOT_MUTATIONS_OF_MEMBERS: dict[str, Callable[[], list[Patch]]] = {
    make.__name__.lstrip("_"): make
    for make in (
        _log_forgets_what_was_applied,
        _log_forgets_what_was_flushed,
        _attempts_outlive_their_life,
        _commit_moves_with_snapshot,
    )
}
