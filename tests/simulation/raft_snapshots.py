"""Snapshots of a simulated member: what it would send, and how one that came is installed.

The state of a simulated member is the list of the commands that it has applied, so its
snapshot is all of them, and whoever installs one can be held to every single entry.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from storage import keys, models
from storage.installation import begin_journal_anew
from storage.memory_journal import MemoryJournal
from storage.models import Meta
from storage.store import Row

if TYPE_CHECKING:
    from tests.simulation.raft_life import Remains
    from tests.simulation.raft_oracle import Oracle

COMMAND = keys.JOB
# Journal, state, and the end of what was received; see `storage.installation`.
STEPS = 3


def state_rows(remains: Remains) -> list[Row]:
    """Return the flushed state as the records of a store, in order."""
    flushed = remains.state[: remains.flushed]
    if not flushed:
        return []
    last = flushed[-1][0]
    commands = b"".join(command for _, command in flushed)
    digest = hashlib.blake2b(commands, digest_size=16).digest()
    meta = Meta(last, remains.terms[last], 0, digest, {})
    rows = [(COMMAND + index.to_bytes(8, "big"), command) for index, command in flushed]
    return [*rows, (keys.META, models.encode(meta))]


def install(remains: Remains, oracle: Oracle, steps: int = STEPS) -> bool:
    """Do the first steps of what waits to be installed; tell whether it is done.

    A kill comes between two of them; the next start begins with the first again.
    """
    remains.sink.discard()
    if remains.sink.ready is None:
        return True
    header, rows = remains.sink.ready
    applied_index = remains.state[-1][0] if remains.state else 0
    if header.index > applied_index:
        if steps < 1:
            return False
        begin_journal_anew(MemoryJournal(remains.disk), header)
        if steps < 2:
            return False
        _exchange(remains, rows)
        remains.terms[header.index] = header.term
        for index, command in remains.state:
            if command:
                oracle.applied(remains.name, index, command)
        oracle.counts["snapshots_installed"] += 1
    if steps < STEPS:
        return False
    remains.sink.ready = None
    return True


def _exchange(remains: Remains, rows: list[Row]) -> None:
    remains.state = [
        (int.from_bytes(key[1:], "big"), command) for key, command in rows if key[:1] == COMMAND
    ]
    remains.flushed = len(remains.state)
