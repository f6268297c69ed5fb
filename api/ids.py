"""Identifiers as the API writes them, and back.

A job's id is its 16 bytes as 32 lower-case hexadecimal digits. A run's id names the job,
the nominal instant in milliseconds and, if it was started by hand, a number that tells it
from others of the same instant:

    0193577f0a4b7c119e1d2f3a4b5c6d7e.1764036000000
    0193577f0a4b7c119e1d2f3a4b5c6d7e.1764036000000.m5f0c9a12

So the id of a scheduled run is known before the run exists. There is one way to write
each identifier; text that is almost right is refused and not guessed at.
"""

from __future__ import annotations

import re

from api.durations import TIME_MS_MAX
from storage.keys import TRIGGER_MANUAL, TRIGGER_SCHEDULE, run_key, split_run

JOB_ID_PATTERN = "[0-9a-f]{32}"
RUN_ID_PATTERN = rf"{JOB_ID_PATTERN}\.(?:0|[1-9][0-9]{{0,14}})(?:\.m[0-9a-f]{{8}})?"

_JOB = re.compile(JOB_ID_PATTERN)
_RUN = re.compile(rf"({JOB_ID_PATTERN})\.(0|[1-9][0-9]{{0,14}})(?:\.m([0-9a-f]{{8}}))?")
_STAMP_BYTES = 6


def format_job_id(job: bytes) -> str:
    return job.hex()


def parse_job_id(text: str) -> bytes | None:
    """Return the bytes of a job's id, or None if the text is none."""
    return bytes.fromhex(text) if _JOB.fullmatch(text) else None


def format_run_id(run: bytes) -> str:
    """Return the public id of a run from its key (`storage.keys.run_key`)."""
    job, scheduled_ms, trigger, nonce = split_run(run)
    scheduled = f"{job.hex()}.{scheduled_ms}"
    return scheduled if trigger == TRIGGER_SCHEDULE else f"{scheduled}.m{nonce:08x}"


def parse_run_id(text: str) -> bytes | None:
    """Return the key of a run from its public id, or None if the text is none."""
    matched = _RUN.fullmatch(text)
    if matched is None or int(matched[2]) > TIME_MS_MAX:
        return None
    job, scheduled_ms = bytes.fromhex(matched[1]), int(matched[2])
    if matched[3] is None:
        return run_key(job, scheduled_ms)
    return run_key(job, scheduled_ms, TRIGGER_MANUAL, int(matched[3], 16))


def born_ms(job: bytes) -> int:
    """Return when a job's id was made: a UUID of version 7 begins with its time.

    It is the moment as of which its creation was worked out, so whoever has the id can
    work it out again and come to the same result.
    """
    return int.from_bytes(job[:_STAMP_BYTES], "big")
