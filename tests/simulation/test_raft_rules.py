"""What one member does with one message, rule by rule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import pytest

from consensus import frames
from consensus.raft.log import MARK_EVERY
from consensus.raft.types import RaftSettings, SnapshotNeeded
from storage.invariant import InvariantViolated
from tests.simulation.raft_hand import Hand, Said, command
from tests.simulation.virtual_loop import READ_COST_S


class MakeHand(Protocol):
    """Makes members that are closed when the test is over."""

    def __call__(
        self,
        members: int = 3,
        *,
        terms: tuple[int, ...] = (),
        term: int | None = None,
        applied: int = 0,
        trim_below: int | None = None,
    ) -> Hand: ...


@contextmanager
def making() -> Iterator[MakeHand]:
    """Give what the tests here begin with, and close it afterwards."""
    hands: list[Hand] = []

    def make_hand(
        members: int = 3,
        *,
        terms: tuple[int, ...] = (),
        term: int | None = None,
        applied: int = 0,
        trim_below: int | None = None,
    ) -> Hand:
        hands.append(Hand(members, terms=terms, term=term, applied=applied, trim_below=trim_below))
        return hands[-1]

    try:
        yield make_hand
    finally:
        for hand in hands:
            hand.close()


@pytest.fixture
def make() -> Iterator[MakeHand]:
    with making() as make_hand:
        yield make_hand


def append(
    prev: tuple[int, int], *records: tuple[int, int], commit: int = 0, sequence: int = 1
) -> frames.Append:
    """An append behind (index, term) of records given as (index, term)."""
    return frames.Append(sequence, *prev, commit, [command(*record) for record in records])


def answers(said: list[Said]) -> list[frames.AppendAnswer]:
    return [one.message for one in said if isinstance(one.message, frames.AppendAnswer)]


def terms_of(hand: Hand) -> list[int]:
    log = hand.log
    return [log.term_at(index) or 0 for index in range(1, log.last_index + 1)]


# --- Followers: what is cut, what is confirmed, what is committed ---------------------------


def test_entries_that_match_are_never_cut_off(make: MakeHand) -> None:
    """R2: an old append, sent again, leaves what was confirmed behind it."""
    hand = make(terms=(1, 1, 1, 1))
    (answer,) = answers(hand.tell("n2", 1, append((2, 1), (3, 1))))
    assert (answer.matched, answer.next_index) == (True, 4)
    assert terms_of(hand) == [0, 1, 1, 1, 1]


def test_a_heartbeat_confirms_no_more_than_its_anchor(make: MakeHand) -> None:
    """R2, R4: what this message did not compare is not confirmed, though it may be there."""
    hand = make(terms=(1, 1, 1, 1))
    (answer,) = answers(hand.tell("n2", 2, append((3, 1), commit=5)))
    assert (answer.matched, answer.next_index) == (True, 4)
    hand.sync()
    assert hand.core.commit_index == 3


def test_the_log_is_cut_at_the_first_difference(make: MakeHand) -> None:
    """R2: what comes before it stays as it is."""
    hand = make(terms=(1, 1, 1, 1))
    (answer,) = answers(hand.tell("n2", 2, append((2, 1), (3, 1), (4, 2))))
    assert (answer.matched, answer.next_index) == (True, 5)
    assert terms_of(hand) == [0, 1, 1, 2]


def test_a_committed_entry_is_never_replaced(make: MakeHand) -> None:
    """R6: whoever asks for that has broken the protocol, and this member stops."""
    hand = make(terms=(1, 1, 1), applied=3)
    with pytest.raises(InvariantViolated, match="A committed entry is never replaced"):
        hand.tell("n2", 2, append((2, 1), (3, 2)))


@pytest.mark.parametrize("anchor", [(9, 1), (4, 2)], ids=["behind the end", "other term"])
def test_a_mismatch_points_behind_what_is_committed(
    make: MakeHand, anchor: tuple[int, int]
) -> None:
    """R8, R15: one answer is enough to find where the logs agree; nothing else changes."""
    hand = make(terms=(1, 1, 1, 1), applied=3)
    (answer,) = answers(hand.tell("n2", 2, append(anchor, commit=9, sequence=8)))
    assert answer == frames.AppendAnswer(8, anchor[0], False, 4)
    assert hand.core.commit_index == 3
    assert terms_of(hand) == [0, 1, 1, 1, 1]


def test_nothing_is_committed_here_before_it_is_on_this_disk(make: MakeHand) -> None:
    """D10: a commit index of the leader waits for this member's own journal."""
    hand = make(terms=(1,))
    hand.tell("n2", 1, append((2, 1), (3, 1), (4, 1), commit=4))
    assert hand.core.commit_index == 2
    assert [entry.index for entry in hand.core.committed()] == [1, 2]
    hand.sync()
    assert hand.core.commit_index == 4


