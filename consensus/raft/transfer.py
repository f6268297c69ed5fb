"""A hand-over of leadership under way: to whom, until when, and whether it was asked for (E8).

The library calls it a success when it has sent a message. Here no command is taken until
another member leads or the time is up, and asking is repeated until the follower that is to
lead has everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Transfer:
    """At most one hand-over at a time."""

    def __init__(self) -> None:
        self._wish: tuple[str | None, float, bool] | None = None
        self.over = asyncio.Event()

    @property
    def under_way(self) -> bool:
        """Tell whether leadership is being handed over."""
        return self._wish is not None

    def begin(self, member: str | None, deadline_s: float) -> None:
        """Begin to hand over to a member, or to whoever is furthest."""
        self._wish = (member, deadline_s, False)
        self.over.clear()

    def pursue(self, now_s: float, *, leads: bool, ask: Callable[[str | None], bool]) -> None:
        """Ask, until it was asked; give up when the time is over or leadership is."""
        if self._wish is None:
            return
        member, deadline_s, asked = self._wish
        if not leads or now_s > deadline_s:
            self._wish = None
            self.over.set()
        elif not asked:
            self._wish = (member, deadline_s, ask(member))
