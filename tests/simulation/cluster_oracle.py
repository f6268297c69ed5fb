"""What must hold in a simulated cluster at every step, whatever happens to it.

The oracle trusts nobody's account. It sees every entry where it is applied, every answer
that a client got, and every command where it was launched and where it died, in true
time. The first thing that is wrong ends the run, with everything that led up to it.

What can only be judged when all is over is in `cluster_verdict`.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from api.ids import parse_run_id
from consensus.configuration import Configuration
from storage import keys
from storage.models import JobDefinition
from tests.simulation.raft_oracle import SafetyViolated
from tests.simulation.virtual_loop import EPOCH_MS
from tests.simulation.virtual_runner import Launch

# The clocks of members that claim may be off each other by the permitted skew; beyond it
# there is what a time daemon leaves (30 ms on either side) and what drifts in a second.
SKEW_MS = 500 + 2 * 30 + 10
EVENTS_KEPT = 400


def true_ms(world_s: float) -> float:
    """Return the true time of day at an instant of the world's loop."""
    return EPOCH_MS + (world_s - 1000.0) * 1000


@dataclass(frozen=True, slots=True)
class Applied:
    """An entry where it was applied first; `state_hash` is what the state was after it."""

    term: int
    command: bytes
    configuration: Configuration | None
    state_hash: bytes
    at_s: float


@dataclass(slots=True)
class Attempted:
    """What is known of the launches of one job."""

    live: dict[tuple[str, int], Launch] = field(default_factory=dict)
    fence: int = 0
    # Per run: how many launches have begun, and how many of them failed by themselves.
    starts: Counter[bytes] = field(default_factory=Counter)
    failures: Counter[bytes] = field(default_factory=Counter)


