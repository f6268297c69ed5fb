"""The commands of the replicated log, their results, and how they are packed.

    Entry   what Raft orders: the leader's time stamp and the batches it had at hand
    Batch   what one proposer sent at once: its session, a sequence number, its commands
    Command one wish, decided by the state machine when it is applied

Everything that depends on a clock, on chance or on time zone data is inside the command,
worked out by whoever proposed it; applying it is arithmetic. Every command is answered
with a result, also one that was refused. The union of commands is closed: an entry that
a member cannot decode stops that member. An entry carries the feature level that whoever
applies it must support (`consensus.features`), which is the one in force where it was packed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from consensus import features
from storage.models import NOT_DECODED, JobPolicy, Outcome, SkipReason

# A batch is proposed again, under the same number, for this long; later it is refused.
BATCH_PATIENCE_MS = 30_000

WantedRole = Literal["voter", "nonvoting"]


class RequestKey(msgspec.Struct, frozen=True, array_like=True):
    """An idempotency key: the hash of who asked and of the key, and the request's hash."""

    key_hash: bytes
    request_hash: bytes


class SkippedRange(msgspec.Struct, frozen=True, array_like=True):
    """Occurrences that are not launched: `count` of them from `first_ms` to `last_ms`."""

    reason: SkipReason
    first_ms: int
    last_ms: int
    count: int


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """An occurrence and the moment at which it starts, which is later by its jitter."""

    due_ms: int
    start_ms: int


class PutJob(msgspec.Struct, frozen=True, array_like=True, tag="put_job"):
    """Create a job, or replace the definition of an existing one.

    `expected_revision` is 0 for "must not exist". A new schedule brings its first
    occurrence in `cursor`, and in `skipped` what was overdue under the old one, as of
    the cursor `seen_due_ms`; `keep_cursor` says that the schedule is the same as before.
    """

    job: bytes
    namespace: str
    name: str
    definition: bytes
    policy: JobPolicy
    cursor: Cursor | None
    expected_revision: int
    keep_cursor: bool = False
    seen_due_ms: int | None = None
    skipped: tuple[SkippedRange, ...] = ()
    request: RequestKey | None = None


class DeleteJob(msgspec.Struct, frozen=True, array_like=True, tag="delete_job"):
    """Take a job out of service.

    `skipped` counts what is overdue as of the cursor `seen_due_ms`; if that has moved since,
    the command is refused. Without it, the cursor's own occurrence is recorded and no other:
    that is for who cannot count, because it does not know the job's zone.
    """

    job: bytes
    expected_revision: int | None = None
    request: RequestKey | None = None
    seen_due_ms: int | None = None
    skipped: tuple[SkippedRange, ...] = ()


class PauseJob(msgspec.Struct, frozen=True, array_like=True, tag="pause_job"):
    """Pause or resume a job; the catch-up policy decides what becomes of the gap."""

    job: bytes
    paused: bool
    expected_revision: int | None = None
    request: RequestKey | None = None


class TriggerJob(msgspec.Struct, frozen=True, array_like=True, tag="trigger_job"):
    """Run a job now, beside its schedule."""

    job: bytes
    at_ms: int
    nonce: int
    request: RequestKey | None = None


class CancelRun(msgspec.Struct, frozen=True, array_like=True, tag="cancel_run"):
    run: bytes
    reason: str
    request: RequestKey | None = None


class ClaimOccurrence(msgspec.Struct, frozen=True, array_like=True, tag="occurrence"):
    """Decide a job's cursor: skip what is too late, launch at most one, move on.

    `due_ms` is the cursor that the proposer saw. The launched occurrence is the cursor
    itself or, if earlier ones are skipped, a later one.
    """

    job: bytes
    revision: int
    due_ms: int
    launch: Cursor | None
    skipped: tuple[SkippedRange, ...]
    following: Cursor | None


class ClaimRun(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """Take over a queued run: a retry, a manual run, or one whose member was lost."""

    run: bytes
    start_ms: int


class Claim(msgspec.Struct, frozen=True, array_like=True, tag="claim"):
    incarnation: bytes
    items: tuple[ClaimOccurrence | ClaimRun, ...]


class Started(msgspec.Struct, frozen=True, array_like=True, tag="started"):
    run: bytes
    number: int
    fence: int
    started_ms: int


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """An attempt is over. `retry_start_ms` is set if it is to be tried again.

    The outcome "lost" gives it back; `unstarted` then says that it has certainly not begun.
    """

    run: bytes
    number: int
    fence: int
    outcome: Outcome
    started_ms: int | None
    ended_ms: int
    exit_code: int | None = None
    detail: str = ""
    retry_start_ms: int | None = None
    output: tuple[bytes, ...] = ()
    output_bytes: int = 0
    unstarted: bool = False


class Report(msgspec.Struct, frozen=True, array_like=True, tag="report"):
    items: tuple[Started | Ended, ...]


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag="heartbeat"):
    """Renew, or with a new incarnation begin, a member's lease.

    `supersedes` says that the member's earlier incarnations are certainly dead, with
    all that they launched.
    """

    member: str
    incarnation: bytes
    lease_ms: int
    slots: int
    http_address: str
    version: str
    tzdata: str
    labels: dict[str, str]
    accepting: bool
    running: int
    supersedes: bool = False
    # The feature levels that the member's release supports.
    level: int = 1
    level_min: int = 1


