"""Making the cluster's configuration follow what is wanted of it, one change at a time.

What operators ask for is in the state, see `consensus.state.apply_seats`; who belongs to the
cluster is in the log. The leader compares the two and proposes the one next change, again
and again, until there is no difference. Nothing is kept here, so it does not matter which
member leads, or how often that changes: whoever leads finds what is left to do.

A leader that is to lose its vote hands leadership over, and its successor goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping

from consensus.configuration import Configuration, Role, Seat
from consensus.driver import Raft
from consensus.errors import ChangeRefused
from consensus.raft.types import NotLeader
from consensus.state.apply_seats import configuration_of, wanted_seats
from storage.models import WantedSeat
from storage.store import View

logger = logging.getLogger(__name__)

PERIOD_S = 0.1


class Steward:
    """Works on the leader only."""

    def __init__(self, raft: Raft, view: View, name: str) -> None:
        self._raft = raft
        self._view = view
        self._name = name
        self._complaint = ""

    async def run(self) -> None:
        while True:
            if self._raft.is_leader:
                self.run_once()
            await asyncio.sleep(PERIOD_S)

    def run_once(self) -> None:
        """Propose the next change, if one is wanted and may be made now."""
        before = self._raft.configuration
        if self._raft.applied_index < self._raft.configuration_index:
            # The state here does not know yet what this configuration was made for: taken for
            # what is wanted, it would undo it.
            return
        if configuration_of(self._view) is None:
            # The first entry of this kind: from here on the log says who the members are.
            changes = iter([before])
        else:
            changes = next_configurations(before, wanted_seats(self._view))
        for after in changes:
            try:
                if self._name in before.voters - after.voters:
                    self._raft.transfer_leadership()
                else:
                    self._raft.change(after)
            except NotLeader:
                return
            except ChangeRefused as refused:
                self._complain(str(refused))
                continue
            self._complaint = ""
            return

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            logger.info("A change of the members waits: %s", reason)


def next_configurations(
    before: Configuration, wanted: Mapping[str, WantedSeat]
) -> Iterator[Configuration]:
    """Yield the configurations that are one step nearer to what is wanted, best first.

    Whoever comes, comes before others go, so that a cluster that exchanges its members is
    never weaker than it has to be.
    """
    for name, wish in sorted(wanted.items()):
        seat = before.seat(name)
        if seat is None:
            yield before.having(Seat(name, wish.address, _first_role(wish), wish.seat_id))
        elif seat.seat_id == wish.seat_id and (seat.address != wish.address):
            yield before.having(Seat(name, wish.address, seat.role, seat.seat_id))
        elif seat.seat_id == wish.seat_id and _has_other_role(seat, wish):
            yield before.having(Seat(name, seat.address, _first_role(wish), seat.seat_id))
    for seat in before.seats:
        wish_of = wanted.get(seat.name)
        if wish_of is None or wish_of.seat_id != seat.seat_id:
            yield before.without(seat.name)


def _first_role(wish: WantedSeat) -> Role:
    """Return the role in which a seat begins: a vote is given to who has caught up."""
    return "learner" if wish.role == "voter" else "nonvoting"


def _has_other_role(seat: Seat, wish: WantedSeat) -> bool:
    return (seat.role == "nonvoting") != (wish.role == "nonvoting")
