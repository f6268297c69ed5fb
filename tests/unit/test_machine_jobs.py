"""The state machine on creating, changing, pausing and deleting jobs."""

from __future__ import annotations

from typing import Any

import pytest

from consensus.state.commands import (
    CancelRun,
    Cursor,
    DeleteJob,
    JobDone,
    PauseJob,
    RunDone,
    TriggerJob,
)
from storage import keys
from storage.models import JobStatus
from tests.support.builders import FIRST_DUE_MS, NOW_MS, Lab, policy, skipped


@pytest.fixture
def lab() -> Lab:
    return Lab()


# --- Creating -------------------------------------------------------------------------------


def test_a_new_job_is_scheduled_for_its_first_occurrence(lab: Lab) -> None:
    """A created job stands in the due table, under the start of its first occurrence."""
    command = lab.put(cursor=Cursor(FIRST_DUE_MS, FIRST_DUE_MS + 7))
    done = lab.expect(JobDone, command)
    assert done == JobDone(command.job, 1, NOW_MS, NOW_MS, created=True)
    state = lab.state(command.job)
    assert (state.status, state.due_ms, state.revision) == ("scheduled", FIRST_DUE_MS, 1)
    assert lab.due() == [(FIRST_DUE_MS + 7, command.job)]
    assert lab.effects.due == [
        (keys.partition_of(command.job), keys.band_of(50, selective=False), FIRST_DUE_MS + 7)
    ]
    assert lab.store.get(keys.name_key("tests", "job")) == command.job
    assert lab.store.get(keys.JOB + command.job) == b"definition"
    assert lab.machine.counters["jobs"] == 1


def test_a_name_is_given_once(lab: Lab) -> None:
    """A second job of the same name is refused, and so is a second one with the same id."""
    job = lab.create()
    assert lab.refused(lab.put()) == "name_taken"
    assert lab.refused(lab.put("other", job=job)) == "name_taken"
    assert lab.refused(lab.put(expected_revision=1)) == "name_taken"


def test_what_does_not_exist_is_not_replaced(lab: Lab) -> None:
    """An update that expects a revision finds no job to update."""
    assert lab.refused(lab.put(expected_revision=3)) == "not_found"


@pytest.mark.parametrize(
    ("changed", "status"),
    [({}, "finished"), ({"manual": True}, "scheduled"), ({"delay_ms": 500}, "scheduled")],
)
def test_a_job_without_an_occurrence_is_over_unless_more_can_come(
    lab: Lab, changed: dict[str, Any], status: JobStatus
) -> None:
    """A schedule whose last time has passed is finished; a manual one never is."""
    assert lab.state(lab.create(due_ms=None, **changed)).status == status


# --- Replacing ------------------------------------------------------------------------------


def test_a_replacement_raises_the_revision_and_moves_the_cursor(lab: Lab) -> None:
    """A new schedule begins with its own first occurrence, in place of the old one's."""
    job = lab.create()
    lab.pass_ms(10)
    done = lab.expect(JobDone, lab.edit(job, NOW_MS + 5_000))
    assert (done.revision, done.created_ms, done.updated_ms) == (2, NOW_MS, NOW_MS + 10)
    assert not done.created
    assert lab.due() == [(NOW_MS + 5_000, job)]
    assert lab.store.get(keys.JOB + job) == b"changed"
    assert lab.state(job).first_due_ms == NOW_MS + 5_000


def test_a_replacement_that_keeps_its_schedule_keeps_its_cursor(lab: Lab) -> None:
    """Changing what a job does is no reason to move or lose what falls due."""
    job = lab.create()
    lab.join()
    changed = policy(priority=99, selective=True)
    done = lab.expect(JobDone, lab.edit(job, keep_cursor=True, seen_due_ms=None, policy=changed))
    assert done.revision == 2
    assert lab.due() == [(FIRST_DUE_MS, job)]
    band = keys.band_of(99, selective=True)
    assert [keys.due_key(job, band, FIRST_DUE_MS, 99)] == [keys.DUE + k for k in lab.rows(keys.DUE)]


