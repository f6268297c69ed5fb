"""What the command's exit status says, and the failure that carries it."""

from __future__ import annotations

OK = 0
ERROR = 1
USAGE = 2
NOT_FOUND = 3
CONFLICT = 4
FORBIDDEN = 5
UNAVAILABLE = 6
RUN_FAILED = 7
TIMEOUT = 124
INTERRUPTED = 130

MEANINGS = (
    (OK, "it worked"),
    (ERROR, "it failed, or the request was refused as it is"),
    (USAGE, "the command line makes no sense"),
    (NOT_FOUND, "there is no such job, run or file"),
    (CONFLICT, "it contradicts the present state: name taken, changed meanwhile, ended already"),
    (FORBIDDEN, "not allowed"),
    (UNAVAILABLE, "no node answers, or the cluster has no quorum; nothing was changed"),
    (RUN_FAILED, "`job run --wait`: the run did not succeed"),
    (TIMEOUT, "the time is up; whether a change took effect is not known"),
    (INTERRUPTED, "interrupted with Ctrl-C"),
)
OF_STATUS = {
    401: FORBIDDEN,
    403: FORBIDDEN,
    404: NOT_FOUND,
    409: CONFLICT,
    412: CONFLICT,
    428: CONFLICT,
    429: UNAVAILABLE,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: TIMEOUT,
}


class CommandFailed(Exception):
    """A failure for the user: what went wrong, what to do, and the exit status."""

    def __init__(self, message: str, exit_status: int = ERROR) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def epilog() -> str:
    """Return the table of exit statuses as lines of text."""
    return "\n".join(f"  {status:>3}  {meaning}" for status, meaning in MEANINGS)
