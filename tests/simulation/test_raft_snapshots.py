"""Members that were away for longer than the log reaches back, and how they come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from consensus import frames
from consensus.raft.types import RaftSettings
from storage.invariant import InvariantViolated
from storage.snapshot_memory import MemoryStream
from tests.simulation.raft_hand import Hand, command
from tests.simulation.raft_life import SETTINGS
from tests.simulation.raft_scene import Scene

SHORT = replace(SETTINGS, tail_entries_max=50)
# A transfer of the states below takes some seconds.
SLOW = replace(SHORT, snapshot_bytes_per_s=150_000)


class Make:
    """Makes clusters, and single members driven by hand, that are closed with the test."""

    def __init__(self) -> None:
        self.made: list[Scene | Hand] = []

    def __call__(self, members: int = 3, settings: RaftSettings = SHORT) -> Scene:
        scene = Scene(members, settings)
        self.made.append(scene)
        return scene

    def hand(self, terms: tuple[int, ...]) -> Hand:
        hand = Hand(terms=terms, snapshots=True)
        self.made.append(hand)
        return hand


@contextmanager
def making() -> Iterator[Make]:
    """Close what was made when the block ends."""
    maker = Make()
    try:
        yield maker
    finally:
        for made in maker.made:
            made.close()


@pytest.fixture
def make() -> Iterator[Make]:
    with making() as maker:
        yield maker


def others(scene: Scene, *names: str) -> list[str]:
    return [name for name in scene.names if name not in names]


def trim(scene: Scene) -> None:
    """Flush the state of everybody, and let the log go as far as it may."""
    for name, life in scene.lives.items():
        scene.remains[name].flushed = len(scene.remains[name].state)
        life.trim()


def write_past_the_tail(scene: Scene, leader: str, count: int = 300) -> None:
    """Write so much that whoever is down needs a snapshot."""
    scene.write_all(leader, count)
    for _ in range(3):
        trim(scene)
        scene.write_all(leader, 5)
    assert scene.raft(leader).first_index > count // 2


def leave_behind(scene: Scene, *, kill: int = 1) -> tuple[str, list[str]]:
    """Return the leader, and members that were down for too long and have just come back."""
    leader = scene.leader_name()
    away = others(scene, leader)[:kill]
    scene.write_all(leader, 5)
    for name in away:
        scene.kill(name)
    write_past_the_tail(scene, leader)
    for name in away:
        scene.start(name)
    return leader, away


def installed(scene: Scene) -> int:
    return scene.oracle.counts["snapshots_installed"]


def sent(scene: Scene, name: str) -> int:
    return scene.raft(name).snapshots.counts.bytes_sent


def caught_up(scene: Scene, name: str, leader: str) -> bool:
    return name in scene.lives and bool(
        scene.raft(name).applied_index == scene.raft(leader).applied_index
    )


# --- Rules ------------------------------------------------------------------------------------


def test_a_demand_for_a_snapshot_commits_nothing(make: Make) -> None:
    """R1: entries behind the snapshot may not be the leader's, so none of them is committed."""
    hand = make.hand((1, 1, 1))
    before = hand.core.commit_index
    hand.tell("n2", 1, frames.SnapshotRequired(3))
    assert hand.core.commit_index == before == 1
    assert [entry.index for entry in hand.core.committed()] == [1]
    assert hand.behind == ["n2"]


def test_a_demand_for_a_snapshot_is_the_voice_of_a_leader(make: Make) -> None:
    """Its term counts, it is heard, and two of them in one term are one too many (E9)."""
    hand = make.hand((1, 1))
    hand.connect()
    hand.tell("n2", 4, frames.SnapshotRequired(90))
    assert (hand.core.term, hand.core.leader) == (4, "n2")
    assert hand.tell("n3", 9, frames.VoteRequest(50, 1, False)) == []
    with pytest.raises(InvariantViolated, match="A term has one leader"):
        hand.tell("n3", 4, frames.SnapshotRequired(90))


