"""Rules of members and of their state taken out, one at a time: a run has to turn red.

A mutation replaces one method by the mistake that the rule exists to prevent. They are
named after the mistakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from api.jobs import changes as job_changes
from consensus.errors import ConsensusError, NoQuorum
from consensus.proposer import Proposer
from consensus.state import apply_claims, apply_members, apply_runs, cursor, machine
from consensus.state.commands import Ended, Expire, Remaining, Report
from consensus.state.context import replace
from consensus.state.machine import Machine
from consensus.timekeeper import Timekeeper
from node.lease import Lease
from node.runner.stopping import StopPlan
from node.services.heartbeat import HeartbeatService
from node.services.reaper import Reaper
from node.services.reporter import Reporter
from node.services.worker import Worker
from node.spool import Spool
from storage import keys, models
from tests.simulation.cluster_mutations_members import MEMBER_MUTATIONS
from tests.simulation.cluster_mutations_snapshots import SNAPSHOT_MUTATIONS_OF_MEMBERS
from tests.simulation.virtual_runner import VirtualRunner

Patch = tuple[Any, str, Any]


def _lease_from_the_answer() -> list[Patch]:
    original = Lease.renewed

    def renewed(self: Lease, sent_s: float) -> None:
        original(self, self.now_s())

    return [(Lease, "renewed", renewed)]


def _lease_without_margin() -> list[Patch]:
    def renewed(self: Lease, sent_s: float) -> None:
        self.until_s = max(self.until_s, sent_s + 1.6 * self.lease_ms / 1000)

    return [(Lease, "renewed", renewed)]


def _runner_ignores_the_lease() -> list[Patch]:
    original = StopPlan.advance

    def advance(self: StopPlan, now_s: float, lease_until_s: float) -> Any:
        return original(self, now_s, float("inf"))

    next_due_s = StopPlan.next_due_s

    def due_s(self: StopPlan, lease_until_s: float) -> float:
        return next_due_s(self, float("inf"))

    return [(StopPlan, "advance", advance), (StopPlan, "next_due_s", due_s)]


def _commands_outlive_their_node() -> list[Patch]:
    return [(VirtualRunner, "node_died", lambda self: 0.0)]


def _expired_too_soon() -> list[Patch]:
    """The reaper does not watch, and applying does not ask whether the lease is over."""
    original = Reaper.overdue

    def overdue(self: Reaper) -> list[bytes]:
        self._lease_s = 0.7
        return original(self)

    def expire(context: Any, command: Any) -> Any:
        apply_members._give_up(context, command.incarnation)
        prefix = keys.LIVE + command.incarnation
        for key, _ in context.store.scan(prefix, keys.after(prefix), 100):
            apply_runs.lost(context, key[len(prefix) :])
        return Remaining(0, more=False)

    appliers = {**machine._APPLIERS}
    appliers[Expire] = expire
    return [(Reaper, "overdue", overdue), (machine, "_APPLIERS", appliers)]


def _fence_not_checked() -> list[Patch]:
    original = apply_runs.ended

    def ended(context: Any, item: Ended) -> bool:
        run = context.find_run(item.run)
        if run is not None:
            item = replace(item, fence=run.fence, number=run.number)
        return original(context, item)

    return [(apply_runs, "ended", ended)]


def _fence_does_not_grow() -> list[Patch]:
    original = apply_claims._granted

    def granted(context: Any, run: Any, state: Any, holder: Any) -> Any:
        return replace(original(context, run, state, holder), fence=max(1, state.fence))

    return [(apply_claims, "_granted", granted)]


def _claim_in_spite_of_the_cursor() -> list[Patch]:
    """A claim of an occurrence that is decided already is granted again."""
    original = apply_claims._claim_occurrence

    def claim(context: Any, item: Any, holder: Any) -> Any:
        state = context.find_job(item.job)
        if state is not None and item.launch is not None and item.due_ms < (state.due_ms or 0):
            stale = replace(
                state,
                due_ms=item.due_ms,
                start_ms=item.launch.start_ms,
                decided_ms=item.due_ms - 1,
            )
            context.save_job(item.job, state, stale)
        return original(context, item, holder)

    return [(apply_claims, "_claim_occurrence", claim)]


def _overlap_not_checked() -> list[Patch]:
    def admit(context: Any, key: bytes, run: Any, state: Any) -> Any:
        return replace(state, live=(*state.live, key)), run

    return [(apply_claims, "admit", admit)]


def _missed_in_silence() -> list[Patch]:
    return [(cursor, "record", lambda context, job, skipped: None)]


def _at_most_once_is_tried_again() -> list[Patch]:
    original = apply_runs._return_lost

    def lost(context: Any, key: bytes, run: Any, detail: str, *, certain: bool) -> None:
        original(context, key, run, detail, certain=True)

    return [(apply_runs, "_return_lost", lost)]


def _state_not_looked_at_before_the_start() -> list[Patch]:
    def start(self: Worker, held: Any) -> None:
        held.timer = None
        job = held.key[: keys.JOB_ID_BYTES]
        raw = self._view.get(keys.JOB_STATE + job)
        assert raw is not None
        state = models.decode_job_state(raw)
        definition = self._definitions.get(job, state.revision)
        assert definition is not None
        held.must_stop = definition.overlap != "allow"
        work = self._execute(held, held.run, state, definition)
        held.task = asyncio.get_running_loop().create_task(work)

    return [(Worker, "_start", start)]


def _started_when_granted() -> list[Patch]:
    return [(Worker, "_arm", lambda self, held: self._start(held))]


def _end_dropped() -> list[Patch]:
    """An end is proposed once, and forgotten if nobody answers."""

    async def run_once(self: Reporter, now_s: float) -> bool:
        items = self._take(now_s)
        for item in items:
            if isinstance(item, Ended):
                del self._ends[item.run, item.fence]
                self._spool.settle(item)
        if items:
            try:
                await self._door.propose((Report(tuple(items)),), timeout_s=1.0)
            except ConsensusError:
                return True
        return bool(items)

    return [(Reporter, "run_once", run_once)]


def _lease_kept_by_an_old_incarnation() -> list[Patch]:
    """A member that was given up goes on as if nothing had happened."""

    async def run_once(self: HeartbeatService) -> None:
        sent_s = self._environment.monotonic_s()
        self._lease.renewed(sent_s)
        self._on_renewed()

    return [(HeartbeatService, "run_once", run_once)]


def _clock_believed() -> list[Patch]:
    """The time of day is what the wall clock says."""
    return [
        (Timekeeper, "now_ms", lambda self: self._environment.wall_ms()),
        (Timekeeper, "cluster_ms", lambda self: self._environment.wall_ms()),
        (Timekeeper, "suspect", property(lambda self: False)),
        (Timekeeper, "confirmed", property(lambda self: True)),
    ]


def _answers_not_remembered() -> list[Patch]:
    """A request that is repeated is carried out again."""
    return [(Machine, "_answer", lambda self, request: None)]


def _given_up_and_sent_all_the_same() -> list[Patch]:
    """Whoever gives up is told that nothing was done, and then it is done."""

    def give_up(self: Proposer, wish: Any) -> None:
        if not wish.future.done():
            wish.future.set_exception(NoQuorum("No leader took the command in time."))

    return [(Proposer, "_give_up", give_up)]


def _planned_past_the_overdue() -> list[Patch]:
    """An edit or a delete leaves out what is overdue."""
    return [(job_changes, "rescheduled", lambda *_: ())]


def _spool_lost() -> list[Patch]:
    return [(Spool, "recover", lambda self: [])]


MUTATIONS: dict[str, Callable[[], list[Patch]]] = {
    make.__name__.lstrip("_"): make
    for make in (
        _lease_from_the_answer,
        _lease_without_margin,
        _runner_ignores_the_lease,
        _commands_outlive_their_node,
        _expired_too_soon,
        _fence_not_checked,
        _fence_does_not_grow,
        _claim_in_spite_of_the_cursor,
        _overlap_not_checked,
        _missed_in_silence,
        _at_most_once_is_tried_again,
        _state_not_looked_at_before_the_start,
        _started_when_granted,
        _end_dropped,
        _lease_kept_by_an_old_incarnation,
        _clock_believed,
        _answers_not_remembered,
        _given_up_and_sent_all_the_same,
        _planned_past_the_overdue,
        _spool_lost,
    )
} | {**SNAPSHOT_MUTATIONS_OF_MEMBERS, **MEMBER_MUTATIONS}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Take one rule out, and put it back."""
    patches = MUTATIONS[name]()
    originals = [
        (target, attribute, getattr(target, attribute)) for target, attribute, _ in patches
    ]
    for target, attribute, replacement in patches:
        setattr(target, attribute, replacement)
    try:
        yield
    finally:
        for target, attribute, original in originals:
            setattr(target, attribute, original)
