"""A receiver of HTTP actions that remembers who called, in the order of arrival."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One call of an action: whose it was, and which attempt of which run."""

    job: str
    run: str
    attempt: int
    fence: int


@dataclass(slots=True)
class Sink:
    """Every call that came to `url`, by the job's full name."""

    url: str
    deliveries: dict[str, list[Delivery]] = field(default_factory=lambda: defaultdict(list))

    @property
    def jobs_called(self) -> int:
        return len(self.deliveries)

    async def take(self, request: web.Request) -> web.Response:
        headers = request.headers
        delivery = Delivery(
            job=headers["Cronclave-Job"],
            run=headers["Cronclave-Run"],
            attempt=int(headers["Cronclave-Attempt"]),
            fence=int(headers["Cronclave-Fence"]),
        )
        self.deliveries[delivery.job].append(delivery)
        return web.Response(text="taken")


@asynccontextmanager
async def http_sink() -> AsyncIterator[Sink]:
    """Listen on a free port of the loopback address until the end of the block."""
    sink = Sink("")
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", sink.take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        sink.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield sink
    finally:
        await runner.cleanup()
