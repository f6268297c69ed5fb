"""What a member tells of its attempts fits into the log, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from consensus.state.commands import (
    Command,
    Ended,
    Refused,
    Report,
    Reported,
    Result,
    encode_batch,
)
from node.services.reporter import Reporter
from node.spool import Spool
from storage.limits import BATCH_BYTES_MAX, REPORT_ITEMS_MAX


class Measuring:
    """A door that takes what fits into a log entry, and counts it."""

    def __init__(self) -> None:
        self.items = 0

    async def propose(self, commands: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        assert timeout_s > 0
        (command,) = commands
        assert isinstance(command, Report)
        assert len(encode_batch(command)) <= BATCH_BYTES_MAX
        self.items += len(command.items)
        return (Reported((True,) * len(command.items)),)


@pytest.mark.parametrize("character", ["a", "é", "\U0001f570"])
async def test_any_number_of_ends_goes_in_reports_that_fit(tmp_path: Path, character: str) -> None:
    """A report that is too large would be refused each time, and all behind it with it."""
    door, spool = Measuring(), Spool(tmp_path / "spool")
    reporter = Reporter(door, spool)
    for number in range(REPORT_ITEMS_MAX):
        run = number.to_bytes(29, "big")
        reporter.ended(Ended(run, 1, 1 << 40, "failed", 1 << 41, 1 << 41, 1, character * 500))
    while await reporter.run_once(0.0):
        pass
    assert (door.items, reporter.waiting) == (REPORT_ITEMS_MAX, 0)
    spool.close()


class Refusing(Measuring):
    """A door behind which the cluster refuses some reports, and takes the others."""

    def __init__(self, refusal: Callable[[Report], Refused | None]) -> None:
        super().__init__()
        self._refusal = refusal

    async def propose(self, commands: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        (command,) = commands
        assert isinstance(command, Report)
        refused = self._refusal(command)
        if refused is not None:
            return (refused,)
        return await super().propose(commands, timeout_s=timeout_s)


def an_end(number: int) -> Ended:
    return Ended(number.to_bytes(29, "big"), 1, 7, "succeeded", 1, 2)


async def test_a_report_that_came_too_late_is_sent_again(tmp_path: Path) -> None:
    """All members may have been stopped while it was under way: nothing was decided then."""
    late = [Refused("expired", "The deadline passed.")]
    door, spool = Refusing(lambda report: late.pop() if late else None), Spool(tmp_path / "spool")
    reporter = Reporter(door, spool)
    reporter.ended(an_end(1))
    assert await reporter.run_once(0.0)
    assert (door.items, reporter.waiting, late) == (1, 0, [])
    spool.close()


async def test_an_end_that_no_member_can_apply_takes_no_other_with_it(tmp_path: Path) -> None:
    """A fault of this program in one of a thousand ends must not leave the others' runs live."""
    poison = an_end(3)

    def refusal(report: Report) -> Refused | None:
        return Refused("internal", "A fault.") if poison in report.items else None

    door, spool = Refusing(refusal), Spool(tmp_path / "spool")
    reporter = Reporter(door, spool)
    for number in range(1, 8):
        reporter.ended(an_end(number))
    while await reporter.run_once(0.0):
        pass
    assert (door.items, reporter.waiting) == (6, 0)
    spool.close()
