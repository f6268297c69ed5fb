"""What one member does when the members change, rule by rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from consensus import frames
from consensus.configuration import (
    MEMBERSHIP_PREFIX,
    Configuration,
    Seat,
    encode_configuration,
)
from consensus.errors import ChangeRefused
from consensus.raft.configurations import packed
from consensus.raft.log import RaftLog
from consensus.raft.types import Introduction
from storage.invariant import InvariantViolated
from storage.journal_format import LogRecord
from tests.simulation.membership_mutations import MUTATIONS, without
from tests.simulation.raft_hand import Hand, command, voters
from tests.simulation.raft_life import SETTINGS

MakeHand = Callable[..., Hand]
THREE = voters("n1", "n2", "n3")
FOURTH = Seat("n4", "n4:7901", "learner", b"4" * 16)


@pytest.fixture
def make() -> Iterator[MakeHand]:
    hands: list[Hand] = []

    def make_hand(*arguments: object, **options: object) -> Hand:
        hands.append(Hand(*arguments, **options))  # type: ignore[arg-type]
        return hands[-1]

    yield make_hand
    for hand in hands:
        hand.close()


def entry(configuration: Configuration, index: int, term: int) -> LogRecord:
    return MEMBERSHIP_PREFIX + encode_configuration(configuration), index, term


def append(
    prev: tuple[int, int], *records: LogRecord, commit: int = 0, sequence: int = 1
) -> frames.Append:
    return frames.Append(sequence, *prev, commit, list(records))


def settled(make: MakeHand, members: int = 3) -> Hand:
    """A leader whose first entry is committed, with all others in contact."""
    hand = make(members)
    hand.elect()
    commit_all(hand)
    return hand


def commit_all(hand: Hand) -> None:
    hand.sync()
    hand.core.tick()
    for name in hand.names[1:]:
        hand.confirm(name)
    hand.core.tick()


def committed(hand: Hand) -> bool:
    return hand.core.commit_index == hand.log.last_index


def leading_four(make: MakeHand) -> Hand:
    """A leader of four voters, the fourth promoted; all entries committed."""
    hand = settled(make)
    hand.core.change(THREE.having(FOURTH))
    commit_all(hand)
    hand.core.change(hand.core.configuration[1].having(voter(FOURTH)))
    commit_all(hand)
    hand.connect("n4")
    hand.core.tick()
    return hand


def voter(seat: Seat) -> Seat:
    return Seat(seat.name, seat.address, "voter", seat.seat_id)


# --- In the log -----------------------------------------------------------------------------


def test_a_configuration_is_in_force_from_its_append_and_out_of_it_when_cut(
    make: MakeHand,
) -> None:
    """Committed or not: the newest one in the log counts, on followers, too."""
    hand = make(terms=(1,))
    four = THREE.having(voter(FOURTH))
    hand.tell("n2", 1, append((2, 1), entry(four, 3, 1)))
    assert hand.core.configuration == (3, four)
    assert hand.core.committed_configuration == (0, THREE)
    assert hand.core._election.majority == 3
    hand.tell("n3", 2, append((2, 1), command(3, 2)))
    assert hand.core.configuration == (0, THREE)
    assert hand.core._election.majority == 2


def test_an_uncommitted_configuration_is_in_force_again_after_a_restart(make: MakeHand) -> None:
    """E2: what the log holds counts, not what was applied."""
    hand = make(terms=(1,))
    four = THREE.having(voter(FOURTH))
    hand.tell("n2", 1, append((2, 1), entry(four, 3, 1)))
    hand.sync()
    again = RaftLog(hand.journal, SETTINGS, 0, THREE)
    assert again.configurations.current == (3, four)


def test_the_first_configuration_is_remembered_whatever_the_file_says_later(
    make: MakeHand,
) -> None:
    """A file that was changed does not change who votes in a running cluster."""
    hand = make()
    hand.sync()
    other = voters("n1", "n8", "n9")
    again = RaftLog(hand.journal, SETTINGS, 0, other)
    assert again.configurations.current == (0, THREE)


def test_a_trim_keeps_the_configuration_whose_entry_it_removes(make: MakeHand) -> None:
    """In the same transaction: after a power loss there is either the entry or the base."""
    hand = make(terms=(1,))
    four = THREE.having(FOURTH)
    hand.log.append(*entry(four, 3, 1))
    for index in range(4, 3 + SETTINGS.tail_entries_max + 50):
        hand.log.append(*command(index, 1))
    hand.sync()
    hand.log.trim(20)
    hand.log.append(*command(hand.log.last_index + 1, 1))
    hand.sync()
    assert hand.journal.first_index > 3
    assert hand.journal.configuration == packed((3, four))
    again = RaftLog(hand.journal, SETTINGS, hand.log.last_index, THREE)
    assert again.configurations.current == (3, four)


# --- Elections ------------------------------------------------------------------------------


def newcomer(make: MakeHand, role: str = "learner") -> Hand:
    """`n1` as a member that was added to two others and has an empty log."""
    seat = Seat("n1", "n1:7901", role, b"1" * 16)  # type: ignore[arg-type]
    return make(configuration=voters("n2", "n3").having(seat))


@pytest.mark.parametrize("role", ["learner", "nonvoting"])
def test_who_has_no_vote_never_campaigns(make: MakeHand, role: str) -> None:
    """E7: an empty log asks nobody for anything, not even when told to."""
    hand = newcomer(make, role)
    hand.connect()
    for _ in range(10):
        hand.wait(1.5)
    assert hand.said == []
    hand.tell("n2", 1, append((1, 0)))
    hand.tell("n2", 1, frames.TimeoutNow())
    for _ in range(10):
        hand.wait(1.5)
    assert not any(
        isinstance(said.message, frames.VoteRequest | frames.PreVoteRequest) for said in hand.said
    )
    assert hand.core.term == 1


def test_votes_of_members_without_a_vote_elect_nobody(make: MakeHand) -> None:
    """E7: neither their votes nor their promises are counted."""
    hand = make(configuration=THREE.having(FOURTH))
    hand.connect("n2", "n3", "n4")
    hand.wait(1.1)
    assert not any(said.to == "n4" for said in hand.said)
    hand.tell("n4", 0, frames.PreVote(1, True))
    hand.core.tick()
    assert hand.core.term == 0
    hand.tell("n2", 0, frames.PreVote(1, True))
    hand.core.tick()
    hand.tell("n4", 1, frames.Vote())
    assert not hand.core.leads
    hand.tell("n2", 1, frames.Vote())
    assert hand.core.leads


def test_a_member_grants_its_vote_whatever_it_thinks_of_its_own(make: MakeHand) -> None:
    """Whose vote counts is decided by the candidate's log, which may be ahead of this one."""
    hand = newcomer(make)
    hand.log.append(*command(2, 1))
    (said,) = hand.tell("n2", 2, frames.VoteRequest(9, 2, False))
    assert said.message == frames.Vote()


