"""What the measurements ask of a cluster: jobs in, runs out, and the figures between.

Load is either closed (a number of connections, each sending when its answer has come) or
timed by the jobs themselves, whose instants are fixed before they are created. Lateness
is read from the recorded runs, so it counts everything up to the start as the cluster
tells it; its resolution is the API's millisecond.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.connection import JSON, Answer, Client, connect, encode

Job = dict[str, Any]
PAGE_ITEMS = 1_000
BATCH_ITEMS = 1_000
POLL_S = 0.25
NOOP = {"type": "noop"}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def format_ms(time_ms: int) -> str:
    """Return a time as the API writes it."""
    moment = datetime.fromtimestamp(time_ms // 1_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1_000:03d}Z"


def parse_ms(text: str) -> int:
    """Return a time of the API in milliseconds since the epoch."""
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of all lie; not a number if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


# --- Jobs ------------------------------------------------------------------------------


def one_time(name: str, at_ms: int, action: Job | None = None) -> Job:
    return {"name": name, "schedule": {"at": format_ms(at_ms)}, "action": action or NOOP}


def recurring(name: str, every: str, anchor_ms: int, until_ms: int) -> Job:
    """Return a job of an interval, without an occurrence before its anchor."""
    schedule = {"every": every, "anchor": format_ms(anchor_ms)}
    bounds = {"not_before": format_ms(anchor_ms), "not_after": format_ms(until_ms)}
    return {"name": name, "schedule": schedule | bounds, "action": NOOP}


def kilobyte_job(name: str, at_ms: int) -> Job:
    """Return a job with a kilobyte of description and labels."""
    labels = {f"label-{number}": "x" * 40 for number in range(4)}
    return one_time(name, at_ms) | {"description": "d" * 800, "labels": labels}


async def create_all(client: Client, jobs: Sequence[Job]) -> int:
    """Create jobs in batches, one after the other; return how many were accepted."""
    accepted = 0
    for first in range(0, len(jobs), BATCH_ITEMS):
        accepted += await create_batch(client, jobs[first : first + BATCH_ITEMS])
    return accepted


async def create_batch(client: Client, jobs: Sequence[Job]) -> int:
    """Create jobs by one request; return how many were accepted."""
    answer = await client.send("POST", "/v1/jobs:batch", jobs, timeout_s=60)
    if not answer.accepted:
        raise RuntimeError(f"The batch was refused: {answer.status} {answer.body[:300]!r}")
    return created(answer)


def created(answer: Answer) -> int:
    """Return how many jobs of a batch were created."""
    count: int = answer.json()["created"]
    return count


# --- Runs ------------------------------------------------------------------------------


async def pages(client: Client, path: str) -> AsyncIterator[list[Any]]:
    """Yield the pages of a list until its end."""
    joint = "&" if "?" in path else "?"
    address = f"{path}{joint}limit={PAGE_ITEMS}"
    cursor: str | None = ""
    while cursor is not None:
        page = await client.get(address + (f"&cursor={cursor}" if cursor else ""))
        yield page["items"]
        cursor = page["next_cursor"]


async def all_runs(client: Client) -> list[Any]:
    """Return every run of a cluster."""
    return [run async for page in pages(client, "/v1/runs") for run in page]


async def ended_runs(client: Client, wanted: int, timeout_s: float) -> list[Any]:
    """Return all runs as soon as `wanted` of them have ended, or at the end of the time."""
    await wait_ended(client, wanted, timeout_s)
    return await all_runs(client)


async def wait_ended(client: Client, wanted: int, timeout_s: float) -> None:
    """Wait until so many runs have ended, or for the whole time.

    The wait looks at counters: to walk the list again and again would be a load of its own.
    """
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        counters = (await client.get("/v1/cluster"))["counters"]
        if counters.get("runs", 0) - counters.get("runs_live", 0) >= wanted:
            break
        await asyncio.sleep(POLL_S)


def lateness_ms(run: Any) -> int:
    """Return how long after its instant a run started."""
    return parse_ms(run["started_at"]) - parse_ms(run["scheduled_at"])


def started(runs: Iterable[Any]) -> list[Any]:
    return [run for run in runs if run.get("started_at")]


# --- Closed load -----------------------------------------------------------------------


class ClosedLoad:
    """How long each good answer took, how many jobs were accepted, what was refused."""

    def __init__(self) -> None:
        self.took_ms: list[float] = []
        self.accepted = 0
        self.refused = 0
        self.refusal = ""  # the last one
        self.elapsed_s = 0.0

    @property
    def rate(self) -> float:
        return self.accepted / self.elapsed_s


async def closed_load(
    urls: Sequence[str],
    connections: int,
    seconds: float,
    path: str,
    make: Callable[[], object],
    *,
    count: Callable[[Answer], int] = lambda answer: 1,
) -> ClosedLoad:
    """POST what `make` returns, over connections dealt out to `urls`, for some seconds.

    `count` says how many jobs an answer with a good status has accepted.
    """
    load = ClosedLoad()
    opened = [await connect(urls[number % len(urls)]) for number in range(connections)]
    began_s = time.perf_counter()
    until_s = began_s + seconds

    async def send_again_and_again(position: int) -> None:
        while time.perf_counter() < until_s:
            body = encode(make())
            sent_s = time.perf_counter()
            answer = await opened[position].request("POST", path, body, JSON)
            accepted = count(answer) if answer.accepted else 0
            if accepted:
                load.accepted += accepted
                load.took_ms.append((time.perf_counter() - sent_s) * 1_000)
            else:
                load.refused += 1
                load.refusal = answer.body[:300].decode(errors="replace")

    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(send_again_and_again(number) for number in range(connections)))
    load.elapsed_s = time.perf_counter() - began_s
    for connection in opened:
        connection.close()
    return load
