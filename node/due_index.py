"""When to look at which part of the due table.

The due table is ordered by partition and band; this index remembers, for each of the two
together, when its earliest entry is to be looked at by this member, and hands out those
whose time has come. It is fed by what the state machine applies, and rebuilt from the
store at start and when ranks change. It may err on the early side only: a look at a place
where nothing is due costs one short range read.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from storage import keys
from storage.store import View

Place = tuple[int, int]  # partition, band


class DueIndex:
    """The earliest wake-up of each place, in order, per band."""

    def __init__(
        self, wake_of: Callable[[int, int, int], int | None], horizon_ms: int, aging_ms: int
    ) -> None:
        """`wake_of(partition, band, start_ms)` says when to look; None means never.

        A place counts as ready `horizon_ms` after its wake-up, and each `aging_ms` that it
        waits from then on is worth one step of priority.
        """
        self._wake_of = wake_of
        self._horizon_ms = horizon_ms
        self._aging_ms = aging_ms
        self._wake: dict[Place, int] = {}
        self._heaps: dict[int, list[tuple[int, Place]]] = {}

    def note(self, partition: int, band: int, start_ms: int) -> None:
        """Take an entry into account that starts at `start_ms`."""
        wake_ms = self._wake_of(partition, band, start_ms)
        if wake_ms is not None:
            self.note_wake((partition, band), wake_ms)

    def note_wake(self, place: Place, wake_ms: int) -> None:
        known = self._wake.get(place)
        if known is None or wake_ms < known:
            self._wake[place] = wake_ms
            heapq.heappush(self._heaps.setdefault(place[1], []), (wake_ms, place))

    @property
    def next_wake_ms(self) -> int | None:
        """The time of the earliest look, None if there is nothing to look at."""
        return min((heap[0][0] for heap in self._heaps.values() if self._trim(heap)), default=None)

    def pop(self, now_ms: int) -> Place | None:
        """Take out the place to look at next, None if the time of none has come.

        Ready places come first, by priority and waiting time; then those that will be
        ready within the horizon, by their time.
        """
        best: tuple[tuple[bool, float], list[tuple[int, Place]]] | None = None
        for band, heap in self._heaps.items():
            if self._trim(heap) and heap[0][0] <= now_ms:
                order = self._order(band, heap[0][0], now_ms)
                if best is None or order < best[0]:
                    best = (order, heap)
        if best is None:
            return None
        _, place = heapq.heappop(best[1])
        del self._wake[place]
        return place

    def _order(self, band: int, wake_ms: int, now_ms: int) -> tuple[bool, float]:
        waited_ms = now_ms - wake_ms - self._horizon_ms
        if waited_ms < 0:
            return True, wake_ms
        priority = (keys.BANDS - 1 - band % keys.SELECTIVE_BAND) * 10
        return False, -(priority + waited_ms / self._aging_ms)

    def _trim(self, heap: list[tuple[int, Place]]) -> bool:
        """Drop entries that are no longer true from the top; return whether any is left."""
        while heap and self._wake.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return bool(heap)

    def rebuild(self, view: View) -> None:
        """Read the earliest entry of every place from the due table."""
        self._wake.clear()
        self._heaps.clear()
        start, stop = keys.DUE, keys.after(keys.DUE)
        while rows := view.scan(start, stop, 1):
            partition, band, start_ms, _, _ = keys.split_due(rows[0][0])
            self.note(partition, band, start_ms)
            start = keys.due_range(partition, band + 1, 0)[0]
