"""Scenarios that chance seldom finds, each with the outcome it has to have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from consensus.raft_types import EntryTooLarge, MemberRefused, NotLeader
from storage.journal_format import Batch, DiskFailed
from storage.memory_journal import MemoryDisk
from tests.simulation.raft_life import SETTINGS
from tests.simulation.raft_mutations import mutated
from tests.simulation.raft_scene import Scene

MakeScene = Callable[..., Scene]


@contextmanager
def making() -> Iterator[MakeScene]:
    """Give what the tests here begin with, and close it afterwards."""
    scenes: list[Scene] = []

    def make_scene(*arguments: object, **options: object) -> Scene:
        scenes.append(Scene(*arguments, **options))  # type: ignore[arg-type]
        return scenes[-1]

    try:
        yield make_scene
    finally:
        for scene in scenes:
            scene.close()


@pytest.fixture
def make() -> Iterator[MakeScene]:
    with making() as make_scene:
        yield make_scene


def others(scene: Scene, *names: str) -> list[str]:
    return [name for name in scene.names if name not in names]


def test_one_voter_leads_itself(make: MakeScene) -> None:
    """A cluster of one takes commands as soon as they are on its disk."""
    scene = make(1)
    scene.write_all(scene.leader_name(), 5)
    assert scene.raft("n1").progress == {}
    assert scene.raft("n1").has_quorum_contact
    scene.agree()


def test_what_a_cut_off_leader_accepted_is_never_applied_anywhere(make: MakeScene) -> None:
    """R1: it rejoins with a tail of its own, and the tail gives way to the others' log."""
    scene = make(5)
    old = scene.leader_name()
    scene.write_all(old, 20)
    scene.isolate(old)
    lost = scene.write_to(old, 30)
    new = scene.until(lambda: any(scene.raft(n).is_leader for n in others(scene, old)))
    assert new < 3
    winner = next(name for name in others(scene, old) if scene.raft(name).is_leader)
    scene.write_all(winner, 60)
    scene.network.heal()
    scene.agree()
    assert not set(lost) & set(scene.remains[old].commands)
    assert not set(lost) & set(scene.oracle.acknowledged)
    assert not scene.fatal


def test_a_cut_off_leader_knows_that_it_is_alone(make: MakeScene) -> None:
    """E6: contact is lost within the longest election timeout, and leadership with it."""
    scene = make()
    old = scene.leader_name()
    scene.isolate(old)
    scene.until(lambda: not scene.raft(old).has_quorum_contact, SETTINGS.election_max_s + 0.1)
    scene.until(lambda: not scene.raft(old).is_leader, SETTINGS.heartbeat_s + 0.1)
    with pytest.raises(NotLeader):
        scene.raft(old).propose(b"x")
    assert scene.raft(old).leader is None


def test_a_leader_that_was_stopped_for_a_while_confirms_nothing_stale(make: MakeScene) -> None:
    """SIGSTOP and SIGCONT: what it takes first on waking is applied nowhere."""
    scene = make()
    old = scene.leader_name()
    scene.write_all(old, 5)
    scene.lives[old].pause(5.0)
    scene.until(lambda: any(scene.raft(name).is_leader for name in others(scene, old)))
    winner = next(name for name in others(scene, old) if scene.raft(name).is_leader)
    scene.write_all(winner, 20)
    scene.rest(SETTINGS.election_max_s)
    # It has not woken; a command that it takes now is the first thing it does.
    stale = [scene.write(scene.lives[old]) for _ in range(3)]
    assert not scene.raft(old).has_quorum_contact
    scene.rest(10)
    scene.agree()
    assert not set(stale) & set(scene.oracle.acknowledged)
    assert scene.raft(winner).is_leader


def diverge(scene: Scene, count: int) -> str:
    """Give a leader a tail of its own while the others go on; return its name."""
    old = scene.leader_name()
    scene.write_all(old, 10)
    scene.isolate(old)
    scene.write_to(old, 30)
    scene.until(lambda: any(scene.raft(name).is_leader for name in others(scene, old)))
    winner = next(name for name in others(scene, old) if scene.raft(name).is_leader)
    scene.write_all(winner, count)
    # Over new connections nothing is left of what was under way.
    for name in others(scene, old):
        scene.network.reset(old, name)
    return old


def test_a_long_difference_is_made_up_in_a_moment(make: MakeScene) -> None:
    """R8, R15: one refusal is enough, whatever the length of the two tails."""
    scene = make()
    old = diverge(scene, 600)
    scene.network.heal()
    scene.until(lambda: scene.raft(old).leader in others(scene, old))
    target = max(scene.raft(name).commit_index for name in scene.names)
    assert scene.until(lambda: scene.raft(old).applied_index >= target) < 2
    scene.agree()


def test_answers_that_took_two_elections_commit_nothing(make: MakeScene) -> None:
    """R3: a slow link delivers old confirmations to a leader of a newer term."""
    scene = make(5)
    old = scene.leader_name()
    scene.write_all(old, 5)
    for name in others(scene, old):
        scene.network.links[name, old].latency_s = 2.5
    scene.write_to(old, 10)
    scene.until(lambda: not scene.raft(old).is_leader)
    scene.rest(5)
    scene.network.heal()
    scene.write_all(scene.leader_name(), 5)
    scene.agree()


