"""What the Raft layer shares with its users: entries, settings, errors and its two seams.

Nothing here imports the consensus library, so that the proposer, the state machine and
their tests can name these types without loading it. `Journal` and `Network` are the two
places where a simulation puts something else: the disk and the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consensus.configuration import Configuration
from storage.journal_format import Batch, HardState, LogRecord
from storage.snapshot_format import CHUNK_BYTES

KIB = 1024
MIB = 1024 * KIB

# What an envelope adds around the commands it carries; a generous bound, so that the
# relation between entries, batches and frames can be asserted without counting bytes.
FRAME_OVERHEAD_BYTES = 64 * KIB


class NotLeader(Exception):
    """This member does not lead, or is handing leadership over: ask `leader` instead.

    Nothing was appended. `leader` is None while nobody is known to lead.
    """

    def __init__(self, leader: str | None) -> None:
        hint = f"member {leader} leads" if leader else "no leader is known at the moment"
        super().__init__(f"This member is not the leader; {hint}.")
        self.leader = leader


class EntryTooLarge(Exception):
    """A command or an application message exceeds its bound; nothing was appended or sent."""


class SnapshotNeeded(Exception):
    """This member's log ends before the leader's begins, and it takes no snapshots."""


class MemberRefused(Exception):
    """The cluster refuses this member as it is, and no retry can change that."""


class MemberRemoved(MemberRefused):
    """This member was removed from the cluster; what it holds is of no more use to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One committed entry of the log, as it is handed to `apply`.

    `command` is what was proposed, byte for byte. It is empty for the entries that the
    consensus layer writes itself (one at the start of the log, one per leader, and changes
    of the members, which bring their `configuration`); a command that was proposed is never
    empty.
    """

    index: int
    term: int
    command: bytes
    configuration: Configuration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerProgress:
    """How far another member is, as its leader knows it.

    `last_contact_s` is on the leader's monotonic clock; None before the first answer.
    """

    match_index: int
    last_contact_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSettings:
    """Timeouts and bounds of one member, the same on all of them.

    Raises:
        ValueError: a value is out of range or contradicts another; the text says which.
    """

    # A follower that hears no leader for a random time between these asks for votes.
    # At least ten times the 99th percentile of a journal sync, plus the longest pause of
    # the process; on two cores shared with everything else take 1.0 to 2.0.
    election_min_s: float = 0.5
    election_max_s: float = 1.0
    # A leader says at least this often that it is alive. Three may be lost in a row.
    heartbeat_s: float = 0.1

    # One command. What is larger does not belong into a log.
    entry_bytes_max: int = 2 * MIB
    # Commands in one message to a follower; a single larger command still travels.
    batch_bytes_max: int = 1 * MIB
    # The largest frame that is read from a peer, whoever it is.
    frame_bytes_max: int = 4 * MIB

    # Sent to one follower and not yet answered. More would only fill its socket buffer.
    window_entries_max: int = 4096
    window_bytes_max: int = 8 * MIB
    # Queued for one peer and not yet taken by its socket; beyond it the connection closes.
    send_queue_bytes_max: int = 32 * MIB

    # Appended by this leader and not yet applied; beyond it `propose` refuses.
    in_flight_entries_max: int = 1024
    in_flight_bytes_max: int = 64 * MIB

    # The newest entries stay in memory as well, so that followers and the apply loop
    # are served without touching the disk. Whichever bound is met first counts.
    hot_entries_max: int = 8192
    hot_bytes_max: int = 32 * MIB
    # One call of `apply`; bounded so that heartbeats go out during a long catch-up.
    apply_entries_max: int = 512
    apply_bytes_max: int = 4 * MIB

    # What stays in the journal behind a trim, so that a short absence is made up from
    # the log. Older entries go as soon as either bound is passed.
    tail_entries_max: int = 50_000
    tail_bytes_max: int = 256 * MIB

    # Snapshots. What is sent and not yet stored by the follower, or read ahead for it: it
    # covers the way there and back, and is small beside what the peer's queue may hold.
    snapshot_chunk_bytes: int = CHUNK_BYTES
    snapshot_window_bytes: int = 1 * MIB
    # How fast all of them together leave, so that the disk and the network serve others.
    snapshot_bytes_per_s: int = 50_000_000
    # Followers that are served at a time; the others ask again.
    snapshot_transfers_max: int = 1
    # For how long a transfer waits for a follower that has fallen silent, and how long it may
    # take in all: its transaction keeps every page that was in use when it began.
    snapshot_silence_s_max: float = 30.0
    snapshot_age_s_max: float = 3600.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"Setting {name} must be above zero, not {getattr(self, name)}.")
        self._check_times()
        self._check_sizes()

    def _check_times(self) -> None:
        if self.election_max_s <= self.election_min_s:
            raise ValueError(
                f"Setting election_max_s ({self.election_max_s}) must be above election_min_s "
                f"({self.election_min_s}): without a spread, candidates collide for ever."
            )
        if self.heartbeat_s * 3 >= self.election_min_s:
            raise ValueError(
                f"Setting heartbeat_s ({self.heartbeat_s}) must be below a third of "
                f"election_min_s ({self.election_min_s}), so that lost heartbeats cost no leader."
            )

    def _check_sizes(self) -> None:
        room = self.frame_bytes_max - FRAME_OVERHEAD_BYTES
        for name in ("entry_bytes_max", "batch_bytes_max", "snapshot_chunk_bytes"):
            if getattr(self, name) > room:
                raise ValueError(
                    f"Setting {name} ({getattr(self, name)}) must fit into a frame: at most "
                    f"frame_bytes_max - {FRAME_OVERHEAD_BYTES} = {room}."
                )
        if self.snapshot_chunk_bytes > self.snapshot_window_bytes:
            raise ValueError(
                f"Setting snapshot_chunk_bytes ({self.snapshot_chunk_bytes}) must not exceed "
                f"snapshot_window_bytes ({self.snapshot_window_bytes})."
            )
        if self.window_bytes_max < self.frame_bytes_max:
            raise ValueError(
                f"Setting window_bytes_max ({self.window_bytes_max}) must hold at least one "
                f"frame of frame_bytes_max ({self.frame_bytes_max})."
            )
        if self.send_queue_bytes_max < self.window_bytes_max + self.frame_bytes_max:
            raise ValueError(
                f"Setting send_queue_bytes_max ({self.send_queue_bytes_max}) must hold a full "
                f"window and one frame more ({self.window_bytes_max + self.frame_bytes_max})."
            )
        if self.in_flight_entries_max > self.hot_entries_max:
            raise ValueError(
                f"Setting in_flight_entries_max ({self.in_flight_entries_max}) must not exceed "
                f"hot_entries_max ({self.hot_entries_max})."
            )


class Journal(Protocol):
    """The disk of one member's log, written by one thread and read by another.

    Indexes and the hard state are what the last `write` that returned has made durable.
    """

    @property
    def disk_id(self) -> bytes: ...
    @property
    def boots(self) -> int: ...
    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def hard_state(self) -> HardState: ...
    @property
    def known_disks(self) -> Mapping[str, bytes]: ...
    @property
    def configuration(self) -> tuple[int, bytes] | None: ...

    def write(self, batch: Batch) -> None:
        """Make a batch durable as a whole; on return it survives a power loss.

        Raises:
            DiskFailed: it may or may not be on the disk; the process has to stop.
        """
        ...

    def read(self, first: int, last: int, bytes_max: int) -> Sequence[LogRecord]:
        """Return records `first` to `last` in order, cut after `bytes_max` but never empty.

        Raises:
            JournalDamaged: a record is missing or its checksum is wrong.
        """
        ...


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a member says of itself to one that it dials.

    `configuration` is the index of the newest configuration that it knows to be committed:
    who knows a newer one without this seat knows that the seat was given up. `address` is
    where it is reached, for those who have not heard of it yet.
    """

    seat_id: bytes
    configuration: int
    address: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a member is not let in. `removed` is final: there is no seat for it any more."""

    reason: str
    removed: bool


class Listener(Protocol):
    """What a network tells and asks the Raft layer, always in the loop's thread."""

    def introduction(self) -> Introduction:
        """Return what to say to the members that are dialed."""
        ...

    def judge(self, member: str, introduction: Introduction) -> Rejection | None:
        """Return why a member that was proven to be `member` is not let in, if so."""
        ...

    def removed(self, member: str, reason: str) -> None:
        """A member says that this one was removed."""
        ...

    def connected(self, member: str) -> None:
        """Both directions to a member are up; also called when a connection was replaced."""
        ...

    def disconnected(self, member: str) -> None:
        """Nothing can be sent to the member any more, or nothing comes from it."""
        ...

    def received(self, member: str, frame: bytes) -> None:
        """Take one whole frame; the network has proven that `member` sent it."""
        ...


class Network(Protocol):
    """Ordered, bounded delivery of frames between members; a broken link loses frames."""

    async def start(self, listener: Listener) -> None: ...

    async def stop(self) -> None: ...

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """Talk to these members from now on, found at "host:port", and to no others."""
        ...

    def send(self, member: str, frame: bytes) -> bool:
        """Queue a frame; False if the member is not connected or its queue was full."""
        ...

    def queued_bytes(self, member: str) -> int:
        """Return what waits for the member's socket; 0 when it is not connected."""
        ...

    def close(self, member: str, reason: str) -> None:
        """Drop the connection to a member; the network will try again later."""
        ...
