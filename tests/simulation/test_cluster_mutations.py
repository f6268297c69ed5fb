"""Rules that chance finds missing; the others have scenarios in test_cluster_scenarios.py."""

from __future__ import annotations

import pytest

from tests.simulation.cluster_mutations import MUTATIONS
from tests.simulation.cluster_run import judge
from tests.simulation.cluster_world import Kind, Mode, Options
from tests.simulation.test_cluster_scenarios import MISSED

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# Where a seed is known to find it, the search begins near it.
FOUND_BY_CHANCE: list[tuple[str, range]] = [
    ("fence_does_not_grow", range(10)),
    ("claim_in_spite_of_the_cursor", range(10)),
    ("overlap_not_checked", range(10)),
    ("missed_in_silence", range(20)),
    ("started_when_granted", range(10)),
    ("lease_kept_by_an_old_incarnation", range(10)),
    ("clock_believed", range(12, 42)),
    ("given_up_and_sent_all_the_same", range(10)),
    ("planned_past_the_overdue", range(20)),
]
# The same where members are left behind by the log, or come and go.
FOUND_OF_KIND: list[tuple[str, Kind, Mode, range]] = [
    ("log_forgets_what_was_applied", "behind", "power", range(2, 22)),
    ("log_forgets_what_was_flushed", "behind", "safety", range(5, 25)),
    ("commit_moves_with_snapshot", "behind", "safety", range(5, 25)),
    ("removed_member_renews_its_lease", "changing", "safety", range(11, 31)),
    ("emptied_disk_accepted", "changing", "safety", range(6, 26)),
]


@pytest.mark.parametrize(
    ("rule", "seeds"), FOUND_BY_CHANCE, ids=[rule for rule, _ in FOUND_BY_CHANCE]
)
def test_a_rule_taken_out_is_noticed(rule: str, seeds: range) -> None:
    """Within a bounded number of seeds the simulation turns red."""
    assert any(judge(Options(seed=seed), mutation=rule).failure for seed in seeds)


@pytest.mark.parametrize(
    ("rule", "kind", "mode", "seeds"), FOUND_OF_KIND, ids=[rule for rule, *_ in FOUND_OF_KIND]
)
def test_a_rule_taken_out_is_noticed_by_runs_of_its_kind(
    rule: str, kind: Kind, mode: Mode, seeds: range
) -> None:
    """The same with a log that forgets early, or with members that change."""
    options = (Options(seed=seed, mode=mode, kind=kind) for seed in seeds)
    assert any(judge(one, mutation=rule).failure for one in options)


def test_every_rule_is_looked_after() -> None:
    """By chance or by a scenario."""
    noticed = {rule for rule, *_ in (*FOUND_BY_CHANCE, *FOUND_OF_KIND)}
    noticed |= {rule for _, rule in MISSED}
    assert noticed == set(MUTATIONS)