def test_one_broken_link_deposes_no_leader(make: MakeScene) -> None:
    """E5: a follower that does not hear the leader asks in vain, for a minute."""
    scene = make()
    leader = scene.leader_name()
    term = scene.raft(leader).term
    deaf = others(scene, leader)[0]
    scene.network.block(leader, deaf)
    scene.network.block(deaf, leader)
    for _ in range(60):
        scene.write_to(leader)
        scene.rest(1)
    assert scene.raft(leader).is_leader
    assert {scene.raft(name).term for name in scene.names} == {term}
    scene.network.heal()
    scene.agree()


def test_without_asking_first_one_broken_link_costs_the_leader(make: MakeScene) -> None:
    """E5: the same without pre-votes and loyalty, which shows that they matter."""
    scene = make()
    leader = scene.leader_name()
    term = scene.raft(leader).term
    deaf = others(scene, leader)[0]
    scene.network.block(leader, deaf)
    scene.network.block(deaf, leader)
    with mutated("no_pre_vote"):
        scene.rest(60)
    assert max(scene.raft(name).term for name in scene.names) > term
    assert scene.oracle.leaders[max(scene.oracle.leaders)] != leader


def test_a_returning_member_keeps_the_leader(make: MakeScene) -> None:
    """E5: hours of silence raise no term."""
    scene = make()
    leader = scene.leader_name()
    away = others(scene, leader)[0]
    scene.isolate(away)
    term = scene.raft(leader).term
    scene.rest(60)
    scene.network.heal()
    scene.rest(5)
    assert scene.raft(leader).is_leader
    assert scene.raft(away).term == term


def test_a_link_that_works_one_way_leaves_one_leader_that_commits(make: MakeScene) -> None:
    """A leader that is heard but hears nothing gives up, and another takes over."""
    scene = make()
    old = scene.leader_name()
    for name in others(scene, old):
        scene.network.block(name, old)
    scene.until(lambda: any(scene.raft(name).is_leader for name in others(scene, old)))
    winner = next(name for name in others(scene, old) if scene.raft(name).is_leader)
    scene.write_all(winner, 5)
    scene.network.heal()
    scene.agree()


def test_nothing_is_confirmed_before_the_disks_have_it(make: MakeScene) -> None:
    """D1: followers that have an entry in memory alone do not make it acknowledged."""
    scene = make()
    leader = scene.leader_name()
    scene.write_all(leader, 5)
    for name in others(scene, leader):
        scene.remains[name].sync_s = (0.3, 0.3)
    (command,) = scene.write_to(leader)
    scene.rest(0.2)
    assert command not in scene.oracle.acknowledged
    for name in others(scene, leader):
        scene.kill(name, power_loss=True)
        scene.start(name)
    assert command not in scene.oracle.acknowledged
    scene.agree()


@pytest.mark.parametrize("count", [1, 3])
def test_a_power_loss_takes_nothing_that_was_acknowledged(make: MakeScene, count: int) -> None:
    """G1: not from one member, and not from all at once, in the middle of writing."""
    scene = make()
    for _ in range(5):
        leader = scene.leader_name()
        scene.write_to(leader, 20)
        scene.rest(0.004)
        victims = [leader, *others(scene, leader)][:count]
        for name in victims:
            scene.kill(name, power_loss=True)
        for name in victims:
            scene.start(name)
    scene.write_all(scene.leader_name(), 5)
    scene.agree()


def test_a_leader_whose_disk_hangs_is_replaced(make: MakeScene) -> None:
    """It falls silent, the others elect, and its late entries are not the cluster's."""
    scene = make()
    old = scene.leader_name()
    scene.write_all(old, 5)
    scene.remains[old].sync_s = (30.0, 30.0)
    scene.write_to(old, 3)
    took = scene.until(lambda: any(scene.raft(name).is_leader for name in others(scene, old)))
    assert took < 3 * SETTINGS.election_max_s
    winner = next(name for name in others(scene, old) if scene.raft(name).is_leader)
    scene.write_all(winner, 5)
    scene.remains[old].sync_s = (0.001, 0.002)
    scene.rest(40)
    scene.agree()


