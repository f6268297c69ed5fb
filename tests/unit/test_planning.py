"""What is asked of the state machine when a job is new, changed, due or late."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from api import schedule
from api.faults import Rejected
from api.jobs import planning
from api.jobs.planning import (
    LATE_MS,
    OccurrenceDecided,
    decide,
    first_cursor,
    policy_of,
    renewed_cursor,
    rescheduled,
)
from api.schedule import wall as schedule_wall
from consensus.state.commands import ClaimOccurrence, Cursor, SkippedRange
from storage.models import CatchUp, CatchUpPolicy, JobDefinition, JobState, Retry, ScheduleSpec
from tests.support.builders import definition

JOB = b"j" * 16
# A whole minute, so that every minute's occurrences are whole minutes.
DUE_MS = 1_792_300_020_000
MINUTE_MS = 60_000
MINUTELY = ScheduleSpec(kind="every", every_ms=MINUTE_MS, anchor_ms=DUE_MS)


def caught_up(policy: CatchUpPolicy, window_ms: int = 3_600_000, **changed: Any) -> JobDefinition:
    spec = changed.pop("spec", MINUTELY)
    return definition(spec, catch_up=CatchUp(policy=policy, window_ms=window_ms), **changed)


def state_of(wanted: JobDefinition, due_ms: int | None = DUE_MS, **changed: Any) -> JobState:
    """Return a scheduled job's state, with a cursor unless there is none to be."""
    start_ms = None if due_ms is None else schedule.start_ms(wanted.schedule, JOB, due_ms)
    plain = JobState(
        "n", "j", 4, "scheduled", 0, 0, policy_of(wanted), due_ms=due_ms, start_ms=start_ms
    )
    return msgspec.structs.replace(plain, **changed)


def decided(wanted: JobDefinition, now_ms: int, **changed: Any) -> ClaimOccurrence:
    item = decide(wanted, JOB, state_of(wanted, **changed), now_ms)
    assert item is not None
    return item


def at(minutes: float) -> int:
    return DUE_MS + round(minutes * MINUTE_MS)


def cursor_at(minutes: float) -> Cursor:
    return Cursor(at(minutes), at(minutes))


def span(reason: Any, first: float, last: float, count: int) -> SkippedRange:
    return SkippedRange(reason, at(first), at(last), count)


# --- New and changed jobs -------------------------------------------------------------------


def test_the_policy_is_what_the_state_machine_decides_by() -> None:
    """The rest of a definition is nothing to it."""
    wanted = definition(
        ScheduleSpec(kind="delay", delay_ms=70, max_runs=3, not_after_ms=DUE_MS),
        priority=9,
        overlap="allow",
        delivery="at_most_once",
        retry=Retry(attempts_max=4),
        placement={"gpu": "yes"},
    )
    policy = policy_of(wanted)
    assert (policy.priority, policy.overlap, policy.delivery) == (9, "allow", "at_most_once")
    assert (policy.attempts_max, policy.selective, policy.runs_max) == (4, True, 3)
    assert (policy.delay_ms, policy.not_after_ms, policy.manual) == (70, DUE_MS, False)
    assert policy_of(definition(ScheduleSpec(kind="manual"))).manual


@pytest.mark.parametrize(
    ("spec", "due_ms"),
    [
        (MINUTELY, at(1)),
        (ScheduleSpec(kind="every", every_ms=MINUTE_MS, anchor_ms=at(9)), at(1)),
        (ScheduleSpec(kind="cron", expression="* * * * *"), at(1)),
        (ScheduleSpec(kind="delay", delay_ms=500), DUE_MS + 500),
        (ScheduleSpec(kind="at", at_ms=at(5)), at(5)),
        (ScheduleSpec(kind="at", at_ms=at(-5)), at(-5)),
        (ScheduleSpec(kind="manual"), None),
        (ScheduleSpec(kind="every", every_ms=9, anchor_ms=0, not_after_ms=DUE_MS), None),
    ],
)
def test_a_new_job_begins_after_now_and_a_one_time_job_at_its_time(
    spec: ScheduleSpec, due_ms: int | None
) -> None:
    """Only a one-time job may be overdue when it comes."""
    first = first_cursor(definition(spec), JOB, DUE_MS)
    assert first == (None if due_ms is None else Cursor(due_ms, due_ms))


