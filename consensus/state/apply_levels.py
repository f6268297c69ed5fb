"""Applying what raises the cluster's feature level."""

from __future__ import annotations

from consensus import features
from consensus.state.commands import Heartbeat, Raised, RaiseLevel, Refused
from consensus.state.context import Context
from storage import keys, models
from storage.invariant import invariant
from storage.models import ClusterLevel


def found(context: Context, first: Heartbeat) -> None:
    """Let a new cluster begin at the oldest level of the first member's release."""
    if context.store.get(keys.LEVEL) is None:
        _write(context, first.level_min)


def raise_level(context: Context, command: RaiseLevel) -> Raised | Refused:
    """Raise the level if every member has announced that it supports it.

    A member whose record promises more than the release that it runs by now, because it
    went back to an older one, must not go on: everything after this entry may depend on
    the new level.
    """
    level = features.in_force(context.store)
    if command.level <= level:
        return Raised(level)
    lagging = features.lagging(context.store, command.level, frozenset(command.members))
    if lagging:
        return Refused("level_unsupported", f"Not announced by: {', '.join(lagging)}.")
    invariant(
        command.level <= features.CURRENT,
        "The cluster's feature level was raised beyond this release; upgrade this member.",
        level=command.level,
        supported=features.CURRENT,
    )
    _write(context, command.level)
    return Raised(command.level)


def _write(context: Context, level: int) -> None:
    record = ClusterLevel(level=level, since_ms=context.clock_ms)
    context.store.put(keys.LEVEL, models.encode(record))
