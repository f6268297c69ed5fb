"""The time of day as the cluster has it: what a member stamps entries and plans jobs with.

It comes from this member's clock, as far as the others confirm it, and from the cluster's
own clock, the highest time stamped so far.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.timekeeper import Timekeeper
from storage.clock import Environment

# How fast the stamps move on while nobody confirms this member's clock: half as fast as time.
CARRIED_MS_PER_S = 500


class ClusterTime:
    """The cluster's time on one member; `applied_clock_ms` returns what is stamped so far."""

    def __init__(
        self,
        timekeeper: Timekeeper,
        environment: Environment,
        applied_clock_ms: Callable[[], int],
    ) -> None:
        self._timekeeper = timekeeper
        self._environment = environment
        self._applied_clock_ms = applied_clock_ms
        # The cluster's clock as it was last moved here, and when that was.
        self._seen = (applied_clock_ms(), environment.monotonic_s())

    def stamp_ms(self) -> int:
        """Return the time for an entry: the cluster's, which never runs backwards.

        It may not leap ahead with the clock of one member, for it would stay there: what
        is retried or triggered would wait until the true time has caught up. So a time
        that nobody has confirmed is not used. Nor may it stand still, for leases end by
        it; so it moves on at half the speed of a clock that does not jump, which is slow
        enough for the true time to catch up.
        """
        clock_ms, since_s = self._seen
        carried_ms = clock_ms + int((self._environment.monotonic_s() - since_s) * CARRIED_MS_PER_S)
        if clock_ms and not self._timekeeper.confirmed:
            return carried_ms
        return max(carried_ms, self._timekeeper.cluster_ms())

    def note_applied(self, _: int) -> None:
        """Take note of when the cluster's clock was moved."""
        clock_ms = self._applied_clock_ms()
        if clock_ms != self._seen[0]:
            self._seen = (clock_ms, self._environment.monotonic_s())

    def now_ms(self) -> int:
        """Return the time of day as the cluster has it."""
        return max(self._applied_clock_ms(), self._timekeeper.cluster_ms())
