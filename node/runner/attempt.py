"""One attempt: its processes, its output and what is reported of it.

    starting --(program runs)--> running --(main process dead)--> clearing --> over
        |                                                            ^
        +----------------(never ran, or killed)----------------------+

The attempt ends with its main process. What that leaves behind is killed, and only when
nothing is left (`node.runner.orphans`) is the end reported. Signals to the process group
are sent while the main process is alive or not yet waited for, because only so long is its
number certain to be nobody else's.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal

from node.output import OutputCapture
from node.runner.cgroup import Cgroup
from node.runner.limits import DETAIL_CHARACTERS_MAX, DRAIN_BYTES_MAX, READ_BYTES, TAIL_BYTES_MAX
from node.runner.processes import facts_of, kill_below, signal_child
from node.runner.protocol import Cause, Ended, Launch, OutputTail, Started
from node.runner.spawn import Child
from node.runner.stopping import Step, StopPlan


class Phase(enum.Enum):
    """How far an attempt has come."""

    STARTING = enum.auto()
    RUNNING = enum.auto()
    CLEARING = enum.auto()


class Attempt:
    """A command that was forked and is not over yet."""

    def __init__(
        self,
        launch: Launch,
        child: Child,
        plan: StopPlan,
        *,
        mark: str,
        cgroup: Cgroup | None,
        started_ms: int,
        started_s: float,
    ) -> None:
        self.launch = launch
        self.plan = plan
        self.mark = mark
        self.pid = child.pid
        self.cgroup = cgroup
        self.phase = Phase.STARTING
        self.started_ticks = 0
        self.killed_s: float | None = None
        self.is_reported_stuck = False
        # Orphans of another user, which the kernel does not let us kill.
        self.untouchable: set[int] = set()
        self.output: int | None = child.output
        self.confirmation: int | None = child.confirmation
        self._failure = b""
        self._capture = OutputCapture(launch.output_bytes_max)
        self._unsent = bytearray()
        self._started_ms = started_ms
        self._started_s = started_s
        self._ended_ms = started_ms
        self._ended_s = started_s
        self._exit_code: int | None = None
        self._signal: int | None = None

    # --- start ------------------------------------------------------------------------

    def confirm(self) -> bool:
        """Read whether the program runs; return True once it is known.

        A SIGTERM that came before the program ran is delivered now: until then the child has
        neither a group of its own nor a way to handle it.
        """
        if self.confirmation is None:
            return True
        try:
            self._failure = os.read(self.confirmation, READ_BYTES)
        except BlockingIOError:
            return False
        os.close(self.confirmation)
        self.confirmation = None
        if self.phase is Phase.STARTING:
            self.phase = Phase.RUNNING
            if self.plan.is_termed:
                self._signal_group(signal.SIGTERM)
        return True

    @property
    def has_run(self) -> bool:
        """Tell whether the program was executed, as far as is known."""
        return self.confirmation is None and not self._failure

    @property
    def failure(self) -> bytes:
        """What the child reported instead of running the program."""
        return self._failure

    def started(self) -> Started:
        """Return the report of the start."""
        attempt_id = self.launch.attempt_id
        return Started(attempt_id=attempt_id, pid=self.pid, started_ms=self._started_ms)

    # --- output -----------------------------------------------------------------------

    def read_output(self) -> int:
        """Read once from the pipe; return the bytes read. At its end the pipe is closed."""
        if self.output is None:
            return 0
        try:
            chunk = os.read(self.output, READ_BYTES)
        except BlockingIOError:
            return 0
        if not chunk:
            self.close_output()
            return 0
        self._capture.append(chunk)
        if self.launch.follow:
            self._unsent += chunk
            del self._unsent[:-TAIL_BYTES_MAX]
        return len(chunk)

    def drain_output(self) -> None:
        """Read what the dead have left in the pipe, and close it."""
        left = DRAIN_BYTES_MAX
        while left > 0 and (count := self.read_output()):
            left -= count
        self.close_output()

    def close_output(self) -> None:
        """Close the pipe if it is open."""
        if self.output is not None:
            os.close(self.output)
            self.output = None

    def take_tail(self) -> OutputTail | None:
        """Return the output since the last call, or its latest part; None if there is none."""
        if not self._unsent:
            return None
        data = bytes(self._unsent)
        self._unsent.clear()
        offset = self._capture.total - len(data)
        return OutputTail(attempt_id=self.launch.attempt_id, offset=offset, data=data)

    # --- end --------------------------------------------------------------------------

    def take_step(self, step: Step, now_s: float) -> None:
        """Send what the plan says."""
        if step is Step.KILL:
            self.kill(now_s)
        elif self.phase is Phase.RUNNING:
            self._signal_group(signal.SIGTERM)

    def kill(self, now_s: float) -> None:
        """SIGKILL everything that is known of this attempt, whose main process is not over."""
        self.killed_s = now_s if self.killed_s is None else self.killed_s
        self.kill_cgroup()
        # All stop before one of them dies, so that none acts on the death of another. Those
        # below the main process die first: once it is dead, those in sessions of their own
        # can be found only as orphans, which takes another round.
        self._signal_group(signal.SIGSTOP)
        kill_below(self.pid)
        self._signal_group(signal.SIGKILL)
        # The child may not have made its own group yet.
        signal_child(self.pid, signal.SIGKILL)

    def main_died(self, status: os.waitid_result, ended_ms: int, ended_s: float) -> None:
        """Note the main process's end; call it before it is waited for."""
        self._ended_ms, self._ended_s = ended_ms, ended_s
        if status.si_code == os.CLD_EXITED:
            self._exit_code = status.si_status
        else:
            self._signal = status.si_status
        facts = facts_of(self.pid)
        self.started_ticks = facts.started_ticks if facts else 0
        self.plan.is_killed = True
        self.phase = Phase.CLEARING
        self.killed_s = ended_s if self.killed_s is None else self.killed_s
        self._signal_group(signal.SIGKILL)
        self.kill_cgroup()

    def kill_cgroup(self) -> None:
        """SIGKILL everything in the attempt's cgroup, if it has one."""
        if self.cgroup is not None:
            self.cgroup.kill()

    def kill_orphan(self, pid: int) -> None:
        """SIGKILL a child of the runner that belongs to this attempt."""
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            self.untouchable.add(pid)

    def _signal_group(self, number: int) -> None:
        # No such group: not made yet. Not permitted: all in it belong to other users.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    # --- report -----------------------------------------------------------------------

    def ended(self, failure: str) -> Ended:
        """Return the report of the end; `failure` says why the program did not run."""
        cause: Cause = "spawn_failed" if failure else self.plan.cause
        detail = failure or self._detail()
        if self.untouchable:
            pids = ", ".join(map(str, sorted(self.untouchable)))
            detail += f" Left alive, because they belong to other users: process {pids}."
        ran = not failure
        return Ended(
            attempt_id=self.launch.attempt_id,
            cause=cause,
            detail=detail[:DETAIL_CHARACTERS_MAX],
            exit_code=self._exit_code if ran else None,
            signal=self._signal if ran else None,
            started_ms=self._started_ms if ran else None,
            ended_ms=self._ended_ms,
            duration_ms=round((self._ended_s - self._started_s) * 1000) if ran else 0,
            output=self._capture.render() if ran else b"",
            output_total_bytes=self._capture.total if ran else 0,
        )

    def _detail(self) -> str:
        if self._signal is None:
            how = f"It exited with status {self._exit_code}."
        else:
            by_us = self.plan.is_stopping
            how = f"It was ended by {signal_name(self._signal)}"
            how += "." if by_us else ", which the runner did not send."
        return f"{self.plan.detail} {how}".strip()


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