def test_who_does_not_follow_the_log_does_not_know_how_far_it_is(make: Make) -> None:
    """In step is who has matched an append in this life, and until a snapshot is needed."""
    hand = make.hand((1, 1))
    hand.connect()
    assert hand.core.lag is None
    hand.tell("n2", 1, frames.Append(1, 9, 1, 9, []))
    assert hand.core.lag is None
    hand.tell("n2", 1, frames.Append(2, 3, 1, 9, []))
    assert hand.core.lag == 9
    hand.tell("n2", 1, frames.SnapshotRequired(9))
    assert hand.core.lag is None


def test_an_append_that_matches_ends_the_need(make: Make) -> None:
    """Another leader whose log reaches further back goes on with the log."""
    hand = make.hand((1, 1))
    hand.tell("n2", 1, frames.SnapshotRequired(90))
    hand.tell("n3", 2, frames.Append(1, 3, 1, 0, [command(4, 2)]))
    hand.tell("n3", 2, frames.Append(2, 4, 2, 0, []))
    assert hand.behind == ["n2", None]


def test_what_was_confirmed_and_trimmed_is_asked_again(make: Make) -> None:
    """A follower may have got further by a snapshot, in the same term and over a new session."""
    hand = make.hand((1,) * 3)
    hand.elect()
    hand.confirm("n2")
    for _ in range(600):
        hand.core.propose(b"x")
        hand.sync()
        hand.confirm("n3")
        hand.core.tick()
    hand.core.applied(hand.core.commit_index)
    hand.log.trim(500)
    hand.core.propose(b"x")
    hand.sync()
    assert hand.log.first_index > hand.core.peer_progress()["n2"].match_index
    hand.core.disconnected("n2")
    hand.connect("n2")
    hand.core.tick()
    assert hand.appends_to("n2")[-1].prev_index == hand.log.first_index


# --- Scenarios ----------------------------------------------------------------------------------


def test_a_member_that_was_away_for_too_long_comes_back(make: Make) -> None:
    """R9, R10: by a snapshot, once, and the leader neither spins nor changes."""
    scene = make()
    leader, (away,) = leave_behind(scene)
    frames_before = scene.network.frames
    scene.until(lambda: caught_up(scene, away, leader))
    assert installed(scene) == 1
    assert scene.network.frames - frames_before < 1500
    scene.write_all(leader, 20)
    scene.agree()
    assert scene.raft(leader).is_leader
    assert not scene.fatal


def test_two_members_come_back_one_after_the_other(make: Make) -> None:
    """One is served at a time, and nobody waits for one that is through or gone."""
    scene = make(5)
    leader, away = leave_behind(scene, kill=2)
    scene.until(lambda: all(caught_up(scene, name, leader) for name in away))
    assert installed(scene) == 2
    scene.agree()


def test_a_member_that_waits_is_served_when_another_falls_silent(make: Make) -> None:
    """The place of a follower that was killed is taken long before its transfer would end."""
    scene = make(5, SLOW)
    leader, (first, second) = leave_behind(scene, kill=2)
    scene.until(lambda: sent(scene, leader) > 0)
    served, waits = first, second
    if scene.raft(second).snapshots.received_bytes:
        served, waits = second, first
    scene.kill(served)
    scene.until(lambda: caught_up(scene, waits, leader), SLOW.snapshot_silence_s_max)
    scene.start(served)
    scene.until(lambda: caught_up(scene, served, leader))
    scene.agree()


def test_a_connection_that_breaks_costs_what_was_under_way(make: Make) -> None:
    """The transfer goes on with the first chunk that is not stored."""
    scene = make(settings=SLOW)
    leader, (away,) = leave_behind(scene)
    for part in range(1, 5):
        scene.until(lambda part=part: sent(scene, leader) > part * 60_000)  # type: ignore[misc]
        scene.network.reset(leader, away)
    scene.until(lambda: caught_up(scene, away, leader))
    size = sum(len(command) for command in scene.remains[leader].commands)
    assert sent(scene, leader) < size + 8 * SLOW.snapshot_window_bytes
    assert installed(scene) == 1
    scene.agree()


