"""A network of simulated links, with the faults that real ones have.

Two members share one connection with a link in each direction. A link delivers in order,
takes time for the distance and for the bytes, and can be blocked, in one direction or in
both: what is under way then waits, as it does in TCP, until the link is free again or the
connection is given up. A reset loses everything under way in both directions, and both
sides connect again as soon as they can.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol, cast

from consensus.raft.types import Listener as Member
from tests.simulation.virtual_loop import VirtualLoop

QUEUE_BYTES_MAX = 8 * 1024 * 1024
# For how long a connection survives bytes that nobody acknowledges (TCP_USER_TIMEOUT).
SILENCE_S_MAX = 4.0
RECONNECT_S = 0.05


class Listener(Protocol):
    def connected(self, member: str) -> None: ...
    def disconnected(self, member: str) -> None: ...
    def received(self, member: str, frame: Any) -> None: ...


@dataclass(slots=True)
class Link:
    """One direction between two members."""

    latency_s: float = 0.001
    jitter_s: float = 0.0005
    bytes_per_s: float = 50e6
    blocked: bool = False
    free_s: float = 0.0
    arrival_s: float = 0.0
    queued_bytes: int = 0
    waiting: deque[tuple[int, Any, int]] = field(default_factory=deque)
    blocked_since_s: float = 0.0


@dataclass(slots=True)
class Pair:
    """One connection; `generation` tells what was sent over an earlier one."""

    up: bool = False
    generation: int = 0
    dialing: bool = False


class VirtualNetwork:
    """The wire between all members."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, members: Iterable[str]) -> None:
        self._loop = loop
        self._rng = rng
        self._members = sorted(members)
        self._ends: dict[str, VirtualEnd] = {}
        self.links = {(a, b): Link() for a in self._members for b in self._members if a != b}
        self._pairs = {pair: Pair() for pair in combinations(self._members, 2)}
        self.frames = 0
        # Told of every frame that arrives, if somebody wants to know.
        self.observe: Callable[[str, str, Any], None] | None = None

    def end(self, member: str) -> VirtualEnd:
        """Return a member's own view of the network; each of its lives gets another."""
        return VirtualEnd(self, member)

    # --- Faults -----------------------------------------------------------------------

    def block(self, sender: str, receiver: str) -> None:
        """Let nothing through in this direction."""
        link = self.links[sender, receiver]
        if not link.blocked:
            link.blocked, link.blocked_since_s = True, self._loop.time()
            generation = self._pairs[_key(sender, receiver)].generation
            self._loop.call_later(SILENCE_S_MAX, self._give_up, sender, receiver, generation)

    def unblock(self, sender: str, receiver: str) -> None:
        """Let everything through again, beginning with what has waited."""
        link = self.links[sender, receiver]
        if link.blocked:
            link.blocked = False
            waiting, link.waiting = link.waiting, deque()
            for generation, frame, size in waiting:
                link.queued_bytes -= size
                self._transmit(sender, receiver, generation, frame, size)
            self._dial(*_key(sender, receiver))

    def split(self, groups: Iterable[Iterable[str]]) -> None:
        """Block every link between members of different groups; who is in none is left alone."""
        where = {member: number for number, group in enumerate(groups) for member in group}
        for a, b in self.links:
            if a in where and b in where and where[a] != where[b]:
                self.block(a, b)

    def heal(self) -> None:
        """Undo all faults of all links."""
        for link in self.links:
            self.mend(*link)

    def mend(self, sender: str, receiver: str) -> None:
        """Undo all faults of one link."""
        link = self.links[sender, receiver]
        link.latency_s, link.jitter_s, link.bytes_per_s = 0.001, 0.0005, 50e6
        self.unblock(sender, receiver)

    def reset(self, a: str, b: str) -> None:
        """Break the connection between two members; they connect again if they can."""
        pair = self._pairs[_key(a, b)]
        pair.generation += 1
        for link in (self.links[a, b], self.links[b, a]):
            link.waiting.clear()
            link.queued_bytes = 0
        if pair.up:
            pair.up = False
            for here, there in ((a, b), (b, a)):
                if here in self._ends:
                    self._ends[here].listener.disconnected(there)
        self._dial(*_key(a, b))

    def extend(self, member: str) -> None:
        """Lay links to a member that is new."""
        if member in self._members:
            return
        for other in self._members:
            self.links[member, other] = Link()
            self.links[other, member] = Link()
            self._pairs[_key(member, other)] = Pair()
        self._members.append(member)

    def inject(self, sender: str, receiver: str, frame: Any) -> None:
        """Deliver a frame now, as if it had been on its way for ever so long."""
        self._ends[receiver].listener.received(sender, frame)

    # --- What the ends use ------------------------------------------------------------

    def dial_all(self, end: VirtualEnd) -> None:
        """Let a member connect to whomever it wants to now."""
        if self._ends.get(end.member) is end:
            for pair in self._pairs:
                if end.member in pair:
                    self._dial(*pair)

    def join(self, end: VirtualEnd) -> None:
        """Connect a member that has started."""
        self._ends[end.member] = end
        for pair in self._pairs:
            if end.member in pair:
                self._dial(*pair)

    def leave(self, end: VirtualEnd) -> None:
        """Disconnect a member that was stopped or killed."""
        if self._ends.get(end.member) is end:
            del self._ends[end.member]
            for pair in self._pairs:
                if end.member in pair:
                    self.reset(*pair)

    def send(self, sender: str, receiver: str, frame: Any, size: int) -> bool:
        """Put a frame on its way; False if there is no connection or its queue is full."""
        pair, link = self._pairs[_key(sender, receiver)], self.links[sender, receiver]
        if not pair.up:
            return False
        if link.queued_bytes + size > QUEUE_BYTES_MAX:
            self._loop.call_soon(self.reset, sender, receiver)
            return False
        self._transmit(sender, receiver, pair.generation, frame, size)
        return True

    def _transmit(self, sender: str, receiver: str, generation: int, frame: Any, size: int) -> None:
        link, now_s = self.links[sender, receiver], self._loop.time()
        link.queued_bytes += size
        link.free_s = max(link.free_s, now_s) + size / link.bytes_per_s
        flight_s = link.latency_s + link.jitter_s * self._rng.random()
        # Timers of the same instant run in no particular order, so no two share one.
        link.arrival_s = max(link.arrival_s + 1e-7, link.free_s + flight_s)
        self._loop.call_at(link.arrival_s, self._arrive, sender, receiver, generation, frame, size)

    def _arrive(self, sender: str, receiver: str, generation: int, frame: Any, size: int) -> None:
        pair, link = self._pairs[_key(sender, receiver)], self.links[sender, receiver]
        if generation != pair.generation or not pair.up:
            return
        if link.blocked or link.waiting:
            link.waiting.append((generation, frame, size))
            return
        link.queued_bytes -= size
        self.frames += 1
        if self.observe is not None:
            self.observe(sender, receiver, frame)
        self._ends[receiver].listener.received(sender, frame)

    def _dial(self, a: str, b: str) -> None:
        pair = self._pairs[a, b]
        ends = self._ends
        both = a in ends and b in ends and (ends[a].wants(b) or ends[b].wants(a))
        if not pair.up and not pair.dialing and both:
            pair.dialing = True
            self._loop.call_later(RECONNECT_S * (1 + self._rng.random()), self._connect, a, b)

    def _connect(self, a: str, b: str) -> None:
        pair = self._pairs[a, b]
        pair.dialing = False
        if pair.up or a not in self._ends or b not in self._ends:
            return
        if self.links[a, b].blocked or self.links[b, a].blocked:
            return
        if not all([self._lets_in(a, b), self._lets_in(b, a)]):
            # Whoever still wants to will try again.
            self._dial(a, b)
            return
        pair.up = True
        pair.generation += 1
        for here, there in ((a, b), (b, a)):
            if pair.up and here in self._ends:
                self._ends[here].listener.connected(there)

    def _lets_in(self, host: str, guest: str) -> bool:
        """Let one member dial another, if it wants to, and hear what is said to that."""
        here, there = self._ends.get(host), self._ends.get(guest)
        if here is None or there is None or not there.wants(host):
            return False
        if there.peers is None:
            return True
        asked, asking = cast(Member, here.listener), cast(Member, there.listener)
        rejection = asked.judge(guest, asking.introduction())
        if rejection is not None and rejection.removed:
            asking.removed(host, rejection.reason)
        return rejection is None

    def _give_up(self, sender: str, receiver: str, generation: int) -> None:
        link, pair = self.links[sender, receiver], self._pairs[_key(sender, receiver)]
        unanswered = self._loop.time() - link.blocked_since_s >= SILENCE_S_MAX - 0.01
        if link.blocked and unanswered and pair.generation == generation:
            if link.waiting:
                self.reset(sender, receiver)
            else:
                self._loop.call_later(SILENCE_S_MAX, self._give_up, sender, receiver, generation)


