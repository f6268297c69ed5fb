"""Claiming what falls due: this member's own partitions ahead of time, others' when late.

The owner of a partition looks a short horizon ahead, so that the decision is made when the
instant comes. A member of rank k looks at what is overdue by more than k times
`steal_after`: a dead or overloaded owner costs a few hundred milliseconds and no message,
and the log tells two thieves apart. One claim carries all that there are slots for, by
effective priority: the job's own, plus one for every `AGING_MS` of waiting, so that
nothing waits for ever while slots are turning over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from api.jobs import planning
from consensus.errors import ConsensusError
from consensus.state.commands import Claim, Claimed, ClaimOccurrence, ClaimRun, Refused
from consensus.timekeeper import Timekeeper
from node.definitions import Definitions
from node.due_index import DueIndex, Place
from node.lease import Lease
from node.ownership import Ownership
from node.services.service import Door
from storage import keys, models
from storage.limits import CLAIM_ITEMS_MAX
from storage.store import Row, View

logger = logging.getLogger(__name__)

AGING_MS = 10_000
# Taken from one place at a time: enough to fill the slots from a few places.
CANDIDATES_PER_PLACE_MAX = 64
# Read in one place at a time. Entries that this member may not claim (of selective jobs, or
# on their way in a claim) may stand in front of others in any number; where there are more
# than that, the look goes on from there the next time.
ROWS_PER_PAGE = 64
PAGES_PER_LOOK_MAX = 16
# Between two passes over a place that takes more than one look.
PASS_PAUSE_MS = 1_000
CLAIM_S_MAX = 5.0
CLAIMS_IN_FLIGHT_MAX = 4
REFUSED_PAUSE_MS = 250
WAIT_S_MAX = 1.0
SLOTS_GATHER_S = 0.004
FOREVER_MS = (1 << 63) - 1

# Not ready yet; minus effective priority or, if not ready, the start; start_ms; due key.
Candidate = tuple[bool, float, int, bytes]


def _order(priority: int, start_ms: int, now_ms: int) -> tuple[bool, float, int]:
    """Return what candidates are sorted by: the ready ones by effective priority first."""
    waited_ms = now_ms - start_ms
    if waited_ms < 0:
        return True, start_ms, start_ms
    return False, -(priority + waited_ms / AGING_MS), start_ms


class DueLoop:
    """Finds and claims; what was granted arrives at the worker through the log."""

    def __init__(
        self,
        door: Door,
        view: View,
        definitions: Definitions,
        ownership: Ownership,
        lease: Lease,
        timekeeper: Timekeeper,
        incarnation: Callable[[], bytes],
        free_slots: Callable[[], int],
        horizon_ms: int,
        steal_after_ms: int,
    ) -> None:
        self._door = door
        self._view = view
        self._definitions = definitions
        self._ownership = ownership
        self._lease = lease
        self._timekeeper = timekeeper
        self._incarnation = incarnation
        self._free_slots = free_slots
        self._horizon_ms = horizon_ms
        self._steal_after_ms = steal_after_ms
        self.index = DueIndex(self._wake_of, horizon_ms, AGING_MS)
        # Due keys that are in a claim on its way, so that none is proposed twice.
        self._proposed: set[bytes] = set()
        # Where to go on in places of which a look did not come to the end.
        self._looked_to: dict[Place, bytes] = {}
        self._claims: set[asyncio.Task[None]] = set()
        self._look = asyncio.Event()
        self._slot_timer = False
        self.enabled = True

    @property
    def proposed_count(self) -> int:
        return len(self._proposed)

    # --- When to look ----------------------------------------------------------------------

    def _wake_of(self, partition: int, band: int, start_ms: int) -> int | None:
        """Return when this member is to look at an entry of a place."""
        if band >= keys.SELECTIVE_BAND:
            return start_ms - self._horizon_ms
        rank = self._ownership.rank(partition)
        return None if rank is None else self._visible_ms(rank, start_ms)

    def _visible_ms(self, rank: int, start_ms: int) -> int:
        if rank == 0:
            return start_ms - self._horizon_ms
        return start_ms + rank * self._steal_after_ms

    def note(self, partition: int, band: int, start_ms: int) -> None:
        """Take a new due entry into account."""
        self.index.note(partition, band, start_ms)
        wake_ms = self.index.next_wake_ms
        if wake_ms is not None and wake_ms <= self._timekeeper.now_ms():
            self._look.set()

    def wake(self) -> None:
        """Look again: a slot became free, the lease was renewed, or ranks have changed."""
        self._look.set()

    def slot_freed(self) -> None:
        """Look again soon: slots that become free together are filled by one claim."""
        if not self._slot_timer and self.index.next_wake_ms is not None:
            self._slot_timer = True
            asyncio.get_running_loop().call_later(SLOTS_GATHER_S, self._slots_gathered)

    def _slots_gathered(self) -> None:
        self._slot_timer = False
        self._look.set()

    def rebuild(self) -> None:
        self._looked_to.clear()
        self.index.rebuild(self._view)
        self._look.set()

    async def run(self) -> None:
        self.rebuild()
        loop = asyncio.get_running_loop()
        while True:
            self._look.clear()
            self.run_once()
            wake_ms = self.index.next_wake_ms
            delay_s = WAIT_S_MAX
            if wake_ms is not None and self._may_claim():
                delay_s = min(delay_s, max(0.001, (wake_ms - self._timekeeper.now_ms()) / 1000))
            timer = loop.call_later(delay_s, self._look.set)
            await self._look.wait()
            timer.cancel()

    async def settled(self, timeout_s: float) -> None:
        """Wait until the cluster has decided on the claims that are on their way."""
        if self._claims:
            await asyncio.wait(set(self._claims), timeout=timeout_s)

    # --- What to claim ---------------------------------------------------------------------

    def _room(self) -> int:
        return min(self._free_slots() - len(self._proposed), CLAIM_ITEMS_MAX)

    def _may_claim(self) -> bool:
        return (
            self.enabled
            and self._lease.held
            and not self._timekeeper.suspect
            and len(self._claims) < CLAIMS_IN_FLIGHT_MAX
            and self._room() > 0
        )

    def run_once(self) -> int:
        """Propose one claim for what is to be had now; return how many items it has."""
        if not self._may_claim():
            return 0
        now_ms, room = self._timekeeper.now_ms(), self._room()
        candidates: list[Candidate] = []
        while len(candidates) < room + CANDIDATES_PER_PLACE_MAX:
            place = self.index.pop(now_ms)
            if place is None:
                break
            self._look_at(place, now_ms, candidates)
        candidates.sort()
        return self._claim(candidates, now_ms, room)

    def _look_at(self, place: Place, now_ms: int, candidates: list[Candidate]) -> None:
        """Add the entries of a place whose time has come, and note when to look again."""
        start, stop = keys.due_range(*place, FOREVER_MS)
        resumed = self._looked_to.pop(place, None)
        start, enough = resumed or start, len(candidates) + CANDIDATES_PER_PLACE_MAX
        for _ in range(PAGES_PER_LOOK_MAX):
            rows = self._view.scan(start, stop, ROWS_PER_PAGE)
            if not self._take(place, rows, now_ms, candidates) or len(rows) < ROWS_PER_PAGE:
                if resumed is not None:
                    # What came to stand before that point meanwhile was not seen.
                    self.index.note_wake(place, now_ms + PASS_PAUSE_MS)
                return
            start = rows[-1][0] + b"\x00"
            if len(candidates) >= enough:
                break
        else:
            self._looked_to[place] = start
        self.index.note_wake(place, now_ms + 1)

    def _take(
        self, place: Place, rows: Sequence[Row], now_ms: int, candidates: list[Candidate]
    ) -> bool:
        """Add those of some entries whose time has come; False if it has for none behind."""
        for key, _ in rows:
            _, _, start_ms, priority, subject = keys.split_due(key)
            if start_ms - self._horizon_ms > now_ms:
                # Nobody is to look earlier, and all behind it start later.
                self.index.note(*place, start_ms)
                return False
            visible_ms = self._visible_to_me(*place, start_ms, subject)
            if visible_ms is None or key in self._proposed:
                continue
            if visible_ms <= now_ms:
                candidates.append((*_order(priority, start_ms, now_ms), key))
                continue
            self.index.note_wake(place, visible_ms)
            if place[1] < keys.SELECTIVE_BAND:
                # This member has one rank for all of them.
                return False
        return True

    def _visible_to_me(
        self, partition: int, band: int, start_ms: int, subject: bytes
    ) -> int | None:
        if band < keys.SELECTIVE_BAND:
            rank = self._ownership.rank(partition)
        else:
            rank = self._selective_rank(partition, subject[:16])
        return None if rank is None else self._visible_ms(rank, start_ms)

    def _may_run(self, run: bytes, band: int) -> bool:
        """Return whether a queued run may be run here.

        One that has waited for others stands where its job wanted it when it was made, and
        the job may have got a placement since.
        """
        if band >= keys.SELECTIVE_BAND:
            return True
        job = run[: keys.JOB_ID_BYTES]
        return self._selective_rank(keys.partition_of(job), job) is not None

    def _selective_rank(self, partition: int, job: bytes) -> int | None:
        raw = self._view.get(keys.JOB_STATE + job)
        if raw is None:
            return None
        revision = models.decode_job_state(raw).revision
        definition = self._definitions.get(job, revision)
        if definition is None:
            return None
        return self._ownership.rank_among(partition, definition.placement)

    # --- Claiming --------------------------------------------------------------------------

    def _claim(self, candidates: list[Candidate], now_ms: int, room: int) -> int:
        """Claim as many of the candidates as there is room for, in their order."""
        items: list[ClaimOccurrence | ClaimRun] = []
        claimed: list[bytes] = []
        for _, _, start_ms, key in candidates:
            partition, band, _, _, subject = keys.split_due(key)
            if len(items) == room:
                self.index.note(partition, band, start_ms)
                continue
            item = self._item(subject, band, start_ms, now_ms)
            if item is not None:
                items.append(item)
                claimed.append(key)
        if items:
            self._proposed.update(claimed)
            command = Claim(self._incarnation(), tuple(items))
            task = asyncio.get_running_loop().create_task(self._propose(command, claimed))
            self._claims.add(task)
            task.add_done_callback(self._claims.discard)
        return len(items)

    def _item(
        self, subject: bytes, band: int, start_ms: int, now_ms: int
    ) -> ClaimOccurrence | ClaimRun | None:
        if len(subject) > keys.JOB_ID_BYTES:
            return ClaimRun(subject, start_ms) if self._may_run(subject, band) else None
        raw = self._view.get(keys.JOB_STATE + subject)
        state = None if raw is None else models.decode_job_state(raw)
        if state is None or state.start_ms != start_ms:
            return None
        definition = self._definitions.get(subject, state.revision)
        if definition is None:
            return None
        if start_ms > now_ms and state.live and definition.overlap != "allow":
            # Whether there is room for it is known when the live run ends, or at its
            # instant; to claim it now would be to skip it.
            self.index.note_wake((keys.partition_of(subject), band), start_ms)
            return None
        return planning.decide(definition, subject, state, now_ms)

    async def _propose(self, command: Claim, claimed: list[bytes]) -> None:
        try:
            refused = await self._refused(command, claimed)
        finally:
            self._proposed.difference_update(claimed)
        now_ms = self._timekeeper.now_ms()
        for key in refused:
            partition, band, _, _, _ = keys.split_due(key)
            self.index.note_wake((partition, band), now_ms + REFUSED_PAUSE_MS)
        self._look.set()

    async def _refused(self, command: Claim, claimed: list[bytes]) -> list[bytes]:
        """Have the cluster decide on a claim; return what of it was not granted."""
        try:
            (result,) = await self._door.propose((command,), timeout_s=CLAIM_S_MAX)
        except ConsensusError as error:
            logger.info("A claim of %d items was not decided: %s", len(claimed), error)
            return claimed
        if isinstance(result, Claimed):
            pairs = zip(claimed, result.refusals, strict=True)
            return [key for key, refusal in pairs if refusal is not None]
        if isinstance(result, Refused) and result.code == "internal" and len(claimed) > 1:
            # An item meets a fault of this program, and the others must not wait for its
            # repair.
            half = len(claimed) // 2
            first = Claim(command.incarnation, command.items[:half])
            second = Claim(command.incarnation, command.items[half:])
            left = await self._refused(first, claimed[:half])
            return left + await self._refused(second, claimed[half:])
        return claimed
