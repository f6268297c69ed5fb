"""The one module that reads a clock, draws random numbers or makes identifiers.

Whatever depends on time or chance gets an `Environment`, so that a simulation can put a
seeded one in its place and replay a run exactly. The wall clock tells when something is
due and never decides about safety; leases and timeouts are measured on the monotonic
clock, of which `CLOCK_BOOTTIME` is used because it goes on while a machine is suspended.
"""

from __future__ import annotations

import random
import time
from typing import Protocol

ID_BYTES = 16


class Environment(Protocol):
    """Time and chance, as the deterministic parts see them."""

    random: random.Random

    def wall_ms(self) -> int:
        """Return the time of day in milliseconds since the Unix epoch."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never jumps, from an arbitrary start."""
        ...


class SystemEnvironment:
    """The machine's own clocks and randomness."""

    def __init__(self) -> None:
        self.random: random.Random = random.SystemRandom()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def new_id(environment: Environment, now_ms: int | None = None) -> bytes:
    """Return a UUID version 7 (RFC 9562): 16 bytes that sort by their time of creation.

    That is `now_ms`, for those who know the time of day better than this machine's clock.
    """
    stamp = (environment.wall_ms() if now_ms is None else now_ms).to_bytes(6, "big")
    noise = bytearray(environment.random.getrandbits(80).to_bytes(10, "big"))
    noise[0] = 0x70 | (noise[0] & 0x0F)
    noise[2] = 0x80 | (noise[2] & 0x3F)
    return stamp + bytes(noise)
