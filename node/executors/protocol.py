"""What an executor is: it checks a job's action, and runs attempts of it.

Executors register under the entry point group `cronclave.executors`; the name is the
action's `type`. One is made per node, with the `Services` it may use, so what extends
Cronclave needs nothing of it but the shapes below.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from api.faults import Fault
from node.runner.protocol import KillCause
from node.runner_client import CommandRequest, CommandResult, Started
from storage.clock import Environment

ENTRY_POINT_GROUP = "cronclave.executors"

StopReason = Literal["cancelled", "drain", "lease", "timeout"]
# "lost": it was ended for the node's sake, or nobody saw its end. It is given back, and the
# job's delivery decides whether it runs again; as a failure it would use up its retries.
AttemptOutcome = Literal["succeeded", "failed", "timed_out", "cancelled", "lost"]


class Runner(Protocol):
    """What executors ask of the process that launches commands; see `node.runner_client`."""

    async def run(
        self,
        request: CommandRequest,
        on_started: Callable[[Started], None] | None = None,
    ) -> CommandResult: ...

    def kill(self, attempt_id: str, reason: str, *, cause: KillCause) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a node lends to its executors."""

    environment: Environment
    runner: Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a run.

    `identity` is what the attempt is told about itself, the same in the environment of
    a command and in the headers of a request; `stop` is resolved with the reason when it
    has to end early. With `must_stop_with_lease`, it must not outlive the node's lease.
    """

    key: str
    identity: Mapping[str, str]
    action: Mapping[str, Any]
    timeout_ms: int | None
    output_bytes_max: int
    must_stop_with_lease: bool
    stop: asyncio.Future[StopReason]
    on_started: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """How an attempt ended; `detail` is a sentence for people."""

    outcome: AttemptOutcome
    exit_code: int | None = None
    detail: str = ""
    output: bytes = b""
    output_bytes: int = 0
    fatal: bool = field(default=False)  # trying again cannot help
    unstarted: bool = field(default=False)  # lost before it began, which is certain


class Executor(Protocol):
    """Runs the attempts of one kind of action."""

    def validate(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
        """Return everything that is wrong with an action, with pointers beneath `pointer`."""
        ...

    async def run(self, attempt: Attempt) -> AttemptResult:
        """Run an attempt to its end; called once each. An exception is a failed attempt."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...
