"""The leader's half of a snapshot's way: reading ahead, within bounds, and sending at a pace.

The follower pulls: what it has stored is forgotten here, and what it has not is kept in
memory and sent again over the next connection. A transfer holds one read transaction of
the state, in which LMDB keeps every page; so it ends when the follower is silent, when it
takes too long, and when this member ceases to lead. Whoever asks for a transfer that is
gone is told so and begins another.

The pace is a rate over all transfers, and yields: whenever the loop comes to it late, which
is how a busy member shows, the next chunk waits as much longer. Chunks share a connection
with heartbeats and entries, so they wait until the socket has taken what was written.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from consensus import frames
from consensus.raft.types import PeerProgress, RaftSettings
from consensus.snapshots.thread import SnapshotThread
from consensus.snapshots.types import SnapshotCounts, SnapshotSource, SnapshotStream
from storage.clock import Environment
from storage.snapshot_format import SnapshotError

logger = logging.getLogger(__name__)

# A follower asks with every heartbeat. One that has missed so many may be gone, or may be
# ready while its last word was lost: others that wait for its place need not wait longer.
SILENT_HEARTBEATS = 20
# How long after the end of a transfer the log keeps what comes behind the snapshot: for the
# follower to sync it, to install it and to connect again.
HOLD_S = 60.0
# A look at a socket that is full, and the shortest pause that a timer is good for.
RETRY_S = 0.005
# A loop this late is busy; the pause that follows is bounded, so that a transfer goes on.
LATE_S, LATE_S_MAX = 0.01, 0.25


@dataclass(slots=True)
class _Transfer:
    """One follower's snapshot."""

    member: str
    snapshot: bytes
    stream: SnapshotStream
    began_s: float
    heard_s: float
    # Chunks that were read and are not stored by the follower, oldest first.
    kept: deque[bytes] = field(default_factory=deque)
    kept_bytes: int = 0
    # The number of the oldest kept chunk, and of the one that is sent next.
    first: int = 0
    next_sent: int = 0
    reading: bool = False
    ended: bool = False


