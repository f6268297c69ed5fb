"""The records that the cluster replicates, and their codecs.

Records are frozen and parsed once: JSON becomes a record at the edge of the API, bytes
become a record where they leave the store, and whatever is passed around in between is
trusted. Times are milliseconds since the Unix epoch (`_ms`), identifiers are 16 bytes.

Records that are written for every run are arrays on disk, everything else is a map. Both
forms ignore fields that they do not know and fill in those that are missing, so a member
can read what a newer or an older one has written.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Overlap = Literal["skip", "allow", "buffer_one", "cancel_other"]
Delivery = Literal["at_least_once", "at_most_once"]
CatchUpPolicy = Literal["skip", "last", "first", "all"]
ScheduleKind = Literal["at", "every", "delay", "cron", "manual"]
GapRule = Literal["run_after", "skip"]
FoldRule = Literal["first", "both"]
JobStatus = Literal["scheduled", "paused", "finished", "deleted"]
RunState = Literal["queued", "waiting", "claimed", "running", "ended"]
Trigger = Literal["schedule", "manual"]
# How an attempt, and with the last attempt its run, came to its end.
Outcome = Literal["succeeded", "failed", "timed_out", "cancelled", "lost", "unknown"]
# Why an occurrence was not launched.
SkipReason = Literal[
    "skipped_overlap", "missed", "coalesced", "paused", "rescheduled", "deleted", "limit"
]


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a job occurs. Exactly the fields of its `kind` are set.

    * at: once, at `at_ms`.
    * every: at `anchor_ms` + k * `every_ms` for every whole k. The anchor fixes the phase; it
      does not delay the start, `not_before_ms` does.
    * delay: `delay_ms` after the end of the last run.
    * cron: as the canonical `expression` says on the clocks of `timezone` (None is UTC).
      `dst_gap` and `dst_fold` concern expressions of fixed times only.
    * manual: never by itself.

    Everything that could mean two things is resolved before: an expression is canonical, an
    interval has its anchor. Occurrences lie within [`not_before_ms`, `not_after_ms`]; a start
    may be up to `jitter_ms` later than its occurrence.
    """

    kind: ScheduleKind
    at_ms: int | None = None
    every_ms: int | None = None
    anchor_ms: int | None = None
    delay_ms: int | None = None
    expression: str | None = None
    timezone: str | None = None
    not_before_ms: int | None = None
    not_after_ms: int | None = None
    max_runs: int | None = None
    jitter_ms: int = 0
    dst_gap: GapRule = "run_after"
    dst_fold: FoldRule = "first"


class Retry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often a failed run is tried again, and after what delay.

    The delay before attempt n + 1 is `backoff_ms` * 2 ** (n - 1), at most
    `backoff_ms_max`, and with `jitter` a share of it drawn between one half and all.
    """

    attempts_max: int = 1
    backoff_ms: int = 5_000
    backoff_ms_max: int = 300_000
    jitter: bool = True


class CatchUp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes of occurrences that could not start at their time.

    The same object applies whatever the cause: an outage, a pause, an edited schedule.
    Occurrences older than `window_ms` are never launched.
    """

    policy: CatchUpPolicy = "last"
    window_ms: int = 3_600_000


class JobDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a user says about a job. The state machine stores it without reading it."""

    schedule: ScheduleSpec
    action: dict[str, Any]
    description: str = ""
    priority: int = 50
    timeout_ms: int | None = None
    retry: Retry = Retry()
    overlap: Overlap = "skip"
    delivery: Delivery = "at_least_once"
    catch_up: CatchUp = CatchUp()
    placement: dict[str, str] = {}
    labels: dict[str, str] = {}
    output_bytes_max: int = 262_144


class JobPolicy(msgspec.Struct, frozen=True, array_like=True):
    """The part of a definition by which the state machine decides."""

    priority: int
    overlap: Overlap
    delivery: Delivery
    attempts_max: int
    selective: bool = False  # only some members may run it, see `placement`
    runs_max: int | None = None
    delay_ms: int | None = None  # fixed delay after the end of the last run
    not_after_ms: int | None = None
    manual: bool = False  # never by itself, so without a cursor it is not over


class JobState(msgspec.Struct, frozen=True, array_like=True):
    """What changes about a job while it lives: its cursor and its live runs.

    Invariants: `due_ms` is the oldest occurrence without an outcome. A due entry for it
    exists exactly while `status` is "scheduled" and `due_ms` is set. `live` holds the
    keys of all runs that are queued, claimed or running, and `waiting` the key of the one
    that an overlap policy holds back; with any policy but "allow", nothing is added to
    `live` while it has one. `decided_ms` grows, and nothing up to it is decided again.
    """

    namespace: str
    name: str
    revision: int
    status: JobStatus
    created_ms: int
    updated_ms: int
    policy: JobPolicy
    due_ms: int | None = None  # nominal
    start_ms: int | None = None  # nominal plus jitter; the time in the due table
    fence: int = 0  # the highest granted so far
    launches_total: int = 0  # runs by schedule, against `policy.runs_max`
    live: tuple[bytes, ...] = ()
    waiting: bytes | None = None
    paused_ms: int | None = None
    resumed_ms: int | None = None
    last_run: bytes | None = None
    last_outcome: str | None = None
    failures_consecutive: int = 0
    decided_ms: int | None = None  # the last occurrence that has an outcome
    first_due_ms: int | None = None  # the first occurrence of the present schedule


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One try that is over."""

    number: int
    fence: int
    member: str
    started_ms: int | None
    ended_ms: int
    outcome: Outcome
    exit_code: int | None = None
    detail: str = ""


