"""What every run of the tests knows and says about itself."""

from __future__ import annotations

import signal

import pytest

from tests.simulation.fresh_seeds import VARIABLE, base


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"Simulated runs began at {VARIABLE}={base()}.")
