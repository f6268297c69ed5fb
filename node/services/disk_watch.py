"""Watching the disk, so that a member stops in order before LMDB has to fail.

There are two marks. Below the first, the member takes no writes from clients, is not ready,
and hands leadership to a member that has room: whoever leads is where clients and all other
members write through. Below the second it puts down what it holds and stops, while the last
commits of that still fit. What the log brings meanwhile is applied as ever, for a follower
has no say in that. Members tell each other whether they are low, lest two of them hand
leadership to and fro.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from consensus.raft.types import PeerProgress
from node.disk import MIB, Disk, DiskAlmostFull, Marks, Room
from storage.clock import Environment

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
# An attempt to hand leadership over is over within an election timeout.
HAND_OVER_S = 10.0
# Of LMDB's maps, which cannot grow while the member runs.
MAP_RATIO_ALARM = 0.7

_LOW, _WELL = b"\x01", b"\x00"


class Leadership(Protocol):
    """What the watch needs of the Raft layer."""

    @property
    def is_leader(self) -> bool: ...
    @property
    def connected(self) -> frozenset[str]: ...
    @property
    def progress(self) -> Mapping[str, PeerProgress]: ...

    def transfer_leadership(self, member: str | None = None) -> None: ...


class DiskWatch:
    """Measures every second; `on_critical` is called once, with what ends the member."""

    def __init__(
        self,
        disk: Disk,
        marks: Marks,
        environment: Environment,
        raft: Leadership,
        voters: Callable[[], frozenset[str]],
        tell: Callable[[bytes], None],
        on_critical: Callable[[DiskAlmostFull], None],
    ) -> None:
        self._disk = disk
        self._marks = marks
        self._environment = environment
        self._raft = raft
        self._voters = voters
        self._tell = tell
        self._on_critical = on_critical
        self._room: Room | None = None
        self.low = False
        self._critical = False
        self._low_members: set[str] = set()
        self._handed_over_s = float("-inf")
        self._map_alarm = False
        # Since when a read transaction has been holding old pages of the state.
        self._reader_since_s: float | None = None

    async def run(self) -> None:
        while True:
            self.run_once()
            await asyncio.sleep(PERIOD_S)

    def run_once(self) -> None:
        """Measure, and do what follows from it."""
        room = self._room = self._disk.measure()
        was_low, self.low = self.low, self._marks.is_low(room, was_low=self.low)
        if self.low != was_low:
            logger.warning(
                "The disk of %s %s: %d MiB are free.",
                self._disk.place,
                "is low" if self.low else "has room again",
                room.free_bytes // MIB,
            )
        self._note_reader(room)
        self._watch_maps(room)
        self._tell(_LOW if self.low else _WELL)
        if self._marks.is_critical(room) and not self._critical:
            self._critical = True
            self._on_critical(DiskAlmostFull(self._disk.place, room))
        elif self.low:
            self._hand_over()

    def heard(self, member: str, payload: bytes) -> None:
        """Take note of how another member's disk is."""
        if payload == _LOW:
            self._low_members.add(member)
        else:
            self._low_members.discard(member)

    def _hand_over(self) -> None:
        """Let the furthest follower that has room lead, if this member does."""
        now_s = self._environment.monotonic_s()
        if not self._raft.is_leader or now_s - self._handed_over_s < HAND_OVER_S:
            return
        progress = self._raft.progress
        well = (self._raft.connected & self._voters() & progress.keys()) - self._low_members
        if well:
            self._handed_over_s = now_s
            member = max(sorted(well), key=lambda name: progress[name].match_index)
            logger.warning("Leadership goes to %s, whose disk has room.", member)
            self._raft.transfer_leadership(member)

    def _note_reader(self, room: Room) -> None:
        # The store's own base is one commit behind between a commit and its renewal.
        if room.reader_lag <= 1:
            self._reader_since_s = None
        elif self._reader_since_s is None:
            self._reader_since_s = self._environment.monotonic_s()

    def _watch_maps(self, room: Room) -> None:
        alarm = max(room.journal_ratio, room.state_ratio) > MAP_RATIO_ALARM
        if alarm and not self._map_alarm:
            logger.error(
                "Of the address space of an LMDB file more than %.0f %% is in use (journal %.0f %%,"
                " state %.0f %%); when all of it is, this member stops.",
                *(100 * ratio for ratio in (MAP_RATIO_ALARM, room.journal_ratio, room.state_ratio)),
            )
        self._map_alarm = alarm

    # --- What it tells ------------------------------------------------------------------

    def refusal(self) -> str | None:
        """Return why no client may write through this member, or None."""
        if not self.low or self._room is None:
            return None
        return f"Only {self._room.free_bytes // MIB} MiB are free on the disk of this member."

    def missing(self) -> Iterator[str]:
        """Yield what keeps this member from being ready."""
        refusal = self.refusal()
        if refusal is not None:
            yield refusal

    def gauges(self) -> dict[str, float]:
        """Return the metrics of the last measurement."""
        room = self._room or Room(free_bytes=0, total_bytes=0)
        since_s = self._reader_since_s
        age_s = 0.0 if since_s is None else self._environment.monotonic_s() - since_s
        return {
            "disk_free_bytes": room.free_bytes,
            "disk_low": self.low,
            "journal_map_used_ratio": room.journal_ratio,
            "state_map_used_ratio": room.state_ratio,
            "state_reader_age_seconds": age_s,
        }
