"""The state machine on runs: starts, ends, retries, losses, cancellations, manual runs."""

from __future__ import annotations

import pytest

from consensus.state.commands import CancelRun, ClaimRun, Ended, RunDone, TriggerJob
from consensus.state.transitions import RUN_TRANSITIONS, advance
from storage import keys
from storage.invariant import InvariantViolated
from storage.limits import ATTEMPTS_KEPT_MAX, LOST_ATTEMPTS_MAX
from storage.models import Outcome, RunState
from tests.support.builders import FIRST_DUE_MS, NOW_MS, Lab


@pytest.fixture
def lab() -> Lab:
    return Lab()


# --- Starts and ends ------------------------------------------------------------------------


def test_a_start_makes_a_claimed_run_a_running_one(lab: Lab) -> None:
    """It is accepted once; the member still holds the run."""
    job, holder = lab.create(), lab.join()
    run = lab.launch(holder, job)
    lab.pass_ms(1_000)
    assert lab.start(run)
    assert (lab.run(run).state, lab.run(run).started_ms) == ("running", NOW_MS + 1_000)
    assert lab.held(holder) == [run]
    assert not lab.start(run)


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "timed_out", "cancelled", "unknown"])
def test_an_end_ends_the_run(lab: Lab, outcome: Outcome) -> None:
    """The run keeps its outcome and its attempt, and its place in the job is free."""
    job, holder = lab.create(), lab.join()
    run = lab.launch(holder, job)
    fence = lab.run(run).fence
    lab.pass_ms(2_000)
    assert lab.end(run, outcome, exit_code=3, detail="so it was", started_ms=NOW_MS + 1_000)
    record = lab.run(run)
    assert (record.state, record.outcome, record.exit_code) == ("ended", outcome, 3)
    assert (record.started_ms, record.ended_ms) == (NOW_MS + 1_000, NOW_MS + 2_000)
    (attempt,) = record.attempts
    assert (attempt.number, attempt.fence, attempt.member) == (1, fence, "a")
    assert (attempt.outcome, attempt.detail) == (outcome, "so it was")
    state = lab.state(job)
    assert (state.live, state.last_run, state.last_outcome) == ((), run, outcome)
    assert lab.held(holder) == []
    assert lab.effects.ended == [(run, outcome)]
    assert lab.machine.counters["runs_live"] == 0
    assert lab.machine.counters[f"runs.{outcome}"] == 1


def test_an_end_without_a_start_keeps_the_start_that_was_reported(lab: Lab) -> None:
    """A member that came back after a crash may not know any more when it began."""
    run = lab.launch(lab.join(), lab.create())
    lab.start(run)
    lab.pass_ms(2_000)
    lab.end(run, started_ms=None)
    assert lab.run(run).started_ms == NOW_MS


def test_failures_are_counted_until_a_success(lab: Lab) -> None:
    """A cancelled run says nothing about the job."""
    job, holder = lab.create(), lab.join()
    outcomes: tuple[Outcome, ...] = ("failed", "timed_out", "cancelled", "unknown", "succeeded")
    counted = []
    for outcome in outcomes:
        lab.end(lab.launch(holder, job), outcome)
        counted.append(lab.state(job).failures_consecutive)
    assert counted == [1, 2, 2, 3, 0]


def test_a_report_with_another_fence_changes_nothing(lab: Lab) -> None:
    """The fence decides whether a report still counts."""
    run = lab.launch(lab.join(), lab.create())
    record = lab.run(run)
    before = lab.everything()
    for fence in (record.fence - 1, record.fence + 1):
        assert not lab.report(Ended(run, 1, fence, "succeeded", None, NOW_MS))
    assert not lab.report(Ended(b"?" * 29, 1, record.fence, "succeeded", None, NOW_MS))
    assert lab.everything() == before


def test_nothing_leaves_the_end(lab: Lab) -> None:
    """A late second report, a start, a claim or a cancellation finds the run as it ended."""
    holder = lab.join()
    run = lab.launch(holder, lab.create())
    lab.end(run)
    before = lab.everything()
    assert not lab.end(run, "failed")
    assert not lab.start(run)
    assert lab.claim(holder, ClaimRun(run, lab.run(run).start_ms)) == ("stale",)
    assert lab.refused(CancelRun(run, "too late")) == "already_ended"
    assert lab.everything() == before


