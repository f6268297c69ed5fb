"""The runner's loop: one thread that never waits for a job, a disk or the node.

Every round it handles what became readable, then whatever is due, then sends what it has to
say. The order of trust is: leases and kills take effect as soon as they are read, launches
wait in a queue of which a few are started per round, so that a burst of launches delays no
kill. The node may be silent, stopped or dead; what its lease does not cover is killed all
the same, and when the connection closes, everything is.
"""

from __future__ import annotations

import math
import os
import selectors
import socket
from collections import OrderedDict
from collections.abc import Callable

from node.runner.attempt import Attempt
from node.runner.cgroup import CgroupPool
from node.runner.descriptors import DescriptorLimits
from node.runner.limits import (
    DETAIL_CHARACTERS_MAX,
    LAUNCHES_PER_ROUND,
    LEASE_AHEAD_S_MAX,
    POLL_S_MAX,
    READ_BYTES,
    RECHECK_S,
    STUCK_S,
    TAIL_BACKLOG_BYTES_MAX,
    TAIL_INTERVAL_S,
)
from node.runner.orphans import Orphans
from node.runner.processes import MARK_VARIABLE
from node.runner.protocol import (
    Cause,
    Ended,
    FrameError,
    Kill,
    Launch,
    Lease,
    LeaseHeld,
    Message,
    Stuck,
    encode_frame,
    node_frames,
)
from node.runner.spawn import environment_for, failure_sentence, refusal_of, start_command
from node.runner.stopping import StopPlan
from storage.clock import Environment


