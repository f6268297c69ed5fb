"""What the tests of simulated members have in common."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def garbage_of_each() -> Iterator[None]:
    """Collect what killed processes leave behind while their test's warnings are still ignored."""
    yield
    gc.collect()