def test_a_disk_that_fails_ends_the_member_and_nothing_else(
    make: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G12: no message leaves it any more, its reason is handed on, and the others go on."""
    scene = make()
    broken = scene.leader_name()
    scene.write_all(broken, 5)
    write = MemoryDisk.write

    def fail(disk: MemoryDisk, batch: Batch) -> None:
        if disk is scene.remains[broken].disk:
            raise DiskFailed("no space left")
        write(disk, batch)

    monkeypatch.setattr(MemoryDisk, "write", fail)
    lost = scene.write_to(broken, 1)
    scene.until(lambda: broken in scene.fatal)
    assert isinstance(scene.fatal[broken], DiskFailed)
    assert not scene.raft(broken).is_leader
    assert scene.raft(broken).send(others(scene, broken)[0], b"x") is False
    scene.kill(broken)
    scene.write_all(scene.leader_name(), 5)
    assert not set(lost) & set(scene.oracle.acknowledged)


def test_a_member_with_another_disk_is_refused(make: MakeScene) -> None:
    """E7: what it promised before is gone, so it may not vote as if it were the same."""
    scene = make()
    leader = scene.leader_name()
    scene.write_all(leader, 5)
    wiped = others(scene, leader)[0]
    scene.kill(wiped)
    scene.remains[wiped].disk = MemoryDisk(b"another".ljust(16, b"."))
    scene.remains[wiped].state = []
    scene.remains[wiped].flushed = 0
    scene.start(wiped)
    scene.until(lambda: wiped in scene.fatal)
    assert isinstance(scene.fatal[wiped], MemberRefused)
    assert "not the one this cluster knows it by" in str(scene.fatal[wiped])
    scene.write_all(leader, 5)


def test_what_an_old_connection_brings_is_not_heard(make: MakeScene) -> None:
    """T6: a frame that was sent before a reset, and comes after it, counts for nothing."""
    scene = make()
    leader = scene.leader_name()
    follower = others(scene, leader)[0]
    late: list[bytes] = []

    def keep(sender: str, receiver: str, frame: bytes) -> None:
        if (sender, receiver) == (leader, follower) and len(frame) > 2000:
            late.append(frame)

    scene.network.observe = keep
    scene.write_all(leader, 30)
    scene.network.observe = None
    scene.network.reset(leader, follower)
    scene.until(lambda: follower in scene.raft(leader).connected)
    dropped = scene.raft(follower)._transport.dropped
    assert dropped.get("epoch", 0) == 0
    scene.network.inject(leader, follower, late[-1])
    assert dropped.get("epoch", 0) == 1
    scene.agree()


def test_leadership_is_handed_over_without_a_pause(make: MakeScene) -> None:
    """E8: no timeout has to pass, and no command is taken meanwhile."""
    scene = make()
    old = scene.leader_name()
    scene.write_all(old, 5)
    target = others(scene, old)[1]
    term = scene.raft(old).term
    scene.raft(old).transfer_leadership(target)
    with pytest.raises(NotLeader):
        scene.raft(old).propose(b"x")
    assert scene.until(lambda: scene.raft(target).is_leader) < 0.2
    assert scene.raft(target).term == term + 1
    scene.write_all(target, 5)
    scene.agree()


def test_a_transfer_to_nobody_ends_by_itself(make: MakeScene) -> None:
    """E8: the leader leads on when its successor cannot be reached."""
    scene = make()
    leader = scene.leader_name()
    scene.write_all(leader, 5)
    gone = others(scene, leader)[0]
    scene.kill(gone)
    scene.raft(leader).transfer_leadership(gone)
    scene.rest(SETTINGS.election_max_s + 0.3)
    scene.write_all(leader, 1)
    with pytest.raises(ValueError, match="no other voter"):
        scene.raft(leader).transfer_leadership("n9")


def test_a_leader_that_stops_leaves_a_leader_behind(make: MakeScene) -> None:
    """Stopping hands leadership over first; the others do not wait for a timeout."""
    scene = make()
    old = scene.leader_name()
    scene.write_all(old, 5)
    scene.loop.run_until_complete(scene.raft(old).stop())
    scene.loop.run_until_complete(scene.raft(old).stop())
    scene.lives.pop(old)
    assert scene.until(lambda: any(scene.raft(name).is_leader for name in scene.lives)) < 0.2


def test_messages_reach_other_members_past_the_journal(make: MakeScene) -> None:
    """The side channel works while the disk hangs, and says when it does not work."""
    scene = make()
    leader = scene.leader_name()
    follower = others(scene, leader)[0]
    scene.remains[follower].sync_s = (5.0, 5.0)
    scene.write_to(leader, 3)
    scene.rest(0.1)
    assert scene.raft(follower).send(leader, b"hello")
    scene.rest(0.1)
    life = scene.lives[leader]
    assert getattr(life, "heard", None) == [(follower, b"hello")]
    assert scene.raft(follower).send("n9", b"x") is False
    with pytest.raises(EntryTooLarge):
        scene.raft(follower).send(leader, bytes(SETTINGS.entry_bytes_max + 1))


def test_a_leader_refuses_what_it_cannot_take(make: MakeScene) -> None:
    """G16: too large, empty, or too much at once is refused, and nothing is appended."""
    scene = make()
    leader = scene.raft(scene.leader_name())
    last = leader.last_index
    with pytest.raises(EntryTooLarge):
        leader.propose(bytes(SETTINGS.entry_bytes_max + 1))
    with pytest.raises(ValueError, match="empty command"):
        leader.propose(b"")
    assert leader.last_index == last
    assert leader.propose(bytes(SETTINGS.entry_bytes_max)) == last + 1
    refused = scene.oracle.counts["refused"]
    for _ in range(100):
        scene.write(scene.lives[scene.leader_name()])
    assert scene.oracle.counts["refused"] > refused
    assert leader.in_flight_entries <= SETTINGS.in_flight_entries_max
    scene.agree()
