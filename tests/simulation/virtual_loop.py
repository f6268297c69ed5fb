"""An asyncio event loop whose time is a number: it jumps to the next timer instead of waiting.

Everything that runs on asyncio runs on it unchanged, in one thread and without a socket.
Nothing depends on the machine, so the same seed gives the same run. When no timer is left
and nobody is ready, nothing will ever happen again, and the loop says so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

# 2026-01-01T00:00:00Z, where every simulated run begins, and what the loop's clock shows then.
EPOCH_MS = 1_767_225_600_000
BEGIN_S = 1000.0
# What reading a clock costs. Loops that are bounded by time alone would never end without.
READ_COST_S = 5e-6


# Turns of the loop in which no time passes; a run needs a few hundred of them at the most.
TURNS_AT_REST_MAX = 200_000


class NothingLeft(BaseException):
    """Somebody waits for something that no timer and no callback will bring about."""


class TimeStandsStill(BaseException):
    """Somebody is called again and again for an instant that never passes."""


class _Selector:
    """Stands where the loop waits for sockets, and lets the time pass."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._seen_s = loop.time()
        self._turns_at_rest = 0

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise NothingLeft("No timer is left and nothing is ready.")
        self._loop.advance(timeout)
        self._look_at_clock(self._loop.time())
        return []

    def _look_at_clock(self, now_s: float) -> None:
        self._turns_at_rest = self._turns_at_rest + 1 if now_s == self._seen_s else 0
        self._seen_s = now_s
        if self._turns_at_rest > TURNS_AT_REST_MAX:
            raise TimeStandsStill(f"{TURNS_AT_REST_MAX} turns of the loop at {now_s} s.")


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module's text. Close it like any other loop."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = BEGIN_S
        self._selector = _Selector(self)

    def time(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let time pass without running anything; what is due by then runs next."""
        self._now_s += seconds

    def _process_events(self, event_list: list[object]) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """There is no other thread to be woken from."""


class VirtualEnvironment:
    """Time and chance of one simulated member (`storage.clock.Environment`).

    `rate` is how fast its clocks run, `wall_offset_ms` how far its time of day is off.
    """

    def __init__(self, loop: VirtualLoop, seed: int | str, *, rate: float = 1.0) -> None:
        self._loop = loop
        self.random = random.Random(seed)
        self.rate = rate
        self.wall_offset_ms = 0

    def wall_ms(self) -> int:
        elapsed_ms = int((self._loop.time() - 1000.0) * self.rate * 1000)
        return EPOCH_MS + elapsed_ms + self.wall_offset_ms

    def monotonic_s(self) -> float:
        # Read more often than anything else, so without a call of its own.
        self._loop._now_s += READ_COST_S
        return self._loop._now_s * self.rate


class VirtualExecutor(Executor):
    """A worker thread that takes virtual time: one piece of work after the other.

    `delay` gives the seconds that the next piece takes. The work itself happens at the
    end of them; `crash` decides about the piece that was under way.
    """

    def __init__(self, loop: VirtualLoop, delay: Callable[[], float]) -> None:
        self._loop = loop
        self._delay = delay
        self._free_s = 0.0
        self._crashed = False
        self._under_way: list[Callable[[], Any]] = []

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()

        def work() -> None:
            if self._crashed:
                return
            self._under_way.pop(0)
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        self._under_way.append(lambda: fn(*args, **kwargs))
        self._free_s = max(self._free_s, self._loop.time()) + self._delay()
        self._loop.call_at(self._free_s, work)
        return future

    def crash(self, *, finish: bool) -> None:
        """Stop for good; with `finish` the piece under way still reaches its end, unheard."""
        self._crashed = True
        if finish and self._under_way:
            self._under_way[0]()
