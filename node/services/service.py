"""What all services share: a task that runs until it is stopped, and is loud when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from consensus.errors import ConsensusError
from consensus.state.commands import Command, Refused, Result

logger = logging.getLogger(__name__)

RETRY_S = 0.2


class Service(Protocol):
    """One duty of a member."""

    async def run(self) -> None:
        """Do the duty until cancelled; returning or raising stops the member."""
        ...


class Door(Protocol):
    """What services need of the replicated log."""

    async def propose(
        self, commands: Sequence[Command], *, timeout_s: float
    ) -> tuple[Result, ...]: ...


async def insist(door: Door, command: Command, *, timeout_s: float) -> Result:
    """Propose a command again and again until the cluster has decided on it.

    For commands that the state machine can see twice without harm: it checks a fence, a
    lease or an age, not a count. One that came too late to be decided on is proposed again
    as well: all members may have been stopped, with their machine, while it was under way.
    """
    while True:
        try:
            (result,) = await door.propose((command,), timeout_s=timeout_s)
            if not (isinstance(result, Refused) and result.code == "expired"):
                return result
            reason = result.detail
        except ConsensusError as error:
            reason = str(error)
        logger.debug("%s waits for the cluster: %s", type(command).__name__, reason)
        await asyncio.sleep(RETRY_S)


class Services:
    """Starts services together; if one dies, the member stops. Start and stop once."""

    def __init__(self, services: Sequence[Service], on_fatal: Callable[[BaseException], None]):
        self._services = services
        self._on_fatal = on_fatal
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for service in self._services:
            task = asyncio.get_running_loop().create_task(
                service.run(), name=type(service).__name__
            )
            task.add_done_callback(self._died)
            self._tasks.append(task)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _died(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception() or RuntimeError(f"{task.get_name()} ended by itself.")
            self._on_fatal(error)