# --- Retries --------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["failed", "timed_out"])
def test_a_failed_attempt_with_tries_left_goes_back_to_the_queue(
    lab: Lab, outcome: Outcome
) -> None:
    """Any member may claim it, from the moment its holder has worked out."""
    job, holder, other = lab.create(attempts_max=2), lab.join(1, "a"), lab.join(1, "b")
    run = lab.launch(holder, job)
    first_fence = lab.run(run).fence
    lab.pass_ms(2_000)
    retry_ms = lab.now_ms + 300
    assert lab.end(run, outcome, retry_start_ms=retry_ms)
    record = lab.run(run)
    assert (record.state, record.start_ms, record.incarnation) == ("queued", retry_ms, b"")
    assert (record.outcome, record.ended_ms, record.exit_code) == (None, None, None)
    assert (retry_ms, run) in lab.due()
    assert lab.state(job).live == (run,)
    assert lab.held(holder) == []
    assert lab.claim_run(other, run) is None
    assert (lab.run(run).number, lab.run(run).member) == (2, "b")
    assert lab.run(run).fence > first_fence
    assert lab.end(run, outcome, retry_start_ms=retry_ms + 300)
    assert lab.run(run).outcome == outcome
    assert [attempt.number for attempt in lab.run(run).attempts] == [1, 2]


def test_an_attempt_is_not_tried_again_without_a_time_for_it(lab: Lab) -> None:
    """Its holder knows errors that no second try can change."""
    run = lab.launch(lab.join(), lab.create(attempts_max=9))
    lab.end(run, "failed", retry_start_ms=None)
    assert lab.run(run).outcome == "failed"


def test_a_retry_is_due_now_at_the_earliest(lab: Lab) -> None:
    """A report may be late by more than the backoff."""
    run = lab.launch(lab.join(), lab.create(attempts_max=9))
    lab.pass_ms(60_000)
    lab.end(run, "failed", retry_start_ms=NOW_MS)
    assert lab.run(run).start_ms == lab.now_ms


def test_a_cancelled_or_successful_attempt_is_not_tried_again(lab: Lab) -> None:
    """Tries left are for failures."""
    job, holder = lab.create(attempts_max=9), lab.join()
    for outcome in ("succeeded", "cancelled", "unknown"):
        run = lab.launch(holder, job)
        lab.end(run, outcome, retry_start_ms=NOW_MS)
        assert lab.run(run).outcome == outcome


def test_past_attempts_are_kept_up_to_a_bound(lab: Lab) -> None:
    """A record must not grow with every try."""
    run = lab.launch(holder := lab.join(), lab.create(attempts_max=100))
    for _ in range(ATTEMPTS_KEPT_MAX + 3):
        lab.end(run, "failed", retry_start_ms=NOW_MS)
        lab.claim_run(holder, run)
    numbers = [attempt.number for attempt in lab.run(run).attempts]
    assert numbers == list(range(4, ATTEMPTS_KEPT_MAX + 4))


# --- Losses ---------------------------------------------------------------------------------


def test_an_attempt_that_was_lost_is_no_try_of_the_job(lab: Lab) -> None:
    """A restart of its member must not cost a run the tries that it has for failures."""
    run = lab.launch(holder := lab.join(), lab.create(attempts_max=2))
    for _ in range(3):
        lab.end(run, "lost")
        lab.claim_run(holder, run)
    assert (lab.run(run).number, lab.run(run).tries) == (4, 1)
    lab.end(run, "failed", retry_start_ms=lab.now_ms)
    assert lab.run(run).state == "queued"
    lab.claim_run(holder, run)
    assert lab.run(run).tries == 2
    lab.end(run, "failed", retry_start_ms=lab.now_ms)
    assert lab.run(run).outcome == "failed"


def test_a_lost_run_is_launched_again_at_least_once(lab: Lab) -> None:
    """With a higher fence, by whoever claims it; the old holder's report does not count."""
    job, holder = lab.create(), lab.join()
    run = lab.launch(holder, job)
    lost = lab.run(run)
    lab.lose(holder)
    record = lab.run(run)
    assert (record.state, record.start_ms) == ("queued", lab.now_ms)
    assert record.attempts[0].outcome == "lost"
    successor = lab.join(2)
    assert lab.claim_run(successor, run) is None
    assert lab.run(run).fence > lost.fence
    assert not lab.report(Ended(run, 1, lost.fence, "succeeded", None, NOW_MS))
    assert lab.end(run)


