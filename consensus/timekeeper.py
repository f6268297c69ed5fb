"""A member's idea of the time of day, checked against the others'.

The wall clock says when something is due, and it can jump. So the time of day is carried
forward on the monotonic clock and only compared with the wall clock: a small difference is
followed, as it is the slewing of a time daemon. A jump is believed when the other members
agree with it, or when nobody contradicts it for a while; until then the member holds on to
the time it had, says that its clock is suspect, and claims nothing.

Members tell each other their time once a heartbeat. What the median of all of them
(including this one) says is the cluster's time of day; who is further off it than the
permitted skew is suspect as well. So is who has not heard enough others lately to be a
majority together with them: a machine that comes up may have any time whatever. Nothing of
this is ever used for safety.
"""

from __future__ import annotations

import statistics

from storage.clock import Environment

# A time daemon slews by a few milliseconds a second; more than this at once is a jump.
SLEW_MS_MAX = 250
# A member that is alone has nobody to ask; it follows its clock after this long.
ALONE_S = 5.0
# An offset that was not confirmed for so long says nothing any more.
OFFSET_AGE_S_MAX = 10.0


class Timekeeper:
    """The time of day in milliseconds, never running backwards by a jump."""

    def __init__(self, environment: Environment, skew_ms_max: int, others_min: int = 0) -> None:
        """`others_min` says how many other members have to confirm the time of day."""
        self._environment = environment
        self._skew_ms_max = skew_ms_max
        self.others_min = others_min
        self._anchor_ms = environment.wall_ms()
        self._anchor_s = environment.monotonic_s()
        self._jumped_since_s: float | None = None
        # How far another member's time is ahead of this one's, and when that was seen.
        self._offsets: dict[str, tuple[int, float]] = {}

    def now_ms(self) -> int:
        """Return the time of day, carried forward from the last check."""
        elapsed_s = self._environment.monotonic_s() - self._anchor_s
        return self._anchor_ms + int(elapsed_s * 1000)

    def cluster_ms(self) -> int:
        """Return the time of day as the cluster has it, as far as it is known here."""
        offset_ms = self.offset_ms
        return self.now_ms() + (offset_ms if abs(offset_ms) > self._skew_ms_max else 0)

    @property
    def offset_ms(self) -> int:
        """How far the cluster's time is ahead of this member's."""
        return int(statistics.median_low([0, *self._fresh()]))

    @property
    def confirmed(self) -> bool:
        """Whether as many others as it takes have told their time lately."""
        return len(self._fresh()) >= self.others_min

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

    def heard(self, member: str, their_now_ms: int) -> bool:
        """Take note of another member's time, just received; return whether it is news."""
        now_s = self._environment.monotonic_s()
        _, seen_s = self._offsets.get(member, (0, now_s - 2 * OFFSET_AGE_S_MAX))
        self._offsets[member] = (their_now_ms - self.now_ms(), now_s)
        return now_s - seen_s > OFFSET_AGE_S_MAX

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
