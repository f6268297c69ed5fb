"""The host of a simulated member: what outlives its processes, and what faults do to it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from consensus.configuration import Configuration
from node.disk import MIB, Room
from storage import keys, models
from storage.installation import begin_journal_anew
from storage.memory_journal import MemoryDisk, MemoryJournal
from storage.memory_store import MemoryStateDisk
from storage.snapshot_memory import MemorySink
from tests.simulation.cluster_oracle import ClusterOracle
from tests.simulation.virtual_process import HostClock

QUICK_SYNC_S = (0.0005, 0.002)
# What a host's disk has left: enough, too little to take writes, too little to go on.
WELL, LOW, CRITICAL = (
    Room(free_bytes=free_mib * MIB, total_bytes=100_000 * MIB) for free_mib in (50_000, 300, 50)
)


class SpoolFile:
    """The spool's file on a disk that nobody syncs: a power cut may take any end of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written_back = b""

    def write_back(self) -> None:
        """What is there now has reached the disk by itself."""
        self._written_back = self.path.read_bytes() if self.path.exists() else b""

    def lose_power(self, rng: random.Random) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        torn = content[: rng.randint(0, len(content))]
        self.path.write_bytes(rng.choice((content, torn, self._written_back)))


class HostDisk:
    """How much room a host has; a fault takes some of it."""

    place = "/simulated"

    def __init__(self) -> None:
        self.room = WELL

    def measure(self) -> Room:
        return self.room


class BrokenOff(Exception):
    """The process was killed between two steps of an installation."""


@dataclass(slots=True)
class Host:
    """What of a member outlives its process."""

    name: str
    clock: HostClock
    journal: MemoryDisk
    state: MemoryStateDisk
    spool: SpoolFile
    # What its file says of the first members; None for one that has joined later.
    bootstrap: Configuration | None
    # What was received and waits to be installed.
    sink: MemorySink = field(default_factory=MemorySink)
    disk: HostDisk = field(default_factory=HostDisk)
    lives: int = 0
    # How long the disk takes for one transaction.
    sync_s: tuple[float, float] = QUICK_SYNC_S
    # The next installation is broken off by a kill.
    breaks_off: bool = False

    def install(self, oracle: ClusterOracle) -> None:
        """Let a snapshot that waits take the place of the state, as every start does.

        Raises:
            BrokenOff: a fault wanted it so; the next start begins again.
        """
        self.sink.discard()
        if self.sink.ready is None:
            return
        header, rows = self.sink.ready
        raw = self.state.rows.get(keys.META)
        if raw is None or models.decode_meta(raw).applied_index < header.index:
            begin_journal_anew(MemoryJournal(self.journal), header)
            if self.breaks_off:
                self.breaks_off = False
                oracle.counts["installations broken off"] += 1
                raise BrokenOff(f"{self.name} was killed while it installed a snapshot.")
            self.state = MemoryStateDisk()
            self.state.rows = dict(rows)
            meta = models.decode_meta(self.state.rows[keys.META])
            oracle.installed(self.name, header.index, header.term, meta.state_hash)
        self.sink.ready = None
