"""A runner that launches nothing, and everything that it promises about what it launches.

It stands beside a node's process, not in it. What it decides, it decides with the real
`StopPlan` on the host's clock: it starts nothing that the lease does not cover, stops at
the lease's end what must not overlap, also while the node hangs, and kills everything when
the node is gone. What it cannot promise it does not do here either: a killed command takes
a moment to die, one that is asked to end may not listen.

A command runs for a time and comes to an end that a hash of its attempt decides, so it does
the same wherever and whenever it is launched. `Launches` sees every start and every death
in true time, which is what the promises about overlap are judged by: no report is trusted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from node.runner.protocol import Cause, KillCause
from node.runner.stopping import Step, StopPlan
from node.runner_client import CommandRequest, CommandResult, RunnerDied, Started
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.virtual_process import HostClock, Process

# How long the kernel and the runner take for what they do at once.
MOMENT_S = (0.0005, 0.02)
SIGTERM, SIGKILL = 15, 9

How = Literal["exited", "signalled", "power"]


@dataclass(slots=True)
class Launch:
    """One command that has begun, as somebody who stands beside it sees it."""

    number: int
    member: str
    request: CommandRequest
    started_s: float
    ended_s: float | None = None
    # Its exit status, None while it runs and if it was killed.
    exit_code: int | None = None
    # Why the runner says that it ended; None if nobody could say it.
    cause: Cause | None = None


class Observer(Protocol):
    """Who is told of every start and every end, the moment it happens."""

    def launched(self, launch: Launch) -> None: ...
    def ended(self, launch: Launch) -> None: ...


class _Command:
    """A command of this runner, from its start to its death."""

    def __init__(self, launch: Launch, plan: StopPlan) -> None:
        self.launch = launch
        self.plan = plan
        self.timers: list[asyncio.TimerHandle] = []
        self.due: asyncio.TimerHandle | None = None

    def disarm(self) -> None:
        for timer in (*self.timers, *([self.due] if self.due else [])):
            timer.cancel()


@dataclass(slots=True)
class _Waiting:
    """What the node keeps of an attempt until its end is told."""

    on_started: Callable[[Started], None] | None
    end: asyncio.Future[CommandResult]


class VirtualRunner:
    """One life of a runner, with both its sides; see `node.runner_client.RunnerClient`."""

    def __init__(
        self,
        world: VirtualLoop,
        clock: HostClock,
        process: Process,
        member: str,
        observer: Observer,
        rng: random.Random,
        on_death: Callable[[RunnerDied], None],
    ) -> None:
        self._world = world
        self._clock = clock
        self._process = process
        self._member = member
        self._observer = observer
        self._rng = rng
        self._on_death = on_death
        self._waiting: dict[str, _Waiting] = {}
        self._commands: dict[str, _Command] = {}
        self._lease_until_s = float("-inf")
        self._last_message_s = 0.0
        self._gone = False
        self._launches = 0

    @property
    def running(self) -> int:
        """Return how many commands are alive."""
        return len(self._commands)

    # --- What the node calls ----------------------------------------------------------------

    async def run(
        self,
        request: CommandRequest,
        on_started: Callable[[Started], None] | None = None,
    ) -> CommandResult:
        self._refuse_if_gone()
        waiting = _Waiting(on_started, asyncio.get_running_loop().create_future())
        self._waiting[request.attempt_id] = waiting
        self._say(self._launch, request)
        return await waiting.end

    def kill(self, attempt_id: str, reason: str, *, cause: KillCause = "cancelled") -> None:
        self._refuse_if_gone()
        self._say(self._stop, attempt_id, reason, cause)

    def extend_lease(self, until_s: float) -> None:
        self._refuse_if_gone()
        self._say(self._guard, until_s)

    def _refuse_if_gone(self) -> None:
        if self._gone:
            raise RunnerDied("The runner is not running.")

    def _say(self, work: Callable[..., None], *arguments: object) -> None:
        """Send something over the socket: it arrives in its order."""
        arrival_s = self._world.time() + self._moment_s() / 4
        self._last_message_s = max(arrival_s, self._last_message_s + 1e-6)
        self._world.call_at(self._last_message_s, self._hear, work, *arguments)

    def _hear(self, work: Callable[..., None], *arguments: object) -> None:
        if not self._gone and not self._process.dead:
            work(*arguments)

    def _moment_s(self) -> float:
        return self._rng.uniform(*MOMENT_S)

    # --- What the runner does ----------------------------------------------------------------

    def _launch(self, request: CommandRequest) -> None:
        plan = StopPlan(
            now_s=self._clock.local_s(),
            timeout_s=None if request.timeout_ms is None else request.timeout_ms / 1000,
            grace_s=request.grace_ms / 1000,
            must_stop_with_lease=request.must_stop_with_lease,
        )
        if plan.refuses_to_start(self._clock.local_s(), self._lease_until_s):
            detail = "Not started: the node's lease is over or ends."
            self._tell_end(self._end_of(request, "lease", detail, None, None))
            return
        self._launches += 1
        launch = Launch(self._launches, self._member, request, self._world.time())
        command = self._commands[request.attempt_id] = _Command(launch, plan)
        fate = random.Random(request.attempt_id)
        low_s, high_s, failing = (float(word) for word in request.argv[1:4])
        exit_code = 1 if fate.random() < failing else 0
        length_s = fate.uniform(low_s, high_s)
        command.timers.append(self._world.call_later(length_s, self._die, command, exit_code, None))
        self._observer.launched(launch)
        started = Started(attempt_id=request.attempt_id, pid=1, started_ms=self._clock.wall_ms())
        self._process.post(self._tell_started, started)
        self._advance(command)

    def _stop(self, attempt_id: str, reason: str, cause: KillCause) -> None:
        command = self._commands.get(attempt_id)
        if command is not None:
            command.plan.stop(self._clock.local_s(), cause, reason, None)
            self._advance(command)

    def _guard(self, until_s: float) -> None:
        self._lease_until_s = until_s
        for command in list(self._commands.values()):
            self._advance(command)

    def _advance(self, command: _Command) -> None:
        """Take the steps that are due, and wait for the next one."""
        while step := command.plan.advance(self._clock.local_s(), self._lease_until_s):
            if step is Step.KILL:
                self._signal(command, SIGKILL)
            elif _listens(command.launch.request):
                self._signal(command, SIGTERM)
        if command.due is not None:
            command.due.cancel()
            command.due = None
        due_s = command.plan.next_due_s(self._lease_until_s)
        if due_s != float("inf"):
            when_s = max(self._clock.world_s(due_s), self._world.time()) + 1e-6
            command.due = self._world.call_at(when_s, self._advance, command)

    def _signal(self, command: _Command, signal: int) -> None:
        timer = self._world.call_later(self._moment_s(), self._die, command, None, signal)
        command.timers.append(timer)

    def _die(self, command: _Command, exit_code: int | None, signal: int | None) -> None:
        """A command is over, by itself or by a signal, and its node is told."""
        plan = command.plan
        detail = f"{plan.detail} It ended with {exit_code}, signal {signal}.".strip()
        self._forget(command, exit_code, plan.cause)
        self._tell_end(self._end_of(command.launch.request, plan.cause, detail, exit_code, signal))

    def _forget(self, command: _Command, exit_code: int | None, cause: Cause | None) -> None:
        command.disarm()
        launch = command.launch
        launch.ended_s, launch.exit_code, launch.cause = self._world.time(), exit_code, cause
        self._commands.pop(launch.request.attempt_id, None)
        self._observer.ended(launch)

    def _end_of(
        self,
        request: CommandRequest,
        cause: Cause,
        detail: str,
        exit_code: int | None,
        signal: int | None,
    ) -> CommandResult:
        ran = exit_code is not None or signal is not None
        return CommandResult(
            attempt_id=request.attempt_id,
            cause=cause,
            detail=detail,
            exit_code=exit_code,
            signal=signal,
            started_ms=self._clock.wall_ms() if ran else None,
            ended_ms=self._clock.wall_ms(),
            output=b"output of " + request.attempt_id.encode() if ran else b"",
            output_total_bytes=10 if ran else 0,
        )

    # --- What the node hears ------------------------------------------------------------------

    def _tell_started(self, started: Started) -> None:
        waiting = self._waiting.get(started.attempt_id)
        if waiting is not None and waiting.on_started is not None:
            waiting.on_started(started)

    def _tell_end(self, end: CommandResult) -> None:
        self._process.post(self._take_end, end)

    def _take_end(self, end: CommandResult) -> None:
        waiting = self._waiting.pop(end.attempt_id, None)
        if waiting is not None and not waiting.end.done():
            waiting.end.set_result(end)

    # --- How it ends --------------------------------------------------------------------------

    def node_died(self) -> float:
        """Kill everything, because the connection closed; return when it is done."""
        self._gone = True
        done_s = self._world.time()
        for command in list(self._commands.values()):
            command.disarm()
            death_s = self._world.time() + self._moment_s()
            self._world.call_at(death_s, self._forget, command, None, None)
            done_s = max(done_s, death_s)
        return done_s + 0.001

    def lose_power(self) -> None:
        """Everything stops at this instant."""
        self._gone = True
        for command in list(self._commands.values()):
            self._forget(command, None, None)

    def die(self) -> None:
        """The runner is killed: the kernel kills the commands, the node notices."""
        if not self._gone:
            self.lose_power()
            self._process.post(self._lament)

    def _lament(self) -> None:
        died = RunnerDied("The runner was killed.")
        waiting, self._waiting = self._waiting, {}
        for attempt in waiting.values():
            if not attempt.end.done():
                attempt.end.set_exception(died)
        self._on_death(died)


def _listens(request: CommandRequest) -> bool:
    """Tell whether a command ends when it is asked to; "deaf" ones never do."""
    if "deaf" in request.argv:
        return False
    return random.Random(request.attempt_id + " listens").random() < 0.8
