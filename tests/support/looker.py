"""The due loop of one member over a state machine of its own, without anything around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from api.jobs.planning import policy_of
from consensus.state.commands import (
    Claim,
    Claimed,
    ClaimOccurrence,
    Command,
    Cursor,
    JobDone,
    Refused,
    Result,
)
from consensus.timekeeper import Timekeeper
from node.definitions import Definitions
from node.lease import Lease
from node.ownership import Ownership
from node.services.due_loop import DueLoop
from storage import keys, models
from storage.models import Member, ScheduleSpec
from tests.support.builders import Lab, definition
from tests.support.clocks import ManualEnvironment

HORIZON_MS = 1_000
SLOTS = 10


class StoppedTime:
    """A timekeeper that is sure of the time, which a test moves."""

    suspect = False

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def now_ms(self) -> int:
        return self._lab.now_ms


class Looker:
    """The due loop of one member over a state machine of its own."""

    def __init__(self, labels: dict[str, str] | None = None) -> None:
        self.lab = Lab()
        self.incarnation = self.lab.join(labels=labels or {})
        self.claimed: list[bytes] = []
        # Jobs whose claim meets a fault of the program.
        self.broken: set[bytes] = set()
        self.ownership = Ownership("a")
        lease = Lease(ManualEnvironment(), 5_000)
        lease.renewed(1_000.0)
        time = cast(Timekeeper, StoppedTime(self.lab))
        self.loop = DueLoop(
            self,
            self.lab.store,
            Definitions(self.lab.store),
            self.ownership,
            lease,
            time,
            lambda: self.incarnation,
            lambda: SLOTS,
            HORIZON_MS,
            250,
        )
        self.hear_of_members()
        self.loop.rebuild()

    def hear_of_members(self) -> None:
        """Do what a node does when the log has changed who takes part."""
        if self.ownership.update(self.members()):
            self.loop.rebuild()

    def members(self) -> list[Member]:
        return [models.decode_member(raw) for raw in self.lab.rows(keys.MEMBER).values()]

    async def propose(self, commands: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        assert timeout_s > 0
        (command,) = commands
        assert isinstance(command, Claim)
        if any(
            isinstance(item, ClaimOccurrence) and item.job in self.broken for item in command.items
        ):
            return (Refused("internal", "Claim met a fault in this program."),)
        result = self.lab.expect(Claimed, command)
        self.hear_of_jobs()
        for item, refusal in zip(command.items, result.refusals, strict=True):
            # Runs of one job that came together under another policy wait for each other.
            assert refusal in {None, "overlap"}
            if refusal is None:
                self.claimed.append(
                    item.job if isinstance(item, ClaimOccurrence) else item.run[:16]
                )
        return (result,)

    def job(self, name: str, due_ms: int, placement: dict[str, str] | None = None) -> bytes:
        """Create a one-time job in the partition of all jobs of this test."""
        once = definition(ScheduleSpec(kind="at", at_ms=due_ms), placement=placement or {})
        command = self.lab.put(
            name,
            definition=models.encode(once),
            policy=policy_of(once),
            cursor=Cursor(due_ms, due_ms),
        )
        self.lab.apply(command)
        self.hear_of_jobs()
        return command.job

    def place_elsewhere(self, job: bytes, placement: dict[str, str]) -> None:
        """Change nothing of a job but who may run it."""
        raw = self.lab.store.get(keys.JOB + job)
        assert raw is not None
        before = models.decode_definition(raw)
        after = definition(before.schedule, overlap=before.overlap, placement=placement)
        command = self.lab.edit(
            job, keep_cursor=True, definition=models.encode(after), policy=policy_of(after)
        )
        self.lab.expect(JobDone, command)
        self.hear_of_jobs()

    def hear_of_jobs(self) -> None:
        """Do what a node does when the log has changed what is due."""
        for place in self.lab.effects.due:
            self.loop.note(*place)

    async def look(self, times: int = 1) -> None:
        """Look so many times, a little later each time, and let the cluster decide."""
        for _ in range(times):
            self.loop.run_once()
            await self.loop.settled(10.0)
            self.lab.pass_ms(10)
