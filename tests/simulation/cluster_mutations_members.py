"""Rules of members that come and go taken out; see `cluster_mutations`."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from consensus.state import apply_members, apply_seats
from node.services.steward import Steward
from storage import keys, models
from tests.simulation.raft_mutations import MUTATIONS as RAFT_MUTATIONS

Patch = tuple[Any, str, Any]


def _runs_of_a_removed_member_forgotten() -> list[Patch]:
    """Its lease goes with its seat, and nobody returns what it had claimed."""

    def leave(context: Any, name: str) -> None:
        key = keys.MEMBER + name.encode()
        raw = context.store.get(key)
        if raw is not None:
            context.store.delete(keys.INCARNATION + models.decode_member(raw).incarnation)
            context.store.delete(key)

    return [(apply_seats, "_leave", leave)]


def _removed_member_renews_its_lease() -> list[Patch]:
    """A heartbeat that was under way brings back who has no seat."""

    blind = SimpleNamespace(
        configuration_of=lambda view: None, clean_tokens=apply_seats.clean_tokens
    )
    return [(apply_members, "apply_seats", blind)]


def _emptied_disk_accepted() -> list[Patch]:
    """The same mistake as in the layer beneath, see `raft_mutations`."""
    patches: list[Patch] = RAFT_MUTATIONS["any_disk_accepted"]()
    return patches


def _leader_to_go_stays() -> list[Patch]:
    """A leader that is to lose its vote goes on until somebody else leads by chance."""
    original = Steward.run_once

    class Clinging:
        """The Raft layer as the steward sees it, and no leadership handed over."""

        def __init__(self, raft: Any) -> None:
            self._raft = raft

        def __getattr__(self, name: str) -> Any:
            return getattr(self._raft, name)

        def transfer_leadership(self) -> None:
            """Stay."""

    def run_once(self: Steward) -> None:
        raft, self._raft = self._raft, Clinging(self._raft)  # type: ignore[assignment]
        try:
            original(self)
        finally:
            self._raft = raft

    return [(Steward, "run_once", run_once)]


MEMBER_MUTATIONS: dict[str, Callable[[], list[Patch]]] = {
    make.__name__.lstrip("_"): make
    for make in (
        _runs_of_a_removed_member_forgotten,
        _removed_member_renews_its_lease,
        _emptied_disk_accepted,
        _leader_to_go_stays,
    )
}
