"""The state machine on claims: who launches an occurrence, or why nobody does."""

from __future__ import annotations

from typing import Any

import pytest

from consensus.state.commands import (
    CancelRun,
    Claim,
    ClaimRun,
    Cursor,
    JobDone,
    RunDone,
    TriggerJob,
)
from storage import keys
from storage.limits import CLAIM_AHEAD_MS_MAX, LIVE_RUNS_PER_JOB_MAX
from tests.support.builders import (
    FIRST_DUE_MS,
    LEASE_MS,
    NOW_MS,
    STEP_MS,
    Lab,
    incarnation,
    policy,
    skipped,
)


@pytest.fixture
def lab() -> Lab:
    return Lab()


# --- Granting -------------------------------------------------------------------------------


def test_a_claim_writes_the_run_and_moves_the_cursor(lab: Lab) -> None:
    """The occurrence gets its run and the job its next occurrence, in one step."""
    job, holder = lab.create(), lab.join()
    key = lab.launch(holder, job)
    run = lab.run(key)
    assert (run.state, run.trigger, run.number, run.revision) == ("claimed", "schedule", 1, 1)
    assert (run.scheduled_ms, run.start_ms) == (FIRST_DUE_MS, FIRST_DUE_MS)
    assert (run.incarnation, run.member) == (holder, "a")
    assert lab.held(holder) == [key]
    assert lab.due() == [(FIRST_DUE_MS + STEP_MS, job)]
    state = lab.state(job)
    assert (state.live, state.launches_total, state.decided_ms) == ((key,), 1, FIRST_DUE_MS)
    assert lab.effects.granted == [(holder, key)]
    assert keys.timeline_key(NOW_MS, key) in lab.everything()
    assert (lab.machine.counters["runs"], lab.machine.counters["runs_live"]) == (1, 1)


def test_a_fence_is_the_index_of_its_grant(lab: Lab) -> None:
    """An attempt is known by the log entry that granted it."""
    job, holder = lab.create(), lab.join()
    key = lab.launch(holder, job)
    assert lab.run(key).fence == lab.machine.applied_index == lab.state(job).fence


def test_fences_grow_with_every_grant_of_a_job_also_within_one_entry(lab: Lab) -> None:
    """No two attempts of a job have the same fence, and a later one has a higher one."""
    job, holder = lab.create(overlap="allow"), lab.join()
    runs = [lab.trigger(job, nonce) for nonce in range(3)]
    items = [ClaimRun(run, lab.run(run).start_ms) for run in runs]
    assert lab.claim(holder, *items, lab.occurrence(job)) == (None,) * 4
    fences = [lab.run(run).fence for run in (*runs, keys.run_key(job, FIRST_DUE_MS))]
    assert fences == sorted(set(fences))
    later = lab.launch(holder, job)
    assert lab.run(later).fence > max(fences)


def test_of_two_claims_on_one_occurrence_the_first_is_granted(lab: Lab) -> None:
    """Two thieves are told apart by the log."""
    job, one, two = lab.create(), lab.join(1, "a"), lab.join(1, "b")
    item = lab.occurrence(job)
    assert lab.claim(one, item) == (None,)
    assert lab.claim(two, item) == ("stale",)
    assert lab.run(keys.run_key(job, FIRST_DUE_MS)).incarnation == one


def test_a_refused_item_does_not_concern_the_others(lab: Lab) -> None:
    """Each item of a claim has its own verdict."""
    one, two, holder = lab.create("one"), lab.create("two"), lab.join()
    stale = lab.occurrence(one, revision=7)
    assert lab.claim(holder, stale, lab.occurrence(two)) == ("stale", None)
    assert lab.held(holder) == [keys.run_key(two, FIRST_DUE_MS)]


# --- Refusing -------------------------------------------------------------------------------


def test_only_a_member_with_a_lease_may_claim(lab: Lab) -> None:
    """Unknown, over, or given up: nothing is granted under such a lease."""
    job = lab.create()
    item = lab.occurrence(job)
    assert lab.refused(Claim(incarnation(9), (item,))) == "lease_expired"
    holder = lab.join()
    lab.pass_ms(LEASE_MS)
    lab.claim(holder)
    lab.pass_ms(1)
    assert lab.refused(Claim(holder, (item,))) == "lease_expired"
    successor = lab.join(2, supersedes=True)
    assert lab.refused(Claim(holder, (item,))) == "lease_expired"
    assert lab.claim(successor, item) == (None,)


@pytest.mark.parametrize(
    "changed",
    [{"revision": 2}, {"revision": 0}, {"due_ms": FIRST_DUE_MS + STEP_MS}, {"job": b"?" * 16}],
)
def test_a_claim_on_what_is_no_more_is_stale(lab: Lab, changed: dict[str, Any]) -> None:
    """A claim names the revision and the cursor that it was worked out for."""
    job, holder = lab.create(), lab.join()
    before = lab.everything()
    assert lab.claim(holder, lab.occurrence(job, **changed)) == ("stale",)
    assert lab.everything() == before


