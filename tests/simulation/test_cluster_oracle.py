"""The judges of simulated clusters, shown histories that are not true: they have to object."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from storage import keys, models
from storage.models import JobDefinition, Run
from tests.simulation import cluster_verdict
from tests.simulation.cluster_clients import Wish
from tests.simulation.cluster_oracle import ClusterOracle
from tests.simulation.cluster_verdict import History
from tests.simulation.cluster_world import ClusterWorld, Options
from tests.simulation.raft_oracle import SafetyViolated
from tests.simulation.virtual_runner import Launch
from tests.support.quiet_log import quiet_log

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def lived() -> ClusterWorld:
    """Return a calm run that was judged to be right."""
    world = ClusterWorld(Options(seed=11, seconds=10.0, faults=False))
    with quiet_log():
        world.run()
    return world


@pytest.fixture
def oracle(lived: ClusterWorld) -> ClusterOracle:
    """Return what was seen, to be damaged."""
    damaged = copy(lived.oracle)
    for name in ("by_index", "leaders", "by_fence"):
        setattr(damaged, name, dict(getattr(lived.oracle, name)))
    damaged.jobs = deepcopy(lived.oracle.jobs)
    return damaged


@pytest.fixture
def wishes(lived: ClusterWorld) -> list[Wish]:
    return [copy(wish) for wish in lived.wishes]


def outcomes(history: History, trigger: int) -> list[bytes]:
    """Return the keys of the records of occurrences, or of manual runs."""
    return [key for key, _ in history.rows(keys.OUTCOME) if keys.split_run(key)[2] == trigger]


def objects(judge: Callable[..., object], *arguments: Any) -> None:
    with pytest.raises(SafetyViolated):
        judge(*arguments)


def test_what_is_true_is_accepted(oracle: ClusterOracle, wishes: list[Wish]) -> None:
    """Else the objections below would say nothing."""
    history = History(oracle, wishes)
    cluster_verdict.judge_wishes(history)
    cluster_verdict.judge_occurrences(history)
    cluster_verdict.judge_runs(history)


def test_a_lost_outcome_is_missed(oracle: ClusterOracle, wishes: list[Wish]) -> None:
    """Of each occurrence that does not lie at the edge of its schedule's time."""
    history = History(oracle, wishes)
    certain = [key for key in outcomes(history, keys.TRIGGER_SCHEDULE) if is_certain(history, key)]
    assert len(certain) > 10
    for key in certain[::5]:
        history = History(oracle, wishes)
        history.store.delete(keys.OUTCOME + key)
        objects(cluster_verdict.judge_occurrences, history)


def is_certain(history: History, key: bytes) -> bool:
    """Tell whether an occurrence must have an outcome, whoever's clock was right."""
    job, due_ms, _, _ = keys.split_run(key)
    raw = history.store.get(keys.JOB_STATE + job)
    assert raw is not None
    eras = cluster_verdict.eras_of(history, job, models.decode_job_state(raw))
    return any(
        due_ms in era.occurrences and era.must_from_ms <= due_ms <= era.must_until_ms
        for era in eras
    )


def test_an_outcome_too_many_is_noticed(oracle: ClusterOracle, wishes: list[Wish]) -> None:
    """For an instant at which nothing was to be, and for one that is covered already."""
    history = History(oracle, wishes)
    key = outcomes(history, keys.TRIGGER_SCHEDULE)[0]
    raw = history.store.get(keys.OUTCOME + key)
    assert raw is not None
    job, due_ms, _, _ = keys.split_run(key)
    history.store.put(keys.OUTCOME + keys.run_key(job, due_ms + 1), raw)
    objects(cluster_verdict.judge_occurrences, history)
    history = History(oracle, wishes)
    twice = models.Skip("missed", due_ms, 1, due_ms)
    history.store.put(keys.OUTCOME + keys.run_key(job, due_ms, nonce=1), models.encode(twice))
    objects(cluster_verdict.judge_occurrences, history)


def test_a_lost_write_is_missed(oracle: ClusterOracle, wishes: list[Wish]) -> None:
    """A job or a manual run that a user was promised, gone from the state."""
    history = History(oracle, wishes)
    history.store.delete(keys.OUTCOME + outcomes(history, keys.TRIGGER_MANUAL)[0])
    objects(cluster_verdict.judge_wishes, history)
    history = History(oracle, wishes)
    history.store.delete(keys.JOB_STATE + history.rows(keys.JOB_STATE)[0][0])
    objects(cluster_verdict.judge_wishes, history)


