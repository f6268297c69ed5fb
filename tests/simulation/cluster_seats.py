"""Who has which seat in a simulated cluster whose members change, and who has gone for good.

A member may end in two ways that are in order: it hears that it has no seat any more, or it
is refused because its disk was emptied. Whoever has its seat and its disk must hear neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.configuration import Configuration, Seat, encode_configuration
from consensus.raft.configurations import Placed
from consensus.raft.types import MemberRefused, MemberRemoved
from consensus.state.apply_seats import wanted_seats
from storage import keys
from storage.journal_format import Batch

if TYPE_CHECKING:
    from tests.simulation.cluster_member import MemberLife
    from tests.simulation.cluster_world import ClusterWorld

ROWS_MAX = 100


class Seats:
    """The members of a world, as somebody knows them who sees everything."""

    def __init__(self, world: ClusterWorld, first: Configuration) -> None:
        self._world = world
        self.first = first
        # The seat that each host was provided for.
        self._held = {seat.name: seat for seat in first.seats}
        # Members that have ended for good, and those whose disk was emptied.
        self.gone: set[str] = set()
        self.wiped: set[str] = set()

    @property
    def committed(self) -> Placed:
        """The newest configuration that anybody knows to be committed."""
        lives = self._world.lives.values()
        known: list[Placed] = [(0, self.first), *self._world.oracle.configurations.items()]
        known += [life.node.raft.committed_configuration for life in lives]
        return max(known, key=lambda placed: placed[0])

    def holds(self, name: str) -> bool:
        """Tell whether a host was provided for the seat that its name has now."""
        seat, held = self.committed[1].seat(name), self._held.get(name)
        return seat is not None and held is not None and seat.seat_id == held.seat_id

    def ends(self, name: str, error: BaseException) -> bool:
        """Take note of how a member has ended; tell whether that is in order."""
        if isinstance(error, MemberRemoved):
            in_order = name in self.wiped or not self.holds(name)
        else:
            in_order = isinstance(error, MemberRefused) and name in self.wiped
        if in_order:
            kind = "left" if isinstance(error, MemberRemoved) else "refused"
            self._world.oracle.counts[f"members {kind}"] += 1
            self.gone.add(name)
        return in_order

    # --- Hosts --------------------------------------------------------------------------------

    def provide(self, seat: Seat, teller: MemberLife, placed: Placed) -> None:
        """Start a newcomer with an empty disk and what a member has told it of the others."""
        name = seat.name
        self._world.oracle.note(name, "joins by", teller.host.name, "as of", placed[0])
        self._world.oracle.counts["members joined"] += 1
        self._held[name] = seat
        self.gone.discard(name)
        self.wiped.discard(name)
        host = self._world.replace_host(name, bootstrap=None)
        index, configuration = placed
        host.journal.write(Batch(configuration=(index, encode_configuration(configuration))))
        self._world.start(name)

    def wipe(self, name: str) -> None:
        """Empty a disk. One of the first members starts all the same: its file knows the others."""
        bootstrap = self._world.hosts[name].bootstrap
        self._world.oracle.note(name, "loses its disk")
        self._world.oracle.counts["disks emptied"] += 1
        self.wiped.add(name)
        self._world.replace_host(name, bootstrap=bootstrap)
        if bootstrap is None:
            self.gone.add(name)
        else:
            self._world.start(name)

    def count_changes(self) -> None:
        """Count what the log says of the members."""
        counts, before = self._world.oracle.counts, self.first
        for _, after in sorted(self._world.oracle.configurations.items()):
            counts["configurations"] += 1
            learners = {seat.name for seat in before.seats if seat.role == "learner"}
            counts["learners made voters"] += len(learners & after.voters)
            before = after

    # --- At rest ------------------------------------------------------------------------------

    def restless(self) -> str:
        """Return what is wrong with who belongs to the cluster; nothing if it is at rest."""
        _, configuration = self.committed
        missing = sorted(
            name
            for name in configuration.names
            if not self.holds(name) or name in self.gone or name not in self._world.lives
        )
        if missing:
            return f"members {missing} have a seat and do not run"
        emptied = sorted(self.wiped & self._world.lives.keys())
        if emptied:
            return f"the disks of {emptied} were emptied, and they run all the same"
        strangers = sorted(self._world.lives.keys() - configuration.names)
        if strangers:
            return f"members {strangers} have no seat and run"
        return self._unfulfilled(configuration)

    def _unfulfilled(self, configuration: Configuration) -> str:
        """Return what is wanted and not there, or the other way round."""
        lives = self._world.lives.values()
        furthest = max(lives, key=lambda life: life.node.applied_index)
        view = furthest.node.view
        rows = view.scan(keys.MEMBER, keys.after(keys.MEMBER), ROWS_MAX)
        shown = {key[1:].decode() for key, _ in rows}
        if shown != configuration.names:
            return f"shown are {sorted(shown)}, there are {sorted(configuration.names)}"
        wanted = wanted_seats(view)
        wish = {(name, seat.seat_id, seat.role, seat.address) for name, seat in wanted.items()}
        there = {(seat.name, seat.seat_id, seat.role, seat.address) for seat in configuration.seats}
        return "" if wish == there else f"wanted are {sorted(wish)}, there are {sorted(there)}"
