"""A clock that stands still until a test moves it."""

from __future__ import annotations

import random


class ManualEnvironment:
    """An `Environment` under a test's control."""

    def __init__(self, wall_ms: int = 1_700_000_000_000, monotonic_s: float = 100.0) -> None:
        self.random = random.Random(1)
        self._wall_ms = wall_ms
        self._monotonic_s = monotonic_s

    def wall_ms(self) -> int:
        return self._wall_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let time go by on both clocks."""
        self._monotonic_s += seconds
        self._wall_ms += int(seconds * 1000)

    def jump(self, milliseconds: int) -> None:
        """Set the wall clock, as an operator or a time server may do."""
        self._wall_ms += milliseconds
