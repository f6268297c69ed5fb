"""How long this member may trust that the cluster still counts on it.

The cluster counts a lease from the moment the heartbeat is applied, in its own time; the
holder counts from the moment it was *sent*, on a clock that does not jump, less a margin.
So whatever happens in between, the holder stops first. The margin covers clocks that run
at rates one percent apart and the time it takes to stop what runs.
"""

from __future__ import annotations

from storage.clock import Environment

DRIFT_RATIO = 0.01
MARGIN_MS_MIN = 500


class Lease:
    """One incarnation's lease, as its holder sees it. Not yet held until first renewed."""

    def __init__(self, environment: Environment, lease_ms: int) -> None:
        self._environment = environment
        self.lease_ms = lease_ms
        self.margin_ms = max(MARGIN_MS_MIN, int(lease_ms * (DRIFT_RATIO + 0.09)))
        self.until_s = 0.0

    def renewed(self, sent_s: float) -> None:
        """Count anew from a heartbeat that was sent at `sent_s` and accepted."""
        self.until_s = max(self.until_s, sent_s + (self.lease_ms - self.margin_ms) / 1000)

    def revoke(self) -> None:
        self.until_s = 0.0

    def now_s(self) -> float:
        """Return the time on the clock that `until_s` is on."""
        return self._environment.monotonic_s()

    @property
    def held(self) -> bool:
        return self.now_s() < self.until_s