def test_what_was_not_applied_is_not_taken_for_committed(make: MakeHand) -> None:
    """D5: a log says nothing about commitment; after a start only the state does."""
    hand = make(terms=(1, 1, 1), applied=2)
    hand.core.tick()
    assert hand.core.commit_index == 2
    assert hand.core.committed() == []


def test_a_confirmation_waits_for_the_disk(make: MakeHand) -> None:
    """D1: it leaves when the journal transaction with the entries has returned."""
    hand = make(terms=(1,))
    (said,) = hand.tell("n2", 1, append((2, 1), (3, 1)))
    assert said.held
    hand.sync()
    (said,) = hand.tell("n2", 1, append((3, 1)))
    assert not said.held


def test_a_leader_of_the_past_learns_of_its_successor(make: MakeHand) -> None:
    """R12: a stale append changes nothing and is answered with the newer term."""
    hand = make(terms=(1, 1), term=5)
    (said,) = hand.tell("n2", 4, append((2, 1), (3, 4)))
    assert (said.message, said.term) == (frames.StaleTerm(), 5)
    assert terms_of(hand) == [0, 1, 1]


def test_two_leaders_of_one_term_stop_the_member(make: MakeHand) -> None:
    """E9: somebody has voted twice, and nothing can be trusted any more."""
    hand = make(terms=(1,))
    hand.tell("n2", 3, append((2, 1)))
    with pytest.raises(InvariantViolated, match="A term has one leader"):
        hand.tell("n3", 3, append((2, 1)))


def test_a_leader_that_meets_another_of_its_term_stops(make: MakeHand) -> None:
    """E9: the same, seen from one of the two."""
    hand = make()
    term = hand.elect()
    with pytest.raises(InvariantViolated, match="A term has one leader"):
        hand.tell("n2", term, append((1, 0)))


def test_a_member_that_lacks_trimmed_entries_stops_and_says_why(make: MakeHand) -> None:
    """R13: it needs a snapshot, and does nothing unsafe instead."""
    hand = make(terms=(1, 1))
    with pytest.raises(SnapshotNeeded, match=r"up to 1, .* only from 90 on"):
        hand.tell("n2", 1, frames.SnapshotRequired(90))


def test_an_old_demand_for_a_snapshot_is_ignored(make: MakeHand) -> None:
    """One from an earlier term, or below what is committed here, says nothing."""
    hand = make(terms=(1, 1, 1), term=4, applied=3)
    assert [said.message for said in hand.tell("n2", 3, frames.SnapshotRequired(90))] == [
        frames.StaleTerm()
    ]
    assert hand.tell("n2", 4, frames.SnapshotRequired(3)) == []


# --- Elections ------------------------------------------------------------------------------


def test_a_vote_that_arrives_twice_is_one_vote(make: MakeHand) -> None:
    """E4: two copies of one vote elect nobody of five."""
    hand = make(5)
    hand.connect()
    hand.wait(1.1)
    for name in ("n2", "n3"):
        hand.tell(name, 0, frames.PreVote(1, True))
    hand.core.tick()
    for _ in range(3):
        hand.tell("n2", 1, frames.Vote())
    assert not hand.core.leads
    hand.tell("n3", 1, frames.Vote())
    assert hand.core.leads


