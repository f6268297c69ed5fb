"""A simulated cluster whose members change while everything else goes wrong.

An operator adds members, removes some (the leader as well), takes votes away and gives them
back, moves addresses, and empties disks. Members that were removed come back with what they
have, and have to hear that they are no members any more; one with an emptied disk has to be
refused until its name was removed and added again.
"""

from __future__ import annotations

import asyncio
import random

from consensus.configuration import Configuration, Role, Seat, first_configuration
from consensus.driver import Raft
from consensus.errors import ChangeRefused
from consensus.raft.configurations import Placed, packed
from consensus.raft.types import MemberRefused, MemberRemoved, NotLeader, RaftSettings
from storage.journal_format import Batch
from storage.memory_journal import MemoryDisk
from tests.simulation.raft_life import SHORT_LOG, Life, RaftLife, Remains
from tests.simulation.raft_options import Options
from tests.simulation.raft_oracle import Oracle, SafetyViolated
from tests.simulation.raft_world import World

SPARE_NAMES = ("n4", "n5", "n6", "n7")
VOTERS_MIN = 3


def newcomer(name: str, base: Placed, voters: frozenset[str]) -> Remains:
    """Return an empty disk with nothing on it but what a newcomer was told."""
    seat = base[1].seat(name)
    assert seat is not None
    disk = MemoryDisk(name.encode() + seat.seat_id[:14].ljust(14, b"."))
    disk.write(Batch(configuration=packed(base)))
    return Remains(name=name, voters=voters, disk=disk)


