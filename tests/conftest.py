"""What every run of the tests says about itself."""

from __future__ import annotations

import pytest

from tests.simulation.fresh_seeds import VARIABLE, base


def pytest_configure() -> None:
    """Settle today's seeds before other processes are started."""
    base()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"Simulated runs began at {VARIABLE}={base()}.")
