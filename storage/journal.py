"""The durable log of one member, in an LMDB environment of its own.

LMDB commits in its default mode: data pages synced, then the meta page, so a transaction
that returned survives a power loss and one that did not leaves no trace. Everything that
arrived since the last commit goes into one transaction, with term and vote beside the
entries; that is what makes "durable before visible" affordable. LMDB forgets a failed
sync and would let the next commit succeed over pages the kernel has dropped, hence the
first failure closes the journal for writing and the process has to stop.

One thread writes (`write`), the event loop's thread reads (`read`, and the properties,
which change only when a write has returned). Nothing else may open data.mdb while it is
open here, for closing any descriptor of it drops the process's locks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn, TypeVar

import lmdb
import msgspec

from storage.clock import Environment, new_id
from storage.files import sync_directory
from storage.journal_format import (
    FORMAT_VERSION,
    TRIM_RECORDS_MAX,
    Batch,
    DiskFailed,
    HardState,
    Identity,
    JournalDamaged,
    JournalMismatch,
    LogRecord,
    check_batch,
    decode_entry,
    encode_entry,
    entry_key,
    key_index,
    seal,
    unseal,
)

_T = TypeVar("_T")

# Address space only: the file grows with what is stored. Four times the longest tail that
# can be configured.
MAP_BYTES = 256 * 1024**3

_IDENTITY = b"identity"
_HARD_STATE = b"hard_state"
_BOOTS = b"boots"
_DISK = b"disk:"
_CONFIGURATION = b"configuration"

_ADVICE = (
    "Do not start this member from this disk again: keep the directory for inspection, "
    "remove the member from the cluster and add it back as a new one with an empty disk."
)


class LmdbJournal:
    """Log entries, term and vote of one member of one cluster.

    `path` is a directory of its own, made with mode 0700 if missing. An existing journal
    is read from end to end and refused if anything in it is not what was written.

    Raises:
        JournalMismatch: it belongs to another cluster, member or format.
        JournalDamaged: a checksum, the numbering or the file itself is wrong.
        DiskFailed: the directory or the file cannot be made or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        cluster: str,
        member: str,
        environment: Environment,
        map_bytes: int = MAP_BYTES,
    ) -> None:
        self._path = path
        self._failed = False
        self._first = self._last = 0
        self._hard_state = HardState()
        self._disks: dict[str, bytes] = {}
        self._configuration: tuple[int, bytes] | None = None
        self._env, self._entries, self._meta = _open(path, map_bytes)
        try:
            self._identity = self._identify(cluster, member, environment)
            self._verify()
            self._boots = self._count_boot()
        except (JournalDamaged, lmdb.Error) as error:
            self._env.close()
            raise JournalDamaged(f"{error} The journal is in {path}. {_ADVICE}") from error
        except BaseException:
            self._env.close()
            raise

    @property
    def disk_id(self) -> bytes:
        """Return the identity this journal got when it was made; an emptied disk has another."""
        return self._identity.disk_id

    @property
    def boots(self) -> int:
        """Return how often this journal was opened, this time included."""
        return self._boots

    @property
    def first_index(self) -> int:
        """Return the oldest index still stored, 0 for an empty journal."""
        return self._first

    @property
    def last_index(self) -> int:
        """Return the newest durable index, 0 for an empty journal."""
        return self._last

    @property
    def hard_state(self) -> HardState:
        """Return the durable term and vote."""
        return self._hard_state

    @property
    def known_disks(self) -> Mapping[str, bytes]:
        """Return the disk identity of every member this one has ever met."""
        return MappingProxyType(self._disks)

    @property
    def configuration(self) -> tuple[int, bytes] | None:
        """Return index and bytes of the base configuration, None before one was stored."""
        return self._configuration

    @property
    def used_bytes(self) -> int:
        """Return how far the file is in use; pages freed by trimming are used again."""
        return (self._env.info()["last_pgno"] + 1) * int(self._env.stat()["psize"])

    @property
    def map_bytes(self) -> int:
        """Return the bound of `used_bytes`; an alarm belongs well below it."""
        return int(self._env.info()["map_size"])

    def write(self, batch: Batch) -> None:
        """Make a batch durable as a whole.

        Raises:
            DiskFailed: the disk is full or broken, now or in an earlier write.
        """
        if self._failed:
            raise DiskFailed(f"The journal in {self._path} failed before and takes no writes.")
        last = check_batch(self._first, self._last, batch)
        with self._changing() as transaction:
            first = self._put(transaction, batch)
        self._first, self._last = first, last
        self._hard_state = batch.hard_state or self._hard_state
        self._disks.update(batch.disks)
        self._configuration = batch.configuration or self._configuration

    def read(self, first: int, last: int, bytes_max: int) -> Sequence[LogRecord]:
        """Return records `first` to `last`, cut once they exceed `bytes_max` together.

        At least one record is returned. A read transaction lives no longer than the call.

        Raises:
            JournalDamaged: a record is missing or its checksum is wrong.
        """
        records: list[LogRecord] = []
        size = 0
        with self._env.begin(db=self._entries, buffers=True) as transaction:
            cursor = transaction.cursor()
            found = cursor.set_range(entry_key(first))
            for index in range(first, last + 1):
                if not found or key_index(bytes(cursor.key())) != index:
                    raise JournalDamaged(f"Entry {index} is missing in {self._path}. {_ADVICE}")
                record = decode_entry(index, cursor.value())
                size += len(record[0])
                if records and size > bytes_max:
                    break
                records.append(record)
                found = cursor.next()
        return records

    def close(self) -> None:
        """Release the files. Closing twice is allowed."""
        self._env.close()

    def _put(self, transaction: lmdb.Transaction, batch: Batch) -> int:
        if batch.base is not None:
            return self._begin_anew(transaction, batch, batch.base)
        if batch.truncate_from is not None:
            for index in range(batch.truncate_from, self._last + 1):
                transaction.delete(entry_key(index), db=self._entries)
        for record in batch.records:
            transaction.put(entry_key(record[1]), encode_entry(record), db=self._entries)
        first = self._first or (batch.records[0][1] if batch.records else 0)
        if batch.trim_below is not None:
            kept = min(batch.trim_below, first + TRIM_RECORDS_MAX)
            for index in range(first, kept):
                transaction.delete(entry_key(index), db=self._entries)
            first = max(first, kept)
        self._note_all(transaction, batch)
        return first

    def _begin_anew(self, transaction: lmdb.Transaction, batch: Batch, base: LogRecord) -> int:
        transaction.drop(self._entries, delete=False)
        transaction.put(entry_key(base[1]), encode_entry(base), db=self._entries)
        self._note_all(transaction, batch)
        return base[1]

    def _note_all(self, transaction: lmdb.Transaction, batch: Batch) -> None:
        if batch.hard_state is not None:
            self._note(transaction, _HARD_STATE, [batch.hard_state.term, batch.hard_state.vote])
        for member, disk_id in batch.disks.items():
            self._note(transaction, _DISK + member.encode(), disk_id)
        if batch.configuration is not None:
            self._note(transaction, _CONFIGURATION, batch.configuration)

    def _note(self, transaction: lmdb.Transaction, name: bytes, content: object) -> None:
        sealed = seal(name, msgspec.msgpack.encode(content))
        transaction.put(name, sealed, db=self._meta)

    def _identify(self, cluster: str, member: str, environment: Environment) -> Identity:
        identity = self._look_up(_IDENTITY, Identity)
        if identity is None:
            return self._format(cluster, member, environment)
        found = (identity.version, identity.cluster, identity.member)
        if found != (FORMAT_VERSION, cluster, member):
            raise JournalMismatch(
                f"The journal in {self._path} was written by member {identity.member!r} of cluster "
                f"{identity.cluster!r} in format {identity.version}; this is member {member!r} of "
                f"cluster {cluster!r} with format {FORMAT_VERSION}. Point the member to its own "
                "data directory."
            )
        return identity

    def _format(self, cluster: str, member: str, environment: Environment) -> Identity:
        with self._env.begin() as transaction:
            if any(transaction.stat(db=db)["entries"] for db in (self._entries, self._meta)):
                raise JournalDamaged("The journal has lost the record of whose it is.")
        identity = Identity(FORMAT_VERSION, cluster, member, new_id(environment))
        with self._changing() as transaction:
            self._note(transaction, _IDENTITY, identity)
            self._note(transaction, _HARD_STATE, [0, None])
        sync_directory(self._path)
        sync_directory(self._path.parent)
        return identity

    def _verify(self) -> None:
        self._verify_head()
        last_term = self._verify_entries()
        if self._hard_state.term < last_term:
            raise JournalDamaged(
                f"The journal has an entry of term {last_term}, but the stored term is "
                f"{self._hard_state.term}."
            )

    def _verify_head(self) -> None:
        state = self._look_up(_HARD_STATE, tuple[int, str | None])
        if state is None:
            raise JournalDamaged("The record of term and vote is missing.")
        self._hard_state = HardState(*state)
        self._configuration = self._look_up(_CONFIGURATION, tuple[int, bytes])
        with self._env.begin(db=self._meta) as transaction:
            names = [bytes(name) for name in transaction.cursor().iternext(values=False)]
        for name in names:
            if name.startswith(_DISK):
                disk_id = self._look_up(name, bytes)
                self._disks[name.removeprefix(_DISK).decode()] = disk_id or b""

    def _verify_entries(self) -> int:
        """Read every entry once; return the term of the last one."""
        last_term = 0
        with self._env.begin(db=self._entries, buffers=True) as transaction:
            for key, value in transaction.cursor():
                index = key_index(bytes(key))
                _, _, term = decode_entry(index, value)
                if self._last and index != self._last + 1:
                    raise JournalDamaged(
                        f"The journal has entry {index} right after entry {self._last}."
                    )
                if index == 0 or term < last_term:
                    raise JournalDamaged(f"Entry {index} has the impossible term {term}.")
                self._first, self._last, last_term = self._first or index, index, term
        return last_term

    def _count_boot(self) -> int:
        boots = (self._look_up(_BOOTS, int) or 0) + 1
        with self._changing() as transaction:
            self._note(transaction, _BOOTS, boots)
        return boots

    def _look_up(self, name: bytes, kind: type[_T]) -> _T | None:
        with self._env.begin(db=self._meta) as transaction:
            value = transaction.get(name)
        return None if value is None else msgspec.msgpack.decode(unseal(name, value), type=kind)

    @contextmanager
    def _changing(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._env.begin(write=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            self._fail(error)

    def _fail(self, error: lmdb.Error) -> NoReturn:
        self._failed = True
        raise DiskFailed(
            f"The journal in {self._path} cannot be written: {error}. What the disk holds is "
            "uncertain, so this member stops; see to the disk, then start it again."
        ) from error


def identity_of(path: Path) -> Identity:
    """Return whose journal lies in a directory, without opening it for work.

    Raises:
        JournalDamaged: there is none, or it does not say.
    """
    try:
        with lmdb.open(
            str(path), map_size=MAP_BYTES, readonly=True, create=False, max_dbs=2
        ) as env:
            meta = env.open_db(b"meta", create=False)
            with env.begin(db=meta) as transaction:
                value = transaction.get(_IDENTITY)
    except lmdb.Error as error:
        raise JournalDamaged(f"There is no journal in {path}: {error}.") from error
    if value is None:
        raise JournalDamaged(f"The journal in {path} does not say whose it is.")
    return msgspec.msgpack.decode(unseal(_IDENTITY, value), type=Identity)


def _open(path: Path, map_bytes: int) -> tuple[lmdb.Environment, lmdb._Database, lmdb._Database]:
    file = path / "data.mdb"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        if file.exists() and file.stat().st_size == 0:
            raise JournalDamaged(f"The journal file {file} has no content. {_ADVICE}")
        env = lmdb.open(str(path), map_size=map_bytes, mode=0o600, max_dbs=2, max_readers=16)
        env.reader_check()
    except OSError as error:
        raise DiskFailed(f"The journal directory {path} cannot be used: {error}") from error
    except lmdb.Error as error:
        raise JournalDamaged(
            f"The journal in {path} cannot be opened: {error}. {_ADVICE}"
        ) from error
    try:
        _pad(env, file)
        return env, env.open_db(b"entries"), env.open_db(b"meta")
    except lmdb.Error as error:
        env.close()
        raise JournalDamaged(f"The journal in {path} cannot be read: {error}. {_ADVICE}") from error


def _pad(env: lmdb.Environment, file: Path) -> None:
    """Make a file that was cut short safe to read.

    LMDB reads through a memory map, where a page beyond the end of the file kills the
    process without a word. Filled up with zeros the same page is a checksum that fails.
    """
    expected = (env.info()["last_pgno"] + 1) * int(env.stat()["psize"])
    if file.stat().st_size < expected:
        os.truncate(file, expected)