def test_a_member_that_is_being_removed_can_still_be_elected_by_those_who_stay(
    make: MakeHand,
) -> None:
    """It alone may have the entry; it counts for nothing itself, and goes when it commits."""
    hand = make(5, terms=(1,))
    after = voters("n2", "n3", "n4", "n5")
    hand.tell("n2", 1, append((2, 1), entry(after, 3, 1)))
    hand.sync()
    hand.connect()
    hand.wait(2.5)
    for name in ("n3", "n4"):
        hand.tell(name, 1, frames.PreVote(2, True))
    hand.core.tick()
    assert hand.core.term == 1, "two of four are no majority"
    hand.tell("n5", 1, frames.PreVote(2, True))
    hand.core.tick()
    hand.sync()
    for name in ("n3", "n4"):
        hand.tell(name, 2, frames.Vote())
    assert not hand.core.leads, "it has no vote to add to these two"
    hand.tell("n5", 2, frames.Vote())
    assert hand.core.leads
    hand.sync()
    hand.core.tick()
    for name in ("n3", "n4"):
        hand.confirm(name)
    hand.core.tick()
    assert hand.core.commit_index < 3, "its own disk does not count"
    hand.confirm("n5")
    hand.core.tick()
    assert hand.core.committed_configuration == (3, after)