@pytest.mark.parametrize("power_loss", [False, True])
def test_a_receiver_that_is_killed_begins_anew(make: Make, power_loss: bool) -> None:
    """Half a snapshot is nothing."""
    scene = make(settings=SLOW)
    leader, (away,) = leave_behind(scene)
    scene.until(lambda: scene.raft(away).snapshots.received_bytes > 100_000)
    scene.kill(away, power_loss=power_loss)
    scene.start(away)
    scene.until(lambda: caught_up(scene, away, leader))
    assert installed(scene) == 1
    scene.agree()


def test_a_leader_that_is_killed_is_replaced_as_the_source(make: Make) -> None:
    """Another member has the same state, and begins with a snapshot of its own."""
    scene = make(5, SLOW)
    leader, (away,) = leave_behind(scene)
    scene.until(lambda: scene.raft(away).snapshots.received_bytes > 100_000)
    scene.kill(leader)
    winner = scene.leader_name()
    scene.until(lambda: caught_up(scene, away, winner))
    scene.start(leader)
    scene.write_all(winner, 5)
    scene.agree()


def test_a_member_that_is_behind_keeps_its_leader(make: Make) -> None:
    """Of three, one is dead and one fetches a snapshot: its requests show that it is there."""
    scene = make(settings=SLOW)
    leader, (away,) = leave_behind(scene)
    scene.until(lambda: sent(scene, leader) > 0)
    scene.kill(others(scene, leader, away)[0])
    term = scene.raft(leader).term
    took = scene.until(lambda: caught_up(scene, away, leader))
    assert took > SLOW.election_max_s
    assert scene.raft(leader).term == term
    scene.write_all(leader, 5)


def test_the_log_behind_a_snapshot_is_kept(make: Make) -> None:
    """What is written and trimmed during the transfer does not call for a second one."""
    scene = make(settings=SLOW)
    leader, (away,) = leave_behind(scene)
    scene.until(lambda: sent(scene, leader) > 0)
    for _ in range(15):
        scene.write_all(leader, 10)
        trim(scene)
    assert away in scene.lives
    assert scene.raft(away).snapshots.receiving
    scene.until(lambda: caught_up(scene, away, leader))
    assert installed(scene) == 1
    scene.agree()


def test_what_is_kept_for_a_receiver_is_bounded(make: Make) -> None:
    """A follower that is stuck does not fill the leader's disk."""
    scene = make(settings=SLOW)
    leader, (away,) = leave_behind(scene)
    scene.until(lambda: sent(scene, leader) > 0)
    scene.network.block(leader, away)
    for _ in range(10):
        scene.write_all(leader, 50)
        trim(scene)
    scene.write_all(leader, 5)
    raft = scene.raft(leader)
    assert raft.last_index - raft.first_index < 6 * SLOW.tail_entries_max
    scene.network.heal()
    scene.until(lambda: caught_up(scene, away, leader), 60)
    scene.agree()


def test_the_leader_serves_while_it_sends(make: Make) -> None:
    """A write during a transfer takes as long as any other."""
    scene = make(settings=SLOW)
    leader, (away,) = leave_behind(scene)
    scene.until(lambda: sent(scene, leader) > 0)
    slowest = 0.0
    while away in scene.lives and scene.raft(away).snapshots.receiving:
        (written,) = scene.write_to(leader)
        slowest = max(slowest, scene.until(lambda w=written: w in scene.oracle.acknowledged))  # type: ignore[misc]
        scene.rest(0.05)
    assert 0 < slowest < 0.05


@contextmanager
def damaged_chunks(count: int) -> Iterator[None]:
    """Change a byte of a command in the first snapshots that are sent."""
    original = MemoryStream.next_chunk
    left = count

    def next_chunk(self: MemoryStream) -> bytes | None:
        nonlocal left
        chunk = original(self)
        if left and chunk is not None and (place := chunk.find(b"command ")) >= 0:
            left -= 1
            return chunk[:place] + b"C" + chunk[place + 1 :]
        return chunk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStream, "next_chunk", next_chunk)
        yield