class VirtualEnd:
    """One member's `consensus.raft.types.Network`."""

    def __init__(self, network: VirtualNetwork, member: str) -> None:
        self._network = network
        self.member = member
        self.listener: Listener
        # Whom it talks to; None for everybody, as members without a configuration do.
        self.peers: frozenset[str] | None = None

    def wants(self, member: str) -> bool:
        """Tell whether it would dial a member."""
        return self.peers is None or member in self.peers

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """Talk to these members from now on."""
        self.peers = frozenset(addresses)
        self._network.dial_all(self)

    async def start(self, listener: Listener) -> None:
        self.join(listener)

    def join(self, listener: Listener) -> None:
        """Begin to take part, without a coroutine."""
        self.listener = listener
        self._network.join(self)

    async def stop(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Take no further part."""
        self._network.leave(self)

    def send(self, member: str, frame: bytes) -> bool:
        return self._network.send(self.member, member, frame, len(frame))

    def send_sized(self, member: str, message: object, size: int) -> bool:
        """Send something that is no bytes but travels as if it were so many."""
        return self._network.send(self.member, member, message, size)

    def queued_bytes(self, member: str) -> int:
        link = self._network.links.get((self.member, member))
        return 0 if link is None else link.queued_bytes

    def close(self, member: str, reason: str) -> None:
        if (self.member, member) in self._network.links:
            self._network.reset(self.member, member)


def _key(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