def test_a_leader_without_a_vote_commits_by_entries_of_its_own_term_alone(
    make: MakeHand,
) -> None:
    """What a majority has of an older term may be replaced yet (Raft, section 5.4.2).

    The library counts this leader for its own entry, one too many.
    """
    hand = make(5, terms=(1,))
    after = voters("n2", "n3", "n4", "n5")
    hand.tell("n2", 1, append((2, 1), entry(after, 3, 1)))
    term = hand.elect()
    for name in ("n3", "n4"):
        hand.confirm(name)
    first = next(sent for sent in hand.appends_to("n5") if sent.prev_index == 3)
    hand.tell("n5", term, frames.AppendAnswer(first.sequence, 3, True, 4))
    hand.core.tick()
    assert hand.core.commit_index < 3
    hand.confirm("n5")
    hand.core.tick()
    assert hand.core.commit_index == hand.log.last_index


def stranded(make: MakeHand) -> Hand:
    """`n1` of five that missed how two of the others were exchanged, and met their successors."""
    hand = make(5, terms=(1,))
    for name in ("n2", "n3"):
        hand.core.take_guest(name, Introduction(b"of another seat.", 40, f"{name}:1"))
    hand.connect()
    return hand


def test_who_bears_the_name_of_a_voter_and_is_another_elects_nobody(make: MakeHand) -> None:
    """It knows nothing of what was promised under its name, so it must not answer for it."""
    hand = stranded(make)
    hand.wait(1.1)
    assert {said.to for said in hand.said} == {"n4", "n5"}
    for name in ("n2", "n3", "n4"):
        hand.tell(name, 1, frames.PreVote(2, True))
    hand.core.tick()
    assert hand.core.term == 1
    hand.tell("n5", 1, frames.PreVote(2, True))
    hand.core.tick()
    assert not any(said.to in ("n2", "n3") for said in hand.said)
    for name in ("n2", "n3", "n4"):
        hand.tell(name, 2, frames.Vote())
    assert not hand.core.leads
    hand.tell("n5", 2, frames.Vote())
    assert hand.core.leads


def test_a_guest_confirms_nothing(make: MakeHand) -> None:
    """Its log is not that of the voter whose name it bears."""
    hand = stranded(make)
    hand.wait(1.1)
    for name in ("n4", "n5"):
        hand.tell(name, 1, frames.PreVote(2, True))
    hand.core.tick()
    hand.sync()
    for name in ("n4", "n5"):
        hand.tell(name, 2, frames.Vote())
    hand.sync()
    hand.core.tick()
    hand.confirm("n4")
    hand.tell("n2", 2, frames.AppendAnswer(1, 2, True, hand.log.last_index + 1))
    hand.core.tick()
    assert hand.core.commit_index < hand.log.last_index
    hand.confirm("n5")
    hand.core.tick()
    assert hand.core.commit_index == hand.log.last_index


def test_a_guest_gets_the_vote_that_it_needs(make: MakeHand) -> None:
    """It knows more of the members than this one; in its configuration this vote may count."""
    hand = stranded(make)
    hand.tell("n2", 1, frames.PreVoteRequest(9, 1))
    (said,) = hand.tell("n2", 2, frames.VoteRequest(9, 1, False))
    assert (said.to, said.message) == ("n2", frames.Vote())


def test_a_guest_tells_what_was_missed(make: MakeHand) -> None:
    """What the leader of today says is taken, and it is a guest no more."""
    hand = stranded(make)
    today = Seat("n2", "n2:1", "voter", b"of another seat.")
    after = hand.core.configuration[1].having(today)
    assert hand.core.peers["n2"].address == "n2:1"
    (said,) = hand.tell("n2", 2, append((2, 1), entry(after, 3, 2), command(4, 2), commit=4))
    assert isinstance(said.message, frames.AppendAnswer)
    assert said.message.matched
    assert not hand.core.is_guest("n2")
    assert hand.core.is_guest("n3")


# --- Leaders --------------------------------------------------------------------------------


