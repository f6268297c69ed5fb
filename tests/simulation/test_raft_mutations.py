"""Every fix is needed: without it, some test turns red."""

from __future__ import annotations

import pytest

from tests.simulation.raft_mutations import MUTATIONS
from tests.simulation.raft_noticed import FOUND_BY_CHANCE, NOTICED, call, notice
from tests.simulation.raft_options import Mode, Options
from tests.simulation.raft_run import judge

# Seeds at which a disk that syncs once a second lost something, and what came before them.
LAZY_SEEDS = range(20)


def test_no_fix_goes_without_a_test_that_misses_it() -> None:
    """The table names every mutation, and no other."""
    assert NOTICED.keys() == MUTATIONS.keys()


@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_a_fix_taken_out_is_noticed(mutation: str) -> None:
    """A seed or a directed test turns red without it."""
    assert notice(mutation) is not None


@pytest.mark.parametrize("test", sorted({how for how in NOTICED.values() if isinstance(how, str)}))
def test_with_all_fixes_the_directed_tests_pass(test: str) -> None:
    """What objects to a missing fix does so because of the fix."""
    call(test)


@pytest.mark.parametrize("mutation", sorted(FOUND_BY_CHANCE))
def test_chance_finds_it_as_well(mutation: str) -> None:
    """A seed turns red without the fix, and is green with it."""
    failed = FOUND_BY_CHANCE[mutation].failure_without(mutation)
    assert failed is not None
    assert judge(failed.options).failure is None


# The library leaves files open, and is not ours to correct.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_library_as_it_comes_fails_within_twenty_seeds() -> None:
    """The harness finds what is known to be wrong with stock pysyncobj."""
    verdicts = (
        judge(Options(seed=seed, mode=Mode.SAFETY, seconds=20), stock=True) for seed in range(4, 24)
    )
    assert any(verdict.failure for verdict in verdicts)


def test_a_disk_that_says_done_too_early_fails_under_power_losses() -> None:
    """The power losses have teeth: a journal synced once a second loses what it promised."""
    verdicts = (
        judge(Options(seed=seed, mode=Mode.POWER_LOSS, lazy_disk=True)) for seed in LAZY_SEEDS
    )
    assert any(verdict.failure for verdict in verdicts)


def test_a_disk_that_says_done_too_early_survives_mere_kills() -> None:
    """It is the power losses that find it: the kernel keeps what a killed process wrote."""
    verdicts = [
        judge(Options(seed=seed, mode=Mode.SAFETY, lazy_disk=True, power_loss=False, seconds=10))
        for seed in range(10)
    ]
    assert not [verdict.failure for verdict in verdicts if verdict.failure]
