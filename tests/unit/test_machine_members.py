"""The state machine on leases, on members that are gone, and on what is old enough to go."""

from __future__ import annotations

import pytest

from consensus.state.commands import (
    BATCH_PATIENCE_MS,
    Clean,
    Expire,
    PauseJob,
    Refused,
    Remaining,
    Renewed,
    RequestKey,
)
from storage import keys, models
from storage.limits import ANSWER_KEPT_MS, CLEAN_ITEMS_MAX, EXPIRE_RUNS_MAX
from storage.models import Incarnation
from tests.support.builders import LEASE_MS, NOW_MS, Lab, batch, incarnation


@pytest.fixture
def lab() -> Lab:
    return Lab()


def lease(lab: Lab, holder: bytes) -> Incarnation | None:
    raw = lab.store.get(keys.INCARNATION + holder)
    return None if raw is None else models.decode_incarnation(raw)


# --- Heartbeats -----------------------------------------------------------------------------


def test_a_heartbeat_begins_a_lease_and_the_next_renews_it(lab: Lab) -> None:
    """In the cluster's time, from the moment the heartbeat is applied."""
    assert lab.expect(Renewed, lab.heartbeat()).lease_until_ms == NOW_MS + LEASE_MS
    assert lab.effects.members_changed
    lab.pass_ms(1_000)
    assert lab.expect(Renewed, lab.heartbeat(running=4)).lease_until_ms == lab.now_ms + LEASE_MS
    assert not lab.effects.members_changed
    assert lease(lab, incarnation(1)) == Incarnation("a", lab.now_ms + LEASE_MS)
    member = lab.member()
    assert (member.joined_ms, member.running) == (NOW_MS, 4)


@pytest.mark.parametrize("changed", [{"accepting": False}, {"slots": 3}, {"labels": {"a": "b"}}])
def test_a_change_of_what_a_member_takes_on_is_told(lab: Lab, changed: dict[str, object]) -> None:
    """The others then have to rank themselves anew."""
    lab.join()
    lab.join(**changed)  # type: ignore[arg-type]
    assert lab.effects.members_changed


def test_a_lease_that_ran_out_unnoticed_is_renewed(lab: Lab) -> None:
    """As long as nobody has expired it, its runs belong to nobody else."""
    holder = lab.join()
    run = lab.launch(holder, lab.create())
    lab.pass_ms(10 * LEASE_MS)
    lab.join()
    assert lab.start(run)


def test_an_incarnation_that_was_given_up_stays_so(lab: Lab) -> None:
    """Its runs belong to others; it has to begin a new life."""
    holder = lab.join()
    lab.lose(holder)
    assert lab.member().expired
    assert lab.refused(lab.heartbeat()) == "lease_expired"
    lab.join(2)
    assert not lab.member().expired
    assert lab.refused(lab.heartbeat()) == "lease_expired"


def test_an_earlier_life_does_not_take_the_place_of_the_present_one(lab: Lab) -> None:
    """A message may have been on its way for long."""
    lab.join(2)
    assert lab.refused(lab.heartbeat(1)) == "lease_expired"
    assert lab.member().incarnation == incarnation(2)


def test_a_new_life_that_supersedes_ends_the_lease_of_the_one_before(lab: Lab) -> None:
    """A member that knows its former runs to be dead need not wait for the lease's end."""
    job, before = lab.create(), lab.join()
    run = lab.launch(before, job)
    after = lab.join(2, supersedes=True)
    assert lab.expect(Remaining, Expire(before)) == Remaining(1, more=False)
    assert lab.claim_run(after, run) is None


def test_a_new_life_that_does_not_supersede_leaves_the_one_before_its_lease(lab: Lab) -> None:
    """What it launched may still be running."""
    before = lab.join()
    lab.launch(before, lab.create())
    lab.join(2)
    assert lab.refused(Expire(before)) == "lease_valid"
    lab.pass_ms(LEASE_MS + 1)
    assert lab.expect(Remaining, Expire(before)).handled == 1
    assert lab.member().incarnation == incarnation(2)
    assert not lab.member().expired


# --- Expiry ---------------------------------------------------------------------------------


def test_a_valid_lease_is_not_expired(lab: Lab) -> None:
    """A lease holds up to and including its last millisecond."""
    holder = lab.join()
    lab.pass_ms(LEASE_MS)
    assert lab.refused(Expire(holder)) == "lease_valid"
    lab.pass_ms(1)
    assert lab.expect(Remaining, Expire(holder)) == Remaining(0, more=False)
    assert lease(lab, holder) is None
    assert lab.expect(Remaining, Expire(holder)) == Remaining(0, more=False)


def test_runs_are_returned_in_bounded_steps(lab: Lab) -> None:
    """From the first step on the incarnation is given up, and can claim nothing between two."""
    job, holder = lab.create(overlap="allow"), lab.join()
    runs = [lab.trigger(job, nonce) for nonce in range(EXPIRE_RUNS_MAX + 3)]
    for run in runs:
        lab.claim_run(holder, run)
    lab.pass_ms(LEASE_MS + 1)
    assert lab.expect(Remaining, Expire(holder)) == Remaining(EXPIRE_RUNS_MAX, more=True)
    assert len(lab.held(holder)) == 3
    assert lab.expect(Refused, lab.heartbeat()).code == "lease_expired"
    assert lab.expect(Remaining, Expire(holder)) == Remaining(3, more=False)
    assert {lab.run(run).state for run in runs} == {"queued"}
    assert lease(lab, holder) is None