class Supervisor:
    """Launch, watch and end the commands of one node.

    `mark_prefix` names this life of the runner in the marks of what it launches, `wakeup`
    becomes readable when a child has died (`signal.set_wakeup_fd`).
    """

    def __init__(
        self,
        connection: socket.socket,
        wakeup: int,
        environment: Environment,
        *,
        mark_prefix: str,
        cgroups: CgroupPool | None,
        descriptors: DescriptorLimits,
    ) -> None:
        self._connection = connection
        self._wakeup = wakeup
        self._clock = environment
        self._mark_prefix = mark_prefix
        self._cgroups = cgroups
        self._descriptors = descriptors
        self._selector = selectors.DefaultSelector()
        self._frames = node_frames()
        self._outbox = bytearray()
        self._is_connected = True
        self._waits_for_room = False
        # Before the node has said how long its lease is good, nothing may start.
        self._lease_until_s = -math.inf
        self._queue: OrderedDict[str, Launch] = OrderedDict()
        self._attempts: dict[str, Attempt] = {}
        self._by_pid: dict[int, Attempt] = {}
        self._clearing: dict[str, Attempt] = {}
        self._orphans = Orphans()
        self._launches = 0
        self._next_due_s = math.inf
        self._recheck_due_s = math.inf
        self._tail_due_s = math.inf

    def run(self) -> None:
        """Serve until the node closes the connection.

        Raises:
            FrameError: the node sent something that is no message.
        """
        self._connection.setblocking(False)
        self._watch(self._connection.fileno(), self._receive)
        self._watch(self._wakeup, self._reap)
        while self._is_connected:
            for key, mask in self._selector.select(self._sleep_s()):
                # An earlier event of this round may have closed what this one is about.
                if key.fd in self._selector.get_map():
                    self._handle(key, mask)
            self._start_some()
            self._do_what_is_due()
            self._send_outbox()
        self._selector.close()

    def _watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, on_readable)

    def _handle(self, key: selectors.SelectorKey, mask: int) -> None:
        if mask & selectors.EVENT_READ:
            key.data()

    def _sleep_s(self) -> float | None:
        if self._queue:
            return 0.0
        if not self._attempts:
            return None
        due_s = min(self._next_due_s, self._recheck_due_s, self._tail_due_s)
        return min(max(0.0, due_s - self._clock.monotonic_s()), POLL_S_MAX)

    # --- messages ---------------------------------------------------------------------

    def _receive(self) -> None:
        try:
            data = self._connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._is_connected = False
            return
        for message in self._frames.feed(data):
            if isinstance(message, Lease):
                self._guard(message)
            elif isinstance(message, Kill):
                self._stop(message)
            else:
                self._take(message)

    def _guard(self, lease: Lease) -> None:
        ahead_s = lease.until_s - self._clock.monotonic_s()
        # Not a number compares as false, and infinity is too far ahead.
        if not ahead_s <= LEASE_AHEAD_S_MAX:
            raise FrameError(f"A lease ends {ahead_s} s ahead, more than {LEASE_AHEAD_S_MAX} s.")
        self._lease_until_s = lease.until_s
        self._next_due_s = -math.inf
        self._say(LeaseHeld(until_s=lease.until_s))

    def _stop(self, kill: Kill) -> None:
        launch = self._queue.pop(kill.attempt_id, None)
        attempt = self._attempts.get(kill.attempt_id)
        if launch is not None:
            self._end_unstarted(launch, kill.cause, kill.reason)
        elif attempt is not None:
            grace_s = None if kill.grace_ms is None else kill.grace_ms / 1000
            attempt.plan.stop(self._clock.monotonic_s(), kill.cause, kill.reason, grace_s)
            self._next_due_s = -math.inf

    def _take(self, launch: Launch) -> None:
        if launch.attempt_id in self._queue or launch.attempt_id in self._attempts:
            raise FrameError(f"Attempt {launch.attempt_id!r} was launched twice.")
        attempts_max = self._descriptors.attempts_max
        if len(self._queue) + len(self._attempts) >= attempts_max:
            full = f"The runner is full: {attempts_max} attempts are in flight."
            self._end_unstarted(launch, "spawn_failed", full)
        else:
            self._queue[launch.attempt_id] = launch

    def _say(self, message: Message) -> None:
        self._outbox += encode_frame(message)

    def _send_outbox(self) -> None:
        """Send what fits; the rest waits until the node reads, bounded by what is in flight."""
        try:
            while self._outbox:
                del self._outbox[: self._connection.send(self._outbox)]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._is_connected = False
        if bool(self._outbox) != self._waits_for_room:
            self._waits_for_room = not self._waits_for_room
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
            self._selector.modify(self._connection, events, self._receive)

    # --- launches ---------------------------------------------------------------------

    def _start_some(self) -> None:
        for _ in range(min(LAUNCHES_PER_ROUND, len(self._queue))):
            _, launch = self._queue.popitem(last=False)
            self._start(launch)

    def _start(self, launch: Launch) -> None:
        self._launches += 1
        mark = f"{self._mark_prefix}.{self._launches}"
        environment = environment_for(launch, {MARK_VARIABLE: mark})
        refusal = refusal_of(launch, environment)
        if refusal is not None:
            self._end_unstarted(launch, "spawn_failed", refusal)
            return
        now_s = self._clock.monotonic_s()
        plan = StopPlan(
            now_s=now_s,
            timeout_s=None if launch.timeout_ms is None else launch.timeout_ms / 1000,
            grace_s=launch.grace_ms / 1000,
            must_stop_with_lease=launch.must_stop_with_lease,
        )
        if plan.refuses_to_start(now_s, self._lease_until_s):
            self._end_unstarted(launch, "lease", "Not started: the node's lease is over or ends.")
            return
        try:
            self._fork(launch, environment, plan, mark, now_s)
        except OSError as error:
            sentence = f"The runner could not start another process: {error.strerror}."
            self._end_unstarted(launch, "spawn_failed", sentence)

    def _fork(
        self,
        launch: Launch,
        environment: dict[str, str],
        plan: StopPlan,
        mark: str,
        now_s: float,
    ) -> None:
        cgroup = self._cgroups.create(str(self._launches)) if self._cgroups else None
        try:
            entry = cgroup.entry if cgroup else None
            child = start_command(launch, environment, entry, self._descriptors.inherited)
        except OSError:
            if cgroup is not None:
                cgroup.remove()
            raise
        started_ms = self._clock.wall_ms()
        attempt = Attempt(
            launch, child, plan, mark=mark, cgroup=cgroup, started_ms=started_ms, started_s=now_s
        )
        self._attempts[launch.attempt_id] = attempt
        self._by_pid[attempt.pid] = attempt
        self._watch(child.output, lambda: self._read_output(attempt, child.output))
        self._watch(child.confirmation, lambda: self._confirm(attempt, child.confirmation))
        self._next_due_s = min(self._next_due_s, plan.next_due_s(self._lease_until_s))

    def _end_unstarted(self, launch: Launch, cause: Cause, detail: str) -> None:
        detail, now_ms = detail[:DETAIL_CHARACTERS_MAX], self._clock.wall_ms()
        self._say(Ended(attempt_id=launch.attempt_id, cause=cause, detail=detail, ended_ms=now_ms))

    def _confirm(self, attempt: Attempt, descriptor: int) -> None:
        if attempt.confirm():
            self._selector.unregister(descriptor)
            if attempt.has_run:
                self._say(attempt.started())

    def _read_output(self, attempt: Attempt, descriptor: int) -> None:
        attempt.read_output()
        if attempt.output is None:
            self._selector.unregister(descriptor)
        elif attempt.launch.follow and self._tail_due_s == math.inf:
            self._tail_due_s = self._clock.monotonic_s() + TAIL_INTERVAL_S

    # --- what is due ------------------------------------------------------------------

    def _do_what_is_due(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._next_due_s:
            self._advance_plans(now_s)
        if now_s >= self._recheck_due_s:
            self._clear(now_s)
        if now_s >= self._tail_due_s:
            self._send_tails()

    def _advance_plans(self, now_s: float) -> None:
        due_s = math.inf
        for attempt in self._attempts.values():
            while (step := attempt.plan.advance(now_s, self._lease_until_s)) is not None:
                attempt.take_step(step, now_s)
            due_s = min(due_s, attempt.plan.next_due_s(self._lease_until_s))
            due_s = min(due_s, self._report_if_stuck(attempt, now_s))
        self._next_due_s = due_s

    def _report_if_stuck(self, attempt: Attempt, now_s: float) -> float:
        """Return when an attempt that was killed is to be reported as stuck."""
        if attempt.killed_s is None or attempt.is_reported_stuck:
            return math.inf
        if now_s < attempt.killed_s + STUCK_S:
            return attempt.killed_s + STUCK_S
        attempt.is_reported_stuck = True
        detail = (
            f"Killed {STUCK_S} s ago and not dead yet: process {attempt.pid} or one of its own."
        )
        self._say(Stuck(attempt_id=attempt.launch.attempt_id, detail=detail))
        return math.inf

    def _send_tails(self) -> None:
        self._tail_due_s = math.inf
        for attempt in self._attempts.values():
            if len(self._outbox) > TAIL_BACKLOG_BYTES_MAX:
                return
            tail = attempt.take_tail()
            if tail is not None:
                self._say(tail)

    # --- ends -------------------------------------------------------------------------

    def _reap(self) -> None:
        """Take note of every child that died, and finish the attempts that are over."""
        os.read(self._wakeup, READ_BYTES)
        now_s = self._clock.monotonic_s()
        while (status := _next_dead_child()) is not None:
            attempt = self._by_pid.pop(status.si_pid, None)
            if attempt is None:
                self._orphans.forget(status.si_pid)
            else:
                self._note_death(attempt, status, now_s)
            # Its number is free for others from here on.
            os.waitpid(status.si_pid, 0)
        self._clear(now_s)

    def _note_death(self, attempt: Attempt, status: os.waitid_result, now_s: float) -> None:
        if attempt.confirmation is not None:
            self._confirm(attempt, attempt.confirmation)
        attempt.main_died(status, self._clock.wall_ms(), now_s)
        self._clearing[attempt.launch.attempt_id] = attempt
        self._next_due_s = min(self._next_due_s, now_s + STUCK_S)

    def _clear(self, now_s: float) -> None:
        for attempt in list(self._clearing.values()):
            if self._is_cleared(attempt):
                self._finish(attempt)
        self._recheck_due_s = now_s + RECHECK_S if self._clearing else math.inf

    def _is_cleared(self, attempt: Attempt) -> bool:
        """Kill what is left of an attempt; return True when nothing is."""
        orphans, undecided = self._orphans.of(attempt, self._attempts.values(), self._by_pid)
        for pid in orphans:
            attempt.kill_orphan(pid)
        if undecided or set(orphans) - attempt.untouchable:
            return False
        if attempt.cgroup is not None and attempt.cgroup.is_populated():
            attempt.kill_cgroup()
            return bool(attempt.untouchable)
        return True

    def _finish(self, attempt: Attempt) -> None:
        if attempt.output is not None:
            self._selector.unregister(attempt.output)
            attempt.drain_output()
        if attempt.cgroup is not None:
            attempt.cgroup.remove()
        self._orphans.ignore(attempt.untouchable)
        del self._attempts[attempt.launch.attempt_id]
        del self._clearing[attempt.launch.attempt_id]
        failure = ""
        if attempt.failure:
            path = environment_for(attempt.launch, {})["PATH"]
            failure = failure_sentence(attempt.failure, attempt.launch, path)
        self._say(attempt.ended(failure))


def _next_dead_child() -> os.waitid_result | None:
    """Return a child that died and was not waited for, leaving it so; None if there is none."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
