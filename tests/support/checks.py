"""What must hold of the state after every applied entry, told from the store alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from storage import keys, models
from storage.models import JobState, Run, Skip
from storage.store import View

ROWS_MAX = 1_000_000
HELD = frozenset({"claimed", "running"})
LIVE = frozenset({"queued", "claimed", "running"})
# What a proposer leaves behind whether or not its commands were carried out.
OF_PROPOSERS = (keys.SESSION, keys.RESULT, keys.META)

States = dict[bytes, JobState]
Outcomes = dict[bytes, Run | Skip]


def rows(view: View, table: bytes) -> dict[bytes, bytes]:
    """Return a whole table, without the byte that names it."""
    return {key[1:]: value for key, value in view.scan(table, keys.after(table), ROWS_MAX)}


def everything(view: View) -> dict[bytes, bytes]:
    """Return the whole state."""
    return dict(view.scan(b"\x00", b"\xff", ROWS_MAX))


def all_states(view: View) -> States:
    return {job: models.decode_job_state(raw) for job, raw in rows(view, keys.JOB_STATE).items()}


def all_outcomes(view: View) -> Outcomes:
    return {key: models.decode_outcome(raw) for key, raw in rows(view, keys.OUTCOME).items()}


def check_state(view: View, counters: Mapping[str, int]) -> None:
    """Compare every derived table with what it is derived from."""
    states, outcomes = all_states(view), all_outcomes(view)
    runs = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Run)}
    _check_due_table(view, states, runs)
    _check_holders(view, runs)
    _check_timeline(view, runs)
    _check_names(view, states)
    _check_jobs(states, runs)
    _check_occurrences(states, outcomes)
    _check_counters(states, outcomes, counters)


def _check_due_table(view: View, states: States, runs: dict[bytes, Run]) -> None:
    """The due table holds the cursors of scheduled jobs and the queued runs, and only those."""
    expected = {
        keys.due_key(
            job,
            keys.band_of(state.policy.priority, selective=state.policy.selective),
            state.start_ms,
            state.policy.priority,
        )
        for job, state in states.items()
        if state.status == "scheduled" and state.start_ms is not None
    } | {
        keys.due_key(key, run.band, run.start_ms, run.priority)
        for key, run in runs.items()
        if run.state == "queued"
    }
    assert {keys.DUE + key for key in rows(view, keys.DUE)} == expected


def _check_holders(view: View, runs: dict[bytes, Run]) -> None:
    """Every held run stands with its incarnation, and nothing else does."""
    held = {run.incarnation + key for key, run in runs.items() if run.state in HELD}
    assert set(rows(view, keys.LIVE)) == held
    assert all(run.incarnation for run in runs.values() if run.state in HELD)


def _check_timeline(view: View, runs: dict[bytes, Run]) -> None:
    """Every run stands once in the timeline, under the time of its creation."""
    expected = {keys.timeline_key(run.created_ms, key) for key, run in runs.items()}
    assert {keys.TIMELINE + key for key in rows(view, keys.TIMELINE)} == expected


def _check_names(view: View, states: States) -> None:
    """Every job that was not deleted, and no other, is found by its name."""
    expected = {
        keys.name_key(state.namespace, state.name): job
        for job, state in states.items()
        if state.status != "deleted"
    }
    assert {keys.NAME + key: job for key, job in rows(view, keys.NAME).items()} == expected


def _check_jobs(states: States, runs: dict[bytes, Run]) -> None:
    """The state of a job names its live runs, and its fences are unique and grow."""
    by_job: dict[bytes, dict[bytes, Run]] = defaultdict(dict)
    for key, run in runs.items():
        by_job[key[:16]][key] = run
    assert set(by_job) <= set(states)
    for job, state in states.items():
        own = by_job[job]
        live = {key for key, run in own.items() if run.state in LIVE}
        assert set(state.live) == live
        assert len(state.live) == len(live)
        waiting = {key for key, run in own.items() if run.state == "waiting"}
        assert waiting == ({state.waiting} if state.waiting else set())
        assert not waiting or live
        fences = [attempt.fence for run in own.values() for attempt in run.attempts]
        fences += [run.fence for run in own.values() if run.state in HELD]
        assert len(fences) == len(set(fences))
        assert max(fences, default=0) <= state.fence
        for run in own.values():
            past = [attempt.fence for attempt in run.attempts]
            assert past == sorted(past)
            assert (run.outcome is not None) == (run.state == "ended")
        assert (state.due_ms is None) == (state.start_ms is None)
        assert state.status not in {"finished", "deleted"} or state.due_ms is None


def _check_occurrences(states: States, outcomes: Outcomes) -> None:
    """No two outcomes of a schedule speak of the same instant, and none lies ahead."""
    spans: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for key, outcome in outcomes.items():
        job, first_ms, trigger, _ = keys.split_run(key)
        if trigger == keys.TRIGGER_SCHEDULE:
            last_ms = first_ms if isinstance(outcome, Run) else outcome.last_ms
            spans[job].append((first_ms, last_ms))
        if isinstance(outcome, Run) and trigger == keys.TRIGGER_SCHEDULE:
            assert outcome.start_ms >= outcome.scheduled_ms == first_ms
    for job, state in states.items():
        until_ms = -1
        for first_ms, last_ms in sorted(spans[job]):
            assert until_ms < first_ms <= last_ms
            until_ms = last_ms
        assert until_ms == (-1 if state.decided_ms is None else state.decided_ms)


def _check_counters(states: States, outcomes: Outcomes, counters: Mapping[str, int]) -> None:
    """What is kept is what counting gives."""
    runs = [outcome for outcome in outcomes.values() if isinstance(outcome, Run)]
    expected: dict[str, int] = defaultdict(int)
    expected["jobs"] = sum(state.status != "deleted" for state in states.values())
    expected["runs"] = len(runs)
    expected["runs_live"] = sum(run.state != "ended" for run in runs)
    expected["retries"] = sum(
        len(run.attempts) - (run.state == "ended" and run.number > 0) for run in runs
    )
    for run in runs:
        if run.outcome is not None:
            expected[f"runs.{run.outcome}"] += 1
    for outcome in outcomes.values():
        if isinstance(outcome, Skip):
            expected[f"skipped.{outcome.reason}"] += outcome.count
    kept = {name: count for name, count in counters.items() if count}
    kept.pop("retries", None)
    expected.pop("retries")
    assert kept == {name: count for name, count in expected.items() if count}


def check_step(before: States, after: States, runs_before: Outcomes, runs_after: Outcomes) -> None:
    """Compare the state before and after an entry: what only grows, and what never ends."""
    for key, outcome in runs_before.items():
        if not isinstance(outcome, Run) or outcome.state == "ended":
            assert runs_after[key] == outcome
    for job, was in before.items():
        now = after[job]
        assert now.revision >= was.revision
        assert now.fence >= was.fence
        assert now.launches_total >= was.launches_total
        assert (now.decided_ms or -1) >= (was.decided_ms or -1)
        assert was.status != "deleted" or now.status == "deleted"
        if now.policy.overlap != "allow" and was.policy.overlap != "allow":
            assert len(now.live) <= max(1, len(was.live))
            assert _held(job, runs_after) <= max(1, _held(job, runs_before))


def _held(job: bytes, outcomes: Outcomes) -> int:
    return sum(
        isinstance(outcome, Run) and outcome.state in HELD
        for key, outcome in outcomes.items()
        if key.startswith(job)
    )