class GrowingWorld(World):
    """Members `n1` to `n<members>` at first; see the module's text."""

    def __init__(self, options: Options, settings: RaftSettings = SHORT_LOG) -> None:
        super().__init__(options, self._make_life)
        self.settings = settings
        self.first = first_configuration({name: f"{name}:7901" for name in self.remains})
        # The seat each member that was provided holds; the first ones have none of their own.
        self.seats = {seat.name: seat for seat in self.first.seats}
        # Members that have stopped for good, and those among them whose disk was emptied.
        self.gone: set[str] = set()
        self.wiped: set[str] = set()
        self._operator = random.Random(options.seed + 2)
        self._moves = 0

    def _make_life(self, world: World, remains: Remains) -> Life:
        return RaftLife(
            remains, self.loop, self.network, self.oracle, self.failed, f"{self.options.seed}",
            self.settings,
        )  # fmt: skip

    def run(self) -> Oracle:
        oracle = super().run()
        oracle.check_configurations(self.first)
        return oracle

    # --- Members ----------------------------------------------------------------------

    def start(self, name: str) -> None:
        if name not in self.gone:
            super().start(name)

    def failed(self, member: str, error: BaseException) -> None:
        """Accept the two ends that are in order: removed, or refused with an emptied disk."""
        if isinstance(error, MemberRemoved):
            seat = self.committed[1].seat(member)
            if seat is not None and seat == self.seats[member] and member not in self.wiped:
                error = SafetyViolated(f"{member} was told to go and has its seat: {error}")
                super().failed(member, error)
            self._lose(member, "left")
        elif isinstance(error, MemberRefused) and member in self.wiped:
            self._lose(member, "refused")
        else:
            super().failed(member, error)

    def _lose(self, member: str, how: str) -> None:
        self.oracle.counts[how] += 1
        self.gone.add(member)
        self.loop.call_soon(self.kill, member)

    @property
    def committed(self) -> Placed:
        """The newest configuration that anybody knows to be committed."""
        known: list[Placed] = [(0, self.first), *self.oracle.configurations.items()]
        known += [raft.committed_configuration for raft in self.rafts.values()]
        return max(known, key=lambda placed: placed[0])

    @property
    def rafts(self) -> dict[str, Raft]:
        return {n: life.raft for n, life in self.lives.items() if isinstance(life, RaftLife)}

    def provide(self, name: str, base: Placed) -> None:
        """Start a newcomer with an empty disk and the configuration that it was told."""
        self.kill(name)
        self.network.extend(name)
        self.remains[name] = newcomer(name, base, self.first.voters)
        seat = base[1].seat(name)
        assert seat is not None
        self.seats[name] = seat
        for members in (self.gone, self.wiped):
            members.discard(name)
        self.start(name)

    def wipe(self, name: str) -> None:
        """Start a member again with nothing on its disk."""
        self.oracle.counts["wiped"] += 1
        self.kill(name)
        self.wiped.add(name)
        disk = MemoryDisk(name.encode().ljust(16, b"?"))
        # Its file names it among the others, and nothing tells it that it once had a journal.
        self.remains[name] = Remains(name=name, voters=self.first.voters | {name}, disk=disk)
        self.start(name)

    # --- The operator -----------------------------------------------------------------

    async def _client(self) -> None:
        operator = self.loop.create_task(self._operate())
        try:
            await super()._client()
        finally:
            operator.cancel()

    async def _operate(self) -> None:
        while True:
            await asyncio.sleep(self._operator.uniform(0.1, 1.0))
            self._settle()
            leader = self.leader()
            if leader is None or not isinstance(leader, RaftLife):
                continue
            try:
                self._act(leader.raft)
            except (ChangeRefused, NotLeader) as error:
                self.oracle.counts[type(error).__name__] += 1

    def _settle(self) -> None:
        """Provide the members that were added, as whoever joins does with its answer."""
        base = self.committed
        for seat in base[1].seats:
            known = self.seats.get(seat.name)
            if known is None or known.seat_id != seat.seat_id:
                self.provide(seat.name, base)
            else:
                self.seats[seat.name] = seat

    def _act(self, raft: Raft) -> None:
        before = raft.configuration
        lost = [seat.name for seat in before.seats if seat.name in self.gone]
        if lost and self._operator.random() < 0.5:
            self._remove(raft, before, lost[0])
            return
        actions = (
            (self._add, 4),
            (self._remove_any, 3),
            (self._demote, 1),
            (self._move, 1),
            (self._wipe_any, 1),
        )
        action = self._operator.choices([a for a, _ in actions], [w for _, w in actions])[0]
        action(raft, before)

    def _add(self, raft: Raft, before: Configuration) -> None:
        free = [n for n in (*self.first.names, *SPARE_NAMES) if before.seat(n) is None]
        returning = [seat.name for seat in before.seats if seat.role == "nonvoting"]
        if returning and self._operator.random() < 0.5:
            self._give(raft, before, returning[0], "learner")
        elif free:
            name = self._operator.choice(sorted(free))
            role: Role = "learner" if self._operator.random() < 0.8 else "nonvoting"
            seat_id = self._operator.getrandbits(112).to_bytes(14, "big")
            self.oracle.counts["added"] += 1
            raft.change(before.having(Seat(name, f"{name}:7901", role, seat_id)))

    def _give(self, raft: Raft, before: Configuration, name: str, role: Role) -> None:
        seat = before.seat(name)
        assert seat is not None
        raft.change(before.having(Seat(name, seat.address, role, seat.seat_id)))

    def _remove_any(self, raft: Raft, before: Configuration) -> None:
        if len(before.voters) > VOTERS_MIN:
            self._remove(raft, before, self._operator.choice(sorted(before.names)))

    def _remove(self, raft: Raft, before: Configuration, name: str) -> None:
        """Remove a member; if it leads, its successor will be asked another time."""
        if raft is self.rafts.get(name):
            self.oracle.counts["leader_removals"] += 1
            raft.transfer_leadership(None)
            return
        raft.change(before.without(name))
        self.oracle.counts["removed"] += 1

    def _demote(self, raft: Raft, before: Configuration) -> None:
        others = sorted(before.voters - {n for n, r in self.rafts.items() if r is raft})
        if len(before.voters) > VOTERS_MIN and others:
            self._give(raft, before, self._operator.choice(others), "nonvoting")
            self.oracle.counts["demoted"] += 1

    def _move(self, raft: Raft, before: Configuration) -> None:
        seat = self._operator.choice(before.seats)
        self._moves += 1
        moved = Seat(seat.name, f"{seat.name}:{8000 + self._moves}", seat.role, seat.seat_id)
        raft.change(before.having(moved))

    def _wipe_any(self, raft: Raft, before: Configuration) -> None:
        # A removal that is not committed may yet be undone, so both configurations count.
        down = self.gone | self.wiped
        names = before.names | self.committed[1].names
        if len(before.voters) >= VOTERS_MIN and not names & down:
            known = [name for name in before.names if name in self.lives]
            if known:
                self.wipe(self._operator.choice(sorted(known)))
