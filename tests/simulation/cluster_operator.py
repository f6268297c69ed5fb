"""An operator who changes the members of a simulated cluster while everything goes wrong.

It asks for what it wants as the command line does: a token and a request to join, a change
of role or address, a removal. Whoever is added begins with an empty disk and the
configuration that some member shows. Disks are emptied as well; that is a loss, so never
while another member is lost or a change is under way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import TYPE_CHECKING

from consensus.configuration import Seat, decode_configuration
from consensus.errors import OutcomeUnknown
from consensus.raft.configurations import Placed
from consensus.state.apply_seats import wanted_seats
from consensus.state.commands import (
    ChangeMember,
    Command,
    IssueToken,
    JoinMember,
    Refused,
    RemoveMember,
    RequestKey,
    SeatDone,
    WantedRole,
)
from node.node import Node
from storage import keys, models
from storage.models import WantedSeat
from storage.store import View

if TYPE_CHECKING:
    from tests.simulation.cluster_world import ClusterWorld

SPARE_NAMES = ("n4", "n5", "n6", "n7")
VOTERS_MIN = 3
BETWEEN_S = (0.2, 1.2)
PROPOSAL_S = 3.0
PATIENCE_S = 8.0
TRIES_MAX = 4
TOKEN_MS = 120_000


class Operator:
    """Changes one thing after the other; `finish` ends what was begun."""

    def __init__(self, world: ClusterWorld) -> None:
        self._world = world
        options = world.options
        self._rng = random.Random(f"{options.mode}/{options.seed}/operator")
        self._asked = 0

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(self._rng.uniform(*BETWEEN_S))
            self._settle()
            wanted = self._wanted()
            if wanted:
                await self._act(wanted)

    async def finish(self) -> None:
        """Let those go who are lost, and those begin who were added, for as long as it takes."""
        while True:
            await asyncio.sleep(0.5)
            self._settle()
            self._switch_off()
            for name in self._lost(self._wanted()):
                await self._remove(name)

    # --- What it sees -------------------------------------------------------------------------

    def _wanted(self) -> dict[str, WantedSeat]:
        """Return the seats that are wanted, as the member has them that is furthest."""
        lives = self._world.lives.values()
        furthest = max(lives, key=lambda life: life.node.applied_index, default=None)
        return {} if furthest is None else wanted_seats(furthest.node.view)

    def _lost(self, wanted: dict[str, WantedSeat]) -> list[str]:
        """Return the members that are wanted and will never come back."""
        return sorted(wanted.keys() & self._world.seats.gone)

    def _settle(self) -> None:
        """Have every member begin that was taken in, as soon as some member tells of its seat.

        Not every member that is asked knows of it yet, or of nothing newer.
        """
        seats = self._world.seats
        for seat in seats.committed[1].seats:
            if not seats.holds(seat.name):
                tellers = [
                    (life, shown)
                    for life in self._world.lives.values()
                    if (shown := _shown(life.node.view)) is not None
                    and shown[1].seat(seat.name) is not None
                    and _same(shown[1].seat(seat.name), seat)
                ]
                if tellers:
                    life, shown = self._rng.choice(tellers)
                    seats.provide(seat, life, shown)

    def _switch_off(self) -> None:
        """Stop members without a seat that know nobody any more who could tell them so."""
        present = self._world.seats.committed[1].names
        for name, life in list(self._world.lives.items()):
            if name not in present and not present & life.node.raft.configuration.names:
                self._world.seats.gone.add(name)
                self._world.kill(name, power_loss=False)

    # --- What it does -------------------------------------------------------------------------

    async def _act(self, wanted: dict[str, WantedSeat]) -> None:
        lost = self._lost(wanted)
        if lost and self._rng.random() < 0.7:
            if self._rng.random() < 0.5:
                await self._remove(lost[0])
            else:
                await self._add(wanted, replaces=lost[0])
            return
        actions: tuple[tuple[Callable[[dict[str, WantedSeat]], Awaitable[None]], int], ...] = (
            (self._add, 4),
            (self._exchange, 2),
            (self._remove_any, 3),
            (self._change_role, 2),
            (self._move, 1),
            (self._wipe, 2),
        )
        action = self._rng.choices([a for a, _ in actions], [weight for _, weight in actions])[0]
        await action(wanted)

    async def _add(self, wanted: dict[str, WantedSeat], replaces: str | None = None) -> None:
        """Have a member join with a token, perhaps in the place of another."""
        free = [n for n in (*self._world.seats.first.names, *SPARE_NAMES) if n not in wanted]
        if not free:
            return
        name = self._rng.choice(sorted(free))
        role: WantedRole = "voter" if self._rng.random() < 0.8 else "nonvoting"
        if replaces is not None:
            role = wanted[replaces].role
        token_hash = sha256(self._rng.randbytes(16)).digest()
        key, second = self._key(), self._key()
        expires_ms = [0]

        def issue(node: Node) -> Command:
            expires_ms[0] = expires_ms[0] or node.now_ms() + TOKEN_MS
            return IssueToken(token_hash, name, role, expires_ms[0], b"sealed", replaces, key)

        if not await self._insist(issue):
            return
        address = f"{name}:7901"
        if await self._insist(lambda node: JoinMember(token_hash, name, address, second)):
            self._world.oracle.counts["members exchanged" if replaces else "members added"] += 1

    async def _exchange(self, wanted: dict[str, WantedSeat]) -> None:
        await self._add(wanted, replaces=self._rng.choice(sorted(wanted)))

    async def _remove_any(self, wanted: dict[str, WantedSeat]) -> None:
        name = self._rng.choice(sorted(wanted))
        if wanted[name].role == "nonvoting" or _voters(wanted) > VOTERS_MIN:
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        leads = name in self._world.lives and self._world.lives[name].leads
        if await self._insist(lambda node: RemoveMember(name)):
            self._world.oracle.counts["removals of the leader" if leads else "removals"] += 1

    async def _change_role(self, wanted: dict[str, WantedSeat]) -> None:
        name = self._rng.choice(sorted(wanted))
        role: WantedRole = "voter" if wanted[name].role == "nonvoting" else "nonvoting"
        if role == "nonvoting" and _voters(wanted) <= VOTERS_MIN:
            return
        if await self._insist(lambda node: ChangeMember(name, role)):
            self._world.oracle.counts["promotions" if role == "voter" else "demotions"] += 1

    async def _move(self, wanted: dict[str, WantedSeat]) -> None:
        name, address = self._rng.choice(sorted(wanted)), f"moved:{8000 + self._asked}"
        await self._insist(lambda node: ChangeMember(name, address=address))

    async def _wipe(self, wanted: dict[str, WantedSeat]) -> None:
        """Empty a disk where that loses nothing: all others are there, and agree on who."""
        seats, lives = self._world.seats, self._world.lives
        placed = seats.committed
        names = placed[1].names
        rafts = [lives[name].node.raft for name in names if name in lives]
        if (
            len(placed[1].voters) >= VOTERS_MIN
            and len(rafts) == len(names)
            and not names & (seats.gone | seats.wiped)
            and wanted.keys() == names
            and {raft.configuration for raft in rafts} == {placed[1]}
        ):
            seats.wipe(self._rng.choice(sorted(names)))

    # --- How it asks --------------------------------------------------------------------------

    def _key(self) -> RequestKey:
        self._asked += 1
        return RequestKey(b"operator %7d" % self._asked, b"same")

    async def _insist(self, make: Callable[[Node], Command]) -> bool:
        """Ask one member after the other; tell whether it was certainly carried out."""
        for _ in range(TRIES_MAX):
            answer = await self._ask(make)
            if isinstance(answer, SeatDone | Refused):
                return isinstance(answer, SeatDone)
            await asyncio.sleep(self._rng.uniform(0.1, 1.0))
        return False

    async def _ask(self, make: Callable[[Node], Command]) -> object:
        lives = [life for life in self._world.lives.values() if not life.stopping]
        if not lives:
            return OutcomeUnknown("Nobody listens.")

        async def work(node: Node) -> object:
            return (await node.propose((make(node),), timeout_s=PROPOSAL_S))[0]

        answer = self._rng.choice(lives).ask(work)
        done, _ = await asyncio.wait({answer}, timeout=PATIENCE_S)
        return answer.result() if done else OutcomeUnknown("No answer came.")


def _shown(view: View) -> Placed | None:
    """Return the configuration that a member shows to those who ask."""
    raw = view.get(keys.CONFIGURATION)
    if raw is None:
        return None
    record = models.decode_applied_configuration(raw)
    return record.index, decode_configuration(record.content)


def _same(found: Seat | None, seat: Seat) -> bool:
    return found is not None and found.seat_id == seat.seat_id


def _voters(wanted: dict[str, WantedSeat]) -> int:
    return sum(seat.role == "voter" for seat in wanted.values())
