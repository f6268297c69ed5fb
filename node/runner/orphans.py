"""Tell which attempt an orphan belongs to, so that an end leaves nothing behind.

The runner is the subreaper of all it launched: whoever loses its parent becomes the
runner's own child, however often it forked and whatever session it made. So when an
attempt's main process is dead, whatever is left of that attempt hangs below a child of the
runner that is no attempt's main process: an orphan. Kill the attempt's orphans, wait for
them, look again; when none is left, nothing of the attempt is. That is a proof, and it
needs no cgroup, only the attribution of orphans, in this order:

1. its cgroup, where there are cgroups;
2. the mark in its environment, which children inherit;
3. its session, if it has not made one of its own;
4. otherwise it hid where it comes from. It then dies with the first attempt to end that it
   may belong to by its age. A process that is launched to stay has no business under a
   scheduler that promises that nothing does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from node.runner.cgroup import Cgroup
from node.runner.processes import children_of, environment_of, facts_of, mark_in


class Ancestor(Protocol):
    """What orphans are attributed to: an attempt."""

    @property
    def mark(self) -> str:
        """The value of the mark in its environment."""

    @property
    def pid(self) -> int:
        """The number of its main process, which is also its first session's."""

    @property
    def cgroup(self) -> Cgroup | None:
        """Its cgroup, if it has one."""

    @property
    def started_ticks(self) -> int:
        """When its main process started, in ticks since the machine's start."""


class Orphans:
    """The children of this process that it did not launch."""

    def __init__(self) -> None:
        self._owners: dict[int, Ancestor] = {}
        self._seen_empty: set[int] = set()
        self._ignored: set[int] = set()

    def of(
        self, ended: Ancestor, attempts: Collection[Ancestor], mains: Collection[int]
    ) -> tuple[list[int], int]:
        """Return (orphans that belong to `ended`, orphans that cannot be judged yet).

        `attempts` are all that are not over, `mains` their main processes not yet waited for.
        """
        own: list[int] = []
        undecided = 0
        for pid in children_of(os.getpid()):
            if pid in mains or pid in self._ignored:
                continue
            owner = self._owners.get(pid) or self._find_owner(pid, attempts)
            if owner is not None:
                if owner is ended:
                    own.append(pid)
            elif self._is_between_programs(pid):
                undecided += 1
            elif self._may_descend_from(pid, ended):
                own.append(pid)
        return own, undecided

    def ignore(self, pids: Iterable[int]) -> None:
        """Leave processes alone that cannot be killed, after that was reported."""
        self._ignored.update(pids)

    def forget(self, pid: int) -> None:
        """Drop a process that was waited for; its number may come back."""
        self._owners.pop(pid, None)
        self._ignored.discard(pid)
        self._seen_empty.discard(pid)

    def _find_owner(self, pid: int, attempts: Iterable[Ancestor]) -> Ancestor | None:
        mark = mark_in(environment_of(pid))
        facts = facts_of(pid)
        session = facts.session if facts else None
        tests: tuple[Callable[[Ancestor], bool], ...] = (
            lambda attempt: attempt.cgroup is not None and attempt.cgroup.holds(pid),
            lambda attempt: attempt.mark == mark,
            lambda attempt: attempt.pid == session,
        )
        for is_owner in tests:
            for attempt in attempts:
                if is_owner(attempt):
                    # An orphan keeps its number until it is waited for, and its origin.
                    self._owners[pid] = attempt
                    return attempt
        return None

    def _is_between_programs(self, pid: int) -> bool:
        """Tell whether an empty environment may only mean that it executes a program now."""
        if pid in self._seen_empty or environment_of(pid):
            return False
        self._seen_empty.add(pid)
        return True

    @staticmethod
    def _may_descend_from(pid: int, attempt: Ancestor) -> bool:
        facts = facts_of(pid)
        return facts is None or facts.started_ticks >= attempt.started_ticks