def test_a_new_leader_changes_nothing_before_it_knows_what_is_committed(make: MakeHand) -> None:
    """E1: its first own entry proves that no other change is under way."""
    hand = make()
    hand.elect()
    with pytest.raises(ChangeRefused, match="own term"):
        hand.core.change(THREE.having(FOURTH))
    commit_all(hand)
    hand.core.change(THREE.having(FOURTH))


def test_a_change_waits_for_the_one_before(make: MakeHand) -> None:
    """E1: two at once could make two majorities."""
    hand = settled(make)
    index = hand.core.change(THREE.having(FOURTH))
    with pytest.raises(ChangeRefused, match=f"entry {index}, is not committed"):
        hand.core.change(THREE)
    commit_all(hand)
    hand.core.change(THREE)
    assert hand.core.configuration[1] == THREE


def test_a_configuration_that_nobody_could_read_never_enters_the_log(make: MakeHand) -> None:
    """There it would stop every member, again and again."""
    hand = settled(make)
    last = hand.log.last_index
    with pytest.raises(ChangeRefused, match="cannot be read"):
        hand.core.change(THREE.having(Seat("n4", "n4:7901", "learner", b"4" * 17)))
    assert hand.log.last_index == last


def test_a_leader_does_not_remove_itself(make: MakeHand) -> None:
    """It hands leadership over first, and its successor does it."""
    hand = settled(make)
    with pytest.raises(ChangeRefused, match="hands leadership over"):
        hand.core.change(THREE.without("n1"))


def test_a_change_that_would_stop_the_cluster_is_refused(make: MakeHand) -> None:
    """Of three, one is silent: without one of the other two there is no majority."""
    hand = settled(make)
    hand.wait(SETTINGS.election_max_s - 0.2)
    hand.confirm("n2")
    hand.wait(0.4)
    with pytest.raises(ChangeRefused, match="would stand still"):
        hand.core.change(THREE.without("n2"))
    hand.core.change(THREE.without("n3"))


def test_a_learner_is_replicated_to_and_not_counted(make: MakeHand) -> None:
    """E7: it gets everything, and commits nothing."""
    hand = settled(make, 2)
    hand.core.change(hand.core.configuration[1].having(FOURTH))
    hand.connect("n4")
    hand.sync()
    hand.core.tick()
    last = hand.log.last_index
    sent = hand.appends_to("n4")[-1]
    hand.tell("n4", hand.core.term, frames.AppendAnswer(sent.sequence, last, True, last + 1))
    hand.core.tick()
    assert hand.core.peer_progress()["n4"].match_index == last
    assert not committed(hand)
    hand.confirm("n2")
    hand.core.tick()
    assert committed(hand)


def test_a_read_is_confirmed_by_voters_alone(make: MakeHand) -> None:
    """A learner's answer says nothing about whether another leader was elected."""
    hand = settled(make, 2)
    hand.core.change(hand.core.configuration[1].having(FOURTH))
    hand.connect("n4")
    commit_all(hand)
    floor = hand.core.begin_round()
    hand.core.tick()
    hand.confirm("n4")
    assert not hand.core.round_answered(floor)
    hand.confirm("n2")
    assert hand.core.round_answered(floor)


def test_a_learner_that_has_caught_up_is_ready_to_vote(make: MakeHand) -> None:
    """E7: not before it has what the log held, in a round shorter than an election."""
    hand = settled(make)
    hand.core.change(THREE.having(FOURTH))
    hand.connect("n4")
    commit_all(hand)
    assert hand.core.caught_up_learner() is None
    # The first round takes too long, the second one does not.
    hand.loop.advance(SETTINGS.election_min_s * 2)
    confirm_everything(hand, "n4")
    assert hand.core.caught_up_learner() is None
    assert hand.core.caught_up_learner() == "n4"


def confirm_everything(hand: Hand, name: str) -> None:
    last = hand.log.last_index
    answer = frames.AppendAnswer(hand.core._sequence, last, True, last + 1)
    hand.tell(name, hand.core.term, answer)


