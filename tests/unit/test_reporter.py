"""What a member tells of its attempts fits into the log, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from consensus.state.commands import (
    Command,
    Ended,
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
