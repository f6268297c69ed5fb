"""What members count, so that adding them up gives what the cluster has done."""

from __future__ import annotations

from functools import partial
from operator import eq

import pytest

from api.cluster import ClusterStatus
from consensus.state.context import Effects
from node.metrics import Metrics


def no_status() -> ClusterStatus:
    raise AssertionError("Counting asks nobody for the status.")


def counted(metrics: Metrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("cronclave_runs_total", {"outcome": outcome}) or 0.0


@pytest.mark.parametrize("leader", ["n1", "n2", "n3"])
def test_a_run_that_ended_is_counted_once_in_the_whole_cluster(leader: str) -> None:
    """All members apply its end; who leads then counts it, as all that is the cluster's."""
    members = ("n1", "n2", "n3")
    all_metrics = [Metrics(name, no_status, partial(eq, name, leader)) for name in members]
    effects = Effects()
    effects.ended += [(b"run 1", "failed"), (b"run 2", "succeeded"), (b"run 3", "failed")]
    for metrics in all_metrics:
        metrics.applied(effects)
    assert sum(counted(metrics, "failed") for metrics in all_metrics) == 2
    assert sum(counted(metrics, "succeeded") for metrics in all_metrics) == 1