def test_a_claim_too_far_ahead_is_refused(lab: Lab) -> None:
    """It is the sign of a clock gone wrong."""
    far_ms = NOW_MS + CLAIM_AHEAD_MS_MAX
    near, far, holder = lab.create("near", far_ms), lab.create("far", far_ms + 1), lab.join()
    verdicts = lab.claim(holder, lab.occurrence(near), lab.occurrence(far))
    assert verdicts == (None, "too_early")


def test_a_retry_is_not_granted_too_far_ahead_either(lab: Lab) -> None:
    """The same bound holds for what waits in the queue."""
    job, holder = lab.create(attempts_max=2), lab.join()
    run = lab.launch(holder, job)
    lab.end(run, "failed", retry_start_ms=NOW_MS + CLAIM_AHEAD_MS_MAX + 1)
    assert lab.claim_run(holder, run) == "too_early"
    lab.pass_ms(1)
    assert lab.claim_run(holder, run) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"launch": None},
        {"launch": Cursor(FIRST_DUE_MS + 5, FIRST_DUE_MS + 5)},
        {"following": Cursor(FIRST_DUE_MS, FIRST_DUE_MS)},
        {"skipped": (skipped("missed", FIRST_DUE_MS),)},
        {"launch": None, "skipped": (skipped("missed", FIRST_DUE_MS + 1),)},
        {"launch": None, "skipped": (skipped("missed", FIRST_DUE_MS, count=0),)},
        {"skipped": (skipped("coalesced", FIRST_DUE_MS + 5, FIRST_DUE_MS + STEP_MS, 2),)},
    ],
)
def test_a_claim_that_would_lose_or_double_an_occurrence_is_refused(
    lab: Lab, changed: dict[str, Any]
) -> None:
    """It decides the cursor, each instant once, and moves on behind all of them."""
    job, holder = lab.create(), lab.join()
    before = lab.everything()
    assert lab.claim(holder, lab.occurrence(job, **changed)) == ("invalid",)
    assert lab.everything() == before


def test_a_run_never_starts_before_its_occurrence(lab: Lab) -> None:
    """Jitter can only delay a start."""
    job, holder = lab.create(), lab.join()
    run = lab.launch(holder, job, launch=Cursor(FIRST_DUE_MS, FIRST_DUE_MS - 500))
    assert lab.run(run).start_ms == FIRST_DUE_MS


# --- Skipping and moving on -----------------------------------------------------------------


def test_a_claim_records_what_it_skips(lab: Lab) -> None:
    """Late occurrences get a reason each range, and one of them may be launched."""
    job, holder = lab.create(), lab.join()
    spans = (
        skipped("missed", FIRST_DUE_MS, FIRST_DUE_MS + 2_000, 3),
        skipped("paused", FIRST_DUE_MS + 3_000),
    )
    launch = Cursor(FIRST_DUE_MS + 4_000, FIRST_DUE_MS + 4_000)
    following = Cursor(FIRST_DUE_MS + 5_000, FIRST_DUE_MS + 5_000)
    run = lab.launch(holder, job, launch=launch, skipped=spans, following=following)
    assert run == keys.run_key(job, FIRST_DUE_MS + 4_000)
    assert lab.skip(job, FIRST_DUE_MS).count == 3
    assert lab.skip(job, FIRST_DUE_MS + 3_000).reason == "paused"
    assert lab.due() == [(FIRST_DUE_MS + 5_000, job)]
    assert lab.machine.counters["skipped.missed"] == 3


def test_what_is_skipped_may_lie_behind_what_is_launched(lab: Lab) -> None:
    """The catch-up policy "first" coalesces the later ones."""
    job, holder = lab.create(), lab.join()
    spans = (skipped("coalesced", FIRST_DUE_MS + 1_000, FIRST_DUE_MS + 3_000, 3),)
    following = Cursor(FIRST_DUE_MS + 4_000, FIRST_DUE_MS + 4_000)
    lab.launch(holder, job, skipped=spans, following=following)
    assert lab.state(job).decided_ms == FIRST_DUE_MS + 3_000


def test_a_job_without_a_following_occurrence_is_finished(lab: Lab) -> None:
    """A one-time job is over once it is claimed; its run goes on."""
    job, holder = lab.create(), lab.join()
    run = lab.launch(holder, job, following=None)
    assert lab.state(job).status == "finished"
    assert lab.due() == []
    assert lab.end(run)


