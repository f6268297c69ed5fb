"""What the leader lets go of, and what it asks for when there is nothing yet."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.state.commands import Clean, Command, Remaining, Result
from node.services.cleaner import Cleaner
from tests.support.builders import NOW_MS, Lab

DAY_MS = 86_400_000


class Applying:
    """A door behind which every command is applied at once."""

    def __init__(self) -> None:
        self.lab = Lab()

    async def propose(self, commands: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        assert timeout_s > 0
        (command,) = commands
        assert isinstance(command, Clean)
        result = self.lab.expect(Remaining, command)
        assert self.lab.effects.faults == []
        return (result,)


async def test_a_cluster_that_has_just_begun_has_nothing_to_drop() -> None:
    """Its clock stands at nothing until the first entry brings a time."""
    door, now_ms = Applying(), 0
    cleaner = Cleaner(door, 30 * DAY_MS, lambda: now_ms, lambda: True)
    assert not await cleaner.run_once()


async def test_an_output_is_dropped_when_its_time_has_come() -> None:
    """Not a millisecond earlier."""
    door = Applying()
    lab = door.lab
    run = lab.launch(lab.join(), lab.create())
    assert lab.end(run, output=(b"printed",))
    printed = {key for key in lab.everything() if b"printed" in lab.everything()[key]}
    assert len(printed) == 1
    kept_ms, clock = 30 * DAY_MS, [0]
    cleaner = Cleaner(door, kept_ms, lambda: clock[0], lambda: True)
    for age_ms, left in ((kept_ms, printed), (kept_ms + 1, set[bytes]())):
        clock[0] = NOW_MS + age_ms
        assert not await cleaner.run_once()
        assert printed & lab.everything().keys() == left