def test_a_vote_waits_for_the_disk(make: MakeHand) -> None:
    """D4: a vote that could be forgotten is not given."""
    hand = make(terms=(1,))
    (said,) = hand.tell("n2", 2, frames.VoteRequest(2, 1, False))
    assert (said.message, said.held) == (frames.Vote(), True)
    hand.sync()
    assert hand.journal.hard_state.vote == "n2"
    assert hand.tell("n3", 2, frames.VoteRequest(9, 1, False)) == []


def test_who_would_lose_does_not_campaign(make: MakeHand) -> None:
    """E5: a member asks first, and without a majority its term stays what it is."""
    hand = make(5)
    hand.connect()
    for _ in range(20):
        hand.wait(1.1)
        hand.tell("n2", 0, frames.PreVote(1, True))
        hand.tell("n2", 0, frames.PreVote(1, True))
        hand.tell("n3", 0, frames.PreVote(1, False))
    assert hand.core.term == 0
    kinds = {type(said.message) for said in hand.said}
    assert kinds == {frames.PreVoteRequest}


def test_no_campaign_slips_through_between_two_readings_of_the_clock(make: MakeHand) -> None:
    """E5: a deadline that passes while a tick looks at it is asked about first, like any other."""
    hand = make()
    hand.connect()
    hand.core._SyncObj__raftElectionDeadline = hand.loop.time() + 1.5 * READ_COST_S
    hand.core.tick()
    assert hand.core.term == 0
    hand.core.tick()
    assert {type(said.message) for said in hand.said} == {frames.PreVoteRequest}


@pytest.mark.parametrize(
    ("last", "expected"),
    [((9, 1), False), ((2, 2), False), ((3, 2), True), ((2, 3), True)],
)
def test_only_a_complete_log_gets_a_promise(
    make: MakeHand, last: tuple[int, int], expected: bool
) -> None:
    """E5: the rule for pre-votes is that for votes: the last term first, then the index."""
    hand = make(terms=(1, 2))
    hand.log.truncate_from(3)
    hand.log.append(*command(3, 2))
    (said,) = hand.tell("n2", 2, frames.PreVoteRequest(*last))
    assert said.message == frames.PreVote(3, expected)


def test_who_hears_a_leader_listens_to_no_candidate(make: MakeHand) -> None:
    """E5: neither a question nor a higher term deposes a leader that is heard."""
    hand = make(terms=(1,))
    hand.tell("n2", 1, append((2, 1)))
    (said,) = hand.tell("n3", 1, frames.PreVoteRequest(50, 1))
    assert said.message == frames.PreVote(2, False)
    assert hand.tell("n3", 9, frames.VoteRequest(50, 1, False)) == []
    assert hand.core.term == 1
    hand.loop.advance(0.6)
    assert hand.tell("n3", 9, frames.VoteRequest(50, 1, False))[0].message == frames.Vote()


def test_an_election_that_the_leader_wants_is_listened_to(make: MakeHand) -> None:
    """A transfer does not wait for silence."""
    hand = make(terms=(1,))
    hand.tell("n2", 1, append((2, 1)))
    (said,) = hand.tell("n3", 2, frames.VoteRequest(2, 1, True))
    assert said.message == frames.Vote()


# --- Leaders --------------------------------------------------------------------------------


def test_an_answer_of_another_term_counts_for_nothing(make: MakeHand) -> None:
    """R3: an acknowledgement that took two elections to arrive commits nothing."""
    hand = make(5, terms=(1, 1, 1))
    term = hand.elect()
    hand.tell("n2", term - 1, frames.AppendAnswer(99, 1, True, hand.log.last_index + 1))
    hand.tell("n3", term - 1, frames.AppendAnswer(99, 1, True, hand.log.last_index + 1))
    hand.core.tick()
    assert all(peer.match_index == 0 for peer in hand.core.peer_progress().values())
    assert hand.core.commit_index == 1