def test_a_job_is_finished_with_the_last_run_it_may_have(lab: Lab) -> None:
    """Only launches count, not skipped occurrences and not manual runs."""
    job, holder = lab.create(runs_max=2), lab.join()
    lab.end(lab.claim_and_run(holder, lab.trigger(job)))
    first = lab.launch(holder, job)
    assert lab.claim(holder, lab.occurrence(job)) == (None,)  # skipped, for one is live
    lab.end(first)
    assert lab.state(job).status == "scheduled"
    lab.launch(holder, job)
    assert lab.state(job).status == "finished"
    assert lab.state(job).launches_total == 2


def test_a_cursor_behind_what_is_decided_only_moves_on(lab: Lab) -> None:
    """An edit may come by an instant again that was claimed ahead of time under the old one."""
    job, holder = lab.create(), lab.join()
    run = lab.launch(holder, job)
    lab.apply(lab.edit(job, FIRST_DUE_MS))
    assert lab.claim(holder, lab.occurrence(job)) == ("invalid",)
    assert lab.claim(holder, lab.occurrence(job, launch=None)) == (None,)
    assert lab.run(run).state == "claimed"
    state = lab.state(job)
    assert state.due_ms == state.first_due_ms == FIRST_DUE_MS + STEP_MS


# --- A fixed delay after the end ------------------------------------------------------------


def test_a_delayed_job_is_due_again_after_the_end_of_its_run(lab: Lab) -> None:
    """Until then nobody knows its next occurrence."""
    job, holder = lab.create(delay_ms=700), lab.join()
    run = lab.launch(holder, job)
    assert (lab.state(job).status, lab.state(job).due_ms) == ("scheduled", None)
    lab.pass_ms(3_000)
    lab.end(run, "failed")
    assert lab.due() == [(lab.now_ms + 700, job)]


def test_a_delayed_job_whose_occurrence_was_skipped_goes_on_from_there(lab: Lab) -> None:
    """The chain does not break where the catch-up policy launches nothing."""
    job, holder = lab.create(delay_ms=700), lab.join()
    spans = (skipped("missed", FIRST_DUE_MS),)
    lab.pass_ms(60_000)
    holder = lab.join()
    lab.claim(holder, lab.occurrence(job, launch=None, skipped=spans, following=None))
    assert lab.due() == [(lab.now_ms + 700, job)]


def test_a_delayed_job_ends_at_its_last_time(lab: Lab) -> None:
    """An occurrence behind `not_after` does not exist."""
    job, holder = lab.create(delay_ms=700, not_after_ms=FIRST_DUE_MS + 1_000), lab.join()
    run = lab.launch(holder, job)
    lab.pass_ms(1_301)
    lab.end(run)
    assert lab.state(job).status == "finished"


def test_a_delayed_job_does_not_come_by_an_instant_twice(lab: Lab) -> None:
    """A run that was claimed ahead and cancelled at once has used up its instant."""
    job, holder = lab.create(delay_ms=10), lab.join()
    run = lab.launch(holder, job)
    lab.end(run, "cancelled")
    assert lab.due() == [(FIRST_DUE_MS + 1, job)]


# --- Overlap --------------------------------------------------------------------------------


def test_skip_leaves_an_occurrence_out_while_a_run_is_live(lab: Lab) -> None:
    """The occurrence has its outcome, and the cursor moves on."""
    job, holder = lab.create(), lab.join()
    run = lab.launch(holder, job)
    assert lab.claim(holder, lab.occurrence(job)) == (None,)
    skip = lab.skip(job, FIRST_DUE_MS + STEP_MS)
    assert (skip.reason, skip.last_ms, skip.count) == ("skipped_overlap", FIRST_DUE_MS + 1_000, 1)
    assert lab.state(job).live == (run,)
    assert lab.due() == [(FIRST_DUE_MS + 2 * STEP_MS, job)]


def test_allow_lets_runs_overlap_up_to_a_bound(lab: Lab) -> None:
    """Beyond the bound an occurrence is left out, by the name of `limit`."""
    job, holder = lab.create(overlap="allow"), lab.join()
    for nonce in range(LIVE_RUNS_PER_JOB_MAX - 1):
        lab.trigger(job, nonce)
    lab.launch(holder, job)
    assert lab.claim(holder, lab.occurrence(job)) == (None,)
    assert lab.skip(job, FIRST_DUE_MS + STEP_MS).reason == "limit"
    assert lab.refused(TriggerJob(job, NOW_MS, 12_345)) == "already_running"


def test_buffer_one_keeps_one_run_waiting(lab: Lab) -> None:
    """The next occurrence waits for the live run; those behind it are left out."""
    job, holder = lab.create(overlap="buffer_one"), lab.join()
    first, second = lab.launch(holder, job), lab.launch(holder, job)
    assert lab.run(second).state == "waiting"
    assert lab.claim(holder, lab.occurrence(job)) == (None,)
    assert lab.skip(job, FIRST_DUE_MS + 2 * STEP_MS).reason == "skipped_overlap"
    lab.pass_ms(4_000)
    lab.end(first)
    assert (lab.run(second).state, lab.run(second).start_ms) == ("queued", lab.now_ms)
    assert (lab.state(job).live, lab.state(job).waiting) == ((second,), None)
    assert lab.claim_run(lab.join(), second) is None


