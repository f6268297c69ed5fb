"""Find processes in /proc and kill them without hitting a stranger.

A process number is reused once its process has been waited for. A child of ours keeps its
number until we wait for it, so signals to children are safe. Everybody else is signalled
through a pidfd that was opened first and checked afterwards: should the number have changed
hands in between, the check sees the new process or the signal finds the old one gone.
"""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

# The variable that marks what was launched by a runner. Its value is
# `<home>.<runner>.<number>`: the lock file, the runner's life, the launch.
MARK_VARIABLE = "CRONCLAVE_ATTEMPT_TOKEN"
_MARK = MARK_VARIABLE.encode() + b"="
# A kernel may be built without them (CONFIG_PROC_CHILDREN).
_HAS_CHILD_LISTS = os.path.exists("/proc/thread-self/children")


class Facts(NamedTuple):
    """What /proc/<pid>/stat says (proc_pid_stat(5))."""

    state: str
    parent: int
    session: int
    started_ticks: int  # since the machine's start

    @property
    def is_dead(self) -> bool:
        """Tell whether it only waits to be waited for."""
        return self.state in {"Z", "X"}


def _read(path: str) -> bytes:
    """Return a file's bytes; none if the process is gone or belongs to somebody else."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def facts_of(pid: int) -> Facts | None:
    """Return what is known of a process, or None if there is none of that number."""
    # The command's name stands in parentheses and may itself contain some.
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not fields:
        return None
    return Facts(fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))


def all_pids() -> list[int]:
    """Return the numbers of all processes that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def children_of(pid: int) -> list[int]:
    """Return the children of a process, dead ones included.

    Of the calling process, if it alone waits for its children, the list is complete: a child
    leaves it only by being waited for, and newcomers are appended.
    """
    if not _HAS_CHILD_LISTS:
        return children_by_parent(pid)
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    lists = (_read(f"/proc/{pid}/task/{task}/children").split() for task in tasks)
    return [int(child) for children in lists for child in children]


def children_by_parent(pid: int) -> list[int]:
    """Return the children of a process by looking at every process there is."""
    return [
        other
        for other in all_pids()
        if (facts := facts_of(other)) is not None and facts.parent == pid
    ]


def environment_of(pid: int) -> bytes:
    """Return the environment that a process was started with; empty if it cannot be read.

    It is also empty for a dead process, and for a moment while a process executes a program.
    """
    return _read(f"/proc/{pid}/environ")


def mark_in(environment: bytes) -> str | None:
    """Return the runner's mark in an environment, or None if it has none."""
    for variable in environment.split(b"\0"):
        if variable.startswith(_MARK):
            return variable[len(_MARK) :].decode("ascii", "replace")
    return None


def kill_below(pid: int) -> None:
    """SIGKILL everything below a child of ours, also what left its session and group.

    The child itself is stopped, and its descendants before they are killed. So nobody sees a
    relative die: a script does not go on to its next line, a reader does not take the end of
    its pipe for the end of the data. The caller kills the child afterwards.

    What escapes by being born meanwhile is found later: when its parents are dead it becomes
    a child of the subreaper.
    """
    signal_child(pid, signal.SIGSTOP)
    family = _stop_below(pid)
    # The youngest first: a group that loses its last parent would be told to continue.
    for child, parent in reversed(family):
        _signal_offspring(child, parent, signal.SIGKILL)


def signal_child(pid: int, number: int) -> bool:
    """Signal a child of ours that was not waited for; return False if the kernel forbids it."""
    try:
        os.kill(pid, number)
    except PermissionError:
        return False
    return True


def _stop_below(pid: int) -> list[tuple[int, int]]:
    """SIGSTOP everything below a stopped child; return (process, parent), parents first.

    A process with a signal pending cannot fork, so the children listed after it was stopped
    are all it has.
    """
    family: list[tuple[int, int]] = []
    parents = [pid]
    while parents:
        parent = parents.pop()
        for child in children_of(parent):
            _signal_offspring(child, parent, signal.SIGSTOP)
            family.append((child, parent))
            parents.append(child)
    return family


def _signal_offspring(pid: int, parent: int, number: int) -> None:
    """Signal a process that is not our child, if it is still one of `parent`.

    It may be of another user; then the kernel keeps it from us.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_child(pid, parent):
            signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        os.close(handle)


def _is_child(pid: int, parent: int) -> bool:
    facts = facts_of(pid)
    return facts is not None and facts.parent == parent