class RaiseLevel(msgspec.Struct, frozen=True, array_like=True, tag="raise_level"):
    """Let the cluster use a feature level from now on.

    `members` are those that the proposer knows to have a seat, whether or not the others
    have heard of them.
    """

    level: int
    members: tuple[str, ...]


class Expire(msgspec.Struct, frozen=True, array_like=True, tag="expire"):
    """Return a bounded number of the runs of an incarnation whose lease is over."""

    incarnation: bytes


class Clean(msgspec.Struct, frozen=True, array_like=True, tag="clean"):
    """Drop a bounded number of outputs, answers and sessions that are old enough."""

    output_before_ms: int
    session_before_ms: int


class IssueToken(msgspec.Struct, frozen=True, array_like=True, tag="issue_token"):
    """Let whoever has the secret join once, and perhaps take the place of `replaces`."""

    token_hash: bytes
    name: str
    role: WantedRole
    expires_ms: int
    bundle: bytes
    replaces: str | None = None
    request: RequestKey | None = None


class JoinMember(msgspec.Struct, frozen=True, array_like=True, tag="join_member"):
    """Use a token up: want a member in the cluster, reached at `address`."""

    token_hash: bytes
    name: str
    address: str
    request: RequestKey | None = None


class ChangeMember(msgspec.Struct, frozen=True, array_like=True, tag="change_member"):
    """Want a member to vote or not to, or to be reached elsewhere; None leaves it as it is."""

    name: str
    role: WantedRole | None = None
    address: str | None = None
    request: RequestKey | None = None


class RemoveMember(msgspec.Struct, frozen=True, array_like=True, tag="remove_member"):
    name: str
    request: RequestKey | None = None


Command = (
    PutJob
    | DeleteJob
    | PauseJob
    | TriggerJob
    | CancelRun
    | Claim
    | Report
    | Heartbeat
    | Expire
    | Clean
    | RaiseLevel
    | IssueToken
    | JoinMember
    | ChangeMember
    | RemoveMember
)

RefusalCode = Literal[
    "not_found",
    "name_taken",
    "revision_mismatch",
    "cursor_moved",
    "already_running",
    "already_ended",
    "idempotency_key_reused",
    "lease_expired",
    "lease_valid",
    "expired",
    "level_unsupported",
    "member_removed",
    "token_invalid",
    "members_invalid",
    "internal",
]


class JobDone(msgspec.Struct, frozen=True, array_like=True, tag="job"):
    """A change of a job, as of the moment it was made."""

    job: bytes
    revision: int
    created_ms: int
    updated_ms: int
    created: bool = False


class RunDone(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """A manual run was queued, or a run's end was asked for."""

    run: bytes
    state: str


class Claimed(msgspec.Struct, frozen=True, array_like=True, tag="claimed"):
    """One verdict an item, in the order of the items: None, or why it was refused."""

    refusals: tuple[str | None, ...]


class Reported(msgspec.Struct, frozen=True, array_like=True, tag="reported"):
    """One verdict an item: whether the fence was still the current one."""

    accepted: tuple[bool, ...]


class Renewed(msgspec.Struct, frozen=True, array_like=True, tag="renewed"):
    lease_until_ms: int


class Raised(msgspec.Struct, frozen=True, array_like=True, tag="raised"):
    """The feature level in force after the command."""

    level: int


class Remaining(msgspec.Struct, frozen=True, array_like=True, tag="remaining"):
    """How many items a bounded command has handled, and whether there are more."""

    handled: int
    more: bool


class SeatDone(msgspec.Struct, frozen=True, array_like=True, tag="seat"):
    """What the cluster is to have, or not to have any more, is written down."""

    name: str


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The command changed nothing."""

    code: RefusalCode
    detail: str
    revision: int | None = None


Result = JobDone | RunDone | Claimed | Reported | Renewed | Remaining | Raised | SeatDone | Refused


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """`deadline_ms` is in the cluster's time: applied later, the batch is refused."""

    session: bytes
    sequence: int
    floor: int
    deadline_ms: int
    commands: tuple[Command, ...]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    level: int
    stamp_ms: int
    batches: tuple[Batch, ...]


class _PackedEntry(msgspec.Struct, frozen=True, array_like=True):
    level: int
    stamp_ms: int
    batches: tuple[msgspec.Raw, ...]


_encoder = msgspec.msgpack.Encoder()
_entry_decoder = msgspec.msgpack.Decoder(Entry)
_packed_decoder = msgspec.msgpack.Decoder(_PackedEntry)
_result_decoder: msgspec.msgpack.Decoder[Result] = msgspec.msgpack.Decoder(Result)
_results_decoder = msgspec.msgpack.Decoder(tuple[Result, ...])

encode_batch = _encoder.encode
decode_batch = msgspec.msgpack.Decoder(Batch).decode
encode_result = _encoder.encode
decode_result = _result_decoder.decode
decode_results = _results_decoder.decode
decode_entry = _entry_decoder.decode


def pack_entry(stamp_ms: int, batches: list[bytes], level: int = features.FIRST) -> bytes:
    """Return the bytes of a log entry around batches that are encoded already."""
    packed = _PackedEntry(level, stamp_ms, tuple(msgspec.Raw(batch) for batch in batches))
    return _encoder.encode(packed)


def level_of(entry: bytes) -> int | None:
    """Return the level that an entry needs, also if the rest cannot be read; None if it is none."""
    try:
        return _packed_decoder.decode(entry).level
    except NOT_DECODED:
        return None