def test_a_promoted_run_does_not_start_before_its_instant(lab: Lab) -> None:
    """It may have been claimed ahead of time, and its place may have become free at once."""
    job, holder = lab.create(overlap="buffer_one"), lab.join()
    first, second = lab.launch(holder, job), lab.launch(holder, job)
    lab.end(first, "cancelled")
    assert lab.run(second).start_ms == FIRST_DUE_MS + STEP_MS


def test_a_promoted_run_stands_where_its_job_wants_it_by_then(lab: Lab) -> None:
    """An edit while it waits moves it, as it moves those that are queued."""
    job, holder = lab.create(overlap="buffer_one"), lab.join()
    first, second = lab.launch(holder, job), lab.launch(holder, job)
    changed = policy(overlap="buffer_one", priority=90, selective=True)
    lab.apply(lab.edit(job, keep_cursor=True, policy=changed))
    lab.end(first)
    promoted = lab.run(second)
    assert (promoted.priority, promoted.band) == (90, keys.band_of(90, selective=True))
    assert (promoted.start_ms, second) in lab.due()


def test_cancel_other_asks_the_live_run_to_stop_and_waits_for_it(lab: Lab) -> None:
    """The newer run takes its place when it has come to its end, not before."""
    job, holder = lab.create(overlap="cancel_other"), lab.join()
    first, second = lab.launch(holder, job), lab.launch(holder, job)
    assert lab.effects.cancelled == [(holder, first)]
    assert lab.run(first).cancel_reason == "A later run takes its place."
    third = lab.launch(holder, job)
    assert lab.run(second).outcome == "cancelled"
    assert (lab.state(job).live, lab.state(job).waiting) == ((first,), third)
    lab.end(first, "cancelled")
    assert lab.state(job).live == (third,)


def test_cancel_other_ends_a_queued_run_at_once(lab: Lab) -> None:
    """Nobody has to be asked, so the newer run need not wait."""
    job, holder = lab.create(overlap="cancel_other"), lab.join()
    queued = lab.trigger(job)
    run = lab.launch(holder, job)
    assert lab.run(queued).outcome == "cancelled"
    assert lab.run(run).state == "claimed"
    assert lab.state(job).live == (run,)


@pytest.mark.parametrize(
    ("overlap", "state"), [("allow", "queued"), ("buffer_one", "waiting"), ("skip", None)]
)
def test_overlap_counts_manual_runs_as_well(lab: Lab, overlap: Any, state: str | None) -> None:
    """One at a time means one at a time, however a run came about."""
    job = lab.create(overlap=overlap)
    lab.launch(lab.join(), job)
    command = TriggerJob(job, NOW_MS, 1)
    if state is None:
        assert lab.refused(command) == "already_running"
    else:
        assert lab.expect(RunDone, command).state == state


def test_overlap_counts_a_run_that_waits_for_its_retry(lab: Lab) -> None:
    """A run is live until its last attempt is over."""
    job, holder = lab.create(attempts_max=2), lab.join()
    run = lab.launch(holder, job)
    lab.end(run, "failed", retry_start_ms=NOW_MS + 50_000)
    lab.claim(holder, lab.occurrence(job))
    assert lab.skip(job, FIRST_DUE_MS + STEP_MS).reason == "skipped_overlap"
    lab.expect(RunDone, CancelRun(run, "enough"))
    lab.launch(holder, job)


def test_the_end_of_a_run_hints_at_the_occurrence_that_waits_for_its_lot(lab: Lab) -> None:
    """Whoever left it alone because a run was live has to look again."""
    job, holder = lab.create(), lab.join()
    run = lab.launch(holder, job)
    lab.end(run)
    place = (keys.partition_of(job), keys.band_of(50, selective=False), FIRST_DUE_MS + STEP_MS)
    assert lab.effects.due == [place]


def test_a_run_is_granted_under_the_revision_of_its_attempt(lab: Lab) -> None:
    """A retry does what the job says by then."""
    job, holder = lab.create(attempts_max=3), lab.join()
    run = lab.launch(holder, job)
    lab.expect(JobDone, lab.edit(job, keep_cursor=True, policy=policy(attempts_max=3, priority=9)))
    lab.end(run, "failed", retry_start_ms=NOW_MS)
    assert lab.run(run).priority == 9
    lab.claim_run(holder, run)
    assert (lab.run(run).revision, lab.run(run).number) == (2, 2)
