"""Feature levels: what a cluster of several releases may use, and when.

A release supports the levels of the table below, from the first row to the last. Every
member announces the highest one with its heartbeats. The cluster's own level is part of
the replicated state: a command raises it once every seat has announced that it can, and
applying that command compares again, so that it is decided in the log and is the same for
all at the same index. It never goes down. Until it is raised, every member keeps to the
level in force, and so an older release can come back; from then on it stops.

Two members speak the highest level that both support, whatever the cluster's is, and do
not speak if there is none. What a change of a command, a record or a frame has to do to
be a new level is written down in DESIGN.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage import keys, models
from storage.models import Member
from storage.store import View


@dataclass(frozen=True, slots=True)
class Level:
    """One row of the table: what may be used from this level on."""

    number: int
    adds: str


LEVELS = (Level(1, "everything of the first release"),)

# What is in force before the first member has announced itself.
FIRST = 1
MINIMUM, CURRENT = LEVELS[0].number, LEVELS[-1].number
SEATS_MAX = 100

assert [level.number for level in LEVELS] == list(range(MINIMUM, CURRENT + 1))
assert MINIMUM >= FIRST


class LevelUnsupported(Exception):
    """The cluster's level is none of this release's; the text says what to do."""


def in_force(view: View) -> int:
    """Return the cluster's feature level, as of what is applied."""
    raw = view.get(keys.LEVEL)
    return FIRST if raw is None else models.decode_level(raw).level


def check_supported(view: View) -> None:
    """Compare this release with the level of a state that it is about to work on.

    Raises:
        LevelUnsupported: it must not.
    """
    # Without a record and without a member, this is a cluster that only begins.
    begun = view.get(keys.LEVEL) is not None or view.scan(keys.MEMBER, keys.after(keys.MEMBER), 1)
    if begun:
        check_level(in_force(view))


def check_level(level: int) -> None:
    """Compare this release with the level of a cluster that it is to be a member of.

    Raises:
        LevelUnsupported: it must not be one.
    """
    if level > CURRENT:
        raise LevelUnsupported(
            f"The cluster is at feature level {level}, and this release supports up to {CURRENT}. "
            "Start this member with the release of the other members, or a newer one."
        )
    if level < MINIMUM:
        raise LevelUnsupported(
            f"The cluster is at feature level {level}, and this release supports none below "
            f"{MINIMUM}. Upgrade all members to a release in between first, and wait until "
            "'cronclave cluster status' shows a higher level."
        )


def seats(view: View) -> list[Member]:
    """Return the members whose support counts: all of them, also those that are down."""
    rows = view.scan(keys.MEMBER, keys.after(keys.MEMBER), SEATS_MAX)
    return [models.decode_member(raw) for _, raw in rows]


def lagging(view: View, level: int, named: frozenset[str]) -> list[str]:
    """Return who has not announced `level`, among the members and those in `named`."""
    announced = {member.name: member.level for member in seats(view)}
    return sorted(name for name in {*named, *announced} if announced.get(name, 0) < level)


def attainable(view: View, named: frozenset[str]) -> int:
    """Return the highest level of this release that nobody lags behind, or 0."""
    levels = range(CURRENT, MINIMUM - 1, -1)
    return next((level for level in levels if not lagging(view, level, named)), 0)


def spoken(minimum: int, highest: int) -> int | None:
    """Return the level that this release speaks with one that supports such a range."""
    level = min(highest, CURRENT)
    return level if level >= max(minimum, MINIMUM) else None
