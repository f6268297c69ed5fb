"""What the leader changes next, so that the members become those that are wanted."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from consensus.configuration import Configuration, Seat, check_change, first_configuration
from consensus.errors import ChangeRefused
from consensus.raft.types import NotLeader
from consensus.state.commands import RemoveMember, SeatDone
from consensus.state.context import Effects
from node.services.steward import Steward, next_configurations
from storage.models import WantedSeat
from tests.support.builders import Lab

THREE = first_configuration({name: f"{name}:7901" for name in ("n1", "n2", "n3")})
SEAT = b"4" * 16


def wishes(configuration: Configuration) -> dict[str, WantedSeat]:
    """What would leave a configuration as it is."""
    return {
        seat.name: WantedSeat(
            address=seat.address,
            role="nonvoting" if seat.role == "nonvoting" else "voter",
            seat_id=seat.seat_id,
        )
        for seat in configuration.seats
    }


def first(before: Configuration, wanted: Mapping[str, WantedSeat]) -> Configuration | None:
    return next(next_configurations(before, wanted), None)


def wish(address: str = "n4:7901", role: str = "voter", seat_id: bytes = SEAT) -> WantedSeat:
    return WantedSeat(address=address, role=role, seat_id=seat_id)  # type: ignore[arg-type]


def test_nothing_is_changed_that_is_as_it_should_be() -> None:
    """A learner on its way to a vote is as it should be."""
    learning = THREE.having(Seat("n4", "n4:7901", "learner", SEAT))
    for configuration in (THREE, learning):
        assert first(configuration, wishes(configuration)) is None


@pytest.mark.parametrize(("role", "begins"), [("voter", "learner"), ("nonvoting", "nonvoting")])
def test_who_is_to_come_begins_without_a_vote(role: str, begins: str) -> None:
    """A vote is given to who has caught up, by the leader's consensus layer."""
    after = first(THREE, wishes(THREE) | {"n4": wish(role=role)})
    assert after == THREE.having(Seat("n4", "n4:7901", begins, SEAT))  # type: ignore[arg-type]


def test_roles_and_addresses_follow() -> None:
    """A member that gets its vote back has to catch up like any other."""
    kept = wishes(THREE)
    demoted = first(THREE, kept | {"n2": wish("n2:7901", "nonvoting", b"")})
    assert demoted == THREE.having(Seat("n2", "n2:7901", "nonvoting"))
    assert demoted is not None
    assert first(demoted, kept) == THREE.having(Seat("n2", "n2:7901", "learner"))
    moved = first(THREE, kept | {"n2": wish("elsewhere:1", "voter", b"")})
    assert moved == THREE.having(Seat("n2", "elsewhere:1", "voter"))


def test_who_comes_comes_first() -> None:
    """A cluster that exchanges its members is never weaker than it has to be."""
    wanted = wishes(THREE) | {"n4": wish()}
    del wanted["n1"]
    found = list(next_configurations(THREE, wanted))
    assert found == [
        THREE.having(Seat("n4", "n4:7901", "learner", SEAT)),
        THREE.without("n1"),
    ]


def test_a_name_that_is_given_to_another_is_removed_first() -> None:
    """The seat of before goes, then the new one comes: never both under one name."""
    wanted = wishes(THREE) | {"n3": wish("n3:7901")}
    assert first(THREE, wanted) == THREE.without("n3")


def test_every_step_is_one_that_may_follow() -> None:
    """From any three to any other three there is a way of permitted steps."""
    before, steps = THREE, 0
    wanted = {name: wish(f"{name}:1", seat_id=name.encode() * 8) for name in ("n3", "n8", "n9")}
    while (after := first(before, wanted)) is not None:
        learners = [seat for seat in after.seats if seat.role == "learner"]
        check_change(before, after)
        for seat in learners:
            promoted = after.having(Seat(seat.name, seat.address, "voter", seat.seat_id))
            check_change(after, promoted)
            after = promoted
        before, steps = after, steps + 1
        assert steps < 20
    assert {(seat.name, seat.seat_id) for seat in before.seats} == {
        (name, seat.seat_id) for name, seat in wanted.items()
    }


# --- The service ----------------------------------------------------------------------------


class Leader:
    """A Raft layer that leads, and says what it was asked for."""

    is_leader = True

    def __init__(self, configuration: Configuration, index: int = 1) -> None:
        self.configuration = configuration
        self.configuration_index = index
        self.applied_index = 1
        self.asked: list[object] = []
        self.refusals: list[Exception] = []

    def change(self, after: Configuration) -> int:
        self.asked.append(after)
        if self.refusals:
            raise self.refusals.pop(0)
        return 1

    def transfer_leadership(self) -> None:
        self.asked.append("transfer")


def steward(lab: Lab, leader: Leader, name: str = "n1") -> Steward:
    return Steward(leader, lab.store, name)  # type: ignore[arg-type]


@pytest.fixture
def lab() -> Lab:
    found = Lab()
    found.machine.apply(1, 1, b"", Effects(), THREE)
    found.machine.finish()
    return found


def test_the_first_leader_writes_down_who_there_is() -> None:
    """From then on the log says it, and no file."""
    leader = Leader(THREE)
    steward(Lab(), leader).run_once()
    assert leader.asked == [THREE]


def test_a_leader_that_is_to_go_hands_over(lab: Lab) -> None:
    """Its successor finds what is left to do."""
    lab.expect(SeatDone, RemoveMember("n1"))
    leader = Leader(THREE)
    steward(lab, leader).run_once()
    assert leader.asked == ["transfer"]
    successor = Leader(THREE)
    steward(lab, successor, "n2").run_once()
    assert successor.asked == [THREE.without("n1")]


def test_what_may_not_be_changed_now_does_not_stop_the_rest(lab: Lab) -> None:
    """A step that is refused waits; another one that is wanted may be possible."""
    lab.expect(SeatDone, RemoveMember("n1"))
    lab.expect(SeatDone, RemoveMember("n2"))
    leader = Leader(THREE)
    leader.refusals = [ChangeRefused("would stand still")]
    steward(lab, leader, "n3").run_once()
    assert leader.asked == [THREE.without("n1"), THREE.without("n2")]
    leader.asked.clear()
    leader.refusals = [NotLeader("n2")]
    steward(lab, leader, "n3").run_once()
    assert leader.asked == [THREE.without("n1")]


def test_a_leader_whose_state_is_behind_its_log_undoes_nothing(lab: Lab) -> None:
    """The log has a newcomer that the state here does not know to be wanted yet."""
    leader = Leader(THREE.having(Seat("n4", "n4:7901", "voter", SEAT)), index=9)
    steward(lab, leader).run_once()
    assert leader.asked == []
    leader.applied_index = 9
    steward(lab, leader).run_once()
    assert leader.asked == [THREE]
