"""What a member's process does about failures that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from node.boot import notice_broken_promise
from storage.invariant import invariant
from storage.journal_format import DiskFailed


def broken() -> None:
    invariant(False, "Nothing is above the limit.", found=3)


def full() -> None:
    raise DiskFailed("The disk is full.")


@pytest.mark.parametrize(
    ("work", "told"), [(broken, "above the limit"), (full, "disk is full")], ids=["broken", "full"]
)
async def test_a_broken_promise_in_a_plain_callback_ends_the_member(
    work: Callable[[], None], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop alone would log it and go on."""
    loop = asyncio.get_running_loop()
    died: asyncio.Future[BaseException] = loop.create_future()
    loop.set_exception_handler(partial(notice_broken_promise, died))
    loop.call_soon(work)
    async with asyncio.timeout(5):
        assert told in str(await died)
    assert told in caplog.text


async def test_any_other_error_of_a_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is a fault of ours, and no reason to stop what works."""
    loop = asyncio.get_running_loop()
    died: asyncio.Future[BaseException] = loop.create_future()
    loop.set_exception_handler(partial(notice_broken_promise, died))
    over = loop.create_future()
    loop.call_soon(int, "no number")
    loop.call_soon(over.set_result, None)
    await over
    assert not died.done()
    assert "no number" in caplog.text
