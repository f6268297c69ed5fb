"""The kinds of action that this node knows, found through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

from api.faults import Fault, shown
from node.executors.protocol import ENTRY_POINT_GROUP, Executor, Services


class Registry:
    """All executors of a node, by the `type` of the action that they run."""

    def __init__(self, executors: Mapping[str, Executor]) -> None:
        self._executors = dict(executors)

    @classmethod
    def load(cls, services: Services) -> Registry:
        """Make one executor of each kind that is installed."""
        found = entry_points(group=ENTRY_POINT_GROUP)
        return cls({point.name: point.load()(services) for point in found})

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(sorted(self._executors))

    def get(self, action: Mapping[str, Any]) -> Executor | None:
        return self._executors.get(action["type"])

    def validate(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
        """Return the faults of an action, as its executor or, without one, this sees them."""
        kind = action.get("type")
        if not isinstance(kind, str):
            known = ", ".join(self.types)
            detail = f'"type" says what to run; it is one of {known}.'
            return [Fault(f"{pointer}/type", "missing_field", detail)]
        executor = self._executors.get(kind)
        if executor is None:
            near = get_close_matches(kind, self.types, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(self.types)}."
            detail = f"{shown(kind)} is no kind of action. {hint}"
            return [Fault(f"{pointer}/type", "unknown_action", detail)]
        return executor.validate(action, pointer)

    async def start(self) -> None:
        for executor in self._executors.values():
            await executor.start()

    async def stop(self) -> None:
        for executor in self._executors.values():
            await executor.stop()
