"""Running what was granted to this member: at its instant, under its lease, to its end.

The decision to launch was made by the log, ahead of time, so what is left at the instant
is a timer. Before an attempt starts, the state is looked at once more: who paused the job
or cancelled the run meanwhile is obeyed. An attempt that cannot start here, or that must
stop because the lease ran out, is given back, and the job's delivery decides about it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from api.durations import format_time
from api.ids import format_run_id
from consensus.state.commands import Ended, Started
from consensus.timekeeper import Timekeeper
from node.backoff import retry_delay_ms
from node.definitions import Definitions
from node.executors.protocol import Attempt, AttemptResult, StopReason
from node.executors.registry import Registry
from node.lease import Lease
from node.services.reporter import Reporter
from storage import keys, models
from storage.limits import OUTPUT_CHUNK_BYTES
from storage.models import JobDefinition, JobState, Run
from storage.store import View

logger = logging.getLogger(__name__)

DETAIL_CHARS_MAX = 500
# What is told to stop is killed by the runner within less.
STOP_S_MAX = 15.0
# Reasons to stop an attempt without judging it, and what is said of it then.
GIVEN_BACK: dict[StopReason, str] = {
    "lease": "The member's lease ran out, so the attempt was stopped.",
    "drain": "The member was stopping, so the attempt was stopped.",
}


class Held:
    """An attempt that this member was granted and has not seen the end of."""

    __slots__ = ("key", "must_stop", "run", "started_ms", "stop", "task", "timer")

    def __init__(self, key: bytes, run: Run) -> None:
        self.key = key
        self.run = run
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.stop: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()
        self.must_stop = True
        self.started_ms: int | None = None


class Worker:
    """Holds the attempts of one member; used from the event loop only."""

    def __init__(
        self,
        view: View,
        definitions: Definitions,
        registry: Registry,
        reporter: Reporter,
        lease: Lease,
        timekeeper: Timekeeper,
        on_free: Callable[[], None],
        on_start: Callable[[int], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._view = view
        self._definitions = definitions
        self._registry = registry
        self._reporter = reporter
        self._lease = lease
        self._timekeeper = timekeeper
        self._on_free = on_free
        self._on_start = on_start
        self._on_fatal = on_fatal
        self._held: dict[tuple[bytes, int], Held] = {}
        self._lease_timer: asyncio.TimerHandle | None = None
        # Whether it takes nothing more: what is granted now is given back at once.
        self.draining = False

    @property
    def held_count(self) -> int:
        return len(self._held)

    @property
    def running_count(self) -> int:
        return sum(held.task is not None for held in self._held.values())

    # --- What the cluster says -----------------------------------------------------------

    def granted(self, key: bytes, incarnation: bytes) -> None:
        """Take an attempt that the log has given to this member; start it at its time."""
        run = self._run(key)
        if run is None or run.state != "claimed" or run.incarnation != incarnation:
            return
        if (key, run.fence) in self._held:
            return
        held = Held(key, run)
        if self.draining:
            self._give_back(held, "The member is stopping.")
            return
        self._held[key, run.fence] = held
        self._arm(held)

    def cancelled(self, key: bytes) -> None:
        """Stop a run whose end somebody asked for."""
        for held in [held for held in self._held.values() if held.key == key]:
            if held.task is None:
                self._disarm(held)
                self._end(held, _cancelled("It was cancelled before it started."))
            else:
                self._stop(held, "cancelled")

    def lease_renewed(self) -> None:
        """Watch the new end of the lease."""
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        delay_s = self._lease.until_s - self._lease.now_s()
        loop = asyncio.get_running_loop()
        self._lease_timer = loop.call_later(max(0.0, delay_s), self._check_lease)

    def _check_lease(self) -> None:
        if not self._lease.held:
            self.lease_lost()

    def lease_lost(self) -> None:
        """Give back what has not started, and stop what must not overlap with another."""
        for held in list(self._held.values()):
            if held.task is None:
                self._disarm(held)
                self._give_back(held, "The member's lease ran out before it started.")
            elif held.must_stop:
                self._stop(held, "lease")

    def drain(self) -> None:
        """Take nothing more, and give back what has not started."""
        self.draining = True
        for held in list(self._held.values()):
            if held.task is None:
                self._disarm(held)
                self._give_back(held, "The member is stopping.")

    async def finished(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Wait for the end of what runs, for `grace_s` at most and until somebody hurries."""
        tasks = self._tasks()
        if not tasks or grace_s <= 0:
            return
        ends = asyncio.ensure_future(asyncio.wait(tasks))
        haste = asyncio.ensure_future(hurry.wait())
        try:
            await asyncio.wait({ends, haste}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ends.cancel()
            haste.cancel()

    async def stop(self) -> None:
        """Give back everything: what waits at once, what runs by stopping it."""
        self.drain()
        for held in list(self._held.values()):
            self._stop(held, "drain")
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=STOP_S_MAX)
        if self._lease_timer is not None:
            self._lease_timer.cancel()

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {held.task for held in self._held.values() if held.task is not None}

    # --- Starting --------------------------------------------------------------------------

    def _arm(self, held: Held) -> None:
        delay_ms = held.run.start_ms - self._timekeeper.now_ms()
        if delay_ms <= 0:
            self._start(held)
            return
        loop = asyncio.get_running_loop()
        # Timers may fire a little before their time; `_arm` then waits for the rest.
        held.timer = loop.call_later(delay_ms / 1000, self._arm, held)

    @staticmethod
    def _disarm(held: Held) -> None:
        if held.timer is not None:
            held.timer.cancel()

    def _start(self, held: Held) -> None:
        held.timer = None
        run = self._run(held.key)
        if run is None or run.fence != held.run.fence or run.state != "claimed":
            self._drop(held)
        elif run.cancel_reason is not None:
            self._end(held, _cancelled(run.cancel_reason))
        elif not self._lease.held:
            self._give_back(held, "The member's lease ran out before it started.")
        else:
            self._start_valid(held, run)

    def _start_valid(self, held: Held, run: Run) -> None:
        job = held.key[:16]
        raw = self._view.get(keys.JOB_STATE + job)
        state = None if raw is None else models.decode_job_state(raw)
        definition = None if state is None else self._definitions.get(job, state.revision)
        if state is None or definition is None or state.status == "deleted":
            self._end(held, _cancelled("The job was deleted before it started."))
        elif state.status == "paused" and run.trigger == "schedule" and run.number == 1:
            self._end(held, _cancelled("The job was paused before it started."))
        else:
            held.must_stop = definition.overlap != "allow"
            loop = asyncio.get_running_loop()
            held.task = loop.create_task(self._execute(held, run, state, definition))
            held.task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """See to it that no attempt is over in silence.

        An end that could not be kept leaves the attempt held; while this member renews its
        lease, nobody would ever return it.
        """
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_fatal(error)

    # --- Running ---------------------------------------------------------------------------

    async def _execute(
        self, held: Held, run: Run, state: JobState, definition: JobDefinition
    ) -> None:
        executor = self._registry.get(definition.action)
        if executor is None:
            kind = definition.action.get("type")
            detail = f"This member has no executor for actions of type {kind!r}."
            self._end(held, AttemptResult(outcome="failed", detail=detail))
            return
        timeout: asyncio.TimerHandle | None = None
        if definition.timeout_ms is not None:
            loop = asyncio.get_running_loop()
            timeout = loop.call_later(definition.timeout_ms / 1000, self._stop, held, "timeout")
        try:
            result = await executor.run(self._attempt(held, run, state, definition))
        except Exception as error:
            logger.exception("The executor of %s failed.", definition.action.get("type"))
            fault = f"The executor failed: {type(error).__name__}: {error}"
            result = AttemptResult(outcome="failed", detail=fault)
        finally:
            if timeout is not None:
                timeout.cancel()
        given_back = GIVEN_BACK.get(held.stop.result()) if held.stop.done() else None
        if result.outcome == "lost":
            self._give_back(held, result.detail, unstarted=result.unstarted)
        elif given_back is not None and result.outcome != "succeeded":
            self._give_back(held, given_back)
        else:
            self._end(held, result, definition)

    def _attempt(self, held: Held, run: Run, state: JobState, definition: JobDefinition) -> Attempt:
        run_id = format_run_id(held.key)
        return Attempt(
            key=f"{run_id}/{run.number}/{run.fence}",
            identity={
                "CRONCLAVE_JOB": f"{state.namespace}/{state.name}",
                "CRONCLAVE_RUN": run_id,
                "CRONCLAVE_ATTEMPT": str(run.number),
                "CRONCLAVE_SCHEDULED_AT": format_time(run.scheduled_ms),
                "CRONCLAVE_FENCE": str(run.fence),
                "CRONCLAVE_IDEMPOTENCY_KEY": run_id,
            },
            action=definition.action,
            timeout_ms=definition.timeout_ms,
            output_bytes_max=definition.output_bytes_max,
            must_stop_with_lease=held.must_stop,
            stop=held.stop,
            on_started=lambda: self._started(held),
        )

    def _started(self, held: Held) -> None:
        # Its instant had come when the timer was looked at, and the clock may have been set
        # back a little since then.
        now_ms = max(self._timekeeper.now_ms(), held.run.start_ms)
        held.started_ms = now_ms
        self._on_start(now_ms - held.run.start_ms)
        self._reporter.started(Started(held.key, held.run.number, held.run.fence, now_ms))

    @staticmethod
    def _stop(held: Held, reason: StopReason) -> None:
        if not held.stop.done():
            held.stop.set_result(reason)

    # --- Ending ----------------------------------------------------------------------------

    def _end(
        self, held: Held, result: AttemptResult, definition: JobDefinition | None = None
    ) -> None:
        now_ms = self._timekeeper.now_ms()
        retry_ms = None
        run = held.run
        if (
            definition is not None
            and not result.fatal
            and run.tries < definition.retry.attempts_max
        ):
            retry_ms = now_ms + retry_delay_ms(definition.retry, held.key, run.tries)
        output = result.output
        self._reporter.ended(
            Ended(
                held.key,
                run.number,
                run.fence,
                result.outcome,
                held.started_ms,
                max(now_ms, held.started_ms or 0),
                result.exit_code,
                _told(result.detail),
                retry_ms,
                tuple(
                    output[start : start + OUTPUT_CHUNK_BYTES]
                    for start in range(0, len(output), OUTPUT_CHUNK_BYTES)
                ),
                result.output_bytes,
            )
        )
        self._drop(held)

    def _give_back(self, held: Held, detail: str, *, unstarted: bool = False) -> None:
        """Tell that this member will not bring the attempt to an end.

        What was never handed to an executor has certainly not begun; of what was, the
        executor knows.
        """
        now_ms = self._timekeeper.now_ms()
        run = held.run
        self._reporter.ended(
            Ended(
                held.key,
                run.number,
                run.fence,
                "lost",
                held.started_ms,
                now_ms,
                None,
                _told(detail),
                unstarted=unstarted or held.task is None,
            )
        )
        self._drop(held)

    def _drop(self, held: Held) -> None:
        self._held.pop((held.key, held.run.fence), None)
        self._on_free()

    def _run(self, key: bytes) -> Run | None:
        raw = self._view.get(keys.OUTCOME + key)
        found = None if raw is None else models.decode_outcome(raw)
        return found if isinstance(found, Run) else None


def _told(detail: str) -> str:
    """Return a sentence that fits into the log, whatever it quotes.

    What servers and operating systems say reaches Python with surrogates in the place of
    bytes that are no UTF-8; these have no encoding.
    """
    return detail[:DETAIL_CHARS_MAX].encode(errors="replace").decode()


def _cancelled(detail: str) -> AttemptResult:
    return AttemptResult(outcome="cancelled", detail=detail)
