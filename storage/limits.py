"""Every bound of the program, with its reason; the relations between them are checked here.

A queue, batch, body, retry or loop without a bound is a fault that waits for its day.
"""

from __future__ import annotations

from storage.keys import BANDS, SELECTIVE_BAND

# --- Jobs -----------------------------------------------------------------------------
NAMESPACE_CHARS_MAX = 64
NAME_CHARS_MAX = 200  # at most 4 bytes each in UTF-8 would pass LMDB's 511; names are ASCII
DESCRIPTION_CHARS_MAX = 2_000
LABELS_MAX = 32
LABEL_CHARS_MAX = 128
PRIORITY_MAX = 100
ATTEMPTS_MAX = 100
TIMEOUT_MS_MAX = 30 * 86_400_000
DEFINITION_BYTES_MAX = 65_536  # a job is replicated and kept on every member for ever
OUTPUT_BYTES_MAX = 1_048_576  # fits, with its report, into half a log entry

# --- Requests -------------------------------------------------------------------------
BODY_BYTES_MAX = 1_048_576
BATCH_BODY_BYTES_MAX = 16 * 1_048_576
BATCH_ITEMS_MAX = 10_000
PAGE_ITEMS_DEFAULT = 50
PAGE_ITEMS_MAX = 1_000
# A page with filters looks at this many rows at most, then hands out a cursor: a filter
# that matches nothing must not turn into a walk through the whole table.
PAGE_ROWS_SCANNED_MAX = 5_000
IDEMPOTENCY_KEY_CHARS_MAX = 255
ANSWER_KEPT_MS = 86_400_000
WAIT_MS_MAX = 60_000

# --- The log --------------------------------------------------------------------------
ENTRY_BYTES_MAX = 2 * 1_048_576  # half of what one message to a peer may carry
BATCH_BYTES_MAX = ENTRY_BYTES_MAX - 65_536
BATCH_COMMANDS_MAX = 2_000  # one entry is applied without yielding to the loop
COMMANDS_WAITING_MAX = 20_000  # beyond it a request is answered 429 at once
ENTRIES_IN_FLIGHT_MAX = 4  # more would only queue at the disk; fewer would let it idle
PROPOSAL_MS_MAX = 10_000

# --- Runs -----------------------------------------------------------------------------
CLAIM_ITEMS_MAX = 500
CLAIM_AHEAD_MS_MAX = 60_000  # a claim further ahead is a clock gone wrong
SKIPPED_RANGES_MAX = 16
REPORT_ITEMS_MAX = 1_000
LIVE_RUNS_PER_JOB_MAX = 1_000  # their keys are one record
ATTEMPTS_KEPT_MAX = 20  # of a run's past attempts the last ones are kept in its record
LOST_ATTEMPTS_MAX = 10  # a run that takes its member down ten times is not tried again
EXPIRE_RUNS_MAX = 256
CLEAN_ITEMS_MAX = 256

# --- Members --------------------------------------------------------------------------
TOKENS_MAX = 100  # open at once; each is a certificate and a key of a few kilobytes
TOKEN_MS_MAX = 7 * 86_400_000
BUNDLE_BYTES_MAX = 16_384
OUTPUT_CHUNK_BYTES = 65_536

assert BATCH_BYTES_MAX < ENTRY_BYTES_MAX
assert OUTPUT_BYTES_MAX < ENTRY_BYTES_MAX // 2 + 1
assert PAGE_ITEMS_DEFAULT <= PAGE_ITEMS_MAX <= PAGE_ROWS_SCANNED_MAX
assert CLAIM_ITEMS_MAX <= BATCH_COMMANDS_MAX
assert BANDS <= SELECTIVE_BAND
assert DEFINITION_BYTES_MAX < BODY_BYTES_MAX < BATCH_BODY_BYTES_MAX
