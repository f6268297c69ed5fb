"""Members whose disks fill up, in a whole cluster: who leads then, and who goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from node.services.disk_watch import HAND_OVER_S
from tests.simulation.cluster_host import CRITICAL, LOW, WELL
from tests.simulation.cluster_world import ClusterWorld, Options


class Scene:
    """A cluster of three without clients and without any other fault."""

    def __init__(self, seed: int) -> None:
        self.world = ClusterWorld(Options(seed=seed, faults=False))
        for name in self.world.hosts:
            self.world.start(name)

    def rest(self, seconds: float) -> None:
        self.world.loop.run_until_complete(asyncio.sleep(seconds))
        self.world.oracle.check()

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        deadline_s = self.world.loop.time() + seconds
        while not condition():
            assert self.world.loop.time() < deadline_s, "it did not come to that"
            self.rest(0.05)

    def leaders(self) -> list[str]:
        """Return who leads and has a majority behind it."""
        lives = self.world.lives.items()
        return [name for name, life in lives if life.leads and life.node.has_quorum]

    def leader(self) -> str:
        self.until(lambda: len(self.leaders()) == 1)
        return self.leaders()[0]

    def low(self, name: str) -> None:
        self.world.hosts[name].disk.room = LOW


@pytest.fixture(params=range(3))
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    asyncio.set_event_loop(None)
    scene = Scene(request.param)
    yield scene
    scene.world.close()


def test_leadership_goes_to_a_member_that_has_room(scene: Scene) -> None:
    """From one that is low to one that is not, as long as there is one; then it stays."""
    first = scene.leader()
    scene.low(first)
    scene.until(lambda: scene.leaders() and first not in scene.leaders())
    second = scene.leader()
    scene.low(second)
    scene.until(lambda: scene.leaders() and not {first, second} & set(scene.leaders()))
    third = scene.leader()
    scene.low(third)
    scene.rest(3 * HAND_OVER_S)
    assert scene.leader() == third
    assert all(life.node.readiness() for life in scene.world.lives.values())
    scene.world.hosts[first].disk.room = WELL
    scene.until(lambda: scene.leaders() == [first], 2 * HAND_OVER_S)


def test_a_member_whose_disk_is_almost_full_leaves_and_comes_back(scene: Scene) -> None:
    """The others find another leader at once, and have no lease of it to wait for."""
    leader = scene.leader()
    life = scene.world.lives[leader]
    scene.world.hosts[leader].disk.room = CRITICAL
    scene.until(lambda: life.stopping)
    scene.world.hosts[leader].disk.room = WELL
    scene.until(lambda: leader not in scene.world.lives)
    gone = next(
        m for m in next(iter(scene.world.lives.values())).node.members() if m.name == leader
    )
    assert (gone.expired, gone.slots) == (True, 0)
    assert scene.leader() != leader
    scene.until(lambda: leader in scene.world.lives)
    scene.until(lambda: not scene.world.lives[leader].node.readiness())
