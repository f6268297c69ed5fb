"""A member's idea of the time of day, checked against the others'.

The wall clock says when something is due, and it can jump. So the time of day is carried
forward on the monotonic clock and only compared with the wall clock: a small difference is
followed, as it is the slewing of a time daemon. A jump is believed when the other members
agree with it, or when nobody contradicts it for a while; until then the member holds on to
the time it had, says that its clock is suspect, and claims nothing.

Members ask each other for their time once a heartbeat. What the median of all of them
(including this one) says is the cluster's time of day; who is further off it than the
permitted skew is suspect as well. So is who has not heard enough others lately to be a
majority together with them: a machine that comes up may have any time whatever. Where two members
contradict each other and there is no third, the log knows: the time of its last entry, and
what has gone by since, is a time that it cannot be before. Nothing of this is ever used for
safety.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from storage.clock import Environment

# A time daemon slews by a few milliseconds a second; more than this at once is a jump.
SLEW_MS_MAX = 250
# A member that is alone has nobody to ask; it follows its clock after this long.
ALONE_S = 5.0
# An offset that was not confirmed for so long says nothing any more.
OFFSET_AGE_S_MAX = 10.0
# What was on its way for longer makes a member look as far behind.
ROUND_TRIP_MS_MAX = 1_000
# Clocks run at the same rate within a percent, so this much of what one shows has gone by.
RATE_MIN = 0.99
# The cluster's clock moves on at least so fast, that leases end whatever the members'
# clocks show, and so slowly that the true time can catch up with it.
CARRIED_RATE = 0.5


class Timekeeper:
    """The time of day in milliseconds, never running backwards by a jump."""

    def __init__(
        self,
        environment: Environment,
        skew_ms_max: int,
        others_min: Callable[[], int] = lambda: 0,
    ) -> None:
        """`others_min` returns how many other members have to confirm the time of day."""
        self._environment = environment
        self._skew_ms_max = skew_ms_max
        self._others_min = others_min
        self._anchor_ms = environment.wall_ms()
        self._anchor_s = environment.monotonic_s()
        self._jumped_since_s: float | None = None
        # How far another member's time is ahead of this one's, and when that was seen.
        self._offsets: dict[str, tuple[int, float]] = {}
        # The cluster's clock as it was last moved, and when that was seen.
        self._log_ms = 0
        self._log_s = self._anchor_s

    def now_ms(self) -> int:
        """Return the time of day, carried forward from the last check."""
        elapsed_s = self._environment.monotonic_s() - self._anchor_s
        return self._anchor_ms + int(elapsed_s * 1000)

    def cluster_ms(self) -> int:
        """Return the time of day as the cluster has it, as far as it is known here."""
        offset_ms = self.offset_ms
        return self.now_ms() + (offset_ms if abs(offset_ms) > self._skew_ms_max else 0)

    def log_said(self, clock_ms: int) -> None:
        """Take note of the cluster's clock, as the log has just moved it."""
        if clock_ms != self._log_ms:
            self._log_ms, self._log_s = clock_ms, self._environment.monotonic_s()

    def stamp_ms(self) -> int:
        """Return the time for an entry: the cluster's, which never runs backwards.

        It may not leap ahead with the clock of one member, for it would stay there: what
        is retried or triggered would wait until the true time has caught up. So a time
        that nobody has confirmed is not used. Nor may it stand still, for leases end by it.
        """
        carried_ms = self._carried_ms(CARRIED_RATE)
        if self._log_ms and not self.confirmed:
            return carried_ms
        return max(carried_ms, self.cluster_ms())

    def _carried_ms(self, rate: float) -> int:
        elapsed_s = self._environment.monotonic_s() - self._log_s
        return self._log_ms + int(elapsed_s * 1000 * rate)

    @property
    def offset_ms(self) -> int:
        """How far the cluster's time is ahead of this member's."""
        offsets = [0, *self._fresh()]
        earliest_ms = self._carried_ms(RATE_MIN) - self._skew_ms_max - self.now_ms()
        possible = [offset_ms for offset_ms in offsets if offset_ms >= earliest_ms]
        return int(statistics.median_low(possible or offsets))

    @property
    def confirmed(self) -> bool:
        """Whether as many others as it takes have told their time lately."""
        return len(self._fresh()) >= self._others_min()

    @property
    def suspect(self) -> bool:
        """Whether this member's clock must not be trusted to launch anything."""
        return (
            self._jumped_since_s is not None
            or not self.confirmed
            or abs(self.offset_ms) > self._skew_ms_max
        )

    def _fresh(self) -> list[int]:
        now_s = self._environment.monotonic_s()
        return [
            offset_ms
            for offset_ms, seen_s in self._offsets.values()
            if now_s - seen_s <= OFFSET_AGE_S_MAX
        ]

    def answered(self, member: str, asked_ms: int, their_now_ms: int) -> None:
        """Take another member's answer to a question that this one asked at `asked_ms`.

        That is on this member's monotonic clock. An answer that was long on its way, or
        waited while this process was stopped, says nothing about the present.
        """
        round_trip_ms = self._environment.monotonic_s() * 1000 - asked_ms
        if 0 <= round_trip_ms <= ROUND_TRIP_MS_MAX:
            self.heard(member, their_now_ms)

    def heard(self, member: str, their_now_ms: int) -> None:
        """Take note of another member's time, just received."""
        self._offsets[member] = (their_now_ms - self.now_ms(), self._environment.monotonic_s())

    def check(self) -> None:
        """Compare with the wall clock; to be called about once a second."""
        now_s, wall_ms, now_ms = (
            self._environment.monotonic_s(),
            self._environment.wall_ms(),
            self.now_ms(),
        )
        jump_ms = wall_ms - now_ms
        if abs(jump_ms) <= SLEW_MS_MAX or self._believable(jump_ms, now_s):
            self._anchor_ms, self._anchor_s = wall_ms, now_s
            self._jumped_since_s = None
            self._offsets = {
                member: (offset_ms - jump_ms, seen_s)
                for member, (offset_ms, seen_s) in self._offsets.items()
            }
        elif self._jumped_since_s is None:
            self._jumped_since_s = now_s

    def _believable(self, jump_ms: int, now_s: float) -> bool:
        fresh = self._fresh()
        if fresh:
            agreeing = sum(abs(offset_ms - jump_ms) <= self._skew_ms_max for offset_ms in fresh)
            return agreeing * 2 > len(fresh)
        return self._jumped_since_s is not None and now_s - self._jumped_since_s >= ALONE_S
