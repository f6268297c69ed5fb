"""The node's side of its runner: start it, give it commands, renew its lease, see it die.

The node owns a large heap and a loop that must not stall, so it starts exactly one process,
this one, before anything else. Without its runner a node cannot stop what it started, so
the runner's death is the node's: `on_death` is called once, after everything the runner had
launched was killed, and the node must then stop. A runner that is alive but does not answer
is made to die: the kernel kills the commands with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from node.runner.limits import (
    RECHECK_S,
    SILENCE_S_MAX,
    START_S_MAX,
    STOP_S_MAX,
)
from node.runner.parent import (
    PreviousRunnerAlive,
    RunnerError,
    RunnerProcess,
    death_sentence,
    wait_for_previous_runner,
)
from node.runner.protocol import (
    Ended,
    FrameError,
    FromRunner,
    Kill,
    KillCause,
    Launch,
    Lease,
    LeaseHeld,
    Message,
    OutputTail,
    Ready,
    Started,
    Stuck,
    encode_frame,
    runner_frames,
)
from storage.clock import Environment
from storage.invariant import invariant

__all__ = [
    "CommandRequest",
    "CommandResult",
    "OutputTail",
    "PreviousRunnerAlive",
    "Ready",
    "RunnerClient",
    "RunnerDied",
    "RunnerError",
    "RunnerFull",
    "RunnerStartFailed",
    "Started",
    "Stuck",
    "wait_for_previous_runner",
]

CommandRequest = Launch
CommandResult = Ended


class RunnerStartFailed(RunnerError):
    """The runner did not become ready."""


class RunnerDied(RunnerError):
    """The runner is gone, and everything it had launched is dead or was killed."""


class RunnerFull(RunnerError):
    """As many attempts are in flight as the runner takes (`Ready.attempts_max`)."""


class _Attempt:
    """What the node keeps of an attempt until its end is told."""

    def __init__(
        self,
        on_started: Callable[[Started], None] | None,
        on_output: Callable[[OutputTail], None] | None,
    ) -> None:
        self.on_started = on_started
        self.on_output = on_output
        self.end: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()


class RunnerClient(asyncio.Protocol):
    """Start a runner and speak with it. Use from one event loop; start it once.

    `on_death` is called with the reason when the runner is gone without having been asked
    to; `on_stuck` when a killed command does not die (see `protocol.Stuck`). With
    `containment="processes"` cgroups are not even tried.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        on_death: Callable[[RunnerDied], None] | None = None,
        on_stuck: Callable[[Stuck], None] | None = None,
        containment: Literal["auto", "processes"] = "auto",
    ) -> None:
        self._environment = environment
        self._on_death = on_death
        self._on_stuck = on_stuck
        self._containment = containment
        self._frames = runner_frames()
        self._attempts: dict[str, _Attempt] = {}
        self._transport: asyncio.WriteTransport | None = None
        self._process: RunnerProcess | None = None
        self._is_ready: asyncio.Future[Ready]
        self._is_closed: asyncio.Future[None]
        self._watch: asyncio.Task[None] | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._reason = ""
        self._was_ready = False
        # How many attempts the runner takes at once, as it said when it was ready.
        self.attempts_max = 0
        # The end of the lease that the runner said it guards; nothing holds beyond it.
        self.lease_confirmed_until_s = 0.0

    # --- life -------------------------------------------------------------------------

    async def start(self, data_dir: Path) -> Ready:
        """Start the runner and wait until it is ready; return what it says of itself.

        When it returns, nothing of an earlier runner on this directory is alive.

        Raises:
            RunnerStartFailed: it ended or stayed silent; the message says which and why.
        """
        invariant(self._watch is None, "A runner client is started once.", pid=self.pid)
        loop = asyncio.get_running_loop()
        self._is_ready = loop.create_future()
        self._is_closed = loop.create_future()
        # It blocks for some milliseconds, once, while the node is still small.
        self._process = process = RunnerProcess(data_dir, self._containment)
        await loop.create_unix_connection(lambda: self, sock=process.connection)
        self._watch = asyncio.create_task(self._watch_process(process), name="runner watch")
        try:
            async with asyncio.timeout(START_S_MAX):
                return await asyncio.shield(self._is_ready)
        except (TimeoutError, RunnerDied) as error:
            await self.stop()
            reason = str(error) or f"It was not ready after {START_S_MAX} s."
            raise RunnerStartFailed(f"The runner did not start. {reason}") from error
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the runner and with it, at once, everything it runs. Idempotent.

        Pending runs fail with RunnerDied. A node that leaves in peace kills its attempts
        with their grace first.
        """
        self._is_stopping = True
        if self._watch is None:
            return
        self._close_connection()
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await asyncio.shield(self._watch)
        except TimeoutError:
            self._kill_runner(f"It did not end within {STOP_S_MAX} s.")
            await asyncio.shield(self._watch)

    async def wait_closed(self) -> None:
        """Return when the runner is gone and everything it had launched was killed."""
        if self._watch is not None:
            await asyncio.shield(self._watch)

    @property
    def pid(self) -> int | None:
        """The runner's process number, None if it was not started."""
        return None if self._process is None else self._process.pid

    @property
    def in_flight(self) -> int:
        """How many attempts were given to the runner and have not ended."""
        return len(self._attempts)

    # --- commands ---------------------------------------------------------------------

    async def run(
        self,
        request: CommandRequest,
        on_started: Callable[[Started], None] | None = None,
        on_output: Callable[[OutputTail], None] | None = None,
    ) -> CommandResult:
        """Run a command to its end. A command that fails or cannot start is a result.

        If the caller is cancelled, the command is killed with its grace.

        Raises:
            RunnerFull: `attempts_max` are in flight; nothing was started.
            RunnerDied: the runner is gone; the command is dead, its end is not known.
        """
        attempt_id = request.attempt_id
        if attempt_id in self._attempts:
            raise ValueError(f"Attempt {attempt_id!r} is in flight already.")
        if len(self._attempts) >= self.attempts_max:
            raise RunnerFull(f"The runner has its {self.attempts_max} attempts in flight.")
        try:
            frame = encode_frame(request)
        except FrameError as error:
            return self._refused(attempt_id, str(error))
        self._send_frame(frame)
        attempt = self._attempts[attempt_id] = _Attempt(on_started, on_output)
        try:
            return await attempt.end
        except asyncio.CancelledError:
            # If the runner is gone, so is the command.
            with contextlib.suppress(RunnerDied):
                self.kill(attempt_id, "Whoever waited for it has gone.", cause="killed")
            raise

    def kill(
        self,
        attempt_id: str,
        reason: str,
        *,
        cause: KillCause = "cancelled",
        grace_ms: int | None = None,
    ) -> None:
        """Have an attempt ended: SIGTERM, the grace (its own if None), SIGKILL.

        Its `run` returns with this cause. An attempt that is not in flight is no error.

        Raises:
            RunnerDied: the runner is gone.
        """
        self._send(Kill(attempt_id=attempt_id, cause=cause, reason=reason, grace_ms=grace_ms))

    def extend_lease(self, until_s: float) -> None:
        """Tell until when the lease is good, in CLOCK_BOOTTIME seconds (`monotonic_s`).

        The last call counts; an earlier instant shortens. If the runner does not confirm
        within SILENCE_S_MAX, it is killed.

        Raises:
            RunnerDied: the runner is gone.
        """
        self._send(Lease(until_s=until_s))
        if self._silence is None:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(SILENCE_S_MAX, self._suspect, loop)

    # --- asyncio.Protocol -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection (asyncio.Protocol)."""
        # The transports of uvloop have its methods and are not derived from it.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Take messages (asyncio.Protocol)."""
        try:
            for message in self._frames.feed(data):
                self._take(message)
        except FrameError as error:
            self._kill_runner(f"It sent something that is no message: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        """Note that nothing more will come (asyncio.Protocol)."""
        self._transport = None
        self._is_closed.set_result(None)
        if not self._is_stopping:
            # It is ending what it launched, or hangs while it does.
            reason = f"It closed the connection ({error or 'in order'}) and did not end."
            asyncio.get_running_loop().call_later(STOP_S_MAX, self._kill_runner, reason)

    def _take(self, message: FromRunner) -> None:
        match message:
            case Ended():
                self._end(message)
            case Started():
                if (attempt := self._attempts.get(message.attempt_id)) and attempt.on_started:
                    attempt.on_started(message)
            case OutputTail():
                if (attempt := self._attempts.get(message.attempt_id)) and attempt.on_output:
                    attempt.on_output(message)
            case LeaseHeld():
                self.lease_confirmed_until_s = message.until_s
                self._stop_suspecting()
            case Ready():
                self._was_ready = True
                self.attempts_max = message.attempts_max
                if not self._is_ready.done():
                    self._is_ready.set_result(message)
            case Stuck():
                if self._on_stuck is not None:
                    self._on_stuck(message)

    def _end(self, ended: Ended) -> None:
        attempt = self._attempts.pop(ended.attempt_id, None)
        if attempt is not None and not attempt.end.done():
            attempt.end.set_result(ended)

    def _send(self, message: Message) -> None:
        self._send_frame(encode_frame(message))

    def _send_frame(self, frame: bytes) -> None:
        if self._transport is None or self._is_stopping:
            raise RunnerDied(self._reason or "The runner is not running.")
        self._transport.write(frame)

    def _refused(self, attempt_id: str, detail: str) -> CommandResult:
        now_ms = self._environment.wall_ms()
        return Ended(attempt_id=attempt_id, cause="spawn_failed", detail=detail, ended_ms=now_ms)

    # --- silence and death ------------------------------------------------------------

    def _suspect(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look once more before judging: it may be this loop that stood still."""
        self._silence = loop.call_later(RECHECK_S, self._condemn)

    def _condemn(self) -> None:
        self._silence = None
        self._kill_runner(f"It left a lease unconfirmed for {SILENCE_S_MAX} s.")

    def _stop_suspecting(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _kill_runner(self, reason: str) -> None:
        self._reason = self._reason or reason
        if self._process is not None:
            # It was not waited for unless it is dead, so the number is its own.
            self._process.kill()

    def _close_connection(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def _watch_process(self, process: RunnerProcess) -> None:
        """Wait for the end of the runner; then make sure of its commands and tell everybody."""
        status = await process.wait()
        self._stop_suspecting()
        await self._read_last_words()
        # A runner that ended in order has ended everything before.
        leftovers = await process.sweep(self._environment) if status != 0 else ""
        died = RunnerDied(f"{death_sentence(status)} {self._reason}".strip() + leftovers)
        self._reason = str(died)
        self._fail_pending(died)
        if self._was_ready and not self._is_stopping and self._on_death is not None:
            self._on_death(died)

    async def _read_last_words(self) -> None:
        """Take what the dead runner had sent; a child of it may still hold the other end."""
        try:
            async with asyncio.timeout(RECHECK_S):
                await asyncio.shield(self._is_closed)
        except TimeoutError:
            self._close_connection()
            await self._is_closed

    def _fail_pending(self, died: RunnerDied) -> None:
        pending, self._attempts = self._attempts, {}
        for attempt in pending.values():
            if not attempt.end.done():
                attempt.end.set_exception(died)
        if not self._is_ready.done():
            self._is_ready.set_exception(died)