def test_a_leader_steps_down_for_a_newer_term(make: MakeHand) -> None:
    """R12: whichever answer it comes with."""
    for message in (
        frames.AppendAnswer(1, 1, False, 2),
        frames.StaleTerm(),
        frames.PreVote(9, False),
    ):
        hand = make()
        term = hand.elect()
        hand.tell("n2", term + 3, message)
        assert not hand.core.leads
        assert hand.core.term == term + 3


def test_a_leader_does_not_count_itself_before_its_disk(make: MakeHand) -> None:
    """D10: neither are its entries sent nor committed before they are durable here."""
    hand = make()
    hand.elect()
    for name in ("n2", "n3"):
        hand.confirm(name)
    hand.core.tick()
    index = hand.core.propose(b"x")
    hand.core.tick()
    assert all(not message.records for message in hand.appends_to("n2")[-1:])
    hand.sync()
    hand.core.tick()
    assert [record[1] for record in hand.appends_to("n2")[-1].records] == [index]
    assert hand.core.commit_index < index
    hand.confirm("n2")
    hand.core.tick()
    assert hand.core.commit_index == index


def test_followers_hear_of_a_commit_at_once(make: MakeHand) -> None:
    """Nobody waits for the next heartbeat, and nobody is told twice."""
    hand = make()
    hand.elect()
    hand.confirm("n2")
    hand.core.tick()
    assert hand.appends_to("n2")[-1].commit_index == hand.core.commit_index == 2
    count = len(hand.said)
    hand.core.tick()
    assert len(hand.said) == count


def test_refusals_of_what_was_under_way_are_one_refusal(make: MakeHand) -> None:
    """R15: later answers to a window that was refused do not undo the retreat."""
    hand = make(terms=(1,) * 60)
    term = hand.elect()
    first = hand.appends_to("n2")[-1]
    hand.tell("n2", term, frames.AppendAnswer(first.sequence, first.prev_index, False, 2))
    hand.core.tick()
    sent = hand.appends_to("n2")
    assert [record[1] for record in sent[-1].records][:1] == [2]
    hand.tell("n2", term, frames.AppendAnswer(first.sequence, first.prev_index, False, 2))
    hand.core.tick()
    assert hand.appends_to("n2") == sent


def test_a_refusal_is_followed_to_where_it_points(make: MakeHand) -> None:
    """R8: the next message begins behind the follower's committed entries, however far back."""
    hand = make(terms=(1,) * 60)
    term = hand.elect()
    first = hand.appends_to("n2")[-1]
    hand.tell("n2", term, frames.AppendAnswer(first.sequence, first.prev_index, False, 5))
    hand.core.tick()
    assert hand.appends_to("n2")[-1].prev_index == 4


def test_a_window_bounds_what_is_under_way(make: MakeHand) -> None:
    """R11: a follower that does not answer gets no more entries, but its heartbeats."""
    hand = make()
    hand.elect()
    hand.confirm("n2")
    for _ in range(100):
        hand.core.propose(b"x" * 1000)
        hand.sync()
        hand.wait(0.001)
    sent = sum(len(message.records) for message in hand.appends_to("n2"))
    assert sent <= hand.settings.window_entries_max + 1
    count = len(hand.appends_to("n2"))
    hand.wait(0.11)
    assert len(hand.appends_to("n2")) == count + 1
    assert hand.appends_to("n2")[-1].records == []


def test_a_member_that_lost_confirmed_entries_is_told_so(make: MakeHand) -> None:
    """R13: its disk cannot be trusted; it is refused and not led in circles."""
    hand = make(terms=(1, 1))
    term = hand.elect()
    hand.confirm("n2")
    anchor = hand.appends_to("n2")[-1].prev_index
    (said,) = hand.tell("n2", term, frames.AppendAnswer(10_000, anchor, False, 1))
    assert isinstance(said.message, frames.Refusal)
    assert "does not have it any more" in said.message.reason


