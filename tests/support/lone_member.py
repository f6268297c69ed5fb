"""A whole member without a network: its log is decided by itself, a moment later.

Everything else is real: the state on disk, the runner process, the executors, the duties.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from api.jobs import planning
from consensus.configuration import Configuration, first_configuration
from consensus.raft.types import Entry, Journal, Network, RaftSettings
from consensus.read_rounds import Answer
from consensus.state.commands import JobDone, PutJob, Result
from node.node import Node
from node.runner_client import RunnerClient
from node.settings import NodeSettings
from node.spool import Spool
from storage import keys, models
from storage.clock import SystemEnvironment, new_id
from storage.lmdb_store import LmdbStore
from storage.models import JobDefinition, Run, Skip

# Far more than anything takes; reached only when something is broken.
PATIENCE_S = 120.0


class LoneLog:
    """What the Raft layer of a cluster of one would do, without a disk."""

    term = 1
    first_index = 1
    is_leader = True
    has_quorum_contact = True

    def __init__(
        self,
        *,
        member: str,
        applied_index: int,
        apply: Any,
        bootstrap: Configuration,
        **_: Any,
    ) -> None:
        self.snapshots = SimpleNamespace(receiving=False, facts=dict, lag=0)
        self.leader: str | None = member
        self.configuration = bootstrap
        self.configuration_index = 0
        self.last_index = applied_index
        self._apply: Callable[[Sequence[Entry]], None] = apply
        self._waiting: list[tuple[bytes, Configuration | None]] = []

    async def start(self) -> None:
        self.propose(b"")

    async def stop(self) -> None:
        self._waiting.clear()

    def propose(self, command: bytes, after: Configuration | None = None) -> int:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._commit)
        self._waiting.append((command, after))
        return self.last_index + len(self._waiting)

    def change(self, after: Configuration) -> int:
        self.configuration = after
        self.configuration_index = self.propose(b"", after)
        return self.configuration_index

    def _commit(self) -> None:
        first = self.last_index + 1
        entries = [
            Entry(index=first + place, term=1, command=command, configuration=after)
            for place, (command, after) in enumerate(self._waiting)
        ]
        self._waiting.clear()
        self.last_index += len(entries)
        self._apply(entries)

    def confirm_read(self, answer: Answer) -> None:
        answer(self.last_index)

    def send(self, member: str, payload: bytes) -> bool:
        del member, payload
        return False

    connected: frozenset[str] = frozenset()

    def trim(self, index: int) -> None:
        del index

    @property
    def in_flight_entries(self) -> int:
        return len(self._waiting)

    @property
    def commit_index(self) -> int:
        return self.last_index

    @property
    def applied_index(self) -> int:
        return self.last_index


class LoneMember:
    """A node, and the questions that tests ask of it."""

    def __init__(self, node: Node, runner: RunnerClient) -> None:
        self.node = node
        self.runner = runner

    async def put(self, name: str, definition: JobDefinition) -> bytes:
        """Create a job and return its id."""
        environment = self.node.environment
        job = new_id(environment)
        cursor = planning.first_cursor(definition, job, environment.wall_ms())
        command = PutJob(
            job,
            "default",
            name,
            models.encode(definition),
            planning.policy_of(definition),
            cursor,
            0,
        )
        result = await self.propose(command)
        assert isinstance(result, JobDone)
        return job

    async def propose(self, command: Any) -> Result:
        (result,) = await self.node.propose((command,), timeout_s=PATIENCE_S)
        return result

    def outcomes(self, job: bytes) -> list[Run | Skip]:
        """Return a job's history, oldest first."""
        prefix = keys.OUTCOME + job
        rows = self.node.view.scan(prefix, keys.after(prefix), 10_000)
        return [models.decode_outcome(raw) for _, raw in rows]

    def runs(self, job: bytes) -> list[Run]:
        return [outcome for outcome in self.outcomes(job) if isinstance(outcome, Run)]

    async def until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait for a condition on the state; each applied entry is a reason to look."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await self.node.wait_applied(self.node.applied_index + 1, timeout_s=0.2)

    async def ended(self, job: bytes) -> Run:
        """Wait for the job's first run to end, and return it."""
        await self.until(lambda: any(run.state == "ended" for run in self.runs(job)))
        return next(run for run in self.runs(job) if run.state == "ended")


@asynccontextmanager
async def lone_member(directory: Path, **settings: Any) -> AsyncIterator[LoneMember]:
    """Start a member of a cluster of one in a directory, and stop it at the end."""
    environment = SystemEnvironment()
    runner = RunnerClient(environment)
    await runner.start(directory)
    node = Node(
        NodeSettings(
            name="n1",
            cluster="test",
            bootstrap=first_configuration({"n1": "127.0.0.1:7901"}),
            http_address="",
            version="test",
            **settings,
        ),
        environment=environment,
        journal=cast(Journal, None),
        network=cast(Network, None),
        store=LmdbStore(directory / "state"),
        spool=Spool(directory / "spool"),
        runner=runner,
        raft_settings=RaftSettings(),
        raft_class=cast(Any, LoneLog),
    )
    await node.start()
    try:
        yield LoneMember(node, runner)
        assert not node.fatal.done(), node.fatal.result()
    finally:
        await node.stop()
        await runner.stop()
