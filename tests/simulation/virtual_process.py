"""A simulated process: an event loop of its own, on a host whose clocks are its own.

The world has one loop, on which the network, the disks and the faults run. A process has
another, which the world's loop turns whenever something of it is due. So a process can be
treated as an operating system treats one:

* killed: its loop is never turned again, and nothing in it runs to an end, no `finally`
  and no callback;
* paused (SIGSTOP): the same, but what reaches it is kept, and when it continues
  everything comes at once, its timers late;
* slow or fast: its loop runs on the host's clock, which has a rate.
"""

from __future__ import annotations

import asyncio
import random
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from inspect import CORO_CREATED, getcoroutinestate
from types import CoroutineType
from typing import Any

from tests.simulation.virtual_loop import BEGIN_S, EPOCH_MS, READ_COST_S, VirtualLoop

# Timers may be this early by rounding; the loop then takes them for due all the same.
RESOLUTION_S = 1e-6


class HostClock:
    """The clocks of one machine; they outlive its processes.

    The monotonic one runs at a rate of its own, within one percent. The time of day is
    kept by a time daemon: off by little, until a fault sets it.
    """

    def __init__(self, world: VirtualLoop, rng: random.Random) -> None:
        self._world = world
        self._since_s = world.time()
        # The true time of day at that instant.
        self._since_ms = EPOCH_MS + int((self._since_s - BEGIN_S) * 1000)
        self._base_s = rng.uniform(100.0, 1e6)
        self.rate = rng.uniform(0.995, 1.005)
        self._wall_rate = 1.0 + rng.uniform(-2e-4, 2e-4)
        self._wall_error_ms = rng.uniform(-30.0, 30.0)
        # What a fault has set the time of day off by.
        self.jumped_ms = 0

    def local_s(self) -> float:
        """Return the monotonic time without the cost of asking for it."""
        return self._base_s + (self._world.time() - self._since_s) * self.rate

    def world_s(self, local_s: float) -> float:
        """Return when, on the world's clock, the monotonic one shows `local_s`."""
        return self._since_s + (local_s - self._base_s) / self.rate

    def monotonic_s(self) -> float:
        self._world.advance(READ_COST_S)
        return self.local_s()

    def wall_ms(self) -> int:
        elapsed_ms = (self._world.time() - self._since_s) * 1000 * self._wall_rate
        return self._since_ms + int(elapsed_ms + self._wall_error_ms) + self.jumped_ms


class ProcessEnvironment:
    """Time and chance of one process (`storage.clock.Environment`)."""

    def __init__(self, clock: HostClock, seed: str) -> None:
        self.random = random.Random(seed)
        self.wall_ms = clock.wall_ms
        self.monotonic_s = clock.monotonic_s


class _NoSockets:
    """Stands where a loop waits for sockets; here nobody waits."""

    def select(self, timeout: float | None) -> list[object]:
        return []


class Process(asyncio.BaseEventLoop):
    """See the module's text. Whatever is outside of it speaks to it by `post` alone."""

    # The standard library's own, which its type stubs keep to themselves.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _thread_id: int | None
    _run_once: Callable[[], None]

    def __init__(self, world: VirtualLoop, clock: HostClock) -> None:
        super().__init__()
        self._clock_resolution = RESOLUTION_S
        self._selector = _NoSockets()
        self._world = world
        self._clock = clock
        self._wake: asyncio.TimerHandle | None = None
        self._turning = False
        self._kept: set[asyncio.Task[Any]] = set()
        self.paused = False
        self.dead = False

    def __del__(self, _warn: object = None) -> None:
        """A process that was killed closes nothing; the standard library would warn of that."""

    # --- From outside ---------------------------------------------------------------------

    def post(self, work: Callable[..., object], *arguments: object) -> None:
        """Have something done in the process, as a signal or a message would."""
        if not self.dead:
            self.call_soon(work, *arguments)
            self._arm()

    def spawn(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Have a coroutine made and run in the process."""
        self.post(self._run_kept, work)

    def _run_kept(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        # The loop itself knows its tasks by weak references only.
        task = self.create_task(work())
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def kill(self) -> None:
        """Let nothing of it happen any more."""
        self.dead = True
        if self._wake is not None:
            self._wake.cancel()
        for task in asyncio.all_tasks(self):
            work = task.get_coro()
            # What has not begun would complain that it never will.
            if isinstance(work, CoroutineType) and getcoroutinestate(work) == CORO_CREATED:
                work.close()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._arm()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let code run as if the process had called it."""
        outer, was_turning = events._get_running_loop(), self._turning
        events._set_running_loop(self)
        self._turning, self._thread_id = True, threading.get_ident()
        try:
            yield
        finally:
            self._turning, self._thread_id = was_turning, None
            events._set_running_loop(outer)
            self._arm()

    # --- The loop -------------------------------------------------------------------------

    def time(self) -> float:
        return self._clock.local_s()

    def _arm(self) -> None:
        """Have the world turn this loop when something of it is due."""
        if self.dead or self.paused or self._turning:
            return
        if self._ready:
            when_s = self._world.time()
        elif self._scheduled:
            when_s = self._clock.world_s(self._scheduled[0].when())
        else:
            return
        if self._wake is not None:
            if self._wake.when() <= when_s:
                return
            self._wake.cancel()
        self._wake = self._world.call_at(when_s, self._turn)

    def _turn(self) -> None:
        self._wake = None
        if not self.dead and not self.paused:
            with self.entered():
                self._run_once()

    def _process_events(self, event_list: list[object]) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        self._arm()
