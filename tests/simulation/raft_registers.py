"""A small state machine on the simulated log: registers with revisions, as jobs are.

Clients create, replace, delete and read them through members that believe to lead, and
note what they see; afterwards the history of each register has to be linearizable. The
state of a member is that of the log up to what it has applied, for the oracle holds that
all members apply the same.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consensus.errors import NoQuorum, Overloaded
from consensus.raft.types import NotLeader
from tests.simulation.raft_life import Life, ReadLife
from tests.simulation.raft_oracle import Oracle, SafetyViolated
from tests.support.histories import History, Kind, Operation, Outcome
from tests.support.linearizability import NotLinearizable, State, Undecided, check

if TYPE_CHECKING:
    from tests.simulation.raft_world import World

CLIENTS = 6
KEYS = 3
# Then another register takes its place; the checker's patience has bounds.
OPERATIONS_PER_KEY_MAX = 60
POLL_S = 0.02
# The rest is read by entries of the log, as a barrier.
READS_PAST_THE_LOG = 0.8
# How long a client waits before it stops asking and knows nothing.
PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the state machine says to one command."""

    outcome: Outcome
    revision: int | None = None
    value: str | None = None


class Registers:
    """The registers at each index of the log, worked out once for all members."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._done = 0
        self._states: dict[str, State] = {}
        self._changes: dict[str, list[tuple[int, State]]] = {}
        self._answers: dict[int, Answer] = {}

    def answer(self, index: int) -> Answer:
        """Return what the command at an applied index was answered."""
        while self._done < index:
            self._done += 1
            command = self._oracle.by_index[self._done]
            if command.startswith(b"{"):
                self._answers[self._done] = self._apply(json.loads(command))
        return self._answers[index]

    def at(self, index: int, key: str) -> State:
        """Return a register as a member sees it that has applied up to `index`."""
        state: State = None
        for changed, after in self._changes.get(key, ()):
            if changed > index:
                break
            state = after
        return state

    def _apply(self, command: dict[str, Any]) -> Answer:
        key, kind = command["key"], Kind(command["kind"])
        state = self._states.get(key)
        revision = state[0] if state else 0
        if kind is Kind.READ:
            return shown(state)
        if kind is Kind.CREATE and state:
            return Answer(Outcome.PRESENT)
        if kind is Kind.DELETE and not state:
            return Answer(Outcome.ABSENT)
        expected = command["expected"]
        if expected is not None and expected != (revision or None):
            return Answer(Outcome.MISMATCH)
        after = None if kind is Kind.DELETE else (revision + 1, command["value"])
        self._states[key] = after
        self._changes.setdefault(key, []).append((self._done, after))
        return Answer(Outcome.DONE, after[0] if after else None)


def shown(state: State) -> Answer:
    """Return what a read of this state is answered."""
    return Answer(Outcome.DONE, *state) if state else Answer(Outcome.ABSENT)


class RegisterClients:
    """Several clients, each with one operation at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"{world.options.seed}/registers")
        self._registers = Registers(world.oracle)
        self._history = History(world.loop.time)
        self._keys = [f"r{number}" for number in range(KEYS)]
        self._counts = dict.fromkeys(self._keys, 0)
        self._numbers = 0
        # The revision each client has seen last of each register.
        self._seen: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        await asyncio.gather(*(self._work(f"c{number}") for number in range(CLIENTS)))

    def judge(self) -> None:
        """Check all that was seen.

        Raises:
            SafetyViolated: the history of a register has no explanation.
        """
        operations: list[Operation] = self._history.close()
        self._world.oracle.counts["operations"] += len(operations)
        try:
            check(operations)
        except (NotLinearizable, Undecided) as error:
            raise SafetyViolated(f"{type(error).__name__}: {error}") from None

    async def _work(self, client: str) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(12.0))
            lives = list(self._world.lives.values())
            leaders = [life for life in lives if life.leads]
            if leaders:
                await self._operate(client, self._rng.choice(leaders), self._rng.choice(lives))

    def _choose(self, client: str) -> tuple[str, Kind, int | None]:
        key = self._rng.choice(self._keys)
        self._counts[key] += 1
        if self._counts[key] >= OPERATIONS_PER_KEY_MAX:
            self._keys.remove(key)
            self._keys.append(f"r{len(self._counts)}")
            self._counts[self._keys[-1]] = 0
        kinds, weights = list(Kind), (2, 5, 1, 6)
        kind = self._rng.choices(kinds, weights)[0]
        conditional = kind in (Kind.REPLACE, Kind.DELETE) and self._rng.random() < 0.6
        return key, kind, self._seen.get((client, key)) if conditional else None

    async def _operate(self, client: str, leader: Life, any_life: Life) -> None:
        assert isinstance(leader, ReadLife)
        assert isinstance(any_life, ReadLife)
        key, kind, expected = self._choose(client)
        self._numbers += 1
        value = f"v{self._numbers}" if kind in (Kind.CREATE, Kind.REPLACE) else None
        call = self._history.begin(key, kind, client=client, value=value, expected=expected)
        if kind is Kind.READ and self._rng.random() < READS_PAST_THE_LOG:
            answer = await self.read(any_life, key)
        else:
            answer = await self._commit(leader, key, kind, value, expected)
        self._history.end(call, answer.outcome, revision=answer.revision, value=answer.value)
        self._world.oracle.note("answered", client, kind, key, answer.outcome, answer.revision)
        if answer.revision is not None:
            self._seen[client, key] = answer.revision

    async def read(self, life: ReadLife, key: str) -> Answer:
        """Read a register as of now, past the log."""
        try:
            index = await life.reads.read_index(timeout_s=PATIENCE_S)
        except (NoQuorum, Overloaded):
            return Answer(Outcome.UNDONE)
        if not await self._applied(life, index):
            return Answer(Outcome.UNKNOWN)
        self._world.oracle.counts["index_reads"] += 1
        return self.look(life, key)

    def look(self, life: ReadLife, key: str) -> Answer:
        """Return a register as this member has it, however old that is."""
        return shown(self._registers.at(life.raft.applied_index, key))

    async def _commit(
        self, life: ReadLife, key: str, kind: Kind, value: str | None, expected: int | None
    ) -> Answer:
        command = json.dumps(
            {"n": self._numbers, "key": key, "kind": kind, "value": value, "expected": expected}
        ).encode()
        try:
            index = life.raft.propose(command)
        except (NotLeader, Overloaded):
            return Answer(Outcome.UNDONE)
        if not await self._applied(life, index):
            return Answer(Outcome.UNKNOWN)
        if self._world.oracle.by_index[index] != command:
            return Answer(Outcome.UNDONE)
        self._world.oracle.acknowledge(life.name, index, command)
        return self._registers.answer(index)

    async def _applied(self, life: ReadLife, index: int) -> bool:
        """Wait until a member has applied an index; False if it dies, or takes too long."""
        began_s = self._world.loop.time()
        while self._world.loop.time() - began_s < PATIENCE_S:
            if self._world.lives.get(life.name) is not life:
                return False
            if not life.raft.paused and life.raft.applied_index >= index:
                return True
            await asyncio.sleep(POLL_S)
        return False
