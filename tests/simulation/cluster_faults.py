"""What happens to a simulated cluster, by chance.

To add a fault, write a method that does it once to whom it chooses, undo it in `heal`, and
give it a weight in `_choices`. A fault that is over by itself after a while takes its own
timer, and must not outlive the process that it was done to.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.cluster_host import CRITICAL, LOW, QUICK_SYNC_S, WELL, HostDisk

if TYPE_CHECKING:
    from tests.simulation.cluster_world import ClusterWorld

JUMPS_MS = (-3_600_000, -20_000, -2_000, -400, 300, 900, 5_000, 30_000, 3_600_000)


def heal(world: ClusterWorld, names: set[str]) -> None:
    """Undo all faults of some members and of the links between them."""
    for (a, b), link in world.network.links.items():
        if {a, b} <= names:
            link.latency_s, link.jitter_s, link.bytes_per_s = 0.001, 0.0005, 50e6
            world.network.unblock(a, b)
    for name in sorted(names):
        host = world.hosts[name]
        host.sync_s = QUICK_SYNC_S
        host.disk.room = WELL
        host.clock.jumped_ms = 0
        if name in world.lives:
            world.lives[name].process.resume()


class Faults:
    """Does one thing after the other to a world."""

    def __init__(self, world: ClusterWorld) -> None:
        self._world = world
        self._rng: random.Random = world.rng

    def one(self) -> None:
        """Let one fault happen, or calm."""
        choices = self._choices()
        fault = self._rng.choices([f for f, _ in choices], [weight for _, weight in choices])[0]
        name = fault.__name__.strip("_").replace("_", " ")
        self._world.oracle.note("fault:", name)
        self._world.oracle.counts[f"fault: {name}"] += 1
        fault()

    def _choices(self) -> tuple[tuple[Callable[[], None], int], ...]:
        power = self._world.options.mode == "power"
        return (
            (self._kill, 2 if power else 5),
            (self._power_loss, 8 if power else 1),
            (self._kill_all, 1),
            (self._stop_in_order, 2),
            (self._runner_dies, 2),
            (self._pause, 4),
            (self._split, 3),
            (self._isolate_leader, 3),
            (self._one_way, 2),
            (self._slow_links, 2),
            (self._reset_links, 2),
            (self._slow_disk, 2),
            (self._disk_fills, 2),
            (self._clock_jumps, 2),
            (self._calm, 4),
        )

    def _names(self) -> list[str]:
        return self._world.present

    def _any_life(self) -> str | None:
        lives = [name for name, life in self._world.lives.items() if not life.stopping]
        return self._rng.choice(lives) if lives else None

    def _end(self, name: str, *, power_loss: bool) -> None:
        self._world.kill(name, power_loss=power_loss)
        self._world.restart_later(name, self._rng.choice((0.2, 0.5, 2.0, 8.0)))

    # --- Processes and hosts -----------------------------------------------------------------

    def _kill(self) -> None:
        self._end(self._rng.choice(self._names()), power_loss=False)

    def _power_loss(self) -> None:
        names = self._names()
        for name in self._rng.sample(names, self._rng.choice((1, 1, 2, len(names)))):
            self._end(name, power_loss=True)

    def _kill_all(self) -> None:
        for name in self._names():
            self._end(name, power_loss=False)

    def _stop_in_order(self) -> None:
        name = self._any_life()
        if name is not None:
            self._world.lives[name].stop()

    def _runner_dies(self) -> None:
        name = self._any_life()
        if name is not None:
            self._world.lives[name].runner.die()

    def _pause(self) -> None:
        """Stop a process as SIGSTOP does, often the leader's, often beyond its lease."""
        lives = self._world.lives
        leaders = [name for name, life in lives.items() if life.leads]
        name = self._rng.choice(leaders) if leaders and self._rng.random() < 0.5 else None
        name = name or self._any_life()
        if name is not None:
            process = lives[name].process
            process.pause()
            self._world.loop.call_later(self._rng.choice((0.3, 2.0, 5.0, 9.0)), process.resume)

    # --- The network -------------------------------------------------------------------------

    def _split(self) -> None:
        names = self._names()
        self._rng.shuffle(names)
        cut = self._rng.randint(1, len(names) - 1)
        self._world.network.split((names[:cut], names[cut:]))

    def _isolate_leader(self) -> None:
        for name, life in self._world.lives.items():
            if life.leads:
                others = [other for other in self._names() if other != name]
                self._world.network.split(([name], others))

    def _one_way(self) -> None:
        for link in self._rng.sample(list(self._world.network.links), 2):
            self._world.network.block(*link)

    def _slow_links(self) -> None:
        for link in self._rng.sample(list(self._world.network.links.values()), 3):
            link.latency_s = self._rng.choice((0.02, 0.15, 0.4))
            link.bytes_per_s = self._rng.choice((50e3, 500e3, 50e6))

    def _reset_links(self) -> None:
        for a, b in self._rng.sample(list(self._world.network.links), 2):
            self._world.network.reset(a, b)

    # --- Disks and clocks --------------------------------------------------------------------

    def _slow_disk(self) -> None:
        host = self._rng.choice(list(self._world.hosts.values()))
        host.sync_s = self._rng.choice(((0.02, 0.3), (0.5, 2.0), QUICK_SYNC_S))

    def _disk_fills(self) -> None:
        """Take room from a disk; one that is too full to go on is seen to after a moment."""
        disk = self._rng.choice(list(self._world.hosts.values())).disk
        disk.room = self._rng.choice((LOW, LOW, CRITICAL))
        if disk.room is CRITICAL:
            self._world.loop.call_later(self._rng.choice((0.5, 3.0)), self._make_room, disk)

    @staticmethod
    def _make_room(disk: HostDisk) -> None:
        if disk.room is CRITICAL:
            disk.room = LOW

    def _clock_jumps(self) -> None:
        """Set the time of day of one host, and only of one: a majority knows the time."""
        hosts = list(self._world.hosts.values())
        host = self._rng.choice(hosts)
        wrong = [other for other in hosts if other.clock.jumped_ms]
        if not wrong or wrong == [host]:
            host.clock.jumped_ms = 0 if wrong else self._rng.choice(JUMPS_MS)
            self._world.oracle.note(host.name, "has its clock off by", host.clock.jumped_ms)

    def _calm(self) -> None:
        heal(self._world, set(self._world.hosts))
