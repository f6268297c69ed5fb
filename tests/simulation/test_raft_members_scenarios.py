"""Lives of clusters whose members change, each with the outcome it has to have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from consensus.configuration import Configuration, Role, Seat
from consensus.errors import ChangeRefused
from consensus.raft.types import MemberRefused, MemberRemoved
from storage.memory_journal import MemoryDisk
from tests.simulation.growing_world import newcomer
from tests.simulation.membership_mutations import without
from tests.simulation.raft_life import SETTINGS, Remains
from tests.simulation.raft_oracle import SafetyViolated
from tests.simulation.raft_scene import Scene

MakeStage = Callable[..., "Stage"]


class Stage(Scene):
    """A scene whose members change; what a script asks for is done before it goes on."""

    def __init__(self, members: int = 3) -> None:
        super().__init__(members, SETTINGS)
        self.first = frozenset(self.names)

    def change(self, make: Callable[[Configuration], Configuration]) -> None:
        """Have the leader make a change, when it may, and wait until all know it is committed."""
        wanted: Configuration | None = None

        def done() -> bool:
            nonlocal wanted
            leader = self.raft(self.leader_name())
            if wanted is None:
                try:
                    leader.change(make(leader.configuration))
                except ChangeRefused:
                    return False
                wanted = leader.configuration
            return leader.committed_configuration[1] == wanted

        self.until(done)

    def add(self, name: str, role: Role = "learner", seat: bytes = b"") -> None:
        """Add a member with an empty disk, start it, and wait until it has its role."""
        seat_id = seat or name.encode().ljust(16, b"-")
        self.change(lambda before: before.having(Seat(name, f"{name}:7901", role, seat_id)))
        base = self.raft(self.leader_name()).committed_configuration
        self.network.extend(name)
        self.remains[name] = newcomer(name, base, self.first)
        self.fatal.pop(name, None)
        self.start(name)
        if role == "learner":
            self.until(lambda: name in self.configuration.voters)

    def remove(self, name: str) -> None:
        """Remove a member; if it leads, its successor does."""
        if self.leader_name() == name:
            self.raft(name).transfer_leadership()
            self.until(lambda: self.leader_name() != name)
        self.change(lambda before: before.without(name))

    @property
    def configuration(self) -> Configuration:
        return self.raft(self.leader_name()).committed_configuration[1]


@pytest.fixture
def make() -> Iterator[MakeStage]:
    stages: list[Stage] = []

    def make_stage(members: int = 3) -> Stage:
        stages.append(Stage(members))
        return stages[-1]

    yield make_stage
    for stage in stages:
        stage.close()


def test_three_become_five_and_three_again(make: MakeStage) -> None:
    """Newcomers catch up, vote, and carry the cluster when those of the beginning are gone."""
    stage = make()
    stage.write_all(stage.leader_name(), 200)
    stage.add("n4")
    stage.add("n5")
    assert stage.configuration.voters == {"n1", "n2", "n3", "n4", "n5"}
    stage.write_all(stage.leader_name(), 20)
    for name in ("n1", "n2"):
        stage.remove(name)
        stage.until(lambda name=name: name in stage.fatal)  # type: ignore[misc]
        assert isinstance(stage.fatal[name], MemberRemoved)
        stage.kill(name)
    assert stage.configuration.voters == {"n3", "n4", "n5"}
    stage.write_all(stage.leader_name(), 20)
    stage.agree()
    assert set(stage.fatal) == {"n1", "n2"}


def test_a_change_of_the_members_survives_a_power_loss_of_all(make: MakeStage) -> None:
    """E2: everybody finds it in its log or in what the log begins with."""
    stage = make()
    stage.add("n4")
    stage.write_all(stage.leader_name(), 20)
    for name in stage.names:
        stage.kill(name, power_loss=True)
    for name in stage.names:
        stage.start(name)
    stage.until(lambda: len(stage.configuration.voters) == 4)
    stage.write_all(stage.leader_name(), 5)
    stage.agree()


def test_a_member_without_a_vote_replicates_and_outlives_no_majority(make: MakeStage) -> None:
    """It has everything, and without the voters it is no quorum of any kind."""
    stage = make()
    stage.add("n4", "nonvoting")
    commands = stage.write_all(stage.leader_name(), 30)
    stage.until(lambda: commands[-1] in stage.remains["n4"].commands)
    for name in ("n1", "n2", "n3"):
        stage.kill(name)
    stage.rest(5)
    raft = stage.raft("n4")
    assert (raft.is_leader, raft.leader, raft.has_quorum_contact) == (False, None, False)
    assert raft.term <= max(stage.oracle.leaders)


def test_who_was_removed_while_it_was_away_hears_of_it(make: MakeStage) -> None:
    """E3: it disturbs nobody, and stops for good."""
    stage = make(5)
    stage.leader_name()
    stage.kill("n5")
    stage.remove("n5")
    leader = stage.leader_name()
    term = stage.raft(leader).term
    stage.start("n5")
    stage.until(lambda: "n5" in stage.fatal)
    assert isinstance(stage.fatal["n5"], MemberRemoved)
    assert "as of entry" in str(stage.fatal["n5"])
    stage.rest(5)
    assert (stage.leader_name(), stage.raft(leader).term) == (leader, term)


def test_who_missed_every_change_is_found_by_those_it_does_not_know(make: MakeStage) -> None:
    """All that it knew are gone, and the present members let it know."""
    stage = make()
    stage.kill("n3")
    for name in ("n4", "n5", "n6"):
        stage.add(name)
    for name in ("n1", "n2"):
        stage.remove(name)
        stage.until(lambda name=name: name in stage.fatal)  # type: ignore[misc]
        stage.kill(name)
    commands = stage.write_all(stage.leader_name(), 10)
    stage.start("n3")
    stage.until(lambda: commands[-1] in stage.remains["n3"].commands)
    assert "n3" not in stage.fatal
    stage.agree()


def test_an_emptied_disk_is_refused_until_its_name_is_given_away_anew(make: MakeStage) -> None:
    """E7: what it promised is lost; a new seat makes a new member of it."""
    stage = make()
    stage.write_all(stage.leader_name(), 20)
    kept = stage.remains["n3"]
    stage.kill("n3")
    stage.remains["n3"] = Remains(
        name="n3", voters=stage.first, disk=MemoryDisk(b"another disk....")
    )
    stage.start("n3")
    stage.until(lambda: "n3" in stage.fatal)
    assert isinstance(stage.fatal["n3"], MemberRefused)
    stage.kill("n3")
    stage.remove("n3")
    stage.add("n3", seat=b"of its own......")
    stage.agree()
    # The disk of before comes back, and is not taken for the present one.
    present = stage.remains["n3"]
    stage.kill("n3")
    stage.remains["n3"] = kept
    stage.fatal.clear()
    stage.start("n3")
    stage.until(lambda: "n3" in stage.fatal)
    assert isinstance(stage.fatal["n3"], MemberRemoved)
    stage.kill("n3")
    stage.remains["n3"] = present
    stage.fatal.clear()
    stage.start("n3")
    stage.write_all(stage.leader_name(), 5)
    stage.agree()
    assert not stage.fatal


def test_a_member_that_was_added_is_found_at_its_new_address(make: MakeStage) -> None:
    """A move is a change like any other, and costs nobody a vote."""
    stage = make()
    stage.change(lambda before: before.having(Seat("n3", "elsewhere:1", "voter")))
    stage.write_all(stage.leader_name(), 5)
    stage.agree()
    assert {stage.raft(n).configuration.seat("n3") for n in stage.names} == {
        Seat("n3", "elsewhere:1", "voter")
    }


def shrink_alone(stage: Stage) -> None:
    """Let a leader that is cut off remove the others one by one, and write."""
    old = stage.leader_name()
    stage.write_all(old, 5)
    others = [name for name in stage.names if name != old]
    stage.isolate(old)
    for name in others:
        try:
            stage.raft(old).change(stage.raft(old).configuration.without(name))
        except ChangeRefused:
            stage.oracle.counts["refused_changes"] += 1
    stage.write_to(old, 5)
    stage.until(lambda: any(stage.raft(name).is_leader for name in others))
    stage.write_all(next(n for n in others if stage.raft(n).is_leader), 5)
    stage.rest(SETTINGS.election_max_s)
    stage.network.heal()
    stage.agree()


def test_a_leader_that_is_cut_off_makes_no_majority_of_itself(make: MakeStage) -> None:
    """E1: the second removal waits for the first, which waits for the others."""
    stage = make()
    shrink_alone(stage)
    assert stage.oracle.counts["refused_changes"] == 1
    assert not stage.fatal


def test_two_removals_at_once_would_confirm_writes_on_both_sides(make: MakeStage) -> None:
    """E1: the proof that the rule is needed."""
    with without("changes_at_once"), pytest.raises((SafetyViolated, AssertionError)):
        shrink_alone(make())
