"""This member's state as a backup, for whoever asks for one.

A backup is a snapshot of what is on this member's disk, read in a thread of its own at the
pace of whoever takes it. It needs no majority: a member alone can be backed up as well, as
far as it knows. What it costs is room on the disk, because the pages of the old state stay
in use until it ends; so there is one at a time, and its age has a bound.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor

from consensus.errors import NoQuorum, Overloaded
from consensus.snapshots.types import SnapshotSource, SnapshotStream
from node.replica import Replica

BACKUPS_MAX = 1
FLUSH_S_MAX = 10.0


class Backup:
    """One backup on its way out; `close` ends it, whatever state it is in."""

    def __init__(self, owner: Backups, stream: SnapshotStream, thread: Executor) -> None:
        self.index = stream.header.index
        self._owner = owner
        self._stream = stream
        self._thread = thread
        self._reading: asyncio.Future[bytes | None] | None = None
        self._closed = False

    async def next_chunk(self) -> bytes | None:
        """Return the next chunk, or None behind the last."""
        loop = asyncio.get_running_loop()
        self._reading = loop.run_in_executor(self._thread, self._stream.next_chunk)
        return await asyncio.shield(self._reading)

    def close(self) -> None:
        """Let the state go, once nobody reads it any more. May be repeated."""
        if self._closed:
            return
        self._closed = True
        if self._reading is None or self._reading.done():
            self._end()
        else:
            self._reading.add_done_callback(lambda _: self._end())

    def _end(self) -> None:
        self._stream.close()
        self._owner.ended(self)


class Backups:
    """Where backups of one member come from."""

    def __init__(
        self, source: SnapshotSource, replica: Replica, thread: Executor | None = None
    ) -> None:
        self._source = source
        self._replica = replica
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix="backup")
        self._under_way: set[Backup] = set()
        self._opening = 0
        self._all_ended = asyncio.Event()
        self._all_ended.set()

    async def open(self) -> Backup:
        """Begin a backup of everything that is applied here by now.

        Raises:
            Overloaded: there are as many as may be.
            NoQuorum: there is no state yet, or the disk does not keep up.
        """
        if len(self._under_way) + self._opening >= BACKUPS_MAX:
            raise Overloaded("A backup is being taken from this member already.")
        self._opening += 1
        try:
            index = self._replica.applied_index
            if not await self._replica.wait_flushed(index, timeout_s=FLUSH_S_MAX):
                raise NoQuorum(f"Entry {index} is not on this member's disk yet.")
            stream = self._source.open(lambda _: b"")
            if stream is None:
                raise NoQuorum("This member has no state yet.")
            backup = Backup(self, stream, self._thread)
            self._under_way.add(backup)
            self._all_ended.clear()
        finally:
            self._opening -= 1
        return backup

    def ended(self, backup: Backup) -> None:
        """Take note that a backup is over."""
        self._under_way.discard(backup)
        if not self._under_way:
            self._all_ended.set()

    async def stop(self) -> None:
        """End every backup, and wait until nobody reads the state any more."""
        for backup in list(self._under_way):
            backup.close()
        await self._all_ended.wait()
        if isinstance(self._thread, ThreadPoolExecutor):
            self._thread.shutdown()