def test_a_replacement_of_another_revision_is_refused(lab: Lab) -> None:
    """Lost updates are refused, with the revision that there is."""
    job = lab.create()
    command = lab.edit(job, NOW_MS + 5_000)
    lab.apply(command)
    assert lab.refused(command) == "revision_mismatch"
    assert lab.refused(lab.edit(job, NOW_MS, expected_revision=1)) == "revision_mismatch"


def test_a_replacement_that_was_overtaken_by_a_launch_is_refused(lab: Lab) -> None:
    """What was overdue was counted under a cursor that has moved on since."""
    job = lab.create()
    command = lab.edit(job, NOW_MS + 5_000)
    lab.launch(lab.join(), job)
    assert lab.refused(command) == "cursor_moved"


def test_what_was_overdue_under_the_old_schedule_gets_its_reason(lab: Lab) -> None:
    """An edit decides about what it leaves behind."""
    job = lab.create()
    lab.pass_ms(4_500)
    spans = (skipped("rescheduled", FIRST_DUE_MS, FIRST_DUE_MS + 3_000, 4),)
    lab.expect(JobDone, lab.edit(job, NOW_MS + 9_000, skipped=spans))
    skip = lab.skip(job, FIRST_DUE_MS)
    assert (skip.reason, skip.last_ms, skip.count) == ("rescheduled", FIRST_DUE_MS + 3_000, 4)
    assert lab.machine.counters["skipped.rescheduled"] == 4
    assert lab.state(job).decided_ms == FIRST_DUE_MS + 3_000


@pytest.mark.parametrize(
    "spans",
    [
        (skipped("rescheduled", FIRST_DUE_MS + 1),),
        (skipped("rescheduled", FIRST_DUE_MS, count=0),),
        (skipped("rescheduled", FIRST_DUE_MS, FIRST_DUE_MS - 1),),
        (skipped("rescheduled", FIRST_DUE_MS, FIRST_DUE_MS + 9), skipped("paused", FIRST_DUE_MS)),
    ],
)
def test_skipped_ranges_that_make_no_sense_are_refused(lab: Lab, spans: tuple[object, ...]) -> None:
    """They begin with the cursor, are in order, and count what they cover."""
    job = lab.create()
    assert lab.refused(lab.edit(job, NOW_MS + 90_000, skipped=spans)) == "cursor_moved"


def test_a_finished_job_lives_again_with_a_new_schedule(lab: Lab) -> None:
    """An edit is enough, the job need not be created anew."""
    job = lab.create()
    run = lab.launch(lab.join(), job, following=None)
    lab.end(run)
    assert lab.state(job).status == "finished"
    lab.apply(lab.edit(job, NOW_MS + 9_000))
    assert lab.state(job).status == "scheduled"
    assert lab.due() == [(NOW_MS + 9_000, job)]


def test_a_job_that_has_had_its_runs_stays_finished(lab: Lab) -> None:
    """Runs by schedule count against the limit over all revisions of a job."""
    job = lab.create(runs_max=1)
    lab.launch(lab.join(), job)
    assert lab.state(job).status == "finished"
    lab.apply(lab.edit(job, NOW_MS + 9_000))
    assert lab.state(job).status == "finished"
    assert lab.due() == []
    lab.apply(lab.edit(job, NOW_MS + 9_000, policy=policy(runs_max=2)))
    assert lab.due() == [(NOW_MS + 9_000, job)]


def test_a_paused_job_stays_paused_when_it_is_edited(lab: Lab) -> None:
    """Its new cursor waits for the resume."""
    job = lab.create()
    lab.pause(job)
    lab.apply(lab.edit(job, NOW_MS + 9_000))
    assert lab.state(job).status == "paused"
    assert lab.due() == []
    lab.pause(job, paused=False)
    assert lab.due() == [(NOW_MS + 9_000, job)]


