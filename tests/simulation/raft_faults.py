"""What happens to a simulated cluster: one fault after the other, drawn by weight.

In a liveness run the faults stop at some moment. A majority that could work is then left
alone: its members are up, their disks and the links between them are good. Everything
else stays as bad as it is at that moment, and nobody repairs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.raft_options import Mode

if TYPE_CHECKING:
    from tests.simulation.raft_world import World

GOOD_SYNC_S = (0.0005, 0.002)
CORE_BYTES_PER_S_MIN = 200e3


class Faults:
    """The faults of one run; `strike` does the next one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self._weights = self._of_mode(world.options.kind)
        # Who is left alone while faults are frozen.
        self.frozen = False
        self.core: frozenset[str] = frozenset()

    def _of_mode(self, mode: Mode) -> list[tuple[Callable[[], None], int]]:
        often = mode is Mode.POWER_LOSS
        return [
            (self._kill_some, 4),
            (self._lose_power, 12 if often else 0),
            (self._split, 4),
            (self._isolate_leader, 3),
            (self._one_way, 2),
            (self._slow_links, 2),
            (self._reset_links, 3),
            (self._slow_disk, 10 if often else 2),
            (self._transfer, 1),
            (self._trim, 3),
            (self._pause, 2),
            (self._ring, 1),
            (self._calm, 3),
        ]

    def strike(self) -> None:
        """Let the next fault happen."""
        faults, weights = zip(*self._weights, strict=True)
        fault = self._rng.choices(faults, weights)[0]
        name = fault.__name__.strip("_")
        self._world.oracle.note("fault", name)
        self._world.oracle.counts[name] += 1
        fault()

    # --- Leaving a majority alone -----------------------------------------------------

    def freeze(self) -> None:
        """Choose a majority that can work, repair it, and leave the rest as it is."""
        world = self._world
        names = list(world.remains)
        self.frozen = True
        self.core = frozenset(self._rng.sample(names, len(names) // 2 + 1))
        world.oracle.note("left alone", sorted(self.core))
        for ends, link in world.network.links.items():
            if self.core & set(ends):
                # What a leader elsewhere has under way may take no longer than the cluster
                # is given: a link that is slow enough works as one that is broken would.
                link.bytes_per_s = max(link.bytes_per_s, CORE_BYTES_PER_S_MIN)
        for name in sorted(self.core):
            world.remains[name].sync_s = GOOD_SYNC_S
            world.start(name)
            if name in world.lives:  # else it was killed while it installs a snapshot
                world.lives[name].resume()
            for other in sorted(self.core - {name}):
                world.network.mend(name, other)

    # --- Processes and power ----------------------------------------------------------

    def _some(self) -> list[str]:
        names = list(self._world.remains)
        return self._rng.sample(names, self._rng.randint(1, len(names)))

    def _kill_some(self) -> None:
        names = self._some() if self._rng.random() < 0.3 else [self._rng.choice(self._names())]
        power_loss = self._world.options.power_loss and self._rng.random() < 0.5
        self._kill(names, power_loss=power_loss)

    def _lose_power(self) -> None:
        """A machine, some of them, or the whole room."""
        draw = self._rng.random()
        names = self._names() if draw < 0.2 else self._some() if draw < 0.5 else self._leaders()
        self._kill(names, power_loss=self._world.options.power_loss)

    def _kill(self, names: list[str], *, power_loss: bool) -> None:
        for name in names:
            self._world.kill(name, power_loss=power_loss)
            self._world.loop.call_later(self._rng.uniform(0.05, 4.0), self._restart, name)

    def _restart(self, name: str) -> None:
        if not self.frozen or name in self.core:
            self._world.start(name)

    def _pause(self) -> None:
        if self._world.lives:
            name = self._rng.choice(list(self._world.lives))
            self._world.lives[name].pause(self._rng.choice((0.3, 1.5, 5.0)))

    # --- The network ------------------------------------------------------------------

    def _names(self) -> list[str]:
        return list(self._world.remains)

    def _leaders(self) -> list[str]:
        return [name for name, life in self._world.lives.items() if life.leads]

    def _split(self) -> None:
        names = self._names()
        self._rng.shuffle(names)
        cut = self._rng.randint(1, len(names) - 1)
        self._world.network.split((names[:cut], names[cut:]))

    def _isolate_leader(self) -> None:
        for name in self._leaders():
            others = [other for other in self._world.remains if other != name]
            self._world.network.split(([name], others))

    def _one_way(self) -> None:
        for link in self._rng.sample(list(self._world.network.links), 2):
            self._world.network.block(*link)

    def _ring(self) -> None:
        names = self._names()
        for number, name in enumerate(names):
            for other in names[number + 2 : len(names) - (number == 0)]:
                self._world.network.block(name, other)
                self._world.network.block(other, name)

    def _slow_links(self) -> None:
        for link in self._rng.sample(list(self._world.network.links.values()), 3):
            link.latency_s = self._rng.choice((0.02, 0.15, 0.4))
            link.bytes_per_s = self._rng.choice((20e3, 200e3, 50e6))

    def _reset_links(self) -> None:
        for a, b in self._rng.sample(list(self._world.network.links), 2):
            self._world.network.reset(a, b)

    def _calm(self) -> None:
        self._world.network.heal()

    # --- The rest ---------------------------------------------------------------------

    def _slow_disk(self) -> None:
        remains = self._rng.choice(list(self._world.remains.values()))
        remains.sync_s = self._rng.choice(((0.02, 0.3), (0.5, 2.0), GOOD_SYNC_S))

    def _transfer(self) -> None:
        for life in self._world.lives.values():
            life.transfer()

    def _trim(self) -> None:
        for life in self._world.lives.values():
            life.trim()