class SnapshotSender:
    """The transfers of one member that leads; used in the event loop's thread.

    `tell` sends a message to a member, `queued_bytes` returns what its socket has not taken,
    `configuration` the bytes of the cluster's configuration as of an entry.
    """

    def __init__(
        self,
        source: SnapshotSource,
        settings: RaftSettings,
        environment: Environment,
        thread: SnapshotThread,
        counts: SnapshotCounts,
        *,
        guarded: Callable[..., None],
        tell: Callable[[str, frames.Message], None],
        queued_bytes: Callable[[str], int],
        configuration: Callable[[int], bytes],
    ) -> None:
        self._source = source
        self._counts = counts
        self._settings = settings
        self._environment = environment
        self._thread = thread
        self._guarded = guarded
        self._tell = tell
        self._queued_bytes = queued_bytes
        self._configuration = configuration
        self._transfers: dict[str, _Transfer] = {}
        # Transfers that are over and have not let go of the state yet: while there is one,
        # none begins, for a store has few read transactions.
        self._ending = 0
        # Entries that the log keeps for followers: index, and until when.
        self._holds: dict[str, tuple[int, float]] = {}
        # When the rate allows the next chunk.
        self._free_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0

    @property
    def sending(self) -> int:
        """Return how many transfers are under way."""
        return len(self._transfers)

    def held_index(self) -> int | None:
        """Return from which entry on the log is needed behind snapshots, if it is."""
        now_s = self._environment.monotonic_s()
        self._holds = {
            member: hold
            for member, hold in self._holds.items()
            if member in self._transfers or hold[1] > now_s
        }
        return min((index for index, _ in self._holds.values()), default=None)

    # --- What the follower says -------------------------------------------------------

    def requested(self, member: str, message: frames.SnapshotRequest) -> None:
        """Begin, go on with or end a transfer."""
        transfer = self._transfers.get(member)
        if transfer is None or transfer.snapshot != message.snapshot:
            if message.next_chunk > 0:
                self._refuse(member, message.snapshot, "this snapshot is not being sent any more")
                return
            if transfer is not None:
                self._end(transfer, "the member has begun another")
            transfer = self._begin(member, message.snapshot)
        if transfer is not None:
            self._go_on(transfer, message)

    def aborted(self, member: str, message: frames.SnapshotAbort) -> None:
        """End a transfer that the follower does not want any more."""
        transfer = self._transfers.get(member)
        if transfer is not None and transfer.snapshot == message.snapshot:
            self._end(transfer, f"the member says: {message.reason}")

    # --- What the driver says ---------------------------------------------------------

    def look(self, progress: Mapping[str, PeerProgress]) -> None:
        """End the transfers that have lasted too long, or whose member is silent or ready.

        `progress` tells how far the members are: the last word of one that is ready may get
        lost when it begins another life.
        """
        now_s = self._environment.monotonic_s()
        for transfer in list(self._transfers.values()):
            known = progress.get(transfer.member)
            if known is not None and known.match_index >= transfer.stream.header.index:
                self._counts.transfers_sent += 1
                self._end(transfer, "the member goes on behind it")
            elif now_s - transfer.heard_s > self._settings.snapshot_silence_s_max:
                self._end(transfer, "the member has fallen silent")
            elif now_s - transfer.began_s > self._settings.snapshot_age_s_max:
                self._refuse(transfer.member, transfer.snapshot, "it takes too long")
                self._end(transfer, "it takes too long")

    def stop(self, reason: str) -> None:
        """End all transfers."""
        for transfer in list(self._transfers.values()):
            self._end(transfer, reason)
        self._holds.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- Transfers --------------------------------------------------------------------

    def _begin(self, member: str, snapshot: bytes) -> _Transfer | None:
        if not self._make_room() or self._ending:
            return None  # The follower asks again with the next heartbeat.
        stream = self._source.open(self._configuration, self._settings.snapshot_chunk_bytes)
        if stream is None:
            return None
        now_s = self._environment.monotonic_s()
        transfer = _Transfer(member, snapshot, stream, now_s, now_s)
        self._transfers[member] = transfer
        self._holds[member] = (stream.header.index, now_s)
        logger.info("Member %s gets a snapshot of entry %d.", member, stream.header.index)
        return transfer

    def _make_room(self) -> bool:
        """Tell whether another transfer may begin; one that waits for nobody gives way."""
        if len(self._transfers) < self._settings.snapshot_transfers_max:
            return True
        silent = min(self._transfers.values(), key=lambda transfer: transfer.heard_s)
        patience_s = SILENT_HEARTBEATS * self._settings.heartbeat_s
        if self._environment.monotonic_s() - silent.heard_s < patience_s:
            return False
        self._end(silent, "it is silent, and another member waits")
        return True

    def _go_on(self, transfer: _Transfer, message: frames.SnapshotRequest) -> None:
        transfer.heard_s = self._environment.monotonic_s()
        stored = message.next_chunk - transfer.first
        if not 0 <= stored <= transfer.next_sent - transfer.first:
            self._refuse(transfer.member, transfer.snapshot, "it asks for what was not sent")
            self._end(transfer, "the member asks for what was not sent")
            return
        for _ in range(stored):
            transfer.kept_bytes -= len(transfer.kept.popleft())
        transfer.first = message.next_chunk
        if message.again:
            transfer.next_sent = transfer.first
        if transfer.ended and not transfer.kept:
            self._counts.transfers_sent += 1
            self._end(transfer, "it is complete")
        else:
            self._pump(transfer)

    def _end(self, transfer: _Transfer, reason: str) -> None:
        """Let go of the state, in the thread that may be reading it."""
        del self._transfers[transfer.member]
        now_s = self._environment.monotonic_s()
        index = transfer.stream.header.index
        self._holds[transfer.member] = (index, now_s + HOLD_S)
        self._ending += 1
        self._thread.run(transfer.stream.close, self._ended)
        logger.info(
            "The snapshot of entry %d for %s ends after %.1f s and %d chunks: %s.",
            index, transfer.member, now_s - transfer.began_s, transfer.next_sent, reason,
        )  # fmt: skip

    def _ended(self, closed: asyncio.Future[None]) -> None:
        self._ending -= 1
        closed.result()

    def _refuse(self, member: str, snapshot: bytes, reason: str) -> None:
        self._tell(member, frames.SnapshotAbort(snapshot, reason[: frames.REASON_CHARS_MAX]))

    # --- Chunks -----------------------------------------------------------------------

    def _pump(self, transfer: _Transfer) -> None:
        """Send what may be sent now, and read on while the window has room."""
        while transfer.next_sent < transfer.first + len(transfer.kept):
            now_s = self._environment.monotonic_s()
            full = self._queued_bytes(transfer.member) >= self._settings.snapshot_window_bytes
            if full or now_s < self._free_s:
                self._arm(now_s, now_s + RETRY_S if full else self._free_s)
                break
            self._send(transfer, now_s)
        if (
            not transfer.reading
            and not transfer.ended
            and transfer.kept_bytes < self._settings.snapshot_window_bytes
        ):
            transfer.reading = True
            self._thread.run(transfer.stream.next_chunk, lambda read: self._take(transfer, read))

    def _take(self, transfer: _Transfer, read: asyncio.Future[bytes | None]) -> None:
        transfer.reading = False
        if self._transfers.get(transfer.member) is not transfer:
            return
        try:
            chunk = read.result()
        except SnapshotError as error:
            # A state that cannot be sent is no reason to stop leading.
            logger.exception("The snapshot for %s cannot be read.", transfer.member)
            self._refuse(transfer.member, transfer.snapshot, str(error))
            self._end(transfer, "it cannot be read")
            return
        if chunk is None:
            transfer.ended = True
        else:
            transfer.kept.append(chunk)
            transfer.kept_bytes += len(chunk)
        self._pump(transfer)

    def _send(self, transfer: _Transfer, now_s: float) -> None:
        chunk = transfer.kept[transfer.next_sent - transfer.first]
        message = frames.SnapshotChunk(transfer.snapshot, transfer.next_sent, chunk)
        transfer.next_sent += 1
        self._counts.bytes_sent += len(chunk)
        self._free_s = max(now_s, self._free_s) + len(chunk) / self._settings.snapshot_bytes_per_s
        self._tell(transfer.member, message)

    def _arm(self, now_s: float, due_s: float) -> None:
        if self._timer is None:
            self._timer_due_s = max(due_s, now_s + RETRY_S)
            self._timer = asyncio.get_running_loop().call_later(
                self._timer_due_s - now_s, self._guarded, self._ring
            )

    def _ring(self) -> None:
        self._timer = None
        now_s = self._environment.monotonic_s()
        late_s = now_s - self._timer_due_s
        if late_s > LATE_S:
            self._free_s = max(self._free_s, now_s + min(late_s, LATE_S_MAX))
        for transfer in list(self._transfers.values()):
            self._pump(transfer)