def test_a_member_that_has_trimmed_what_it_confirmed_is_led_on(make: MakeHand) -> None:
    """R13: its committed entries reach further than what is compared, so nothing is lost.

    Answers that confirm may be on their way, or lost with a connection, while their sender has
    applied those entries, trimmed them, and begun another life.
    """
    hand = make(terms=(1, 1))
    term = hand.elect()
    hand.confirm("n2")
    anchor = hand.core.peer_progress()["n2"].match_index
    for _ in range(20):
        hand.core.propose(b"x")
    hand.sync()
    hand.core.tick()
    said = hand.tell("n2", term, frames.AppendAnswer(10_000, anchor, False, anchor + 11))
    assert not any(isinstance(one.message, frames.Refusal) for one in said)
    hand.core.tick()
    assert hand.appends_to("n2")[-1].prev_index == anchor + 10


def test_who_is_too_far_behind_hears_it_once_a_heartbeat(make: MakeHand) -> None:
    """R10: no loop, and no entries that cannot be anchored."""
    hand = make(terms=(1,) * 40, applied=40, trim_below=30)
    term = hand.elect()
    last = hand.appends_to("n2")[-1]
    hand.tell("n2", term, frames.AppendAnswer(last.sequence, last.prev_index, False, 2))
    hand.core.tick()
    probe = hand.appends_to("n2")[-1]
    assert probe.prev_index == 30
    hand.tell("n2", term, frames.AppendAnswer(probe.sequence, probe.prev_index, False, 2))
    before = len(hand.said)
    for _ in range(100):
        hand.wait(0.01)
    told = [s.message for s in hand.said[before:] if s.to == "n2"]
    assert set(told) == {frames.SnapshotRequired(30)}
    assert 9 <= len(told) <= 11


def test_a_log_that_overlaps_needs_no_snapshot(make: MakeHand) -> None:
    """R9: the first entry that is left is tried before a snapshot is called for."""
    hand = make(terms=(1,) * 40, applied=40, trim_below=30)
    term = hand.elect()
    last = hand.appends_to("n2")[-1]
    hand.tell("n2", term, frames.AppendAnswer(last.sequence, last.prev_index, False, 2))
    hand.core.tick()
    hand.confirm("n2")
    assert not any(isinstance(said.message, frames.SnapshotRequired) for said in hand.said)
    assert hand.core.peer_progress()["n2"].match_index > 30


def test_who_got_further_by_a_snapshot_is_not_accused(make: MakeHand) -> None:
    """R13: its log begins behind what it had confirmed, and what it has committed covers that.

    The snapshot was another leader's, on whose log it could not go on.
    """
    hand = make(terms=(1,) * 40, applied=41)
    term = hand.elect()
    last = hand.appends_to("n2")[-1]
    hand.tell("n2", term, frames.AppendAnswer(last.sequence, last.prev_index, True, 21))
    hand.core.disconnected("n2")
    hand.connect("n2")
    hand.core.tick()
    probe = hand.appends_to("n2")[-1]
    assert probe.prev_index == 20
    said = hand.tell("n2", term, frames.AppendAnswer(probe.sequence, 20, False, 31))
    assert not said
    hand.core.tick()
    assert hand.appends_to("n2")[-1].prev_index == 30


def test_a_log_that_is_trimmed_meanwhile_is_tried_once(make: MakeHand) -> None:
    """R9: over a long way every answer finds another first entry, and still is an answer."""
    hand = make(terms=(1,) * 600, applied=601, trim_below=30)
    term = hand.elect()
    last = hand.appends_to("n2")[-1]
    hand.tell("n2", term, frames.AppendAnswer(last.sequence, last.prev_index, False, 2))
    hand.core.tick()
    probe = hand.appends_to("n2")[-1]
    hand.log.trim(40)
    hand.core.propose(b"x")
    hand.sync()
    assert (probe.prev_index, hand.log.first_index) == (30, 40)
    hand.tell("n2", term, frames.AppendAnswer(probe.sequence, probe.prev_index, False, 2))
    hand.core.tick()
    assert [s.message for s in hand.said if s.to == "n2"][-1] == frames.SnapshotRequired(40)


