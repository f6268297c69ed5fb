"""The fixes about snapshots, taken out one at a time; see `tests.simulation.raft_mutations`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consensus import frames
from consensus.raft.behind import Behind
from consensus.raft.rules import Rules
from consensus.snapshots.exchange import Snapshots
from consensus.snapshots.receiver import SnapshotReceiver
from storage import snapshot_format
from storage.snapshot_format import SnapshotReader

Patch = tuple[Any, str, Any]


def _commit_moves_with_snapshot() -> list[Patch]:
    original = Behind._on_snapshot_required

    def required(self: Any, node: Any, term: int, message: frames.SnapshotRequired) -> None:
        original(self, node, term, message)
        self._commit_known = max(self._commit_known, message.first_index)
        self.durable()

    return [(Behind, "_on_snapshot_required", required)]


def _damaged_snapshot_accepted() -> list[Patch]:
    def open_chunk(self: Any, chunk: bytes) -> tuple[int, memoryview]:
        head = snapshot_format._HEAD
        return head.unpack_from(chunk)[0], memoryview(chunk)[head.size : -4]

    def read_footer(self: Any, content: memoryview) -> Any:
        return snapshot_format._decode_footer(content)

    return [
        (SnapshotReader, "_open", open_chunk),
        (SnapshotReader, "_read_footer", read_footer),
    ]


def _old_snapshot_accepted() -> list[Patch]:
    return [(SnapshotReceiver, "_check_new", lambda self, incoming: None)]


def _log_not_kept_for_transfers() -> list[Patch]:
    return [(Snapshots, "held_index", lambda self: None)]


def _requests_are_no_contact() -> list[Patch]:
    def admits(self: Any, member: str, term: int) -> bool:
        self._enter()
        return not self._is_stale(self._node_of(member), term) and self._is_current(term)

    return [(Behind, "admits", admits)]


def _no_probe_after_snapshot() -> list[Patch]:
    def next_after(self: Any, match_index: int) -> int:
        return match_index + 1 if match_index else self._log.last_index + 1

    return [(Behind, "_next_after", next_after)]


def _trimmed_taken_for_lost() -> list[Patch]:
    """R13: whoever cannot compare what it has confirmed, and trimmed, must have lost it."""

    def denies(self: Any, message: frames.AppendAnswer, match_index: int) -> bool:
        return message.prev_index <= match_index

    return [(Rules, "_denies", denies)]


SNAPSHOT_MUTATIONS: dict[str, Callable[[], list[Patch]]] = {
    "commit_moves_with_snapshot": _commit_moves_with_snapshot,
    "damaged_snapshot_accepted": _damaged_snapshot_accepted,
    "old_snapshot_accepted": _old_snapshot_accepted,
    "log_not_kept_for_transfers": _log_not_kept_for_transfers,
    "requests_are_no_contact": _requests_are_no_contact,
    "no_probe_after_snapshot": _no_probe_after_snapshot,
    "trimmed_taken_for_lost": _trimmed_taken_for_lost,
}