class ClusterOracle:
    """Knows everything that any member ever did; `trace` is equal for equal runs."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.by_index: dict[int, Applied] = {}
        self.leaders: dict[int, str] = {}
        # The configurations that were applied anywhere, by their index.
        self.configurations: dict[int, Configuration] = {}
        self.definitions: dict[bytes, JobDefinition] = {}
        self.launches: list[Launch] = []
        self.by_fence: dict[tuple[bytes, int], Launch] = {}
        self.jobs: dict[bytes, Attempted] = {}
        self.counts: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self.events: deque[str] = deque(maxlen=EVENTS_KEPT)
        self.tell: Callable[[str], None] | None = None
        self._trace = hashlib.sha256()

    @property
    def trace(self) -> str:
        return self._trace.hexdigest()

    def note(self, *facts: object) -> None:
        """Add something that happened to the trace."""
        line = f"{self._now_s() - 1000:10.4f} " + " ".join(map(str, facts))
        self._trace.update(line.encode())
        self.events.append(line)
        if self.tell is not None:
            self.tell(line)

    def require(self, condition: object, complaint: str) -> None:
        """Keep and raise the first complaint.

        Raises:
            SafetyViolated: `condition` does not hold.
        """
        if not condition:
            self.note("VIOLATED", complaint)
            error = SafetyViolated(complaint)
            self.failure = self.failure or error
            raise error

    def check(self) -> None:
        """Raise what has gone wrong so far."""
        if self.failure is not None:
            raise self.failure

    # --- The log ----------------------------------------------------------------------------

    def applied(
        self,
        member: str,
        index: int,
        term: int,
        command: bytes,
        state_hash: bytes,
        configuration: Configuration | None = None,
    ) -> None:
        """An index has the same bytes and leads to the same state wherever it is applied."""
        first = self.by_index.get(index)
        if first is None:
            applied = Applied(term, command, configuration, state_hash, self._now_s())
            self.by_index[index] = applied
            if configuration is not None:
                self.configurations[index] = configuration
            self.note(member, "applied", index, len(command), state_hash.hex()[:8])
            return
        self.require(
            (first.term, first.command, first.configuration) == (term, command, configuration),
            f"{member} applied another entry {index} than a member before it.",
        )
        self.require(
            first.state_hash == state_hash,
            f"{member} has another state than others after entry {index}.",
        )

    def installed(self, member: str, index: int, term: int, state_hash: bytes) -> None:
        """A snapshot is the state that applying had led to at its entry."""
        self.note(member, "has installed the snapshot of entry", index)
        self.counts["snapshots installed"] += 1
        first = self.by_index.get(index)
        self.require(
            first is not None and (first.term, first.state_hash) == (term, state_hash),
            f"{member} has installed a state of entry {index} that nobody else had there.",
        )

    def leads(self, member: str, term: int) -> None:
        """A term has at most one leader."""
        self.note(member, "leads in term", term)
        self.counts["elections"] += 1
        first = self.leaders.setdefault(term, member)
        self.require(first == member, f"Both {first} and {member} lead in term {term}.")

    # --- Launches ---------------------------------------------------------------------------

    def launched(self, launch: Launch) -> None:
        """Judge a start: not early, not twice, not beside another, under a newer fence."""
        self.launches.append(launch)
        self.counts["launches"] += 1
        env = launch.request.env
        run = parse_run_id(env["CRONCLAVE_RUN"])
        assert run is not None
        job, scheduled_ms, trigger, _ = keys.split_run(run)
        number, fence = int(env["CRONCLAVE_ATTEMPT"]), int(env["CRONCLAVE_FENCE"])
        self.note(launch.member, "launches", env["CRONCLAVE_RUN"], f"#{number} fence {fence}")
        if number > 1:
            self.counts["further attempts"] += 1
        if trigger == keys.TRIGGER_SCHEDULE:
            self._check_time(launch, scheduled_ms)
        self._check_fence(launch, job, fence)
        self._check_room(launch, job, run)
        attempted = self.jobs[job]
        attempted.starts[run] += 1
        attempted.live[launch.member, launch.number] = launch
        attempted.fence = max(attempted.fence, fence)
        self.by_fence[job, fence] = launch

    def _check_time(self, launch: Launch, scheduled_ms: int) -> None:
        early_ms = scheduled_ms - true_ms(launch.started_s)
        self.require(
            early_ms <= SKEW_MS,
            f"{launch.member} started {launch.request.attempt_id} {early_ms:.0f} ms early.",
        )

    def _check_fence(self, launch: Launch, job: bytes, fence: int) -> None:
        attempted = self.jobs.setdefault(job, Attempted())
        name = launch.request.attempt_id
        before = self.by_fence.get((job, fence))
        self.require(
            before is None,
            f"{name} was started by {launch.member} under a fence that was used before.",
        )
        if self.definitions[job].overlap != "allow":
            self.require(
                fence > attempted.fence,
                f"{launch.member} started {name} after fence {attempted.fence}.",
            )

    def _check_room(self, launch: Launch, job: bytes, run: bytes) -> None:
        definition, attempted = self.definitions[job], self.jobs[job]
        name = launch.request.attempt_id
        exclusive = definition.overlap != "allow"
        self.require(
            launch.request.must_stop_with_lease == exclusive,
            f"{name} is guarded differently than its overlap policy wants.",
        )
        if exclusive:
            others = [f"{o.request.attempt_id} on {o.member}" for o in attempted.live.values()]
            self.require(not others, f"{launch.member} started {name} beside {others}.")
        if definition.delivery == "at_most_once":
            self.require(
                attempted.starts[run] <= attempted.failures[run],
                f"{launch.member} started {name} again, which must run at most once.",
            )

    def ended(self, launch: Launch) -> None:
        """Take note of a death."""
        env = launch.request.env
        self.note(
            launch.member, "saw the end of", launch.request.attempt_id,
            launch.exit_code, launch.cause,
        )  # fmt: skip
        run = parse_run_id(env["CRONCLAVE_RUN"])
        assert run is not None
        attempted = self.jobs[run[:16]]
        attempted.live.pop((launch.member, launch.number), None)
        # An attempt that was made to end after its timeout counts as failed as well.
        if launch.exit_code not in (0, None) or launch.cause == "timeout":
            attempted.failures[run] += 1
