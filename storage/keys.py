"""The tables of the state and the order of their keys.

All tables share one ordered key space; the first byte of a key names its table. Numbers
are big-endian, so that the order of the bytes is the order of the numbers and every
question the program asks is a range:

| table | key after the first byte | value | answers |
|---|---|---|---|
| JOB | job | JobDefinition | what to run |
| JOB_STATE | job | JobState | cursor, live runs |
| NAME | namespace NUL name | job | a job by its name; jobs in order of their names |
| DUE | partition, band, start_ms, 255 - priority, job or run | | what falls due, and where |
| OUTCOME | job, scheduled_ms, trigger, nonce | Run or Skip | a job's history |
| TIMELINE | created_ms, run | | runs of all jobs, newest first |
| LIVE | incarnation, run | | what must be returned when a member is lost |
| OUTPUT | run, attempt, sequence | bytes | captured output |
| OUTPUT_AGE | ended_ms, run | | output that is old enough to go |
| MEMBER | name | Member | the cluster |
| INCARNATION | incarnation | Incarnation | leases |
| SESSION | session | Session | proposers |
| RESULT | session, sequence | results | a batch that was proposed twice |
| ANSWER | hash of the idempotency key | Answer | a request that was sent twice |
| ANSWER_AGE | expires_ms, hash | | answers that are old enough to go |
| META | | Meta | applied index, cluster clock, state hash |
| LEVEL | | ClusterLevel | what all members support |
| CONFIGURATION | | AppliedConfiguration | who belongs to the cluster, as of the log |
| SEAT | name | WantedSeat | who is to belong to it |
| TOKEN | hash of the secret | JoinToken | who may join |

An occurrence's key has room for one record: that it ends in exactly one outcome is a
matter of where the outcome is kept.
"""

from __future__ import annotations

import struct
from zlib import crc32

# LMDB's own bound: a longer key is an error of the whole transaction, on every member.
KEY_BYTES_MAX = 511

JOB, JOB_STATE, NAME, DUE = b"\x01", b"\x02", b"\x03", b"\x04"
OUTCOME, TIMELINE, LIVE = b"\x05", b"\x06", b"\x07"
OUTPUT, OUTPUT_AGE = b"\x08", b"\x09"
MEMBER, INCARNATION = b"\x0a", b"\x0b"
SESSION, RESULT, ANSWER, ANSWER_AGE = b"\x0c", b"\x0d", b"\x0e", b"\x0f"
META = b"\x10"
LEVEL = b"\x11"
CONFIGURATION, SEAT, TOKEN = b"\x12", b"\x13", b"\x14"

JOB_ID_BYTES = 16
INCARNATION_BYTES = 16
PARTITIONS = 1024
BANDS = 11
# Due entries of jobs that not every member may run stand in bands of their own, because
# every member has to look at them to know whether it is the first that may.
SELECTIVE_BAND = 16

TRIGGER_SCHEDULE, TRIGGER_MANUAL = 0, 1

_DUE = struct.Struct(">cHBQB")
_OUTCOME_TAIL = struct.Struct(">QBI")
_U64 = struct.Struct(">Q")

RUN_KEY_BYTES = 16 + _OUTCOME_TAIL.size


def partition_of(job: bytes) -> int:
    """Return the partition, 0 to `PARTITIONS` - 1, that a job belongs to for ever."""
    return crc32(job) % PARTITIONS


def band_of(priority: int, *, selective: bool) -> int:
    """Return the band of a priority, 0 to 100: lower bands are looked at first."""
    return 10 - priority // 10 + (SELECTIVE_BAND if selective else 0)


def due_key(subject: bytes, band: int, start_ms: int, priority: int) -> bytes:
    """Return the key of a due entry; `subject` is a job's id or a run's key."""
    return _DUE.pack(DUE, partition_of(subject[:16]), band, start_ms, 255 - priority) + subject


def due_range(partition: int, band: int, until_ms: int) -> tuple[bytes, bytes]:
    """Return the range of one band's due entries that start before `until_ms`."""
    return (
        _DUE.pack(DUE, partition, band, 0, 0),
        _DUE.pack(DUE, partition, band, until_ms, 0),
    )


def split_due(key: bytes) -> tuple[int, int, int, int, bytes]:
    """Return (partition, band, start_ms, priority, subject) of a due entry's key."""
    _, partition, band, start_ms, inverse = _DUE.unpack_from(key)
    return partition, band, start_ms, 255 - inverse, key[_DUE.size :]


def run_key(
    job: bytes, scheduled_ms: int, trigger: int = TRIGGER_SCHEDULE, nonce: int = 0
) -> bytes:
    """Return the key of a run: for a scheduled one it is known before the run exists."""
    return job + _OUTCOME_TAIL.pack(scheduled_ms, trigger, nonce)


def split_run(run: bytes) -> tuple[bytes, int, int, int]:
    """Return (job, scheduled_ms, trigger, nonce) of a run's key."""
    return (run[:16], *_OUTCOME_TAIL.unpack_from(run, 16))


def name_key(namespace: str, name: str) -> bytes:
    return NAME + namespace.encode() + b"\x00" + name.encode()


def timeline_key(created_ms: int, run: bytes) -> bytes:
    return TIMELINE + _U64.pack(created_ms) + run


def live_key(incarnation: bytes, run: bytes) -> bytes:
    return LIVE + incarnation + run


def output_key(run: bytes, attempt: int, sequence: int = 0) -> bytes:
    return OUTPUT + run + attempt.to_bytes(2, "big") + sequence.to_bytes(2, "big")


def output_age_key(ended_ms: int, run: bytes) -> bytes:
    return OUTPUT_AGE + _U64.pack(ended_ms) + run


def result_key(session: bytes, sequence: int) -> bytes:
    return RESULT + session + _U64.pack(sequence)


def answer_age_key(expires_ms: int, key_hash: bytes) -> bytes:
    return ANSWER_AGE + _U64.pack(expires_ms) + key_hash


def age_of(key: bytes) -> tuple[int, bytes]:
    """Return (milliseconds, rest) of a key that starts with a time."""
    return _U64.unpack_from(key, 1)[0], key[9:]


def after(prefix: bytes) -> bytes:
    """Return the first key behind all keys that start with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])
