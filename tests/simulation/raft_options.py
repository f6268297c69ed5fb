"""What kind of simulated run it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """What a run looks for."""

    # Faults everywhere until the end, then a repair: is anything lost or doubled?
    SAFETY = "safety"
    # Faults, then a healthy majority is left alone among them: does it get on?
    LIVENESS = "liveness"
    # As safety, with power losses more than anything else.
    POWER_LOSS = "power-loss"
    # As safety, with clients of registers whose histories have to be linearizable.
    REGISTERS = "registers"


# A seed says by itself which kind of run it is, so that a number is enough to repeat it.
MODES = (Mode.SAFETY, Mode.SAFETY, Mode.REGISTERS, Mode.POWER_LOSS, Mode.LIVENESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`seed` decides about everything else; `mode` overrides what it says about the kind."""

    seed: int
    members: int = 3
    seconds: float = 30.0
    mode: Mode | None = None
    power_loss: bool = True
    # The control: a disk that says "done" before it is.
    lazy_disk: bool = False
    # Whether members come and go (`growing_world`).
    growing: bool = False

    @property
    def kind(self) -> Mode:
        if self.growing:
            return Mode.SAFETY
        return self.mode or MODES[self.seed % len(MODES)]