def test_a_lost_run_is_not_launched_again_at_most_once(lab: Lab) -> None:
    """Nobody knows what became of it, and that is its outcome."""
    job, holder = lab.create(delivery="at_most_once"), lab.join()
    run = lab.launch(holder, job)
    lab.lose(holder)
    assert (lab.run(run).state, lab.run(run).outcome) == ("ended", "unknown")
    assert lab.state(job).live == ()


def test_a_run_that_is_lost_again_and_again_is_given_up(lab: Lab) -> None:
    """It may be what takes its members down."""
    job = lab.create()
    holder = lab.join()
    run = lab.launch(holder, job)
    for number in range(LOST_ATTEMPTS_MAX - 1):
        lab.lose(holder)
        assert lab.run(run).state == "queued"
        holder = lab.join(number + 2)
        lab.claim_run(holder, run)
    lab.lose(holder)
    assert lab.run(run).outcome == "lost"


def test_a_lost_run_whose_end_was_asked_for_is_cancelled(lab: Lab) -> None:
    """What nobody wants any more is not launched again."""
    run = lab.launch(holder := lab.join(), lab.create())
    lab.apply(CancelRun(run, "enough"))
    lab.lose(holder)
    assert (lab.run(run).outcome, lab.run(run).detail) == ("cancelled", "enough")


def test_a_run_that_is_given_back_is_queued_for_its_instant(lab: Lab) -> None:
    """It was claimed ahead of time, and must not start before it after all."""
    run = lab.launch(holder := lab.join(), lab.create())
    lab.end(run, "lost", detail="The member is stopping.")
    record = lab.run(run)
    assert (record.state, record.start_ms) == ("queued", FIRST_DUE_MS)
    assert record.attempts[0].detail == "The member is stopping."
    assert lab.held(holder) == []


def test_a_run_that_certainly_never_began_may_begin_elsewhere(lab: Lab) -> None:
    """Also with `at_most_once`: its holder gave it back before it started."""
    holder = lab.join()
    first, second = (lab.launch(holder, lab.create(name, delivery="at_most_once")) for name in "ab")
    lab.end(first, "lost", unstarted=True)
    lab.end(second, "lost")
    assert lab.run(first).state == "queued"
    assert lab.run(second).outcome == "unknown"


# --- Cancelling -----------------------------------------------------------------------------


def test_a_queued_run_is_cancelled_at_once(lab: Lab) -> None:
    """Nobody holds it, so nobody has to be asked."""
    job = lab.create(due_ms=None, manual=True)
    run = lab.trigger(job)
    assert lab.expect(RunDone, CancelRun(run, "enough")).state == "ended"
    assert (lab.run(run).outcome, lab.run(run).detail) == ("cancelled", "enough")
    assert lab.run(run).attempts == ()
    assert lab.due() == []
    assert lab.state(job).live == ()


def test_a_waiting_run_is_cancelled_at_once(lab: Lab) -> None:
    """The run that it waited for goes on, and there is room for the next."""
    job, holder = lab.create(overlap="buffer_one"), lab.join()
    held, waiting = lab.launch(holder, job), lab.launch(holder, job)
    assert lab.expect(RunDone, CancelRun(waiting, "enough")).state == "ended"
    assert (lab.state(job).live, lab.state(job).waiting) == ((held,), None)


@pytest.mark.parametrize("started", [False, True])
def test_the_holder_of_a_run_is_asked_to_end_it(lab: Lab, *, started: bool) -> None:
    """The first reason stays; asking again reaches the holder again."""
    run = lab.launch(holder := lab.join(), lab.create(attempts_max=5))
    if started:
        lab.start(run)
    for reason in ("enough", "really"):
        lab.expect(RunDone, CancelRun(run, reason))
        assert lab.effects.cancelled == [(holder, run)]
        assert lab.run(run).cancel_reason == "enough"
        assert lab.effects.granted == []
    lab.end(run, "failed", retry_start_ms=NOW_MS)
    assert lab.run(run).state == "ended"