def test_a_wish_that_cannot_be_followed_is_not_kept(make: MakeHand) -> None:
    """E5, E8: who could not campaign when it was asked to does not depose a leader later."""
    hand = make(terms=(1,))
    hand.connect()
    hand.tell("n2", 1, append((2, 1), (3, 1)))
    hand.tell("n2", 1, frames.TimeoutNow())
    for name in ("n2", "n3"):
        hand.core.disconnected(name)
    hand.sync()
    hand.wait(0.1)
    hand.wait(60.0)
    hand.connect()
    hand.wait(2.0)
    asked = [s.message for s in hand.said if isinstance(s.message, frames.VoteRequest)]
    assert not asked
    assert any(isinstance(s.message, frames.PreVoteRequest) for s in hand.said)


def test_a_leader_whose_disk_hangs_falls_silent(make: MakeHand) -> None:
    """Its followers may then elect another; it goes on speaking when the disk answers."""
    hand = make()
    hand.elect()
    hand.core.silent = True
    count = len(hand.said)
    hand.wait(0.5)
    assert len(hand.said) == count
    hand.core.silent = False
    hand.wait(0.01)
    assert len(hand.said) > count


# --- The log and its batches ----------------------------------------------------------------


def test_a_cut_during_a_transaction_is_not_durable(make: MakeHand) -> None:
    """What the transaction under way has written is not what the log holds any more."""
    hand = make(terms=(1, 1))
    log = hand.log
    for index in (4, 5, 6):
        log.append(*command(index, 1))
    batch = log.take()
    log.truncate_from(5)
    log.append(*command(5, 2))
    hand.journal.write(batch)
    log.confirm()
    assert log.durable_index == 4
    hand.sync()
    assert log.durable_index == 5
    assert [term for _, _, term in hand.journal.read(4, 5, 1 << 40)] == [1, 2]


def test_old_entries_come_from_the_disk(make: MakeHand) -> None:
    """R14: memory holds the newest; what is older is read where it is, and cut the same."""
    hand = make(terms=(1,) * 300)
    log = hand.log
    expected = [command(index, 1) for index in range(2, 302)]
    found: list[tuple[bytes, int, int]] = []
    while len(found) < 300:
        found += log.read(len(found) + 2, 301, 500)
    assert found == expected
    assert log.term_at(5) == 1
    log.truncate_from(100)
    assert (log.last_index, log.last) == (99, command(99, 1))
    hand.sync()
    assert log.read(98, 98, 1 << 20) + log.read(99, 99, 1 << 20) == expected[96:98]


@pytest.mark.parametrize(
    ("settings", "first_index"),
    [
        (RaftSettings(tail_entries_max=100), 1002 - 100),
        # Known at every 256th entry: the last one with a tail of 100 KB or more behind it.
        (RaftSettings(tail_bytes_max=100_000), 3 * MARK_EVERY),
    ],
    ids=["entries", "bytes"],
)
def test_the_tail_is_bounded_in_entries_and_in_bytes(
    settings: RaftSettings, first_index: int
) -> None:
    """R9: the tail stays, and nothing goes whose effects are not durable elsewhere."""
    hand = Hand(settings=settings)
    for index in range(2, 1002):
        hand.log.append(b"\x00" + bytes(999), index, 0)
    hand.sync()
    for index, released, expected in ((1002, 500, 500), (1003, 1001, first_index)):
        hand.log.trim(released)
        hand.log.append(*command(index, 0))
        hand.sync()
        assert hand.log.first_index == hand.journal.first_index == expected
    hand.close()