def test_queued_runs_follow_an_edit_of_priority_and_placement(lab: Lab) -> None:
    """Who may launch a run, and how early, is a matter of the job as it is now."""
    job = lab.create(due_ms=None, manual=True)
    run = lab.trigger(job)
    changed = policy(manual=True, priority=90, selective=True)
    lab.apply(lab.edit(job, policy=changed))
    band = keys.band_of(90, selective=True)
    assert [keys.due_key(run, band, NOW_MS, 90)] == [keys.DUE + key for key in lab.rows(keys.DUE)]


def test_a_waiting_run_is_let_go_when_overlap_becomes_allowed(lab: Lab) -> None:
    """With others going on beside it, its turn might never come."""
    job = lab.create(overlap="buffer_one")
    holder = lab.join()
    lab.launch(holder, job)
    waiting = lab.launch(holder, job)
    assert lab.run(waiting).state == "waiting"
    lab.apply(lab.edit(job, keep_cursor=True, policy=policy(overlap="allow")))
    assert lab.run(waiting).state == "queued"
    assert lab.state(job).waiting is None
    assert len(lab.state(job).live) == 2


def test_runs_that_were_let_overlap_do_not_start_beside_each_other_any_more(lab: Lab) -> None:
    """From the edit on, what is queued waits for what is held."""
    job = lab.create(overlap="allow")
    holder = lab.join()
    first, second = lab.trigger(job, 1), lab.trigger(job, 2)
    assert lab.claim_run(holder, first) is None
    lab.apply(lab.edit(job, keep_cursor=True, policy=policy(overlap="skip")))
    assert lab.claim_run(holder, second) == "overlap"
    lab.end(first)
    assert lab.claim_run(holder, second) is None


# --- Deleting -------------------------------------------------------------------------------


def test_a_deleted_job_leaves_its_name_and_the_due_table(lab: Lab) -> None:
    """Its name is free, its history stays, and it is not found any more."""
    job = lab.create()
    lab.expect(JobDone, DeleteJob(job))
    assert lab.due() == []
    assert lab.state(job).status == "deleted"
    assert lab.machine.counters["jobs"] == 0
    for command in (DeleteJob(job), PauseJob(job, paused=True), TriggerJob(job, NOW_MS, 1)):
        assert lab.refused(command) == "not_found"
    assert lab.create() != job


def test_a_conditional_delete_checks_the_revision(lab: Lab) -> None:
    """An older revision than the present one is refused."""
    job = lab.create()
    lab.pause(job)
    assert lab.refused(DeleteJob(job, 1)) == "revision_mismatch"
    assert lab.expect(JobDone, DeleteJob(job, 2)).revision == 3


def test_what_was_counted_under_another_cursor_is_counted_again(lab: Lab) -> None:
    """Between count and delete a claim has decided the first of four: three would be lost."""
    job, holder = lab.create(overlap="allow"), lab.join()
    lab.pass_ms(4_500)
    spans = (skipped("deleted", FIRST_DUE_MS, FIRST_DUE_MS + 3_000, 4),)
    command = DeleteJob(job, None, None, FIRST_DUE_MS, spans)
    lab.launch(holder, job)
    assert lab.refused(command) == "cursor_moved"


def test_what_was_overdue_is_decided_by_a_delete(lab: Lab) -> None:
    """The proposer counts it; without a count, the cursor's own occurrence has its outcome."""
    job, other = lab.create(), lab.create("other")
    lab.pass_ms(4_500)
    spans = (skipped("deleted", FIRST_DUE_MS, FIRST_DUE_MS + 3_000, 4),)
    lab.expect(JobDone, DeleteJob(job, None, None, FIRST_DUE_MS, spans))
    assert lab.skip(job, FIRST_DUE_MS).count == 4
    lab.expect(JobDone, DeleteJob(other, None, None, FIRST_DUE_MS))
    assert lab.skip(other, FIRST_DUE_MS).count == 1
    assert lab.machine.counters["skipped.deleted"] == 5


def test_what_is_not_due_yet_gets_no_outcome_from_a_delete(lab: Lab) -> None:
    """An occurrence that lies ahead never was one."""
    job = lab.create()
    lab.expect(JobDone, DeleteJob(job))
    assert lab.rows(keys.OUTCOME) == {}


