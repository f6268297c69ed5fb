"""The log as the consensus library sees it, and what of it has reached the disk.

The library appends, cuts and votes in memory; this class gathers those changes into the
batch of the next journal transaction and knows, at any moment, up to which index and
which change the disk agrees. `sequence` numbers the changes: a message may leave as soon
as the change it speaks of is durable, and the leader may count itself for an entry only
then.

The newest records are kept in memory, within bounds, so that replication and apply touch
the disk only for members that are far behind. Changes happen in the event loop alone;
`Journal.write` runs beside it with a batch that nobody changes any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from consensus.configuration import Configuration, decode_configuration
from consensus.raft.configurations import Configurations, packed
from consensus.raft.types import MIB, Journal, RaftSettings
from storage.invariant import invariant
from storage.journal_format import TRIM_RECORDS_MAX, Batch, HardState, JournalDamaged, LogRecord

# The tail's size in bytes is known at every so many entries.
MARK_EVERY = 256
# What a follower will need behind its snapshot is kept, up to so many times the usual tail:
# one that is stuck must not fill the disk.
HELD_TAILS_MAX = 4


class RaftLog:
    """Records `first_index` to `last_index`; those up to `durable_index` are on the disk.

    The library adds the first record of an empty log itself, so both are 0 only before.
    `bootstrap` is the first configuration of the cluster; it counts only until a journal has
    stored one.

    Raises:
        JournalDamaged: the journal and what the state has applied contradict each other.
    """

    def __init__(
        self,
        journal: Journal,
        settings: RaftSettings,
        applied_index: int,
        bootstrap: Configuration | None,
    ) -> None:
        _check_start(journal, applied_index)
        self._journal = journal
        self._settings = settings
        self.first_index = journal.first_index
        self.last_index = journal.last_index
        self.durable_index = journal.last_index
        self.hard_state = journal.hard_state
        self.sequence = self.hard_sequence = self.durable_sequence = 0
        self._hot: list[LogRecord] = self._newest()
        self._hot_bytes = sum(len(record[0]) for record in self._hot)
        # The pending batch, and what was cut off while the one before it is being written.
        self._truncate_from: int | None = None
        self._pending_records = 0
        self._pending_hard_state: HardState | None = None
        self._pending_disks: dict[str, bytes] = {}
        self._trim_to = self.first_index
        # Bytes appended since the start, and marks of what they were at some indexes.
        self._bytes_total = 0
        self._marks = deque([(self.last_index, 0)])
        self._lowest_cut = 0
        self._writing: tuple[int, int] | None = None
        # The index that is held for a snapshot, and what had been appended by then.
        self._hold = (0, 0)
        self._pending_configuration: tuple[int, bytes] | None = None
        self.configurations = self._configured(bootstrap)

    def _configured(self, bootstrap: Configuration | None) -> Configurations:
        stored = self._journal.configuration
        if stored is None and bootstrap is None:
            raise JournalDamaged(
                "This member has joined a running cluster, and its data directory does not know "
                "of it any more. Remove the member from the cluster and join again, with an empty "
                "directory."
            )
        if stored is None:
            assert bootstrap is not None
            self._pending_configuration = packed((0, bootstrap))
            self.sequence += 1
            return Configurations((0, bootstrap), self._all_records())
        return Configurations((stored[0], decode_configuration(stored[1])), self._all_records())

    def _all_records(self) -> Iterator[LogRecord]:
        index = self.first_index
        while 0 < index <= self.last_index:
            records = self._journal.read(index, self.last_index, MIB)
            yield from records
            index = records[-1][1] + 1

    def _newest(self) -> list[LogRecord]:
        """Return the newest records of the disk, as many as memory may hold."""
        budget = self._settings.hot_bytes_max
        first = max(self.first_index, self.last_index - self._settings.hot_entries_max + 1)
        records: list[LogRecord] = []
        while self.last_index and first <= self.last_index:
            records += self._journal.read(first, self.last_index, budget)
            first = records[-1][1] + 1
            size = sum(len(record[0]) for record in records)
            while size > budget and len(records) > 1:
                size -= len(records.pop(0)[0])
        return records

    # --- Reading ----------------------------------------------------------------------

    @property
    def last_term(self) -> int:
        """Return the term of the last record."""
        return self._hot[-1][2]

    @property
    def last(self) -> LogRecord:
        """Return the last record; it is always in memory."""
        return self._hot[-1]

    def term_at(self, index: int) -> int | None:
        """Return the term of a record, or None outside the log."""
        if not self.first_index <= index <= self.last_index:
            return None
        position = index - self._hot[0][1]
        record = self._hot[position] if position >= 0 else self._journal.read(index, index, 1)[0]
        return record[2]

    def read(self, first: int, last: int, bytes_max: int) -> list[LogRecord]:
        """Return records from `first` on, up to `last` or until `bytes_max` is passed.

        At least one record is returned; it may be fewer than asked for where memory ends
        and the disk begins.
        """
        invariant(
            self.first_index <= first <= last <= self.last_index,
            "Only records inside the log are read.",
            first=first,
            last=last,
            first_index=self.first_index,
            last_index=self.last_index,
        )
        hot_first = self._hot[0][1]
        if first < hot_first:
            return list(self._journal.read(first, min(last, hot_first - 1), bytes_max))
        size = 0
        for position in range(first - hot_first, last - hot_first + 1):
            size += len(self._hot[position][0])
            if size > bytes_max:
                return self._hot[first - hot_first : max(position, first - hot_first + 1)]
        return self._hot[first - hot_first : last - hot_first + 1]

    # --- Changing ---------------------------------------------------------------------

    def append(self, payload: bytes, index: int, term: int) -> None:
        """Add the next record."""
        invariant(
            index == self.last_index + 1,
            "The log grows without a gap.",
            index=index,
            last_index=self.last_index,
        )
        self._hot.append((payload, index, term))
        self.configurations.append(payload, index)
        self._hot_bytes += len(payload)
        self._pending_records += 1
        self._bytes_total += len(payload)
        if index % MARK_EVERY == 0:
            self._marks.append((index, self._bytes_total))
        self.last_index = index
        self.first_index = self.first_index or index
        self.sequence += 1

    def truncate_from(self, index: int) -> None:
        """Remove the records from `index` on; the first record always stays."""
        invariant(
            self.first_index < index <= self.last_index,
            "Only records behind the first one are cut off.",
            index=index,
            first_index=self.first_index,
            last_index=self.last_index,
        )
        removed = self.last_index - index + 1
        self._pending_records = max(0, self._pending_records - removed)
        cut = min(index, self._truncate_from or index)
        if index <= self._written_last():
            self._truncate_from = cut
        self._lowest_cut = min(self._lowest_cut or index, index)
        self.last_index = index - 1
        self.durable_index = min(self.durable_index, self.last_index)
        self._cut_hot(index)
        self.configurations.truncate_from(index)
        self.sequence += 1

    def _written_last(self) -> int:
        """Return the last index that the journal has or will have from the batch under way."""
        return max(self._journal.last_index, self._writing[1] if self._writing else 0)

    def _cut_hot(self, index: int) -> None:
        hot_first = self._hot[0][1]
        removed = self._hot[max(0, index - hot_first) :]
        del self._hot[max(0, index - hot_first) :]
        self._hot_bytes -= sum(len(record[0]) for record in removed)
        if not self._hot:
            # The cut went behind what memory holds, so the new end comes from the disk.
            self._hot = list(self._journal.read(self.last_index, self.last_index, 1))
            self._hot_bytes = len(self._hot[0][0])

    def set_hard_state(self, term: int, vote: str | None) -> None:
        """Note term and vote for the next transaction."""
        self.hard_state = self._pending_hard_state = HardState(term, vote)
        self.sequence += 1
        self.hard_sequence = self.sequence

    def note_disk(self, member: str, disk_id: bytes) -> None:
        """Remember a member's disk from the next transaction on."""
        self._pending_disks[member] = disk_id
        self.sequence += 1

    def trim(self, applied_index: int, held_index: int | None = None) -> None:
        """Allow records up to `applied_index` to go once they are older than the tail.

        Those from `held_index` on stay, within a bound, for whoever gets a snapshot of it.

        They leave with the next transactions, some with each, so trimming never costs a
        sync of its own.
        """
        by_count = self.last_index - self._settings.tail_entries_max
        wanted = min(applied_index, max(by_count, self._tail_start()), self.durable_index)
        if held_index is not None:
            wanted = min(wanted, max(held_index, self._hold_limit(held_index)))
        self._trim_to = max(self._trim_to, wanted)

    def _hold_limit(self, held_index: int) -> int:
        """Return the index up to which records go although they are held."""
        if self._hold[0] != held_index:
            self._hold = (held_index, self._bytes_total)
        if self._bytes_total - self._hold[1] > HELD_TAILS_MAX * self._settings.tail_bytes_max:
            return self.last_index
        return self.last_index - HELD_TAILS_MAX * self._settings.tail_entries_max

    def _tail_start(self) -> int:
        """Return the newest marked index behind which there are `tail_bytes_max` or more."""
        limit = self._bytes_total - self._settings.tail_bytes_max
        while len(self._marks) > 1 and self._marks[1][1] <= limit:
            self._marks.popleft()
        return self._marks[0][0] if self._marks[0][1] <= limit else 0

    # --- To the disk ------------------------------------------------------------------

    @property
    def writing(self) -> bool:
        """Tell whether a batch was taken and has not been confirmed."""
        return self._writing is not None

    @property
    def pending(self) -> bool:
        """Tell whether something was changed that no batch has taken yet."""
        return self.sequence > (self._writing[0] if self._writing else self.durable_sequence)

    def take(self) -> Batch:
        """Return everything pending as one batch; one at a time, until `confirm`."""
        invariant(not self.writing, "One journal transaction is under way at a time.")
        trim_below = self._next_trim()
        base = self.configurations.trim_below(trim_below) if trim_below else None
        count = self._pending_records
        batch = Batch(
            truncate_from=self._truncate_from,
            records=self._hot[-count:] if count else (),
            trim_below=trim_below,
            hard_state=self._pending_hard_state,
            disks=self._pending_disks,
            configuration=base or self._pending_configuration,
        )
        self._writing = (self.sequence, self.last_index)
        # The thread that writes may remove them at any moment from here on.
        self.first_index = trim_below or self.first_index
        self._truncate_from = self._pending_hard_state = self._pending_configuration = None
        self._pending_records = self._lowest_cut = 0
        self._pending_disks = {}
        return batch

    def _next_trim(self) -> int | None:
        if self._trim_to <= self.first_index:
            return None
        return min(self._trim_to, self.first_index + TRIM_RECORDS_MAX)

    def confirm(self) -> None:
        """Note that the batch taken is durable."""
        invariant(self._writing is not None, "A batch is confirmed once.")
        assert self._writing is not None
        self.durable_sequence, last = self._writing
        self._writing = None
        self.durable_index = min(last, self._lowest_cut - 1) if self._lowest_cut else last
        self._cool()

    def _cool(self) -> None:
        """Let the oldest records in memory go, a quarter at a time, if they are durable."""
        settings = self._settings
        if len(self._hot) <= settings.hot_entries_max and self._hot_bytes <= settings.hot_bytes_max:
            return
        hot_first = self._hot[0][1]
        excess = min(len(self._hot) - 1, self.durable_index - hot_first)
        count = 0
        entries_kept = settings.hot_entries_max * 3 // 4
        bytes_kept = settings.hot_bytes_max * 3 // 4
        while count < excess and (
            len(self._hot) - count > entries_kept or self._hot_bytes > bytes_kept
        ):
            self._hot_bytes -= len(self._hot[count][0])
            count += 1
        del self._hot[:count]


def _check_start(journal: Journal, applied_index: int) -> None:
    first, last = journal.first_index, journal.last_index
    if applied_index > last:
        raise JournalDamaged(
            f"The state was applied up to entry {applied_index}, but the journal ends at {last}: "
            "it lost what was synced to it, or one of the two belongs to another member or time. "
            "Remove this member from the cluster and add it back with an empty disk."
        )
    if first > applied_index + 1:
        raise JournalDamaged(
            f"The journal begins at entry {first}, but the state was applied only up to "
            f"{applied_index}: what lies between is gone. Remove this member from the cluster "
            "and add it back with an empty disk."
        )