def test_a_write_that_is_not_in_the_log_is_missed(
    oracle: ClusterOracle, wishes: list[Wish]
) -> None:
    """An answer with nothing behind it, or with something else."""
    history = History(oracle, wishes)
    accepted = next(wish for wish in wishes if wish.known == "accepted")
    history.reference.answers[accepted.key.key_hash].clear()
    objects(cluster_verdict.judge_wishes, history)


@pytest.mark.parametrize("kind", ["create", "trigger", "pause"])
def test_a_write_that_was_denied_and_done_is_noticed(
    kind: str, oracle: ClusterOracle, wishes: list[Wish]
) -> None:
    """Who was told that nothing was done must find nothing done."""
    denied = next(wish for wish in wishes if (wish.kind, wish.known) == (kind, "accepted"))
    denied.known = "not applied"
    objects(cluster_verdict.judge_wishes, History(oracle, wishes))


def test_another_entry_or_another_state_is_noticed(oracle: ClusterOracle) -> None:
    """Whichever member has it."""
    index, applied = next((i, a) for i, a in oracle.by_index.items() if a.command)
    oracle.applied("n9", index, applied.term, applied.command, applied.state_hash)
    objects(oracle.applied, "n9", index, applied.term, b"other", applied.state_hash)
    objects(oracle.applied, "n9", index, applied.term, applied.command, bytes(16))
    objects(oracle.applied, "n9", index, applied.term + 1, applied.command, applied.state_hash)


def test_an_entry_that_was_changed_is_noticed_in_the_end(
    oracle: ClusterOracle, wishes: list[Wish]
) -> None:
    """The log applied alone does not lead to the states that were seen."""
    index = max(i for i, applied in oracle.by_index.items() if applied.command)
    del oracle.by_index[index]
    last = max(oracle.by_index)
    oracle.by_index[last] = replace(oracle.by_index[last], state_hash=bytes(16))
    objects(History, oracle, wishes)


def test_a_second_leader_is_noticed(oracle: ClusterOracle) -> None:
    """In the same term."""
    term, leader = next(iter(oracle.leaders.items()))
    oracle.leads(leader, term)
    objects(oracle.leads, "n9", term)


def test_a_start_that_should_not_be_is_noticed(oracle: ClusterOracle) -> None:
    """Twice, early, beside another, or under an older fence."""
    first = next(
        launch
        for launch in oracle.launches
        if launch.request.must_stop_with_lease
        and ".m" not in launch.request.env["CRONCLAVE_RUN"]
        and _definition(oracle, launch).delivery == "at_least_once"
    )
    objects(oracle.launched, first)

    def changed(seconds: float, fence: int) -> Any:
        request = msgspec.structs.replace(
            first.request, env={**first.request.env, "CRONCLAVE_FENCE": str(fence)}
        )
        return replace(first, number=1_000, request=request, started_s=first.started_s + seconds)

    objects(oracle.launched, changed(-2.0, 1_000_000))
    objects(oracle.launched, changed(0.0, 1))
    oracle.launched(changed(0.0, 1_000_000))
    objects(oracle.launched, changed(0.0, 1_000_001))


def _definition(oracle: ClusterOracle, launch: Launch) -> JobDefinition:
    return oracle.definitions[bytes.fromhex(launch.request.env["CRONCLAVE_RUN"][:32])]


def test_an_end_that_nobody_saw_is_noticed(oracle: ClusterOracle, wishes: list[Wish]) -> None:
    """The observer beside the command is believed, not the report."""
    history = History(oracle, wishes)
    key, run = next((k, r) for k, r in history.runs() if r.outcome == "succeeded")
    oracle.by_fence[key[:16], run.fence] = replace(
        oracle.by_fence[key[:16], run.fence], exit_code=1
    )
    objects(cluster_verdict.judge_runs, history)


def test_a_run_that_never_ends_is_noticed(oracle: ClusterOracle, wishes: list[Wish]) -> None:
    """Nothing may stay live when everything is at rest."""
    history = History(oracle, wishes)
    key, run = history.runs()[0]
    stuck: Run = msgspec.structs.replace(run, state="running")
    history.store.put(keys.OUTCOME + key, models.encode(stuck))
    objects(cluster_verdict.judge_runs, history)
