"""Users of a simulated cluster: what they ask for, what they are told, what they know.

Each client has jobs of its own and does one thing at a time, through any member that is
up, with an idempotency key that it keeps while it repeats a request elsewhere. What it
knows at the end is one of three things: the request was accepted (or refused for a good
reason), it was certainly not applied, or nobody can say. The commands are built as the
HTTP API builds them, by the same functions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from api.jobs import changes as job_changes
from api.jobs.changes import Current, Target
from api.jobs.document import JobRequest
from api.problems import Problem
from consensus.errors import ConsensusError, NoQuorum, OutcomeUnknown
from consensus.state.commands import (
    CancelRun,
    Command,
    PauseJob,
    Refused,
    RequestKey,
    Result,
    TriggerJob,
)
from node.node import Node
from storage import keys, models
from storage.clock import new_id
from storage.models import (
    CatchUp,
    JobDefinition,
    Retry,
    ScheduleSpec,
)
from tests.simulation.cluster_member import MemberLife
from tests.simulation.cluster_oracle import ClusterOracle, true_ms
from tests.simulation.virtual_loop import VirtualLoop

DefinitionMaker = Callable[[random.Random, int, int], JobDefinition]
Kind = Literal["create", "edit", "pause", "resume", "delete", "trigger", "cancel"]
Knowledge = Literal["accepted", "refused", "not applied", "unknown"]

# Some users have little patience, and do not know afterwards what became of their request.
PROPOSAL_S = (0.5, 2.0, 10.0)
PATIENCE_S = 12.0
TRIES_MAX = 3


@dataclass(slots=True)
class Wish:
    """One request of a client, however often it was repeated."""

    number: int
    kind: Kind
    job: bytes
    key: RequestKey
    began_s: float
    # One word on each try: the name of an error, or of a result.
    tries: list[str] = field(default_factory=list)
    known: Knowledge = "not applied"
    result: Result | None = None
    # What the command said the last time it was sent.
    command: Command | None = None
    # By how much members may have been wrong about the time: where only two are left and
    # one of their clocks is behind, nobody can tell which.
    doubt_ms: int = 0
    # What the job is to be, the same in every try.
    wanted: JobDefinition | None = None


class Surface(Protocol):
    """What clients need of the world."""

    loop: VirtualLoop
    oracle: ClusterOracle
    lives: dict[str, MemberLife]

    @property
    def doubt_ms(self) -> int: ...


class Client:
    """A user with some jobs."""

    def __init__(self, world: Surface, rng: random.Random, number: int, until_s: float) -> None:
        self._world = world
        self._rng = rng
        self._number = number
        self._until_ms = int(true_ms(until_s))
        self.wishes: list[Wish] = []
        self.jobs: list[bytes] = []
        # The members to which requests go; None for all that are up.
        self.through: set[str] | None = None

    # --- What it does -------------------------------------------------------------------------

    async def run(self, jobs: int) -> None:
        """Create some jobs, then do this and that with them until cancelled."""
        for _ in range(jobs):
            await self.create()
            await asyncio.sleep(self._rng.uniform(0.0, 0.4))
        while True:
            await asyncio.sleep(self._rng.expovariate(2.0))
            await self._something()

    async def _something(self) -> None:
        if not self.jobs:
            await self.create()
            return
        kinds: tuple[Kind, ...] = (
            "trigger",
            "pause",
            "resume",
            "edit",
            "cancel",
            "delete",
            "create",
        )
        kind = self._rng.choices(kinds, (6, 2, 3, 2, 2, 1, 1))[0]
        job = self._rng.choice(self.jobs)
        if kind == "create":
            await self.create()
        elif kind == "delete" and len(self.jobs) > 1:
            await self.do("delete", job, self._deletion)
        elif kind in ("pause", "resume"):
            await self.do(kind, job, self.pausing(paused=kind == "pause"))
        elif kind == "edit":
            await self.do("edit", job, self._edit)
        elif kind == "cancel":
            await self.do("cancel", job, self._cancellation)
        else:
            await self.do("trigger", job, self._trigger)

    async def create(self, make: DefinitionMaker | None = None) -> Wish:
        """Create a job, by default any."""

        def build(node: Node, wish: Wish) -> Command:
            now_ms, known = node.now_ms(), self._world.oracle.definitions
            if not wish.job:
                wish.job = new_id(node.environment, now_ms)
                choose = any_definition if make is None else make
                known[wish.job] = choose(self._rng, now_ms, self._until_ms)
            request = _request(wish, known[wish.job])
            return job_changes.creation(wish.job, request, now_ms, wish.key)

        wish = await self.do("create", b"", build)
        if wish.known in ("accepted", "unknown"):
            self.jobs.append(wish.job)
        return wish

    async def create_probe(self, through: set[str]) -> bytes:
        """Create a job that is soon due, through some members only; return its id."""
        self.through = through
        wish = await self.create(_probe)
        while wish.known != "accepted":
            wish = await self.create(_probe)
        self.through = None
        return wish.job

    async def finish(self) -> None:
        """Let no job stand still: what is paused is resumed, until that is certain."""
        for job in self.jobs:
            wish = await self.do("resume", job, self.pausing(paused=False))
            while wish.known not in ("accepted", "refused"):
                await asyncio.sleep(0.5)
                wish = await self.do("resume", job, self.pausing(paused=False))

    # --- How it asks --------------------------------------------------------------------------

    async def do(
        self, kind: Kind, job: bytes, build: Callable[[Node, Wish], Command | None]
    ) -> Wish:
        """Ask for something, elsewhere again if need be, and keep what is known of it."""
        number = len(self.wishes)
        name = b"%d/%d" % (self._number, number)
        wish = Wish(
            number, kind, job, RequestKey(name.ljust(16, b"."), b"same"), self._world.loop.time()
        )
        self.wishes.append(wish)
        for _ in range(TRIES_MAX):
            # Nobody knows anything of a try that is under way when the run ends.
            before, wish.known = wish.known, "unknown"
            answer = await self._ask(wish, build)
            if self._learn(wish, answer, before) or self._rng.random() < 0.2:
                break
            await asyncio.sleep(self._rng.uniform(0.05, 1.0))
        self._world.oracle.counts[f"{wish.kind} {wish.known}"] += 1
        return wish

    async def _ask(self, wish: Wish, build: Callable[[Node, Wish], Command | None]) -> object:
        lives = [
            life
            for name, life in self._world.lives.items()
            if not life.stopping and (self.through is None or name in self.through)
        ]
        if not lives:
            return ConsensusError("Nobody listens.")
        life = self._rng.choice(lives)
        wish.doubt_ms = max(wish.doubt_ms, self._world.doubt_ms)

        timeout_s = self._rng.choice(PROPOSAL_S)

        async def work(node: Node) -> object:
            command = build(node, wish)
            if command is None:
                return Refused("not_found", "There is nothing to ask for.")
            wish.command = command
            if not node.time_confirmed:
                raise NoQuorum("The time of day is not known here.")
            return (await node.propose((command,), timeout_s=timeout_s))[0]

        answer = life.ask(work)
        done, _ = await asyncio.wait({answer}, timeout=PATIENCE_S)
        return answer.result() if done else OutcomeUnknown("No answer came.")

    def _learn(self, wish: Wish, answer: object, before: Knowledge) -> bool:
        """Note what is known of a wish by an answer; return whether that is final."""
        wish.tries.append(type(answer).__name__)
        if isinstance(answer, OutcomeUnknown):
            wish.known = "unknown"
        elif isinstance(answer, Refused):
            # A refusal is about this try; one before it may have been applied, and then a
            # condition may fail because of it.
            wish.known = "refused" if before != "unknown" else "unknown"
            wish.result = answer
        elif not isinstance(answer, ConsensusError):
            wish.known = "accepted"
            wish.result = answer  # type: ignore[assignment]
        else:
            wish.known = before
        self._world.oracle.note(
            f"client {self._number}", wish.kind, wish.job.hex(), wish.tries[-1], wish.known
        )
        return wish.known in ("accepted", "refused")

    # --- What it asks for ---------------------------------------------------------------------

    def _trigger(self, node: Node, wish: Wish) -> Command:
        if isinstance(wish.command, TriggerJob):
            return wish.command
        nonce = node.environment.random.getrandbits(32)
        return TriggerJob(wish.job, node.now_ms(), nonce, wish.key)

    def pausing(self, *, paused: bool) -> Callable[[Node, Wish], Command]:
        return lambda node, wish: PauseJob(wish.job, paused, None, wish.key)

    def _deletion(self, node: Node, wish: Wish) -> Command | None:
        current = job_changes.read_current(node.view, Target(wish.job))
        if current is None:
            return None
        now_ms = node.now_ms()
        command = job_changes.deletion(current, now_ms, conditional=False)
        return msgspec.structs.replace(command, request=wish.key)

    def _edit(self, node: Node, wish: Wish) -> Command | None:
        current = job_changes.read_current(node.view, Target(wish.job))
        if current is None:
            return None
        now_ms = node.now_ms()
        if wish.wanted is None:
            wish.wanted = self._edited(current.definition, now_ms)
        request = _request(wish, wish.wanted, current)
        try:
            command = job_changes.replacement(current, request, now_ms)
        except Problem:
            return None
        return msgspec.structs.replace(command, request=wish.key)

    def _edited(self, definition: JobDefinition, now_ms: int) -> JobDefinition:
        """Return another definition, mostly with another schedule."""
        if definition.schedule.kind in ("every", "cron") and self._rng.random() < 0.6:
            schedule = any_schedule(self._rng, now_ms, self._until_ms)
            definition = msgspec.structs.replace(definition, schedule=schedule)
        return msgspec.structs.replace(definition, priority=self._rng.randrange(101))

    def _cancellation(self, node: Node, wish: Wish) -> Command | None:
        if isinstance(wish.command, CancelRun):
            return wish.command
        raw = node.view.get(keys.JOB_STATE + wish.job)
        live = () if raw is None else models.decode_job_state(raw).live
        return CancelRun(live[0], "Not wanted.", wish.key) if live else None


def _request(wish: Wish, definition: JobDefinition, current: Current | None = None) -> JobRequest:
    return JobRequest(
        namespace="sim" if current is None else current.state.namespace,
        name=wish.key.key_hash.decode() if current is None else current.state.name,
        definition=definition,
        encoded=models.encode(definition),
    )


# --- Jobs by chance ---------------------------------------------------------------------------


def any_schedule(rng: random.Random, now_ms: int, until_ms: int) -> ScheduleSpec:
    """Return a schedule by the clock that ends with the time of faults."""
    jitter_ms = rng.choice((0, 0, 0, 400))
    limit = rng.choice((None, None, None, 5))
    if rng.random() < 0.1:
        return ScheduleSpec(
            kind="cron",
            expression="* * * * *",
            not_after_ms=until_ms,
            jitter_ms=jitter_ms,
            max_runs=limit,
        )
    return ScheduleSpec(
        kind="every",
        every_ms=rng.choice((1_000, 1_500, 3_000, 3_000, 7_000)),
        anchor_ms=now_ms + rng.randrange(3_000),
        not_after_ms=until_ms,
        jitter_ms=jitter_ms,
        max_runs=limit,
    )


def any_definition(rng: random.Random, now_ms: int, until_ms: int) -> JobDefinition:
    """Return a job whose runs are short, but now and then longer than a lease."""
    kind = rng.choices(("clock", "at", "delay", "manual"), (7, 1, 1, 1))[0]
    if kind == "clock":
        schedule = any_schedule(rng, now_ms, until_ms)
    elif kind == "at":
        schedule = ScheduleSpec(kind="at", at_ms=now_ms + rng.randrange(-2_000, 15_000))
    elif kind == "delay":
        schedule = ScheduleSpec(kind="delay", delay_ms=1_000, not_after_ms=until_ms)
    else:
        schedule = ScheduleSpec(kind="manual")
    lengths: Sequence[str] = rng.choice((("0.02", "0.3"), ("0.1", "1.5"), ("1", "4"), ("2", "12")))
    action: dict[str, Any] = {
        "type": "command",
        "argv": ["simulated", *lengths, rng.choice(("0", "0.1", "0.5"))],
    }
    return JobDefinition(
        schedule=schedule,
        action=action,
        priority=rng.randrange(101),
        timeout_ms=rng.choice((None, None, 3_000)),
        retry=Retry(attempts_max=rng.choice((1, 1, 2, 3)), backoff_ms=rng.choice((100, 1_000))),
        overlap=rng.choice(("skip", "skip", "buffer_one", "cancel_other", "allow")),
        delivery=rng.choice(("at_least_once", "at_least_once", "at_most_once")),
        catch_up=CatchUp(
            policy=rng.choice(("skip", "last", "first", "all")),
            window_ms=rng.choice((0, 5_000, 60_000)),
        ),
        placement=rng.choice(({}, {}, {}, {"kind": "all"})),
    )


def _probe(rng: random.Random, now_ms: int, until_ms: int) -> JobDefinition:
    schedule = ScheduleSpec(
        kind="every", every_ms=1_000, anchor_ms=now_ms, not_after_ms=now_ms + 40_000
    )
    action = {"type": "command", "argv": ["simulated", "0.1", "0.2", "0"]}
    return JobDefinition(schedule=schedule, action=action)
