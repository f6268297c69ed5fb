"""The follower's half of a snapshot's way: asking, storing, verifying, and then the end.

Chunks are stored as they come, beside the state that is in use, and count for nothing until
all of them are there, add up, and agree with what the state in them says of itself. Then
the sink commits, and this life of the member is over: `SnapshotReady` ends the layer, and
the snapshot is installed before the next begins. Whatever goes wrong before that throws
away what was stored and nothing else.

Every heartbeat of a leader whose log begins too late is a reason to ask again, and each
request says what is stored: that keeps the transfer alive, and shows the leader that
somebody is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from consensus import frames
from consensus.raft.types import RaftSettings
from consensus.snapshots.thread import SnapshotThread
from consensus.snapshots.types import SnapshotCounts, SnapshotReady, SnapshotSink
from storage.clock import Environment, new_id
from storage.snapshot_format import (
    SnapshotError,
    SnapshotHeader,
    SnapshotMismatch,
    SnapshotReader,
)

logger = logging.getLogger(__name__)

# Without a chunk for that long while some are missing, what was sent must have been lost.
STALL_S = 2.0
# Chunks that wait for the disk, as a multiple of what a leader sends unasked: one that sends
# more is not listened to.
INBOX_WINDOWS_MAX = 2
# After a failure the next attempt waits, twice as long each time, up to the maximum.
PAUSE_S, PAUSE_S_MAX = 0.5, 60.0


@dataclass(slots=True)
class _Incoming:
    """One snapshot on its way in."""

    member: str
    snapshot: bytes
    heard_s: float
    reader: SnapshotReader = field(default_factory=SnapshotReader)
    inbox: deque[bytes] = field(default_factory=deque)
    inbox_bytes: int = 0
    # The chunk that comes next, and the first one that is not stored.
    next_chunk: int = 0
    stored: int = 0
    # What was sent beyond `stored` is lost.
    again: bool = True
    storing: bool = False
    committing: bool = False


class SnapshotReceiver:
    """The snapshot that one member receives; used in the event loop's thread.

    `position` returns the highest index that is applied or known to be committed here.
    """

    def __init__(
        self,
        sink: SnapshotSink,
        settings: RaftSettings,
        environment: Environment,
        thread: SnapshotThread,
        counts: SnapshotCounts,
        *,
        cluster: str,
        tell: Callable[[str, frames.Message], None],
        position: Callable[[], int],
    ) -> None:
        self._sink = sink
        self._counts = counts
        self._settings = settings
        self._environment = environment
        self._thread = thread
        self._cluster = cluster
        self._tell = tell
        self._position = position
        self._incoming: _Incoming | None = None
        self._failures = 0
        self._not_before_s = float("-inf")

    @property
    def receiving(self) -> bool:
        """Tell whether a snapshot is on its way in."""
        return self._incoming is not None

    @property
    def received_bytes(self) -> int:
        """Return how much of the present snapshot is stored."""
        return 0 if self._incoming is None else self._incoming.reader.size

    # --- What the leader and the driver say -------------------------------------------

    def needed(self, member: str) -> None:
        """Ask a leader for its state, or for what is missing of it."""
        now_s = self._environment.monotonic_s()
        incoming = self._incoming
        if incoming is not None and incoming.committing:
            # There is nothing to be sent any more; the leader is to know that we are there.
            self._tell(member, frames.SnapshotRequest(incoming.snapshot, incoming.stored, False))
            return
        if now_s < self._not_before_s:
            return
        if incoming is None or incoming.member != member:
            snapshot = new_id(self._environment)
            incoming = self._incoming = _Incoming(member, snapshot, now_s)
            logger.info("This member fetches a snapshot from %s.", member)
        if now_s - incoming.heard_s > STALL_S and not incoming.storing:
            incoming.again, incoming.heard_s = True, now_s
        self._ask(incoming)

    def not_needed(self) -> None:
        """The log goes on by itself: throw away what there is."""
        if self._incoming is not None and not self._committing:
            self._tell_abort(self._incoming, "the log goes on by itself")
            self._drop()

    def disconnected(self, member: str) -> None:
        """What was on its way from a member is lost; it is asked for over the next connection."""
        if self._incoming is not None and self._incoming.member == member:
            self._incoming.again = True

    def chunk(self, member: str, message: frames.SnapshotChunk) -> None:
        """Take the next chunk; any other was taken before or follows a loss."""
        incoming = self._incoming
        if incoming is None or (incoming.member, incoming.snapshot) != (member, message.snapshot):
            return
        bound = INBOX_WINDOWS_MAX * self._settings.snapshot_window_bytes
        if message.number != incoming.next_chunk or incoming.inbox_bytes > bound:
            return
        incoming.heard_s = self._environment.monotonic_s()
        incoming.next_chunk += 1
        incoming.inbox.append(message.content)
        incoming.inbox_bytes += len(message.content)
        self._counts.bytes_received += len(message.content)
        self._store(incoming)

    def aborted(self, member: str, message: frames.SnapshotAbort) -> None:
        """Begin anew after a moment: the leader does not go on with the transfer."""
        incoming = self._incoming
        if self._committing or incoming is None:
            return
        if (incoming.member, incoming.snapshot) == (member, message.snapshot):
            logger.info("The snapshot from %s begins anew: %s.", member, message.reason)
            self._not_before_s = self._environment.monotonic_s() + PAUSE_S
            self._drop()

    def close(self) -> None:
        """Throw away what was not committed; in the snapshots' thread, at the end."""
        self._sink.discard()

    # --- Storing ----------------------------------------------------------------------

    @property
    def _committing(self) -> bool:
        return self._incoming is not None and self._incoming.committing

    def _ask(self, incoming: _Incoming) -> None:
        request = frames.SnapshotRequest(incoming.snapshot, incoming.stored, incoming.again)
        incoming.again = False
        self._tell(incoming.member, request)

    def _store(self, incoming: _Incoming) -> None:
        """Hand what has arrived to the thread, one batch of chunks at a time."""
        if incoming.storing or not incoming.inbox:
            return
        chunks = list(incoming.inbox)
        incoming.inbox.clear()
        incoming.inbox_bytes = 0
        incoming.storing = True
        self._thread.run(
            lambda: self._absorb(incoming.reader, chunks),
            lambda absorbed: self._absorbed(incoming, len(chunks), absorbed),
        )

    def _absorb(self, reader: SnapshotReader, chunks: list[bytes]) -> None:
        """Check chunks and write what is in them; in the snapshots' thread.

        Raises:
            SnapshotError: they are not what they should be, or cannot be stored.
        """
        sink = self._sink
        for chunk in chunks:
            rows = reader.take(chunk)
            if rows:
                sink.write(rows)
            elif not reader.complete and reader.header is not None:
                self._check_cluster(reader.header)
                sink.begin(reader.header)
        if reader.complete:
            sink.verify(*reader.finish())

    def _check_cluster(self, header: SnapshotHeader) -> None:
        if header.cluster != self._cluster:
            raise SnapshotMismatch(
                f"The snapshot is of cluster {header.cluster!r}, this is {self._cluster!r}."
            )

    def _absorbed(self, incoming: _Incoming, count: int, absorbed: asyncio.Future[None]) -> None:
        if self._incoming is not incoming:
            return
        try:
            absorbed.result()
            self._check_new(incoming)
        except SnapshotError as error:
            self._fail(incoming, error)
            return
        incoming.storing = False
        incoming.stored += count
        self._ask(incoming)
        if incoming.reader.complete:
            self._commit(incoming)
        else:
            self._store(incoming)

    def _check_new(self, incoming: _Incoming) -> None:
        """Refuse a snapshot that is not ahead of what this member has already (R5)."""
        header, position = incoming.reader.header, self._position()
        if header is not None and header.index <= position:
            raise SnapshotMismatch(
                f"The snapshot is of entry {header.index}, this member has {position} already."
            )

    # --- The end ----------------------------------------------------------------------

    def _commit(self, incoming: _Incoming) -> None:
        incoming.committing = True
        self._thread.run(self._sink.commit, lambda committed: self._committed(incoming, committed))

    def _committed(self, incoming: _Incoming, committed: asyncio.Future[None]) -> None:
        committed.result()
        header, footer = incoming.reader.finish()
        self._counts.transfers_received += 1
        logger.info(
            "The snapshot of entry %d has arrived: %d records in %d bytes, SHA-256 %s.",
            header.index, footer.records, footer.size, footer.sha256.hex(),
        )  # fmt: skip
        raise SnapshotReady(header)

    def _fail(self, incoming: _Incoming, error: SnapshotError) -> None:
        """Throw a snapshot away that is not to be used, and wait before the next (R4)."""
        self._counts.transfers_failed += 1
        pause_s = min(PAUSE_S * 2 ** min(self._failures, 10), PAUSE_S_MAX)
        self._failures += 1
        self._not_before_s = self._environment.monotonic_s() + pause_s
        logger.error(
            "The snapshot from %s is thrown away: %s The next try is in %.1f s.",
            incoming.member, error, pause_s,
        )  # fmt: skip
        self._tell_abort(incoming, str(error))
        self._drop()

    def _tell_abort(self, incoming: _Incoming, reason: str) -> None:
        abort = frames.SnapshotAbort(incoming.snapshot, reason[: frames.REASON_CHARS_MAX])
        self._tell(incoming.member, abort)

    def _drop(self) -> None:
        self._incoming = None
        self._thread.run(self._sink.discard)
