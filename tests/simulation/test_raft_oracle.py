"""The checks can fail: each kind of damage to a history is objected to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consensus.raft.types import Entry
from tests.simulation.raft_life import RaftLife
from tests.simulation.raft_options import Options
from tests.simulation.raft_oracle import Oracle, SafetyViolated
from tests.simulation.raft_world import World

States = dict[str, list[bytes]]


@pytest.fixture(scope="module")
def history() -> tuple[Oracle, States]:
    """A run in which nothing went wrong, with what its members have at the end."""
    world = World(Options(seed=1, seconds=5.0))
    oracle = world.run()
    return oracle, world.states


def copy(states: States) -> States:
    return {name: list(commands) for name, commands in states.items()}


def lose(commands: list[bytes], oracle: Oracle) -> None:
    commands.remove(next(iter(oracle.acknowledged)))


def double(commands: list[bytes], oracle: Oracle) -> None:
    commands.append(next(iter(oracle.acknowledged)))


def reorder(commands: list[bytes], oracle: Oracle) -> None:
    commands[3], commands[7] = commands[7], commands[3]


def change(commands: list[bytes], oracle: Oracle) -> None:
    commands[5] = commands[5][:-1] + b"?"


def test_a_good_history_is_accepted(history: tuple[Oracle, States]) -> None:
    """What follows is refused because of the damage and not in any case."""
    oracle, states = history
    assert len(oracle.acknowledged) > 20
    oracle.check_end(copy(states))


@pytest.mark.parametrize("damage", [lose, double, reorder, change])
def test_damage_to_one_member_is_objected_to(
    history: tuple[Oracle, States], damage: Callable[[list[bytes], Oracle], None]
) -> None:
    """S1: members that differ in anything have diverged."""
    oracle, states = history
    damaged = copy(states)
    damage(damaged["n2"], oracle)
    with pytest.raises(SafetyViolated, match="differ"):
        oracle.check_end(damaged)


@pytest.mark.parametrize("damage", [lose, double, change])
def test_damage_to_all_members_alike_is_objected_to(
    history: tuple[Oracle, States], damage: Callable[[list[bytes], Oracle], None]
) -> None:
    """S3: members that agree have lost an acknowledged write all the same, or doubled it."""
    oracle, states = history
    damaged = copy(states)
    for commands in damaged.values():
        damage(commands, oracle)
    with pytest.raises(SafetyViolated, match="not in the state exactly once"):
        oracle.check_end(damaged)


def test_two_leaders_of_one_term_are_objected_to() -> None:
    """S2: at most one a term, and the same one as often as it likes."""
    oracle = Oracle()
    oracle.leads("n1", 4)
    oracle.leads("n1", 4)
    oracle.leads("n2", 5)
    with pytest.raises(SafetyViolated, match="Both n1 and n2 lead in term 4"):
        oracle.leads("n2", 4)


def test_different_bytes_at_one_index_are_objected_to() -> None:
    """S1: at the very step, and not only at the end."""
    oracle = Oracle()
    oracle.applied("n1", 7, b"this")
    oracle.applied("n2", 7, b"this")
    with pytest.raises(SafetyViolated, match="at index 7"):
        oracle.applied("n3", 7, b"that")


def test_an_acknowledgement_of_something_else_is_objected_to() -> None:
    """S3: what a client was told about an index is what stands there."""
    oracle = Oracle()
    oracle.applied("n1", 7, b"this")
    oracle.acknowledge("n1", 7, b"this")
    with pytest.raises(SafetyViolated, match="index 8"):
        oracle.acknowledge("n1", 8, b"this")


@pytest.mark.parametrize("index", [1, 3])
def test_an_entry_out_of_its_order_is_objected_to(index: int) -> None:
    """A member applies each index once, and leaves none out."""
    world = World(Options(seed=1))
    try:
        world.start("n1")
        life = world.lives["n1"]
        assert isinstance(life, RaftLife)
        life.apply([Entry(index=1, term=0, command=b"")])
        with pytest.raises(SafetyViolated, match=f"Entry {index} was applied instead of 2"):
            life.apply([Entry(index=index, term=0, command=b"")])
    finally:
        world.close()
