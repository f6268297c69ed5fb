"""Every bound of the runner, with the reason for its value."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# --- messages -------------------------------------------------------------------------

# What one attempt may keep of its output. It travels in one frame with its end, is kept
# in the node's spool and is replicated; a job that needs more writes a file.
OUTPUT_BYTES_MAX = MIB
# Standard input comes out of the job's definition, which is a log entry.
STDIN_BYTES_MAX = MIB
# The kernel takes a quarter of the stack limit for arguments and environment together,
# 2 MiB by default; half of that works on every machine that was not made smaller.
ARGUMENTS_BYTES_MAX = MIB
# The kernel's limit for one string (MAX_ARG_STRLEN, 32 pages with the closing zero byte).
ARGUMENT_BYTES_MAX = 128 * KIB - 1
# The largest launch (arguments and input) and the largest end (output) fit with room for
# the rest. A longer frame means that the two sides have lost each other.
FRAME_BYTES_MAX = 4 * MIB
# The longest sentence that explains an end.
DETAIL_CHARACTERS_MAX = 1000

# --- how many -------------------------------------------------------------------------

# As many as a node has slots at most (`node.slots`), so that no slot is one in name only.
# Where the system allows fewer open files, the runner says how many it takes (`Ready`).
ATTEMPTS_IN_FLIGHT_MAX = 10_000
# An attempt holds one descriptor, two while it starts; the runner itself needs a few. It
# raises its own soft limit, and a command gets back the one that the runner was given:
# commands inherit it, and those that use select() rely on it.
DESCRIPTORS_PER_ATTEMPT = 2
DESCRIPTORS_RESERVED = 64
# A launch costs the runner about half a millisecond. Between two rounds it looks at leases,
# deadlines and output, so this is also the delay that a burst of launches causes to those.
LAUNCHES_PER_ROUND = 8
# One read per readable pipe and round: a chatty command gets no more than its turn. It is
# the default capacity of a pipe.
READ_BYTES = 64 * KIB
# What may still be in a pipe when every process of the attempt is dead (the largest size
# that an unprivileged process can give a pipe); more can only come from a stranger.
DRAIN_BYTES_MAX = MIB

# --- following output -----------------------------------------------------------------

# Output on the way to whoever watches: quick enough to look live, few enough frames.
TAIL_INTERVAL_S = 0.25
# What one such frame carries; of more, the latest.
TAIL_BYTES_MAX = 16 * KIB
# While the node does not read, no further tails are queued for it; the end has it all.
TAIL_BACKLOG_BYTES_MAX = MIB

# --- time -----------------------------------------------------------------------------

# SIGKILL is sent this long before the lease ends: for the delay of a loaded machine, for
# one round of work, and for the kernel to take down what the processes hold.
KILL_MARGIN_S = 0.5
# A job's grace may be minutes, a lease is seconds. What a command gets between SIGTERM and
# SIGKILL when the lease runs out is its grace, but no more than this; with its full grace
# it would have to be stopped while the lease is still being renewed in time.
LEASE_GRACE_S_MAX = 1.0
# A lease further ahead than this was not measured on this machine's clock.
LEASE_AHEAD_S_MAX = 3600.0
# The longest sleep while attempts are live. Waiting in the kernel does not count the time a
# machine was suspended, the lease does; this is how late the runner wakes up to it.
POLL_S_MAX = 0.2
# Timeouts and graces beyond a year are mistakes in units.
DURATION_MS_MAX = 366 * 86_400_000
# How soon to look again at processes that were killed and are not gone yet. Their deaths
# are announced by SIGCHLD; this is for those that are announced to somebody else.
RECHECK_S = 0.02
# A process that outlives SIGKILL for this long is in the kernel (a dead disk or network
# file system). The node is told; the attempt stays open, because it has not ended.
STUCK_S = 5.0

# --- start and stop -------------------------------------------------------------------

# For the lock of a runner that is just leaving; longer waits belong to the node.
LOCK_WAIT_S = 2.0
# For the trial process in the first cgroup; without an answer cgroups are not used.
PROBE_S_MAX = 2.0
# For finding and killing what an earlier, killed runner left behind.
SWEEP_S_MAX = 5.0
# From the start of the process to `Ready`: the interpreter, the probe and the sweep.
START_S_MAX = 20.0
# From closing the connection to the runner's exit. After that it is killed.
STOP_S_MAX = 10.0
# A runner that leaves a lease unconfirmed for this long guards nothing; the node kills it
# while its lease still holds, and the kernel kills the commands with it.
SILENCE_S_MAX = 2.0

# --- exit statuses (sysexits.h; an exception that nobody expected is Python's 1) -------

EXIT_USAGE = 64
EXIT_LOCKED = 75
EXIT_PROTOCOL = 76

DESCRIPTORS_MAX = DESCRIPTORS_PER_ATTEMPT * ATTEMPTS_IN_FLIGHT_MAX + DESCRIPTORS_RESERVED
LARGEST_LAUNCH_BYTES = ARGUMENTS_BYTES_MAX + STDIN_BYTES_MAX

if not (
    LARGEST_LAUNCH_BYTES + 64 * KIB <= FRAME_BYTES_MAX
    and OUTPUT_BYTES_MAX + 64 * KIB <= FRAME_BYTES_MAX
    and POLL_S_MAX < KILL_MARGIN_S
    and RECHECK_S < KILL_MARGIN_S
):
    raise AssertionError("The limits of node/runner/limits.py contradict each other.")
