"""When writes are accepted again after a leader is gone, measured by small writes all along."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from chaos.harm import Blow
from tests.support.cluster import GONE, Node

PROBES = 6
PAUSE_S = 0.02
# A request to a member that hangs is given up, and another one is asked.
PATIENCE_S = 1.0


class Probes:
    """Writers of one job each, which note when each accepted write began and ended."""

    def __init__(self, usable: Callable[[], list[Node]]) -> None:
        self._usable = usable
        self._over = asyncio.Event()
        self.accepted: list[tuple[float, float]] = []

    async def run(self) -> None:
        """Write until `stop` is called."""
        await asyncio.gather(*(self._write(number) for number in range(PROBES)))

    def stop(self) -> None:
        self._over.set()

    def gaps_s(self, blows: list[Blow]) -> list[float]:
        """Return, for each blow to a leader, how long no write that began after it ended.

        Blows without any accepted write behind them are left out.
        """
        gaps = []
        for blow in blows:
            ends = [end_s for begin_s, end_s in self.accepted if begin_s > blow.at_s]
            if blow.led and ends:
                gaps.append(min(ends) - blow.at_s)
        return gaps

    async def _write(self, number: int) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            usable = self._usable()
            node = usable[(number + count) % len(usable)]
            job = {
                "name": f"probe-{number}",
                "description": str(count),
                "schedule": {"manual": True},
                "action": {"type": "noop"},
            }
            begin_s = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    answer = await node.request("PUT", f"/v1/jobs/default/probe-{number}", job)
                if answer.status in (200, 201):
                    self.accepted.append((begin_s, time.monotonic()))
            except GONE:
                pass  # it is counted by its absence
            await asyncio.sleep(PAUSE_S)