def test_jitter_is_part_of_the_cursor() -> None:
    """The same for every member, for it is worked out once."""
    spec = msgspec.structs.replace(MINUTELY, jitter_ms=30_000)
    first = first_cursor(definition(spec), JOB, DUE_MS)
    assert first is not None
    assert first.due_ms == at(1)
    assert first.start_ms == schedule.start_ms(spec, JOB, at(1))
    assert at(1) < first.start_ms <= at(1.5)


def test_an_edit_accounts_for_what_was_overdue() -> None:
    """From the cursor until now, counted under the old schedule."""
    wanted = definition(MINUTELY)
    assert rescheduled(wanted, state_of(wanted), at(3.5)) == (span("rescheduled", 0, 3, 4),)
    assert rescheduled(wanted, state_of(wanted), DUE_MS) == (span("rescheduled", 0, 0, 1),)
    assert rescheduled(wanted, state_of(wanted), DUE_MS - 1) == ()
    assert rescheduled(wanted, state_of(wanted, None), at(9)) == ()
    assert rescheduled(wanted, state_of(wanted), at(1), "deleted") == (span("deleted", 0, 1, 2),)


def test_an_edit_of_a_paused_job_names_the_pause() -> None:
    """What was overdue before the pause began is not blamed on it."""
    wanted = definition(MINUTELY)
    paused = state_of(wanted, status="paused", paused_ms=at(1.5))
    assert rescheduled(wanted, paused, at(4)) == (
        span("rescheduled", 0, 1, 2),
        span("paused", 2, 4, 3),
    )


def test_an_edit_leaves_alone_what_is_decided_already() -> None:
    """A cursor behind what was claimed ahead of time has its outcome."""
    wanted = definition(MINUTELY)
    assert rescheduled(wanted, state_of(wanted, decided_ms=DUE_MS), at(0.5)) == ()