def test_a_damaged_snapshot_is_fetched_again(make: Make) -> None:
    """R4: a chunk that changed on its way installs nothing; the next transfer is whole."""
    scene = make()
    with damaged_chunks(1):
        leader, (away,) = leave_behind(scene)
        scene.until(lambda: caught_up(scene, away, leader))
    assert installed(scene) == 1
    scene.agree()


def test_a_snapshot_that_is_not_ahead_ends_nothing(make: Make) -> None:
    """R5: what the member has already, by the log, is not replaced by less."""
    scene = make(settings=SLOW)
    leader, (away,) = leave_behind(scene)
    scene.until(lambda: scene.raft(away).snapshots.received_bytes > 50_000)
    receiver = scene.raft(away).snapshots._receiver
    assert receiver is not None
    receiver._position = lambda: 1_000_000
    scene.until(lambda: scene.raft(away).snapshots.counts.transfers_failed)
    assert not scene.raft(away).snapshots.received_bytes
    assert installed(scene) == 0
    receiver._position = lambda: 0
    scene.until(lambda: caught_up(scene, away, leader))
    scene.agree()


@contextmanager
def watched_streams() -> Iterator[list[MemoryStream]]:
    """Collect every stream of a state that is opened, whoever sends it."""
    opened: list[MemoryStream] = []
    original = MemoryStream.__init__

    def init(self: MemoryStream, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        opened.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStream, "__init__", init)
        yield opened


def test_a_leader_that_leads_no_more_lets_the_state_go(make: Make) -> None:
    """A read transaction that nobody ends would keep old pages for ever."""
    with watched_streams() as opened:
        scene = make(5, SLOW)
        leader, (away,) = leave_behind(scene)
        scene.until(lambda: scene.raft(leader).snapshots.sending)
        scene.isolate(leader)
        scene.until(lambda: not scene.raft(leader).is_leader)
        scene.until(lambda: opened[0].closed)
        assert scene.raft(leader).snapshots.sending == 0
        scene.network.heal()
        winner = scene.leader_name()
        scene.until(lambda: caught_up(scene, away, winner))
        scene.rest(1)
        assert all(stream.closed for stream in opened)


def test_a_transfer_that_takes_too_long_is_ended(make: Make) -> None:
    """Its transaction keeps old pages, so it has a bound; the follower begins another."""
    with watched_streams() as opened:
        scene = make(settings=replace(SLOW, snapshot_age_s_max=1.0))
        leader, (away,) = leave_behind(scene)
        scene.until(lambda: len(opened) > 2)
        assert [stream.closed for stream in opened[:2]] == [True, True]
        assert scene.raft(away).snapshots.counts.transfers_failed == 0
        assert scene.raft(leader).is_leader
        assert installed(scene) == 0


def test_a_member_that_stops_ends_its_transfers(make: Make) -> None:
    """In order: nobody reads the state when `stop` has returned."""
    with watched_streams() as opened:
        scene = make(settings=SLOW)
        leader, _ = leave_behind(scene)
        scene.until(lambda: scene.raft(leader).snapshots.sending)
        scene.loop.run_until_complete(scene.raft(leader).stop())
        assert opened[0].closed
        scene.lives.pop(leader)


def test_a_member_that_begins_again_and_again_holds_no_more_than_one_state(make: Make) -> None:
    """Each is a read transaction, of which a store has few; those before it have to end first."""
    with watched_streams() as opened:
        scene = make(settings=SLOW)
        leader, (away,) = leave_behind(scene)
        scene.until(lambda: scene.raft(leader).snapshots.sending)
        sender = scene.raft(leader).snapshots._sender
        assert sender is not None

        async def begin_often() -> int:
            for number in range(50):
                sender.requested(away, frames.SnapshotRequest(b"%016d" % number, 0, False))
            return sum(not stream.closed for stream in opened)

        assert scene.loop.run_until_complete(begin_often()) <= 1
        scene.until(lambda: caught_up(scene, away, leader), seconds=60)
