"""Members come and go while everything else goes wrong; see `growing_world`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from consensus.configuration import first_configuration
from storage.invariant import InvariantViolated
from tests.simulation.growing_world import GrowingWorld
from tests.simulation.membership_mutations import without
from tests.simulation.raft_options import Mode, Options
from tests.simulation.raft_oracle import LivenessViolated, Oracle, SafetyViolated
from tests.support.quiet_log import quiet_log


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with quiet_log():
        yield


@pytest.mark.parametrize("block", range(3))
def test_members_come_and_go_while_everything_else_goes_wrong(block: int) -> None:
    """S1, S2, S3, S16: nothing that was confirmed is lost, whoever belongs to the cluster.

    Who was removed hears of it, who has its seat is never told so, who lost its disk is
    refused until its name was given away anew, and all that remain agree at the end.
    """
    counts = Counter[str]()
    for seed in range(block * 4, block * 4 + 4):
        oracle = GrowingWorld(Options(seed=seed, seconds=15.0, mode=Mode.SAFETY)).run()
        counts += oracle.counts
        counts["configurations"] += len(oracle.configurations)
        counts["acknowledged"] += len(oracle.acknowledged)
    assert counts["acknowledged"] > 1000
    assert counts["configurations"] > 10
    for event in (
        "added",
        "removed",
        "left",
        "wiped",
        "refused",
        "kills",
        "ChangeRefused",
        "snapshots_installed",
    ):
        assert counts[event], (event, counts)


def test_configurations_without_a_common_majority_are_noticed() -> None:
    """S16: the check is one that can fail."""
    oracle = Oracle()
    first = first_configuration(dict.fromkeys(("n1", "n2", "n3"), ""))
    oracle.configurations[5] = first.without("n3")
    oracle.check_configurations(first)
    oracle.configurations[7] = first_configuration(dict.fromkeys(("n3", "n4"), ""))
    with pytest.raises(SafetyViolated, match="either could decide"):
        oracle.check_configurations(first)


@pytest.mark.parametrize("rule", ["learners_decide", "configuration_forgotten"])
def test_a_rule_that_is_taken_out_is_found_by_chance(rule: str) -> None:
    """Most have a test of their own; these show that the random runs are worth their time."""

    def fails(seed: int) -> bool:
        with without(rule):
            try:
                GrowingWorld(Options(seed=seed, seconds=15.0, mode=Mode.SAFETY)).run()
            except (SafetyViolated, LivenessViolated, InvariantViolated):
                return True
        return False

    assert any(fails(seed) for seed in range(24))
