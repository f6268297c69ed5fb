"""Seeds that nobody has tried yet: new ones every day, and yet repeatable.

They follow from the date, or from the variable CRONCLAVE_SEED_BASE where a build sets it.
Whatever fails prints its own seed, so the variable is needed only to repeat a whole run.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

VARIABLE = "CRONCLAVE_SEED_BASE"
SEEDS_PER_BASE = 10_000
SEEDS_PER_BLOCK = 100


def base() -> int:
    """Return the number that today's seeds begin with; it stays the same from here on."""
    # Processes that are started later, perhaps behind midnight, take it over.
    today = datetime.now(UTC).strftime("%Y%m%d")
    return int(os.environ.setdefault(VARIABLE, today))


def fresh(block: int, count: int) -> range:
    """Return seeds of one block; blocks do not overlap."""
    assert 0 < count <= SEEDS_PER_BLOCK
    first = base() * SEEDS_PER_BASE + block * SEEDS_PER_BLOCK
    return range(first, first + count)
