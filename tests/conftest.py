"""What every run of the tests knows and says about itself."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.simulation.fresh_seeds import VARIABLE, base

# What is judged is what the code does, never how fast: a slow machine is no fault of it. The
# same examples every time, so that whoever changes one thing does not find a fault in another
# by chance; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", settings.get_profile("repeatable"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the scenario files be written anew."""
    parser.addoption(
        "--rewrite-scenarios",
        action="store_true",
        help="write what comes of the scenarios in tests/scenarios into their files",
    )


def pytest_configure() -> None:
    """Settle today's seeds, and what processes inherit, before any is started.

    A shell's background job ignores these signals, and so would all that a test starts.
    """
    base()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="module")
def own_garbage() -> Iterator[None]:
    """Let what a module leaves behind complain there, and not in whichever test is next.

    A warning that comes with the collection of garbage is an error as well.
    """
    yield
    gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"Simulated runs began at {VARIABLE}={base()}.")
