"""A data directory whose member does not run: what it holds, and its state as a backup.

The state on a disk trails the journal beside it. Up to the applied index everything was
agreed upon. What the journal has beyond may have been agreed upon as well, and acknowledged
to a client, or it may never have got further than this disk: with the others gone, nobody
can tell. An election won by this member would have made all of it count. So keeping the
tail loses nothing that was acknowledged, and may bring back what nobody was told of;
dropping it is the other way round. Whoever asks for the backup decides.

Nothing here changes what the directory holds. The tail is applied in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from consensus import features
from consensus.raft.seams import entry_of
from consensus.state import commands
from consensus.state.context import Effects
from consensus.state.machine import Machine
from node.boot import locked
from node.quarantine import check_directory
from storage import keys, models
from storage.clock import Environment
from storage.installation import finish_installation
from storage.journal import LmdbJournal, identity_of
from storage.journal_format import (
    EMPTY_PAYLOAD,
    REGULAR_KIND,
    Identity,
    JournalDamaged,
    LogRecord,
)
from storage.lmdb_store import LmdbStore
from storage.models import NOT_DECODED, Meta
from storage.snapshot_format import encode_snapshot, header_of
from storage.store import Row

STEP_ROWS = 1_000
STEP_BYTES = 8 * 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class TailEntry:
    """An entry behind the applied index, in words."""

    index: int
    term: int
    content: str


class Survivor:
    """One data directory, open for reading; see `open_survivor`."""

    def __init__(self, identity: Identity, journal: LmdbJournal, store: LmdbStore) -> None:
        self.identity = identity
        self.journal = journal
        self._store = store

    @property
    def meta(self) -> Meta:
        """Return where the state stands."""
        raw = self._store.get(keys.META)
        return Meta(0, 0, 0, b"", {}) if raw is None else models.decode_meta(raw)

    @property
    def level(self) -> int:
        return features.in_force(self._store)

    def tail(self) -> Iterator[TailEntry]:
        """Yield what the journal has behind the applied index, in order."""
        for payload, index, term in self._records():
            yield TailEntry(index=index, term=term, content=_described(payload))

    def keep_tail(self) -> None:
        """Apply the tail, in memory.

        Raises:
            InvariantViolated: an entry is not understood by this release.
        """
        machine = Machine(self._store)
        for record in self._records():
            entry = entry_of(record)
            machine.apply(entry.index, entry.term, entry.command, Effects(), entry.configuration)
        machine.finish()

    def chunks(self, environment: Environment) -> Iterator[bytes]:
        """Yield the state, with what `keep_tail` has applied, as a backup."""
        header = header_of(
            self.meta, cluster=self.identity.cluster, created_ms=environment.wall_ms()
        )
        yield from encode_snapshot(header, self._rows())

    def _records(self) -> Iterator[LogRecord]:
        first, last = self.meta.applied_index + 1, self.journal.last_index
        while first <= last:
            records = self.journal.read(first, last, STEP_BYTES)
            yield from records
            first = records[-1][1] + 1

    def _rows(self) -> Iterator[Row]:
        start = b"\x00"
        while rows := self._store.scan(start, b"\xff", STEP_ROWS):
            yield from rows
            start = rows[-1][0] + b"\x00"


@contextmanager
def open_survivor(data_dir: Path, environment: Environment) -> Iterator[Survivor]:
    """Open the directory of a member that does not run.

    Raises:
        DirectoryInUse: it does run.
        Quarantined: its state was found to be wrong, or has been recovered already.
        JournalDamaged, DiskFailed: it is no such directory, or it is damaged.
    """
    if not (data_dir / "journal").is_dir():
        raise JournalDamaged(f"{data_dir} is no data directory: there is no journal in it.")
    with locked(data_dir):
        check_directory(data_dir)
        identity = identity_of(data_dir / "journal")
        journal = LmdbJournal(
            data_dir / "journal",
            cluster=identity.cluster,
            member=identity.member,
            environment=environment,
        )
        try:
            # A snapshot that arrived whole counts, as it does when the member starts.
            finish_installation(data_dir, journal)
            store = LmdbStore(data_dir / "state")
            try:
                yield Survivor(identity, journal, store)
            finally:
                store.close()
        finally:
            journal.close()


def _described(payload: bytes) -> str:
    if payload == EMPTY_PAYLOAD:
        return "a leader began its term"
    if payload[0] != REGULAR_KIND:
        return "a change of the members"
    try:
        entry = commands.decode_entry(payload[1:])
    except NOT_DECODED:
        return "not understood by this release"
    kinds = Counter(type(command).__name__ for batch in entry.batches for command in batch.commands)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