def test_what_is_no_run_cannot_be_cancelled(lab: Lab) -> None:
    """Neither an unknown key nor an occurrence that was skipped."""
    job, holder = lab.create(), lab.join()
    lab.launch(holder, job)
    lab.claim(holder, lab.occurrence(job))
    assert lab.refused(CancelRun(b"?" * 29, "")) == "not_found"
    skipped = keys.run_key(job, FIRST_DUE_MS + 1_000)
    assert lab.refused(CancelRun(skipped, "")) == "not_found"


def test_cancelling_the_live_run_lets_the_waiting_one_go(lab: Lab) -> None:
    """A queued live run frees its place at once."""
    job = lab.create(overlap="buffer_one")
    first, second = lab.trigger(job, 1), lab.trigger(job, 2)
    lab.apply(CancelRun(first, "enough"))
    assert lab.run(second).state == "queued"
    assert lab.due()[0] == (NOW_MS, second)


# --- Manual runs ----------------------------------------------------------------------------


def test_a_manual_run_is_queued_beside_the_schedule(lab: Lab) -> None:
    """It leaves the cursor alone and does not count against the runs by schedule."""
    job, holder = lab.create(runs_max=5), lab.join()
    run = lab.trigger(job, 3)
    record = lab.run(run)
    assert (record.state, record.trigger, record.start_ms) == ("queued", "manual", NOW_MS)
    assert lab.due() == [(NOW_MS, run), (FIRST_DUE_MS, job)]
    assert lab.claim_run(holder, run) is None
    assert lab.state(job).launches_total == 0
    lab.end(run)
    assert lab.state(job).due_ms == FIRST_DUE_MS


def test_the_same_manual_run_is_queued_once(lab: Lab) -> None:
    """A request that was sent twice names the same instant and the same number."""
    job = lab.create(overlap="allow")
    lab.trigger(job, 3)
    assert lab.refused(TriggerJob(job, NOW_MS, 3)) == "already_running"
    lab.trigger(job, 4)


def test_a_manual_run_of_what_does_not_exist_is_refused(lab: Lab) -> None:
    """There is no such job."""
    assert lab.refused(TriggerJob(b"?" * 16, NOW_MS, 3)) == "not_found"


# --- Output ---------------------------------------------------------------------------------


def test_the_output_of_each_attempt_is_kept(lab: Lab) -> None:
    """In its chunks, in order, with the number of bytes that there were."""
    run = lab.launch(holder := lab.join(), lab.create(attempts_max=2))
    lab.end(run, "failed", retry_start_ms=NOW_MS, output=(b"one", b"two"), output_bytes=6)
    lab.claim_run(holder, run)
    lab.end(run, output=(b"three",), output_bytes=50_000)
    assert [lab.store.get(keys.output_key(run, 1, place)) for place in range(3)] == [
        b"one",
        b"two",
        None,
    ]
    assert lab.store.get(keys.output_key(run, 2)) == b"three"
    assert lab.run(run).output_bytes == 50_000
    assert len(lab.rows(keys.OUTPUT_AGE)) == 2


def test_the_output_of_a_refused_report_is_not_kept(lab: Lab) -> None:
    """An attempt that the cluster has given up leaves nothing."""
    run = lab.launch(lab.join(), lab.create())
    lab.report(Ended(run, 1, 1, "succeeded", None, NOW_MS, output=(b"?",)))
    assert lab.rows(keys.OUTPUT) == {}


# --- The table ------------------------------------------------------------------------------


def test_nothing_leads_out_of_the_end_and_everything_leads_there() -> None:
    """The life of a run is a table, and this is what it says."""
    states: set[RunState] = {"queued", "waiting", "claimed", "running", "ended"}
    assert {state for state, _ in RUN_TRANSITIONS} == states - {"ended"}
    assert {state for state, event in RUN_TRANSITIONS if event == "ended"} == states - {"ended"}
    assert set(RUN_TRANSITIONS.values()) < states


def test_a_step_that_the_table_does_not_have_stops_the_process() -> None:
    """The commands check what they were sent before they come here."""
    assert advance("queued", "claimed") == "claimed"
    with pytest.raises(InvariantViolated, match="state='ended', event='claimed'"):
        advance("ended", "claimed")
