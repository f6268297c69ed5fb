"""Jobs' definitions, decoded once per revision."""

from __future__ import annotations

from collections import OrderedDict

from storage import keys, models
from storage.models import JobDefinition
from storage.store import View

# About 2 KB each; the jobs of the next minutes are what a member works with.
CACHED_MAX = 20_000


class Definitions:
    """A bounded cache over the job table."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._cache: OrderedDict[bytes, tuple[int, JobDefinition]] = OrderedDict()

    def get(self, job: bytes, revision: int) -> JobDefinition | None:
        """Return a job's definition as of `revision`, the one the store has now."""
        cached = self._cache.get(job)
        if cached is not None and cached[0] == revision:
            return cached[1]
        raw = self._view.get(keys.JOB + job)
        if raw is None:
            return None
        definition = models.decode_definition(raw)
        self._cache[job] = (revision, definition)
        if len(self._cache) > CACHED_MAX:
            self._cache.popitem(last=False)
        return definition