# --- Cleaning -------------------------------------------------------------------------------


def clean(lab: Lab, output_before_ms: int = 0, session_before_ms: int = 0) -> Remaining:
    return lab.expect(Remaining, Clean(output_before_ms, session_before_ms))


def test_output_goes_when_its_attempt_is_old_enough(lab: Lab) -> None:
    """Each attempt's by itself; the record of the run stays."""
    run = lab.launch(holder := lab.join(), lab.create(attempts_max=2))
    lab.end(run, "failed", retry_start_ms=NOW_MS, output=(b"one", b"two"))
    lab.pass_ms(1_000)
    lab.claim_run(holder, run)
    lab.end(run, output=(b"three",))
    assert clean(lab, NOW_MS) == Remaining(0, more=False)
    assert clean(lab, NOW_MS + 1) == Remaining(1, more=False)
    assert list(lab.rows(keys.OUTPUT).values()) == [b"three"]
    clean(lab, NOW_MS + 1_001)
    assert lab.rows(keys.OUTPUT) == lab.rows(keys.OUTPUT_AGE) == {}
    assert len(lab.run(run).attempts) == 2


def test_cleaning_goes_on_in_bounded_steps(lab: Lab) -> None:
    """A command handles so much at most and says that there is more."""
    job, holder = lab.create(overlap="allow"), lab.join()
    for nonce in range(CLEAN_ITEMS_MAX + 1):
        run = lab.claim_and_run(holder, lab.trigger(job, nonce))
        lab.end(run, output=(b"x",))
    assert clean(lab, NOW_MS + 1) == Remaining(CLEAN_ITEMS_MAX, more=True)
    assert clean(lab, NOW_MS + 1) == Remaining(1, more=False)


def test_the_output_of_one_attempt_may_be_more_than_one_step(lab: Lab) -> None:
    """Its age stays until all of it is gone."""
    run = lab.launch(lab.join(), lab.create())
    lab.end(run, output=(b"x",) * (CLEAN_ITEMS_MAX + 1))
    clean(lab, NOW_MS + 1)
    assert len(lab.rows(keys.OUTPUT)) == len(lab.rows(keys.OUTPUT_AGE)) == 1
    clean(lab, NOW_MS + 1)
    assert lab.rows(keys.OUTPUT) == lab.rows(keys.OUTPUT_AGE) == {}


def test_answers_go_when_they_have_expired(lab: Lab) -> None:
    """Up to then a repeated request is answered from them."""
    job = lab.create()
    lab.apply(PauseJob(job, paused=True, request=RequestKey(b"k" * 16, b"r")))
    lab.pass_ms(ANSWER_KEPT_MS)
    assert clean(lab).handled == 0
    lab.pass_ms(1)
    assert clean(lab).handled == 1
    assert lab.rows(keys.ANSWER) == lab.rows(keys.ANSWER_AGE) == {}


def test_a_key_that_is_used_again_after_its_time_keeps_its_new_answer(lab: Lab) -> None:
    """The old age of the key is not the age of the new answer."""
    job = lab.create()
    request = RequestKey(b"k" * 16, b"r")
    lab.apply(PauseJob(job, paused=True, request=request))
    lab.pass_ms(ANSWER_KEPT_MS + 1)
    lab.apply(PauseJob(job, paused=False, request=request))
    clean(lab)
    assert len(lab.rows(keys.ANSWER)) == len(lab.rows(keys.ANSWER_AGE)) == 1


def test_sessions_go_when_they_have_long_been_silent(lab: Lab) -> None:
    """With the results that they will not ask for any more."""
    lab.enter(batch(1, lab.heartbeat(), session=b"old" * 6))
    lab.pass_ms(20 * BATCH_PATIENCE_MS)
    lab.join()
    assert clean(lab, 0, lab.now_ms).handled == 0
    lab.pass_ms(1)
    assert clean(lab, 0, lab.now_ms).handled == 2
    assert list(lab.rows(keys.SESSION)) == [b"session-" * 2]
    assert {key[:-8] for key in lab.rows(keys.RESULT)} == {b"session-" * 2}


def test_a_session_is_kept_while_its_batches_may_come_again(lab: Lab) -> None:
    """Whatever the clock of whoever cleans says."""
    lab.enter(batch(1, lab.heartbeat(), session=b"old" * 6))
    lab.pass_ms(BATCH_PATIENCE_MS)
    assert clean(lab, 0, 1 << 60).handled == 0


def test_a_member_that_says_farewell_has_no_lease_and_nothing_left(lab: Lab) -> None:
    """A lease that is over when it is granted can be ended at once, with all it covered."""
    holder = lab.join()
    job = lab.create()
    lab.launch(holder, job)
    farewell = lab.heartbeat(lease_ms=-1, slots=0, accepting=False)
    lab.expect(Renewed, farewell)
    assert lab.expect(Remaining, Expire(holder)) == Remaining(1, more=False)
    assert lab.rows(keys.INCARNATION) == lab.rows(keys.LIVE) == {}
    # A heartbeat that was under way meanwhile does not bring it back.
    assert lab.expect(Refused, lab.heartbeat()).code == "lease_expired"
    lab.join(2)
    assert not lab.member().expired
