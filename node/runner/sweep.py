"""Kill what a runner left behind that was itself killed.

A runner that ends, even by an error, ends its children first. One that is killed with
SIGKILL cannot; the kernel then kills the main processes (PR_SET_PDEATHSIG), while what
those had started becomes somebody else's child. All of it still carries the mark of the
data directory in its environment. The next runner sweeps before it reports that it is
ready, and a node that sees its runner die sweeps before it stops. What has cleared its
environment is missed here; a cgroup, where there is one, does not miss it.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

from node.runner.processes import all_pids, environment_of, mark_in
from storage.clock import Environment


class LeftoversAlive(Exception):
    """What an earlier runner left behind is still alive after it was killed."""


def marked_pids(home: str) -> Iterator[int]:
    """Yield the living processes that carry a mark of this home, the caller excepted."""
    for pid in all_pids():
        if pid != os.getpid() and _is_of(pid, home):
            yield pid


def _is_of(pid: int, home: str) -> bool:
    mark = mark_in(environment_of(pid))
    return mark is not None and mark.startswith(home + ".")


def sweep(home: str, clock: Environment, wait_s: float) -> int:
    """SIGKILL everything that carries a mark of this home; return how many there were.

    It returns when a look at all processes has found nothing more. It blocks.

    Raises:
        LeftoversAlive: some are not dead after `wait_s`, or belong to another user.
    """
    until_s = clock.monotonic_s() + wait_s
    swept = 0
    while handles := _kill_marked(home):
        swept += len(handles)
        try:
            _wait_for_deaths(handles, clock, until_s)
        finally:
            for handle in handles:
                os.close(handle)
    return swept


def _kill_marked(home: str) -> dict[int, int]:
    """Kill what is found in one look; return its open pidfds with their numbers."""
    handles: dict[int, int] = {}
    for pid in marked_pids(home):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        handles[handle] = pid
        try:
            # The number may have changed hands before it was opened.
            if _is_of(pid, home):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise LeftoversAlive(f"Process {pid} belongs to another user.") from error
    return handles


def _wait_for_deaths(handles: dict[int, int], clock: Environment, until_s: float) -> None:
    alive = dict(handles)
    deaths = select.poll()
    for handle in alive:
        deaths.register(handle, select.POLLIN)
    while alive:
        left_ms = (until_s - clock.monotonic_s()) * 1000
        ready = deaths.poll(left_ms) if left_ms > 0 else []
        if not ready:
            pids = ", ".join(map(str, sorted(alive.values())))
            raise LeftoversAlive(f"Still alive after SIGKILL: process {pids}.")
        for handle, _ in ready:
            deaths.unregister(handle)
            del alive[handle]