def test_a_delete_ends_what_waits_and_leaves_what_runs(lab: Lab) -> None:
    """Live attempts come to their end, and are not tried again."""
    job = lab.create(overlap="allow", attempts_max=5)
    queued = lab.trigger(job)
    held = lab.launch(lab.join(), job)
    lab.expect(JobDone, DeleteJob(job))
    assert lab.run(queued).outcome == "cancelled"
    assert lab.run(held).state == "claimed"
    assert lab.state(job).live == (held,)
    assert lab.effects.cancelled == []
    assert lab.end(held, "failed", retry_start_ms=NOW_MS)
    assert lab.run(held).outcome == "failed"
    assert lab.state(job).status == "deleted"
    assert lab.machine.counters["runs_live"] == 0


def test_a_delete_ends_a_waiting_run_without_promoting_it(lab: Lab) -> None:
    """What waited behind a live run does not take its place any more."""
    job = lab.create(overlap="buffer_one")
    held = lab.launch(lab.join(), job)
    waiting = lab.launch(lab.join(), job)
    lab.expect(JobDone, DeleteJob(job))
    assert lab.run(waiting).outcome == "cancelled"
    lab.end(held)
    assert lab.due() == []


def test_the_lost_run_of_a_deleted_job_is_not_launched_again(lab: Lab) -> None:
    """Nobody wants it any more."""
    job = lab.create()
    holder = lab.join()
    run = lab.launch(holder, job)
    lab.expect(JobDone, DeleteJob(job))
    lab.lose(holder)
    assert lab.run(run).outcome == "lost"


# --- Pausing --------------------------------------------------------------------------------


def test_a_pause_stops_the_cursor_and_a_resume_lets_it_go_on(lab: Lab) -> None:
    """What fell due meanwhile is overdue then, and the catch-up policy decides."""
    job = lab.create()
    assert lab.pause(job).revision == 2
    assert lab.due() == []
    assert lab.state(job).paused_ms == NOW_MS
    lab.pass_ms(60_000)
    assert lab.pause(job, paused=False).revision == 3
    assert lab.due() == [(FIRST_DUE_MS, job)]
    assert lab.state(job).resumed_ms == NOW_MS + 60_000


def test_pausing_twice_changes_nothing(lab: Lab) -> None:
    """A job in the wanted state is left as it is, revision included."""
    job = lab.create()
    assert lab.pause(job, paused=False).revision == 1
    lab.pause(job)
    before = lab.everything()
    assert lab.pause(job).revision == 2
    assert lab.everything() == before


def test_a_finished_job_is_finished_after_a_pause(lab: Lab) -> None:
    """A resume brings no occurrence back to a schedule that has none."""
    job = lab.create()
    lab.end(lab.launch(lab.join(), job, following=None))
    lab.pause(job)
    assert lab.state(job).status == "paused"
    lab.pause(job, paused=False)
    assert lab.state(job).status == "finished"


def test_a_paused_job_can_be_run_by_hand_and_its_run_cancelled(lab: Lab) -> None:
    """A pause concerns the schedule alone."""
    job = lab.create()
    lab.pause(job)
    run = lab.trigger(job)
    assert lab.expect(RunDone, CancelRun(run, "enough")).state == "ended"


def test_a_claim_from_before_a_pause_is_stale(lab: Lab) -> None:
    """A pause raises the revision, so whatever was under way is refused."""
    job = lab.create()
    holder = lab.join()
    item = lab.occurrence(job)
    lab.pause(job)
    assert lab.claim(holder, item) == ("stale",)
    lab.pause(job, paused=False)
    assert lab.claim(holder, item) == ("stale",)


def test_a_delayed_job_that_was_paused_while_it_ran_goes_on_after_the_resume(lab: Lab) -> None:
    """The end of a run sets the next occurrence only while the job is scheduled."""
    job = lab.create(delay_ms=500)
    run = lab.launch(lab.join(), job)
    lab.pause(job)
    lab.end(run)
    assert lab.state(job).due_ms is None
    lab.pass_ms(5_000)
    lab.pause(job, paused=False)
    assert lab.due() == [(lab.now_ms + 500, job)]