def test_an_edit_accounts_for_everything_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No later claim will come by these again."""
    monkeypatch.setattr(schedule_wall, "DAYS_SCANNED_MAX", 5)
    spec = ScheduleSpec(kind="cron", expression="0 3 * * *")
    due_ms = schedule.next_occurrence(spec, DUE_MS)
    assert due_ms is not None
    wanted = definition(spec)
    (found,) = rescheduled(wanted, state_of(wanted, due_ms), due_ms + 40 * 86_400_000)
    assert (found.count, found.last_ms) == (41, due_ms + 40 * 86_400_000)


def test_a_new_schedule_begins_behind_what_is_decided() -> None:
    """A claim may be up to a horizon ahead; what lies before it would have no outcome."""
    wanted = definition(ScheduleSpec(kind="every", every_ms=100, anchor_ms=DUE_MS))
    state = state_of(wanted, at(1), decided_ms=DUE_MS + 450)
    assert renewed_cursor(wanted, JOB, state, (), DUE_MS) == Cursor(DUE_MS + 500, DUE_MS + 500)
    passed = (span("rescheduled", 0, 0.5, 2),)
    assert renewed_cursor(wanted, JOB, state, passed, DUE_MS) == Cursor(
        at(0.5) + 100, at(0.5) + 100
    )


@pytest.mark.parametrize("late_ms", [0, 1])
def test_a_time_that_is_decided_cannot_be_given_to_a_job(late_ms: int) -> None:
    """It would neither run nor be recorded; a time behind it is as good as any."""
    wanted = definition(ScheduleSpec(kind="at", at_ms=DUE_MS + late_ms))
    state = state_of(definition(MINUTELY), at(1), decided_ms=DUE_MS)
    if late_ms:
        assert renewed_cursor(wanted, JOB, state, (), at(1)) == Cursor(DUE_MS + 1, DUE_MS + 1)
        return
    with pytest.raises(OccurrenceDecided):
        renewed_cursor(wanted, JOB, state, (), at(1))


# --- On time --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["skip", "last", "first", "all"])
@pytest.mark.parametrize("now_ms", [DUE_MS - 1_000, DUE_MS, DUE_MS + LATE_MS])
def test_an_occurrence_on_time_is_launched(policy: CatchUpPolicy, now_ms: int) -> None:
    """Claimed ahead, at its instant, or as late as an election takes: whatever the policy."""
    item = decided(caught_up(policy, 0), now_ms)
    assert item == ClaimOccurrence(JOB, 4, DUE_MS, cursor_at(0), (), cursor_at(1))


def test_a_job_without_a_cursor_has_nothing_to_decide() -> None:
    """It is manual, finished, or its next occurrence hangs on a run."""
    wanted = definition(MINUTELY)
    assert decide(wanted, JOB, state_of(wanted, None), DUE_MS) is None


def test_a_start_that_jitter_delays_is_not_late() -> None:
    """Lateness counts from the start."""
    spec = ScheduleSpec(kind="every", every_ms=3_600_000, anchor_ms=DUE_MS, jitter_ms=3_000_000)
    wanted = caught_up("skip", 0, spec=spec)
    start_ms = schedule.start_ms(spec, JOB, DUE_MS)
    assert start_ms > DUE_MS + 2 * LATE_MS
    assert decided(wanted, start_ms + LATE_MS).launch == Cursor(DUE_MS, start_ms)
    assert decided(wanted, start_ms + LATE_MS + 1).launch is None


def test_the_window_counts_from_the_start_as_well() -> None:
    """An occurrence is not missed because jitter alone delayed it beyond the window."""
    spec = ScheduleSpec(kind="every", every_ms=3_600_000, anchor_ms=DUE_MS, jitter_ms=3_000_000)
    start_ms = schedule.start_ms(spec, JOB, DUE_MS)
    wanted = caught_up("all", MINUTE_MS, spec=spec)
    assert decided(wanted, start_ms + MINUTE_MS).launch == Cursor(DUE_MS, start_ms)
    earlier_ms = DUE_MS - 3_600_000
    item = decided(wanted, start_ms + MINUTE_MS, due_ms=earlier_ms)
    assert item.skipped == (SkippedRange("missed", earlier_ms, earlier_ms, 1),)
    assert item.following == Cursor(DUE_MS, start_ms)


def test_a_time_zone_that_this_member_does_not_know_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They may have newer data; it is no reason to stop."""

    def unknown(*_: object) -> None:
        raise Rejected("unknown_timezone", "No such zone.")

    wanted = definition(ScheduleSpec(kind="cron", expression="* * * * *", timezone="Mars/Base"))
    monkeypatch.setattr(schedule, "next_occurrence", unknown)
    assert decide(wanted, JOB, state_of(definition(MINUTELY)), DUE_MS) is None


# --- One that is late -----------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["last", "first", "all"])
def test_a_single_late_occurrence_is_launched_within_the_window(policy: CatchUpPolicy) -> None:
    """Up to and including the last moment of the window; behind it, it is missed."""
    wanted = caught_up(policy, 30_000)
    assert decided(wanted, DUE_MS + 30_000).launch == cursor_at(0)
    item = decided(wanted, DUE_MS + 30_001)
    assert item == ClaimOccurrence(JOB, 4, DUE_MS, None, (span("missed", 0, 0, 1),), cursor_at(1))


def test_a_single_late_occurrence_is_missed_by_the_policy_skip() -> None:
    """However wide the window."""
    item = decided(caught_up("skip"), DUE_MS + LATE_MS + 1)
    assert (item.launch, item.skipped) == (None, (span("missed", 0, 0, 1),))
    assert item.following == cursor_at(1)


# --- Several that are late ------------------------------------------------------------------


def test_last_launches_the_latest_and_coalesces_the_others() -> None:
    """Whether the latest is on time or late."""
    for now in (5.1, 5.9):
        item = decided(caught_up("last"), at(now))
        assert item.launch == cursor_at(5)
        assert item.skipped == (span("coalesced", 0, 4, 5),)
        assert item.following == cursor_at(6)


def test_first_launches_the_earliest_and_coalesces_the_late_ones_behind_it() -> None:
    """The latest has its own turn if it is on time."""
    late = decided(caught_up("first"), at(5.9))
    assert (late.launch, late.skipped) == (cursor_at(0), (span("coalesced", 1, 5, 5),))
    assert late.following == cursor_at(6)
    timely = decided(caught_up("first"), at(5.1))
    assert (timely.launch, timely.skipped) == (cursor_at(0), (span("coalesced", 1, 4, 4),))
    assert timely.following == cursor_at(5)
    two = decided(caught_up("first"), at(1.1))
    assert (two.launch, two.skipped, two.following) == (cursor_at(0), (), cursor_at(1))