class Run(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """One launch of a job. `number` counts attempts; 0 means none was granted yet."""

    state: RunState
    revision: int
    trigger: Trigger
    scheduled_ms: int
    start_ms: int  # when the next or the current attempt may start
    created_ms: int
    priority: int
    band: int
    number: int = 0
    fence: int = 0
    incarnation: bytes = b""
    member: str = ""
    started_ms: int | None = None
    ended_ms: int | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    detail: str = ""
    cancel_reason: str | None = None  # set from the moment somebody asked for it
    output_bytes: int = 0
    attempts: tuple[Attempt, ...] = ()

    @property
    def tries(self) -> int:
        """How many of its attempts count against the job's retries: those that were not lost.

        What a member's end or restart costs is no failure of the job.
        """
        return self.number - sum(attempt.outcome == "lost" for attempt in self.attempts)


class Skip(msgspec.Struct, frozen=True, array_like=True, tag="skip"):
    """One or more occurrences that were decided not to be launched, and why.

    It stands under its first occurrence and covers `count` of them up to `last_ms`.
    """

    reason: SkipReason
    last_ms: int
    count: int
    recorded_ms: int


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of the cluster as the others see it; renewed by its heartbeats."""

    name: str
    incarnation: bytes
    lease_until_ms: int
    slots: int  # none once it has left in order
    http_address: str
    version: str
    joined_ms: int
    labels: dict[str, str] = {}
    accepting: bool = True  # False while it drains or its clock is off
    expired: bool = False
    tzdata: str = ""
    running: int = 0
    level: int = 1  # the highest feature level that its release supports
    leaving: bool = False  # its seat is gone, its lease is not over yet


class Incarnation(msgspec.Struct, frozen=True, array_like=True):
    """One life of a member's process, while it may still own runs.

    One that is `leaving` was removed from the cluster: it claims and renews nothing more.
    """

    member: str
    lease_until_ms: int
    expired: bool = False
    leaving: bool = False


class AppliedConfiguration(msgspec.Struct, frozen=True, array_like=True):
    """The configuration of the cluster that was applied last; see consensus.configuration."""

    index: int
    content: bytes


class WantedSeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A member that the cluster is to have; the leader makes the configuration follow.

    `replaces` names the member that goes as soon as this one has its role.
    """

    address: str
    role: Literal["voter", "nonvoting"]
    seat_id: bytes = b""
    replaces: str | None = None
    since_ms: int = 0


class JoinToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A permission to join once. `bundle` is sealed: only who has the token can read it."""

    name: str
    role: Literal["voter", "nonvoting"]
    expires_ms: int
    bundle: bytes
    replaces: str | None = None
    used: bool = False


class Session(msgspec.Struct, frozen=True, array_like=True):
    """One proposer's promise: it repeats no batch whose sequence is below `floor`."""

    floor: int
    seen_ms: int


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The remembered answer to a request with an idempotency key."""

    request_hash: bytes
    result: bytes
    expires_ms: int


class ClusterLevel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The feature level in force; it only grows."""

    level: int
    since_ms: int


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """What the state machine knows of itself, written with every batch it applies."""

    applied_index: int
    applied_term: int
    clock_ms: int
    state_hash: bytes
    counters: dict[str, int]
    scrub_from: bytes = b""  # where the next look at the store begins


OutcomeRecord = Run | Skip

# What decoding damaged bytes raises: for text that is no UTF-8, no error of msgspec's own.
NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError)

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode

decode_definition = msgspec.msgpack.Decoder(JobDefinition).decode
decode_job_state = msgspec.msgpack.Decoder(JobState).decode
decode_outcome = msgspec.msgpack.Decoder(OutcomeRecord).decode
decode_member = msgspec.msgpack.Decoder(Member).decode
decode_incarnation = msgspec.msgpack.Decoder(Incarnation).decode
decode_session = msgspec.msgpack.Decoder(Session).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
decode_level = msgspec.msgpack.Decoder(ClusterLevel).decode
decode_applied_configuration = msgspec.msgpack.Decoder(AppliedConfiguration).decode
decode_wanted_seat = msgspec.msgpack.Decoder(WantedSeat).decode
decode_join_token = msgspec.msgpack.Decoder(JoinToken).decode
decode_meta = msgspec.msgpack.Decoder(Meta).decode
