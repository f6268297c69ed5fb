"""Who looks after which partition: rendezvous hashing over the members that take part.

Each member scores each partition; the order of the scores is the order in which members
may claim from it. Every member computes the same order from the same replicated list, so
nothing has to be agreed upon, and when a member goes, only its partitions move. The order
is a matter of efficiency alone: two members that disagree for a moment both propose, and
the log lets one of them have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

from storage.keys import PARTITIONS
from storage.models import Member


@lru_cache(maxsize=64 * PARTITIONS)  # 64 members; a score never changes
def _score(member: str, partition: int) -> bytes:
    return blake2b(f"{partition}/{member}".encode(), digest_size=8).digest()


class Ownership:
    """The ranks of one member, over the members that are alive and accept work."""

    def __init__(self, member: str) -> None:
        self._member = member
        self._members: dict[str, Member] = {}
        self._ranks: list[int | None] = [None] * PARTITIONS

    def update(self, members: Iterable[Member]) -> bool:
        """Take the replicated list of members; return whether a rank may have changed.

        Labels count as well: a member may come back with others before its lease was over.
        """
        taking_part = {m.name: m for m in members if m.accepting and not m.expired}
        names_changed = taking_part.keys() != self._members.keys()
        labels_changed = _labels(taking_part) != _labels(self._members)
        self._members = taking_part
        if names_changed:
            self._ranks = [self._rank(partition, taking_part) for partition in range(PARTITIONS)]
        return names_changed or labels_changed

    def rank(self, partition: int) -> int | None:
        """Return this member's place in a partition's order, None if it takes no part."""
        return self._ranks[partition]

    def rank_among(self, partition: int, placement: Mapping[str, str]) -> int | None:
        """Return this member's place among those whose labels satisfy a placement."""
        return self._rank(
            partition,
            (
                name
                for name, member in self._members.items()
                if placement.items() <= member.labels.items()
            ),
        )

    def _rank(self, partition: int, names: Iterable[str]) -> int | None:
        ordered = sorted(names, key=lambda name: _score(name, partition), reverse=True)
        return ordered.index(self._member) if self._member in ordered else None


def _labels(members: Mapping[str, Member]) -> dict[str, Mapping[str, str]]:
    return {name: member.labels for name, member in members.items()}
