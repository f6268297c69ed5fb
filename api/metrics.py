"""What the API counts about itself.

Labels are route templates, never addresses, so their number is bounded by the table.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

# From a local read to the longest that a proposal may take.
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
UNMATCHED = "unmatched"


class ApiMetrics:
    """Requests by route and status, and how long they took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "cronclave_http_requests",
            "Requests that were answered.",
            ("route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "cronclave_http_request_seconds",
            "Time from a request's head to its answer.",
            ("route",),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._counters: dict[tuple[str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is a method and a template."""
        counter = self._counters.get((route, status))
        if counter is None:
            counter = self._counters[route, status] = self._requests.labels(route, str(status))
            self._histograms.setdefault(route, self._seconds.labels(route))
        counter.inc()
        self._histograms[route].observe(seconds)
