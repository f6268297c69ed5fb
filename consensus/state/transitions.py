"""The life of a run, as a table.

    waiting --promoted--> queued --claimed--> claimed --started--> running
                            ^                   |                     |
                            +---- returned -----+---------------------+
                                                |                     |
                                                +------- ended -------+--> ended

`returned` is a retry after a failure, or a launch whose member was lost. Nothing leaves
`ended`. A pair that is not in the table is a broken invariant: the commands check what
they were sent before they come here.
"""

from __future__ import annotations

from typing import Literal

from storage.invariant import InvariantViolated
from storage.models import RunState

RunEvent = Literal["promoted", "claimed", "started", "returned", "ended"]

RUN_TRANSITIONS: dict[tuple[RunState, RunEvent], RunState] = {
    ("waiting", "promoted"): "queued",
    ("waiting", "ended"): "ended",
    ("queued", "claimed"): "claimed",
    ("queued", "ended"): "ended",
    ("claimed", "started"): "running",
    ("claimed", "returned"): "queued",
    ("claimed", "ended"): "ended",
    ("running", "returned"): "queued",
    ("running", "ended"): "ended",
}
HELD_STATES: frozenset[RunState] = frozenset({"claimed", "running"})


def advance(state: RunState, event: RunEvent) -> RunState:
    """Return the state that follows `state` upon `event`.

    Raises:
        InvariantViolated: the table does not know the pair.
    """
    following = RUN_TRANSITIONS.get((state, event))
    if following is None:
        raise InvariantViolated(
            f"A run took a step it does not have (state={state!r}, event={event!r})."
        )
    return following
