"""What a member finds in the due table, and what it claims of it."""

from __future__ import annotations

import pytest

from api.jobs.planning import policy_of
from consensus.state.commands import (
    JobDone,
)
from node.services.due_loop import ROWS_PER_PAGE
from storage import keys, models
from storage.models import ScheduleSpec
from tests.support.builders import NOW_MS, definition
from tests.support.looker import HORIZON_MS, SLOTS, Looker


@pytest.fixture
def one_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all jobs stand in one place of the due table, as a thousandth of many do."""
    monkeypatch.setattr(keys, "partition_of", lambda job: 7)


async def test_a_member_that_gets_a_label_finds_what_has_waited_for_it() -> None:
    """A member may come back with other labels before anybody noticed that it was gone."""
    looker = Looker()
    job = looker.job("picky", NOW_MS, {"disk": "fast"})
    await looker.look()
    assert looker.claimed == []
    looker.incarnation = looker.lab.join(2, labels={"disk": "fast"}, supersedes=True)
    looker.hear_of_members()
    await looker.look()
    assert looker.claimed == [job]


async def test_a_job_that_is_given_another_placement_is_found_by_who_satisfies_it() -> None:
    """What waits for labels that nobody has is due already, and its entry stays as it is."""
    looker = Looker({"disk": "fast"})
    job = looker.job("picky", NOW_MS, {"disk": "none"})
    await looker.look()
    assert looker.claimed == []
    looker.place_elsewhere(job, {"disk": "fast"})
    await looker.look()
    assert looker.claimed == [job]


async def test_a_queued_run_of_a_job_that_is_given_another_placement_is_found() -> None:
    """The same for what was started by hand."""
    looker = Looker({"disk": "fast"})
    job = looker.job("picky", NOW_MS + 3_600_000, {"disk": "none"})
    looker.lab.trigger(job)
    looker.hear_of_jobs()
    await looker.look()
    assert looker.claimed == []
    looker.place_elsewhere(job, {"disk": "fast"})
    await looker.look()
    assert looker.claimed == [job]


@pytest.mark.usefixtures("one_partition")
@pytest.mark.parametrize("count", [ROWS_PER_PAGE, 5 * ROWS_PER_PAGE])
async def test_jobs_that_no_member_may_run_keep_no_other_waiting(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose labels nobody has stand in front of the others, for ever."""
    monkeypatch.setattr("node.services.due_loop.PAGES_PER_LOOK_MAX", 2)
    looker = Looker({"disk": "fast"})
    for number in range(count):
        looker.job(f"nobody-{number}", NOW_MS - 10, {"disk": "none"})
    job = looker.job("picky", NOW_MS, {"disk": "fast"})
    await looker.look(5)
    assert looker.claimed == [job]


@pytest.mark.usefixtures("one_partition")
async def test_what_is_not_due_is_not_looked_at_again_and_again() -> None:
    """However many entries wait in a place, the next look is when one of them is due."""
    looker = Looker({"disk": "fast"})
    due_ms = NOW_MS + 3_600_000
    for number in range(3 * ROWS_PER_PAGE):
        looker.job(f"later-{number}", due_ms + number, {"disk": "fast"})
        looker.job(f"nobody-{number}", NOW_MS - 10, {"disk": "none"})
    await looker.look(20)
    assert looker.claimed == []
    assert looker.loop.index.next_wake_ms == due_ms - HORIZON_MS


async def test_a_job_that_cannot_be_claimed_keeps_no_other_from_being_claimed() -> None:
    """A fault of this program in one item of a claim must not stop a whole member."""
    looker = Looker()
    jobs = [looker.job(f"job-{number}", NOW_MS) for number in range(SLOTS)]
    looker.broken.add(jobs[3])
    await looker.look(3)
    assert sorted(looker.claimed) == sorted(set(jobs) - looker.broken)


@pytest.mark.parametrize("labels", [{}, {"disk": "fast"}])
async def test_a_run_that_has_waited_goes_where_its_job_is_placed_by_now(
    labels: dict[str, str],
) -> None:
    """It entered the queue of all members with what was said of its job when it was made."""
    looker = Looker(labels)
    lab, manual = looker.lab, ScheduleSpec(kind="manual")
    anywhere = definition(manual, overlap="buffer_one")
    put = lab.put(due_ms=None, definition=models.encode(anywhere), policy=policy_of(anywhere))
    job = lab.expect(JobDone, put).job
    first = lab.claim_and_run(looker.incarnation, lab.trigger(job, 1))
    lab.trigger(job, 2)
    looker.place_elsewhere(job, {"disk": "fast"})
    lab.end(first)
    looker.hear_of_jobs()
    await looker.look(3)
    assert looker.claimed == ([job] if labels else [])
