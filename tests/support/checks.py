"""What must hold of the state after every applied entry, told from the store alone."""

from __future__ import annotations

from collections import defaultdict

from storage import keys, models
from storage.models import Run, Skip
from storage.store import View

ROWS_MAX = 1_000_000


def rows(view: View, table: bytes) -> dict[bytes, bytes]:
    """Return a whole table, without the byte that names it."""
    return {key[1:]: value for key, value in view.scan(table, keys.after(table), ROWS_MAX)}


def everything(view: View) -> dict[bytes, bytes]:
    """Return the whole state."""
    return dict(view.scan(b"\x00", b"\xff", ROWS_MAX))


def check_state(view: View, counters: dict[str, int]) -> None:
    """Compare every derived table with what it is derived from."""
    states = {job: models.decode_job_state(raw) for job, raw in rows(view, keys.JOB_STATE).items()}
    outcomes = {key: models.decode_outcome(raw) for key, raw in rows(view, keys.OUTCOME).items()}
    runs = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Run)}
    _check_due_table(view, states, runs)
    _check_holders(view, runs)
    _check_jobs(states, runs)
    _check_counters(states, outcomes, counters)


def _check_due_table(
    view: View, states: dict[bytes, models.JobState], runs: dict[bytes, Run]
) -> None:
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
    held = {
        run.incarnation + key for key, run in runs.items() if run.state in {"claimed", "running"}
    }
    assert set(rows(view, keys.LIVE)) == held


def _check_jobs(states: dict[bytes, models.JobState], runs: dict[bytes, Run]) -> None:
    by_job: dict[bytes, dict[bytes, Run]] = defaultdict(dict)
    for key, run in runs.items():
        by_job[key[:16]][key] = run
    for job, state in states.items():
        own = by_job[job]
        live = {key for key, run in own.items() if run.state in {"queued", "claimed", "running"}}
        assert set(state.live) == live
        assert len(state.live) == len(live)
        waiting = {key for key, run in own.items() if run.state == "waiting"}
        assert waiting == ({state.waiting} if state.waiting else set())
        fences = [attempt.fence for run in own.values() for attempt in run.attempts]
        fences += [run.fence for run in own.values() if run.state in {"claimed", "running"}]
        assert len(fences) == len(set(fences))
        assert max(fences, default=0) <= state.fence
        for run in own.values():
            past = [attempt.fence for attempt in run.attempts]
            assert past == sorted(past)
            assert (run.outcome is not None) == (run.state == "ended")


def _check_counters(
    states: dict[bytes, models.JobState],
    outcomes: dict[bytes, Run | Skip],
    counters: dict[str, int],
) -> None:
    """What is kept is what counting gives."""
    runs = [outcome for outcome in outcomes.values() if isinstance(outcome, Run)]
    expected: dict[str, int] = defaultdict(int)
    expected["jobs"] = sum(state.status != "deleted" for state in states.values())
    expected["runs"] = len(runs)
    expected["runs_live"] = sum(run.state != "ended" for run in runs)
    for run in runs:
        if run.outcome is not None:
            expected[f"runs.{run.outcome}"] += 1
    for outcome in outcomes.values():
        if isinstance(outcome, Skip):
            expected[f"skipped.{outcome.reason}"] += outcome.count
    kept = {name: count for name, count in counters.items() if count and name != "retries"}
    assert kept == {name: count for name, count in expected.items() if count}