def test_skip_launches_none_but_one_on_time() -> None:
    """Late ones are missed, all at once."""
    late = decided(caught_up("skip"), at(5.9))
    assert (late.launch, late.skipped) == (None, (span("missed", 0, 5, 6),))
    assert late.following == cursor_at(6)
    timely = decided(caught_up("skip"), at(5.1))
    assert (timely.launch, timely.skipped) == (cursor_at(5), (span("missed", 0, 4, 5),))


def test_all_launches_one_after_the_other() -> None:
    """One claim decides about one of them."""
    item = decided(caught_up("all"), at(5.9))
    assert (item.launch, item.skipped, item.following) == (cursor_at(0), (), cursor_at(1))


@pytest.mark.parametrize("policy", ["last", "first", "all"])
def test_what_is_older_than_the_window_is_missed_first(policy: CatchUpPolicy) -> None:
    """The next claim decides about what is within."""
    item = decided(caught_up(policy, 3 * MINUTE_MS), at(5))
    assert (item.launch, item.skipped) == (None, (span("missed", 0, 1, 2),))
    assert item.following == cursor_at(2)


def test_a_fast_job_is_late_when_the_next_occurrence_has_come() -> None:
    """A moment's delay must not make a burst of what was to be one after the other."""
    spec = ScheduleSpec(kind="every", every_ms=1_000, anchor_ms=DUE_MS)
    now_ms = DUE_MS + 3_200
    last = decided(caught_up("last", 0, spec=spec), now_ms)
    assert last.launch == Cursor(DUE_MS + 3_000, DUE_MS + 3_000)
    assert last.skipped == (SkippedRange("coalesced", DUE_MS, DUE_MS + 2_000, 3),)
    every = decided(caught_up("all", 0, spec=spec), now_ms)
    assert every.launch == Cursor(DUE_MS, DUE_MS)


def test_an_occurrence_is_overtaken_at_the_very_instant_of_the_next() -> None:
    """Then there are two, and the policy chooses."""
    spec = ScheduleSpec(kind="every", every_ms=1_000, anchor_ms=DUE_MS)
    wanted = caught_up("last", spec=spec)
    assert decided(wanted, DUE_MS + 999).launch == Cursor(DUE_MS, DUE_MS)
    assert decided(wanted, DUE_MS + 1_000).launch == Cursor(DUE_MS + 1_000, DUE_MS + 1_000)


def test_the_latest_is_left_for_its_start_if_jitter_delays_it() -> None:
    """What was to be skipped before it is skipped, and it is the cursor then."""
    spec = ScheduleSpec(kind="every", every_ms=3_600_000, anchor_ms=DUE_MS, jitter_ms=3_000_000)
    latest_ms = DUE_MS + 2 * 3_600_000
    start_ms = schedule.start_ms(spec, JOB, latest_ms)
    item = decided(caught_up("last", 86_400_000, spec=spec), start_ms - 1)
    assert item.launch is None
    assert item.skipped == (SkippedRange("coalesced", DUE_MS, latest_ms - 3_600_000, 2),)
    assert item.following == Cursor(latest_ms, start_ms)


# --- Pauses ---------------------------------------------------------------------------------


def test_what_fell_into_a_pause_is_named_after_it() -> None:
    """Before and behind it, the reason is the policy's."""
    item = decided(caught_up("last"), at(9.5), paused_ms=at(2.5), resumed_ms=at(6.5))
    assert item.skipped == (
        span("coalesced", 0, 2, 3),
        span("paused", 3, 6, 4),
        span("coalesced", 7, 8, 2),
    )
    assert item.launch == cursor_at(9)


def test_a_pause_that_covers_everything_leaves_one_range() -> None:
    """The latest is still launched, if the policy says so."""
    item = decided(caught_up("last"), at(5.5), paused_ms=at(-1), resumed_ms=at(5.5))
    assert (item.skipped, item.launch) == ((span("paused", 0, 4, 5),), cursor_at(5))
    missed = decided(caught_up("skip"), at(5.5), paused_ms=at(-1), resumed_ms=at(5.5))
    assert (missed.skipped, missed.launch) == ((span("paused", 0, 5, 6),), None)


