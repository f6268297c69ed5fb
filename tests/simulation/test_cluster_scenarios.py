"""Whole clusters in situations that chance seldom brings about, and what they must do then.

Each is played with the rules as they are, and once with a rule taken out that it is about:
then it has to turn red.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from consensus.state.commands import RemoveMember, SeatDone
from node.services.cleaner import PERIOD_S
from storage import keys
from tests.simulation.cluster_absences import left_behind
from tests.simulation.cluster_mutations import mutated
from tests.simulation.cluster_scene import ClusterScene, scene
from tests.simulation.cluster_world import Kind
from tests.simulation.raft_oracle import LivenessViolated, SafetyViolated
from tests.support.quiet_log import quiet_log

DAY_MS = 86_400_000

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def paused_beyond_its_lease(play: ClusterScene) -> None:
    """What a stopped member runs is dead before another member starts it again."""
    job = play.job(20.0, deaf=True)
    holder = play.holder(job)
    play.world.lives[holder].process.pause()
    play.until(lambda: len(play.launches(job)) == 2)
    first, second = play.launches(job)
    assert first.ended_s is not None
    assert first.ended_s < second.started_s
    play.world.lives[holder].process.resume()
    assert play.outcome(job, second.member) == "succeeded"


def cut_off_beyond_its_lease(play: ClusterScene) -> None:
    """The same with a member that goes on working, but cannot be heard."""
    job = play.job(20.0, deaf=True)
    holder = play.holder(job)
    play.isolate(holder)
    play.until(lambda: len(play.launches(job)) == 2)
    other = play.launches(job)[1].member
    assert other != holder
    play.heal()
    assert play.outcome(job, other) == "succeeded"
    assert len(play.launches(job)) == 2


def answered_late(play: ClusterScene) -> None:
    """A lease that was granted long before its holder hears of it is over sooner."""
    job, holder = play.follower_that_runs(60.0, deaf=True)
    play.deafen(holder)
    play.rest(3.7)
    play.only_listening(holder)
    play.rest(0.15)
    play.isolate(holder)
    play.until(lambda: len(play.launches(job)) == 2)
    assert play.launches(job)[0].ended_s is not None


def killed_and_back_at_once(play: ClusterScene) -> None:
    """The next process of a member begins when nothing of the last one is alive."""
    job = play.job(10.0, deaf=True)
    holder = play.holder(job)
    play.world.kill(holder, power_loss=False)
    play.world.start(holder)
    play.until(lambda: len(play.launches(job)) == 2)
    assert play.outcome(job, play.launches(job)[1].member) == "succeeded"


def lost_where_it_may_run_once(play: ClusterScene) -> None:
    """Of an attempt that nobody has seen the end of, the outcome is unknown, for good."""
    job = play.job(10.0, delivery="at_most_once")
    holder = play.holder(job)
    play.world.kill(holder, power_loss=True)
    others = [name for name in play.world.hosts if name != holder]
    assert play.outcome(job, others[0]) == "unknown"
    play.rest(5.0)
    assert len(play.launches(job)) == 1


def ended_while_cut_off(play: ClusterScene) -> None:
    """An end is told again and again until the cluster has decided on it."""
    job = play.job(1.0)
    holder = play.holder(job)
    play.isolate(holder)
    play.rest(2.5)
    play.heal()
    assert play.outcome(job, holder) == "succeeded"
    assert len(play.launches(job)) == 1


def ended_and_killed_while_cut_off(play: ClusterScene) -> None:
    """What a process could not tell any more, the next one on its disk tells."""
    job = play.job(1.0, delivery="at_most_once")
    holder = play.holder(job)
    play.isolate(holder)
    play.rest(1.5)
    play.world.kill(holder, power_loss=False)
    play.heal()
    play.world.start(holder)
    play.until(lambda: holder in play.world.lives)
    assert play.outcome(job, holder) == "succeeded"


def paused_by_its_user_before_the_instant(play: ClusterScene) -> None:
    """What was claimed ahead of time does not start if the job was paused meanwhile."""
    job = play.job(1.0, in_s=0.9)
    play.until(lambda: any(life.node.worker.held_count for life in play.world.lives.values()))
    pausing = play.user.do("pause", job, play.user.pausing(paused=True))
    assert play.world.loop.run_until_complete(pausing).known == "accepted"
    play.rest(3.0)
    assert not play.launches(job)
    assert play.runs(job, "n1")[0].outcome == "cancelled"


def reported_under_an_old_fence(play: ClusterScene) -> None:
    """A member that was given up cannot speak for the attempt that took its place."""
    job = play.job(15.0)
    holder = play.holder(job)
    play.isolate(holder)
    play.until(lambda: len(play.launches(job)) == 2)
    play.heal()
    play.rest(5.0)
    assert len(play.launches(job)) == 2
    assert play.outcome(job, holder) == "succeeded"


def repeated_elsewhere(play: ClusterScene) -> None:
    """A request with its key, sent again to any member, gets the answer it had."""
    play.job(1.0)
    wish = play.user.wishes[-1]
    command = wish.command
    assert command is not None
    for life in play.world.lives.values():
        asked = life.ask(lambda node: node.propose((command,), timeout_s=5.0))
        assert play.world.loop.run_until_complete(asked) == (wish.result,)


def a_leader_from_the_future(play: ClusterScene) -> None:
    """What is old enough to be dropped is a matter of the cluster's clock, not of a member's."""
    job = play.job(1.0)
    holder = play.holder(job)
    assert play.outcome(job, holder) == "succeeded"
    name = next(other for other in play.world.hosts if other != play.leader())
    printed = keys.OUTPUT + job
    assert play.world.lives[name].node.view.scan(printed, keys.after(printed), 1)
    play.world.kill(name, power_loss=False)
    play.world.hosts[name].clock.jumped_ms = 60 * DAY_MS
    play.world.start(name)
    play.until(lambda: name in play.world.lives)
    while (leader := play.leader()) != name:
        play.world.lives[leader].node.raft.transfer_leadership(name)
        play.rest(1.0)
    play.rest(2 * PERIOD_S)
    assert play.world.lives[name].node.view.scan(printed, keys.after(printed), 1)


def left_behind_while_it_runs(play: ClusterScene) -> None:
    """What runs when a snapshot arrives is dead before the next life takes part."""
    job, holder = play.follower_that_runs(60.0, deaf=True)
    play.isolate(holder)
    play.user.through = set(play.world.hosts) - {holder}
    others = [play.job(0.1) for _ in range(3)]
    play.until(lambda: left_behind(play.world, holder))
    assert play.launches(job)[0].ended_s is None
    for name in play.user.through:
        play.world.network.reset(name, holder)
    play.heal()
    play.until(lambda: play.oracle.counts["lives in the same process"])
    play.until(lambda: len(play.launches(job)) == 2)
    first, second = play.launches(job)
    assert first.ended_s is not None
    assert first.ended_s < second.started_s
    assert {play.outcome(other, holder) for other in others} == {"succeeded"}


def removed_while_it_leads(play: ClusterScene) -> None:
    """It hands leadership over and goes, and what it runs is run by another when it is dead."""
    leader = play.leader()
    job = play.job(60.0, deaf=True)
    while play.holder(job) != leader:
        job = play.job(60.0, deaf=True)
    other = next(life for name, life in play.world.lives.items() if name != leader)
    asked = other.ask(lambda node: node.propose((RemoveMember(leader),), timeout_s=5.0))
    assert play.world.loop.run_until_complete(asked) == (SeatDone(leader),)
    play.until(lambda: leader not in play.world.lives)
    assert play.oracle.counts["members left"] == 1
    play.until(lambda: len(play.launches(job)) == 2)
    first, second = play.launches(job)
    assert first.ended_s is not None
    assert first.ended_s < second.started_s
    play.until(lambda: not play.world.seats.restless())


SCENARIOS: list[tuple[Callable[[ClusterScene], None], tuple[str, ...]]] = [
    (
        paused_beyond_its_lease,
        ("runner_ignores_the_lease", "lease_without_margin", "expired_too_soon"),
    ),
    (cut_off_beyond_its_lease, ("lease_without_margin",)),
    (answered_late, ("lease_from_the_answer",)),
    (killed_and_back_at_once, ("commands_outlive_their_node",)),
    (lost_where_it_may_run_once, ("at_most_once_is_tried_again",)),
    (ended_while_cut_off, ("end_dropped",)),
    (ended_and_killed_while_cut_off, ("spool_lost",)),
    (paused_by_its_user_before_the_instant, ("state_not_looked_at_before_the_start",)),
    (reported_under_an_old_fence, ("fence_not_checked",)),
    (repeated_elsewhere, ("answers_not_remembered",)),
    (a_leader_from_the_future, ("clock_believed",)),
    (left_behind_while_it_runs, ("attempts_outlive_their_life",)),
    (removed_while_it_leads, ("leader_to_go_stays", "runs_of_a_removed_member_forgotten")),
]
# With a short lease, the margins would cover for the rule.
LEASES_MS: dict[Callable[[ClusterScene], None], int] = {
    answered_late: 10_000,
    left_behind_while_it_runs: 20_000,
}
KINDS: dict[Callable[[ClusterScene], None], Kind] = {
    left_behind_while_it_runs: "behind",
    removed_while_it_leads: "changing",
}
MISSED = [(play, rule) for play, rules in SCENARIOS for rule in rules]


def set_for(play: Callable[[ClusterScene], None]) -> AbstractContextManager[ClusterScene]:
    return scene(lease_ms=LEASES_MS.get(play, 4_000), kind=KINDS.get(play, "plain"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with quiet_log():
        yield


@pytest.mark.parametrize("play", [play for play, _ in SCENARIOS], ids=lambda play: play.__name__)
def test_a_cluster_does_what_it_must(play: Callable[[ClusterScene], None]) -> None:
    """With the rules as they are."""
    with set_for(play) as made:
        play(made)


@pytest.mark.parametrize(
    ("play", "rule"), MISSED, ids=[f"{play.__name__} {rule}" for play, rule in MISSED]
)
def test_a_rule_taken_out_is_missed(play: Callable[[ClusterScene], None], rule: str) -> None:
    """Without the rule, the same scenario turns red."""
    with (
        pytest.raises((SafetyViolated, LivenessViolated, AssertionError)),
        mutated(rule),
        set_for(play) as made,
    ):
        play(made)
