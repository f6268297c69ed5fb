"""Each file in tests/scenarios tells how a hole would open, and that it does not.

`pytest tests/simulation/test_scenario_files.py --rewrite-scenarios` writes what comes of
the commands into the files; the difference is then read like that of any other code.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.simulation.raft_noticed import SCENARIOS
from tests.simulation.scenario_text import COMMANDS, ScenarioUnreadable, transcript

FILES = sorted(SCENARIOS.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_comes_of_a_scenario_is_what_its_file_says(
    path: Path, request: pytest.FixtureRequest
) -> None:
    """Word by word."""
    found = transcript(path.read_text())
    if request.config.getoption("--rewrite-scenarios"):
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_says_first_what_it_shows(path: Path) -> None:
    """It opens with the hole's number and a sentence about it."""
    first = path.read_text().splitlines()[0]
    assert re.match(r"# [DREAT]\d+(, [DREAT]\d+)*: .{20}", first), first


def test_another_outcome_is_another_transcript() -> None:
    """A file that expects something else fails, and so does one that expects nothing."""
    text = "nodes 1\n----\nn1 are up\n\nelect n1\n----\nn1 leads\n"
    assert transcript(text) == text
    assert transcript(text.replace("n1 leads", "n2 leads")) == text
    assert transcript("nodes 1\n\nelect n1\n") == text


def test_a_line_that_is_no_command_is_no_scenario() -> None:
    """A slip of the pen does not pass for a step."""
    with pytest.raises(ScenarioUnreadable, match="hael"):
        transcript("nodes 1\n\nhael\n")


def test_every_command_is_used() -> None:
    """The language has no more words than the scenarios need."""
    lines = [line for path in FILES for line in path.read_text().splitlines()]
    for pattern, _ in COMMANDS:
        assert any(pattern.fullmatch(line) for line in lines), pattern.pattern
