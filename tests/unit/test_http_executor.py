"""What a member makes of requests that come to nothing: the reason has to be the true one."""

from __future__ import annotations

import asyncio
from typing import NoReturn, cast

import aiohttp
import pytest

from node.executors.http import HttpExecutor
from node.executors.protocol import Attempt, AttemptResult, Services

ACTION = {"type": "http", "url": "http://127.0.0.1:9/", "connect_timeout": "2s"}


async def requested(error: Exception, monkeypatch: pytest.MonkeyPatch) -> AttemptResult:
    """Return what becomes of an attempt whose request ends with an error."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(aiohttp.ClientSession, "request", fail)
    executor = HttpExecutor(cast(Services, None))
    await executor.start()
    attempt = Attempt(
        key="a",
        identity={"CRONCLAVE_IDEMPOTENCY_KEY": "a"},
        action=ACTION,
        timeout_ms=60_000,
        output_bytes_max=1,
        must_stop_with_lease=True,
        stop=asyncio.get_running_loop().create_future(),
        on_started=lambda: None,
    )
    try:
        return await executor.run(attempt)
    finally:
        await executor.stop()


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (TimeoutError(), "No answer within 60000 ms."),
        (aiohttp.ServerTimeoutError(), "No answer within 60000 ms."),
        (aiohttp.ConnectionTimeoutError("no"), "No connection within 2000 ms."),
    ],
)
async def test_which_time_was_up_is_said(
    error: Exception, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for a connection is another than that for an answer, and much shorter."""
    result = await requested(error, monkeypatch)
    assert (result.outcome, result.detail) == ("timed_out", detail)


async def test_what_failed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the network is a failure, with its name."""
    result = await requested(aiohttp.ServerDisconnectedError(), monkeypatch)
    assert (result.outcome, result.detail) == (
        "failed",
        "The request failed: ServerDisconnectedError: Server disconnected",
    )
