"""By what each missing fix is noticed: the one table, which a test holds complete.

A fix that is taken out is found by chance, within some seeds, or by a test that leads
straight to it: a scenario file, or a test function that fails without it. To add one, put
its mutation into `raft_mutations.MUTATIONS` and a line here.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.raft_mutations import mutated
from tests.simulation.raft_options import Mode, Options
from tests.simulation.raft_run import Verdict, judge
from tests.simulation.scenario_text import transcript

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"


@dataclass(frozen=True, slots=True)
class Seeds:
    """Random runs, one of which has to fail."""

    first: int = 0
    count: int = 20
    members: int = 3
    mode: Mode = Mode.SAFETY
    seconds: float = 20.0

    def failure_without(self, mutation: str) -> Verdict | None:
        """Return the first run that fails without the fix, if there is one."""
        for seed in range(self.first, self.first + self.count):
            options = Options(seed=seed, members=self.members, mode=self.mode, seconds=self.seconds)
            verdict = judge(options, mutation=mutation)
            if verdict.failure is not None:
                return verdict
        return None


# Seeds, a file of tests/scenarios, or "module::function", where `rules` stands for
# test_raft_rules.py. A function that takes `make` gets what its module's `making()` gives,
# as it does from its fixture.
NOTICED: dict[str, Seeds | str] = {
    "visible_before_durable": "scenarios::test_nothing_is_confirmed_before_the_disks_have_it",
    "cut_behind_any_match": "rules::test_entries_that_match_are_never_cut_off",
    "confirm_own_end": "rules::test_a_heartbeat_confirms_no_more_than_its_anchor",
    "commit_own_end": "rules::test_a_heartbeat_confirms_no_more_than_its_anchor",
    "committed_before_durable": "rules::test_nothing_is_committed_here_before_it_is_on_this_disk",
    "vote_forgotten": "rules::test_a_vote_waits_for_the_disk",
    "answers_of_any_term": "rules::test_an_answer_of_another_term_counts_for_nothing",
    "step_back_one_by_one": "rules::test_a_refusal_is_followed_to_where_it_points",
    "answers_undo_a_retreat": "rules::test_refusals_of_what_was_under_way_are_one_refusal",
    "votes_by_message": "rules::test_a_vote_that_arrives_twice_is_one_vote",
    "no_pre_vote": "rules::test_who_would_lose_does_not_campaign",
    "campaign_between_two_readings":
        "rules::test_no_campaign_slips_through_between_two_readings_of_the_clock",
    "no_first_probe": "rules::test_a_log_that_overlaps_needs_no_snapshot",
    "first_probe_repeated": "rules::test_a_log_that_is_trimmed_meanwhile_is_tried_once",
    "snapshot_taken_for_a_loss": "rules::test_who_got_further_by_a_snapshot_is_not_accused",
    "wish_to_lead_is_kept": "rules::test_a_wish_that_cannot_be_followed_is_not_kept",
    "cut_while_writing_ignored": "rules::test_a_cut_during_a_transaction_is_not_durable",
    "stale_leader_unanswered": "rules::test_a_leader_of_the_past_learns_of_its_successor",
    "two_leaders_tolerated": "rules::test_two_leaders_of_one_term_stop_the_member",
    "committed_entries_replaced": "rules::test_a_committed_entry_is_never_replaced",
    "no_window": "rules::test_a_window_bounds_what_is_under_way",
    "log_taken_for_committed": "rules::test_what_was_not_applied_is_not_taken_for_committed",
    "no_loyalty": "rules::test_who_hears_a_leader_listens_to_no_candidate",
    "lost_entries_ignored": "rules::test_a_member_that_lost_confirmed_entries_is_told_so",
    "any_disk_accepted": "e07_another_disk.txt",
    "old_connections_heard": "scenarios::test_what_an_old_connection_brings_is_not_heard",
    "lonely_leader_stays": "e06_leader_without_followers.txt",
    "transfer_takes_commands": "e08_transfer.txt",
    "reads_without_asking": Seeds(mode=Mode.REGISTERS),
    "reads_without_a_round": Seeds(mode=Mode.REGISTERS, first=10, count=80),
    "rounds_count_older_answers": Seeds(mode=Mode.REGISTERS, first=10, count=80),
    "reads_before_an_entry_of_the_term": Seeds(mode=Mode.REGISTERS, count=80),
    "silent_disk_leads_on": "d10_leader_whose_disk_hangs.txt",
    "commit_moves_with_snapshot": "snapshots::test_a_demand_for_a_snapshot_commits_nothing",
    "damaged_snapshot_accepted": "snapshots::test_a_damaged_snapshot_is_fetched_again",
    "old_snapshot_accepted": "snapshots::test_a_snapshot_that_is_not_ahead_ends_nothing",
    "log_not_kept_for_transfers": "snapshots::test_the_log_behind_a_snapshot_is_kept",
    "requests_are_no_contact": "snapshots::test_a_member_that_is_behind_keeps_its_leader",
    "no_probe_after_snapshot": "snapshots::test_what_was_confirmed_and_trimmed_is_asked_again",
    "trimmed_taken_for_lost": "rules::test_a_member_that_has_trimmed_what_it_confirmed_is_led_on",
}  # fmt: skip


# What chance finds as well, which shows that the seeds are worth their time.
FOUND_BY_CHANCE = {
    "visible_before_durable": Seeds(mode=Mode.POWER_LOSS, first=5, count=80),
    "cut_behind_any_match": Seeds(),
    "confirm_own_end": Seeds(),
    "commit_own_end": Seeds(),
}


def call(test: str) -> None:
    """Run a scenario file or call a directed test of this folder.

    Raises:
        AssertionError: it fails; other errors come from what it tests.
    """
    if test.endswith(".txt"):
        text = (SCENARIOS / test).read_text()
        assert transcript(text) == text
        return
    module_name, _, function_name = test.partition("::")
    module = importlib.import_module(f"tests.simulation.test_raft_{module_name}")
    function = getattr(module, function_name)
    if inspect.signature(function).parameters:
        with module.making() as make:
            function(make)
    else:
        function()


def notice(mutation: str) -> str | None:
    """Return how the tests object to a missing fix, or None if they do not."""
    how = NOTICED[mutation]
    if isinstance(how, Seeds):
        verdict = how.failure_without(mutation)
        return verdict.failure if verdict else None
    with mutated(mutation):
        try:
            call(how)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # an InvariantViolated is no Exception, on purpose
            return f"{type(error).__name__}: {error}"
    return None
