"""The journal without a disk, for tests and for the simulation, with a model of crashes.

A `MemoryDisk` outlives the process that uses it, as a disk does. What `write` returned
from survives a kill; what was synced survives a power loss. Normally every write is
synced before it returns, which is the contract. A disk made with `lazy=True` breaks the
contract on purpose: it syncs only when told, so that the simulation can show that its
power losses do find a journal that acknowledges too early.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from storage.journal_format import (
    TRIM_RECORDS_MAX,
    Batch,
    HardState,
    JournalDamaged,
    LogRecord,
    check_batch,
)


@dataclass(slots=True)
class _Content:
    records: list[LogRecord] = field(default_factory=list)
    hard_state: HardState = field(default_factory=HardState)
    disks: dict[str, bytes] = field(default_factory=dict)
    configuration: tuple[int, bytes] | None = None

    @property
    def first_index(self) -> int:
        return self.records[0][1] if self.records else 0

    @property
    def last_index(self) -> int:
        return self.records[-1][1] if self.records else 0

    def apply(self, batch: Batch) -> None:
        check_batch(self.first_index, self.last_index, batch)
        if batch.base is not None:
            self.records = [batch.base]
        if batch.truncate_from is not None:
            del self.records[max(0, batch.truncate_from - self.first_index) :]
        self.records.extend(batch.records)
        if batch.trim_below is not None:
            del self.records[: min(TRIM_RECORDS_MAX, batch.trim_below - self.first_index)]
        self.hard_state = batch.hard_state or self.hard_state
        self.disks.update(batch.disks)
        self.configuration = batch.configuration or self.configuration

    def copy(self) -> _Content:
        disks = dict(self.disks)
        return _Content(list(self.records), self.hard_state, disks, self.configuration)


class MemoryDisk:
    """What a member's disk holds, seen by one `MemoryJournal` after another."""

    def __init__(self, disk_id: bytes, *, lazy: bool = False) -> None:
        self.disk_id = disk_id
        self.boots = 0
        self.lazy = lazy
        self.content = _Content()
        self._synced = _Content()

    def write(self, batch: Batch) -> None:
        """Take a batch; it is durable at once unless the disk is lazy."""
        self.content.apply(batch)
        if not self.lazy:
            self._synced = self.content

    def sync(self) -> None:
        """Make everything written so far survive a power loss."""
        self._synced = self.content.copy() if self.lazy else self.content

    def lose_power(self) -> None:
        """Forget whatever was not synced."""
        self.content = self._synced.copy() if self.lazy else self._synced


class MemoryJournal:
    """The journal of one process over a `MemoryDisk`; see `consensus.raft.types.Journal`."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        disk.boots += 1
        self._boots = disk.boots

    @property
    def disk_id(self) -> bytes:
        return self._disk.disk_id

    @property
    def boots(self) -> int:
        return self._boots

    @property
    def first_index(self) -> int:
        return self._disk.content.first_index

    @property
    def last_index(self) -> int:
        return self._disk.content.last_index

    @property
    def hard_state(self) -> HardState:
        return self._disk.content.hard_state

    @property
    def known_disks(self) -> Mapping[str, bytes]:
        return MappingProxyType(self._disk.content.disks)

    @property
    def configuration(self) -> tuple[int, bytes] | None:
        return self._disk.content.configuration

    def write(self, batch: Batch) -> None:
        self._disk.write(batch)

    def read(self, first: int, last: int, bytes_max: int) -> Sequence[LogRecord]:
        offset = first - self.first_index
        if offset < 0 or last > self.last_index:
            raise JournalDamaged(f"Entries {first} to {last} are not in the journal.")
        records: list[LogRecord] = []
        size = 0
        for record in self._disk.content.records[offset : offset + last - first + 1]:
            size += len(record[0])
            if records and size > bytes_max:
                break
            records.append(record)
        return records
