"""The lock that a runner holds for as long as anything it launched may be alive.

A restarted node must not announce itself while processes of its earlier life still run. The
runner takes this lock before its first launch and lets it go, by exiting, after its last
child is dead; whoever gets the lock knows that. The kernel releases it if the runner is
killed, and then its leftovers may live: the next runner sweeps them before it says that it
is ready (see `node.runner.sweep`).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK_FILE = "runner.lock"


class RunnerLock:
    """The open lock file of a data directory; `home` names that directory in marks.

    The file is never deleted, for its device and inode are the name under which leftovers
    of earlier runners are recognised.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        status = os.fstat(self._descriptor)
        self.home = f"{status.st_dev:x}-{status.st_ino:x}"

    def try_hold(self) -> bool:
        """Take the lock and return True, or return False if another process has it."""
        return self._try(fcntl.LOCK_EX)

    def is_free(self) -> bool:
        """Return whether no runner holds the lock; does not keep it."""
        # A shared lock, so that two that only ask do not see each other.
        free = self._try(fcntl.LOCK_SH)
        if free:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return free

    def write_holder(self) -> None:
        """Write the holder's process id into the file, for people who look."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def holder(self) -> str:
        """Return the process id that the last holder wrote, or `unknown`."""
        return os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"

    def close(self) -> None:
        """Close the file; a held lock is released."""
        os.close(self._descriptor)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