def test_a_pause_begins_and_ends_with_its_instants() -> None:
    """An occurrence at either of them fell into it."""
    item = decided(caught_up("last"), at(5.5), paused_ms=at(1), resumed_ms=at(3))
    assert [(found.reason, found.count) for found in item.skipped] == [
        ("coalesced", 1),
        ("paused", 3),
        ("coalesced", 1),
    ]


def test_a_pause_long_ago_is_nobodys_reason() -> None:
    """Nor one in which nothing was due."""
    for paused_ms, resumed_ms in ((at(-9), at(-5)), (at(1.1), at(1.9))):
        item = decided(caught_up("last"), at(3), paused_ms=paused_ms, resumed_ms=resumed_ms)
        assert {found.reason for found in item.skipped} == {"coalesced"}
        assert sum(found.count for found in item.skipped) == 3


# --- Jobs of another kind -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["at", "delay"])
def test_a_single_occurrence_is_followed_by_none(kind: str) -> None:
    """A one-time job has no other; of a delayed one, the end of its run says the next."""
    spec = ScheduleSpec(kind="at", at_ms=DUE_MS)
    if kind == "delay":
        spec = ScheduleSpec(kind="delay", delay_ms=5_000)
    timely = decided(caught_up("last", spec=spec), DUE_MS)
    assert (timely.launch, timely.skipped, timely.following) == (cursor_at(0), (), None)
    late = decided(caught_up("all", spec=spec), at(10))
    assert (late.launch, late.skipped, late.following) == (cursor_at(0), (), None)
    for wanted in (caught_up("last", 0, spec=spec), caught_up("skip", spec=spec)):
        missed = decided(wanted, at(10))
        assert (missed.launch, missed.following) == (None, None)
        assert missed.skipped == (span("missed", 0, 0, 1),)


def test_a_cursor_that_is_no_occurrence_any_more_is_decided_all_the_same() -> None:
    """Another member worked it out with other time zone data; it is one by decree."""
    item = decided(caught_up("last"), at(3.1), due_ms=DUE_MS + 7)
    assert item.skipped == (SkippedRange("coalesced", DUE_MS + 7, at(2), 3),)
    assert item.launch == cursor_at(3)
    missed = decided(caught_up("last", 0), at(0.9), due_ms=DUE_MS + 7)
    assert missed.skipped == (SkippedRange("missed", DUE_MS + 7, DUE_MS + 7, 1),)


def test_a_cursor_behind_what_is_decided_only_moves_on() -> None:
    """An edit came by an instant again that had been claimed ahead of time."""
    item = decided(caught_up("last"), at(0.1), decided_ms=at(1))
    assert (item.launch, item.skipped, item.following) == (None, (), cursor_at(2))


def test_the_last_time_of_a_schedule_is_followed_by_none() -> None:
    """An occurrence behind `not_after` does not exist."""
    spec = msgspec.structs.replace(MINUTELY, not_after_ms=at(2))
    item = decided(caught_up("last", spec=spec), at(9))
    assert (item.launch, item.following) == (cursor_at(2), None)
    assert item.skipped == (span("coalesced", 0, 1, 2),)


# --- Bounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["skip", "last", "first", "all"])
def test_a_count_that_is_bounded_still_makes_progress(
    policy: CatchUpPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim decides what it could count, and the next goes on from there."""
    monkeypatch.setattr(schedule_wall, "DAYS_SCANNED_MAX", 4)
    spec = ScheduleSpec(kind="cron", expression="0 3 * * *")
    due_ms = schedule.occurrences(spec, DUE_MS, at(9_999), 1)[0]
    wanted = caught_up(policy, 20 * 86_400_000, spec=spec)
    now_ms = due_ms + 60 * 86_400_000 + 1_000
    claims = 0
    decided_ms: int | None = None
    while due_ms <= now_ms:
        item = decided(wanted, now_ms, due_ms=due_ms, decided_ms=decided_ms)
        assert item.following is not None
        assert item.following.due_ms > due_ms
        decided_ms, due_ms = item.following.due_ms - 1, item.following.due_ms
        claims += 1
    assert claims < 40
    assert planning.COUNTS_MAX > 1
