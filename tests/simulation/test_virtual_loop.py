"""The loop of the simulation: how it ends what would never come to an end."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.virtual_loop import NothingLeft, TimeStandsStill, VirtualLoop


def test_who_asks_for_an_instant_that_never_passes_is_found_out() -> None:
    """A run would hang otherwise, and whoever waits for it with it."""
    loop = VirtualLoop()

    def again() -> None:
        loop.call_at(loop.time(), again)

    again()
    with pytest.raises(TimeStandsStill, match="turns of the loop at 1000"):
        loop.run_forever()
    loop.close()


def test_who_waits_for_nothing_is_found_out() -> None:
    """No timer and no callback is left that could bring it about."""
    loop = VirtualLoop()

    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    waiting = loop.create_task(wait())
    with pytest.raises(NothingLeft):
        loop.run_until_complete(waiting)
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()
