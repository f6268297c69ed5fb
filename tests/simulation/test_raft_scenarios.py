"""Scenarios that chance seldom finds, each with the outcome it has to have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from consensus.errors import Overloaded
from consensus.raft.types import EntryTooLarge, NotLeader
from storage.journal_format import Batch, DiskFailed
from storage.memory_journal import MemoryDisk
from tests.simulation.raft_life import SETTINGS
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


def test_a_state_that_takes_nothing_more_holds_up_those_who_write(make: MakeScene) -> None:
    """What is not applied is in flight, and so the bounds of that hold; later all goes on."""
    scene = make()
    leader = scene.leader_name()
    scene.write_all(leader, 5)
    raft = scene.raft(leader)
    raft._may_apply = lambda: False
    before = raft.applied_index
    commands = scene.write_to(leader, scene.settings.in_flight_entries_max)
    scene.rest(3.0)
    assert raft.is_leader
    assert (raft.applied_index, raft.commit_index) == (before, before + len(commands))
    with pytest.raises(Overloaded):
        raft.propose(b"one too many")
    raft._may_apply = lambda: True
    raft.trim(0)
    scene.until(lambda: set(commands) <= scene.oracle.acknowledged.keys())
    scene.agree()


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