def test_a_removed_follower_is_followed_until_its_removal_is_committed(make: MakeHand) -> None:
    """It gets the entry that is about it; afterwards nothing it says counts."""
    hand = settled(make)
    hand.core.change(THREE.without("n3"))
    assert set(hand.core.peers) == {"n1", "n2", "n3"}
    hand.sync()
    hand.core.tick()
    assert [record[1] for record in hand.appends_to("n3")[-1].records] == [hand.log.last_index]
    hand.confirm("n3")
    hand.core.tick()
    assert not committed(hand), "its acknowledgement does not count any more"
    hand.confirm("n2")
    hand.core.tick()
    assert committed(hand)
    assert set(hand.core.peers) == {"n1", "n2"}
    hand.tell("n3", hand.core.term, frames.AppendAnswer(1, 1, True, 2))


def test_two_removals_do_not_leave_a_majority_of_one(make: MakeHand) -> None:
    """E1: cut off with a minority, a leader shrinks the cluster by nobody."""
    hand = settled(make, 5)
    everybody = hand.core.configuration[1]
    hand.core.change(everybody.without("n5"))
    with pytest.raises(ChangeRefused):
        hand.core.change(everybody.without("n5").without("n4"))
    assert len(hand.core.configuration[1].voters) == 4


def test_a_voter_is_not_exchanged_for_another_in_one_step(make: MakeHand) -> None:
    """Two of the old three and two of the new three may have nobody in common."""
    hand = settled(make)
    last = hand.log.last_index
    with pytest.raises(ChangeRefused, match="One voter may come or go at a time"):
        hand.core.change(THREE.without("n3").having(Seat("n4", "n4:7901", "voter")))
    assert hand.log.last_index == last


def test_promotion_changes_what_a_majority_is(make: MakeHand) -> None:
    """Three of four, from the moment the entry is in the log."""
    hand = leading_four(make)
    assert hand.core.configuration[1].voters == {"n1", "n2", "n3", "n4"}
    hand.core.propose(b"x")
    hand.sync()
    hand.core.tick()
    hand.confirm("n2")
    hand.core.tick()
    assert not committed(hand)
    hand.confirm("n3")
    hand.core.tick()
    assert committed(hand)


# --- The same without the fix ---------------------------------------------------------------

WITHOUT: dict[str, Callable[[MakeHand], None]] = {
    "changes_at_once": test_a_change_waits_for_the_one_before,
    "change_before_own_entry": (
        test_a_new_leader_changes_nothing_before_it_knows_what_is_committed
    ),
    "configuration_when_committed": (
        test_a_configuration_is_in_force_from_its_append_and_out_of_it_when_cut
    ),
    "configuration_not_cut": (
        test_a_configuration_is_in_force_from_its_append_and_out_of_it_when_cut
    ),
    "configuration_forgotten": (
        test_an_uncommitted_configuration_is_in_force_again_after_a_restart
    ),
    "base_forgotten": test_a_trim_keeps_the_configuration_whose_entry_it_removes,
    "anybody_campaigns": test_votes_of_members_without_a_vote_elect_nobody,
    "learners_decide": test_a_learner_is_replicated_to_and_not_counted,
    "two_voters_at_once": test_a_voter_is_not_exchanged_for_another_in_one_step,
    "newcomers_vote_at_once": test_a_learner_that_has_caught_up_is_ready_to_vote,
    "guests_confirm": test_a_guest_confirms_nothing,
    "leaver_commits_what_is_older": (
        test_a_leader_without_a_vote_commits_by_entries_of_its_own_term_alone
    ),
    "guests_decide": test_who_bears_the_name_of_a_voter_and_is_another_elects_nobody,
    "leaver_counts_itself": (
        test_a_member_that_is_being_removed_can_still_be_elected_by_those_who_stay
    ),
}


@pytest.mark.parametrize("mutation", sorted(WITHOUT))
def test_a_rule_that_is_taken_out_is_missed(make: MakeHand, mutation: str) -> None:
    """Each of these tests fails without the fix that it is about."""
    with (
        without(mutation),
        pytest.raises((AssertionError, InvariantViolated, pytest.fail.Exception)),
    ):
        WITHOUT[mutation](make)


def test_every_rule_that_can_be_taken_out_is_missed() -> None:
    """A rule whose absence nobody notices is not proven to be there."""
    assert set(WITHOUT) == set(MUTATIONS)
