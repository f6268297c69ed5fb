"""A snapshot takes the place of a member's state: step by step, and each step twice if need be.

It happens between two lives, when nothing of the member is open, and begins whenever
`state.ready` exists, be it a minute or a power cut ago:

    1. the journal begins anew at the snapshot's entry       one transaction
    2. `state` becomes `state.old`                           a rename
    3. `state.ready` becomes `state`                         a rename
    4. `state.old` is removed

Up to step 3 the next start finds `state.ready` and begins again; no step that was done
already does harm. So a kill at any moment leaves the old state, on which the whole of it
is repeated, or the new one. The journal goes first: a state ahead of its journal would
look like a journal that has lost what it promised.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from storage.files import sync_directory
from storage.journal import LmdbJournal
from storage.journal_format import EMPTY_PAYLOAD, Batch, DiskFailed, HardState
from storage.memory_journal import MemoryJournal
from storage.snapshot_format import (
    SnapshotDamaged,
    SnapshotError,
    SnapshotHeader,
    decode_header,
    unpack_configuration,
)
from storage.snapshot_store import HEADER_FILE, INCOMING, READY, applied_index_of

logger = logging.getLogger(__name__)

STATE, OLD = "state", "state.old"


def finish_installation(
    data_dir: Path, journal: LmdbJournal, passed: Callable[[str], None] = lambda step: None
) -> SnapshotHeader | None:
    """Install what waits to be installed, and remove what an earlier attempt has left.

    To be called at every start, before the state is opened. Returns what was installed.
    `passed` hears of every step that is done, for tests that stop there.

    Raises:
        SnapshotError: what waits is not readable; it is left where it is.
        DiskFailed: a step failed; the next start begins again.
    """
    try:
        return _install(data_dir, journal, passed)
    except OSError as error:
        raise DiskFailed(f"A snapshot cannot be installed in {data_dir}: {error}") from error


def _install(
    data_dir: Path, journal: LmdbJournal, passed: Callable[[str], None]
) -> SnapshotHeader | None:
    shutil.rmtree(data_dir / INCOMING, ignore_errors=True)
    header = None
    if (data_dir / READY).exists():
        header = _waiting(data_dir / READY)
        if header.index > applied_index_of(data_dir / STATE):
            begin_journal_anew(journal, header)
            passed("journal")
            _exchange(data_dir, passed)
            logger.info("The state is now the snapshot of entry %d.", header.index)
        else:
            # R5: the log has overtaken it while it was on its way. Half of it must not be taken
            # for a snapshot that waits, so it loses its name before anything of it goes.
            os.rename(data_dir / READY, data_dir / INCOMING)
            sync_directory(data_dir)
            shutil.rmtree(data_dir / INCOMING)
            header = None
    shutil.rmtree(data_dir / OLD, ignore_errors=True)
    passed("cleaned")
    return header


def _waiting(ready: Path) -> SnapshotHeader:
    try:
        return decode_header((ready / HEADER_FILE).read_bytes())
    except SnapshotError as error:
        raise SnapshotDamaged(
            f"The snapshot in {ready} waits to be installed and cannot be read: {error} Remove "
            "this member from the cluster and add it back with an empty directory."
        ) from error


def begin_journal_anew(journal: LmdbJournal | MemoryJournal, header: SnapshotHeader) -> None:
    """Let the log begin at the snapshot, or leave it as it is if it agrees there.

    A log that has the very entry agrees with the snapshot up to it, and what it has behind
    is as good as before. One that does not is behind or on another branch, of which nothing
    from here on can have been committed.
    """
    if journal.first_index <= header.index <= journal.last_index:
        ((_, _, term),) = journal.read(header.index, header.index, 1)
        if term == header.term:
            return
    hard_state = journal.hard_state
    if hard_state.term < header.term:
        # What this member has said to others, votes included, belongs to the durable term.
        hard_state = HardState(header.term)
    base = (EMPTY_PAYLOAD, header.index, header.term)
    # Who belonged together as of the snapshot; the entries that said so are not in this log. A
    # newcomer was told as of a later entry, and keeps that.
    members, known = unpack_configuration(header), journal.configuration
    if members is not None and known is not None and known[0] >= members[0]:
        members = None
    journal.write(Batch(base=base, hard_state=hard_state, configuration=members))


def _exchange(data_dir: Path, passed: Callable[[str], None]) -> None:
    if (data_dir / STATE).exists():
        # With a state in its place, an old one is left over from another installation.
        shutil.rmtree(data_dir / OLD, ignore_errors=True)
        os.rename(data_dir / STATE, data_dir / OLD)
        sync_directory(data_dir)
    passed("moved")
    os.rename(data_dir / READY, data_dir / STATE)
    sync_directory(data_dir)
    passed("exchanged")
