"""Looking at what lies in the store, a little at a time, at moments all members share.

The rolling hash covers what is written, not what becomes of it on a disk. So at every
mark (an index that is a multiple of `MARK_EVERY`) the state machine also reads the next
few rows of its tables and takes their digest into the hash. Where the reading stands is
part of the state, hence the same on all members: a row that one of them has lost, or
holds with other bytes, makes that member's hash another from that mark on.

One window is read in the loop, between two entries, for only there is the state exactly
that of the index; its bounds keep that below the time of a commit. A whole pass takes as
many marks as there are windows. What was damaged since its last visit is found by the
next one, and until then it may be read and believed.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

from storage import keys
from storage.store import View

# All members must read the same: another value of one of these is a new feature level.
MARK_EVERY = 64
# A window costs about a millisecond; at 200 entries a second that is 3 ms of each second.
WINDOW_ROWS_MAX = 256
WINDOW_BYTES_MAX = 1_048_576
# Rows are read in steps, so that a few large ones do not make a window many times its bound.
STEP_ROWS = 16
DIGEST_BYTES = 16

# Before the first and behind the last key of all tables.
FIRST, LAST = b"\x00", b"\xff"

_LENGTHS = struct.Struct(">HI")


def window(view: View, start: bytes) -> tuple[bytes, bytes]:
    """Return the digest of the rows from `start` on, and where the next window starts.

    The record that the machine keeps of itself is left out: it is written less often than
    entries are applied.
    """
    digest = blake2b(start, digest_size=DIGEST_BYTES)
    rows = size = 0
    while rows < WINDOW_ROWS_MAX and size < WINDOW_BYTES_MAX:
        found = view.scan(start, LAST, STEP_ROWS)
        for key, value in found:
            if key != keys.META:
                digest.update(_LENGTHS.pack(len(key), len(value)))
                digest.update(key)
                digest.update(value)
            size += len(key) + len(value)
        rows += len(found)
        if len(found) < STEP_ROWS:
            return digest.digest(), FIRST
        start = found[-1][0] + b"\x00"
    return digest.digest(), start
