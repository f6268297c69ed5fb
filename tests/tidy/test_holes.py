"""The table of the library's holes is complete, and what it names as evidence exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DESIGN = ROOT / "consensus" / "DESIGN.md"
SCENARIOS = ROOT / "tests" / "scenarios"
# Durability, replication, elections and membership, application, transport.
HOLES = {"D": 10, "R": 15, "E": 10, "A": 11, "T": 11}
ROW = re.compile(r"\| ((?:[DREAT]\d+)(?:, [DREAT]\d+)*) \| .* \| (.*) \|")
EVIDENCE = re.compile(r"`(test_\w+|\w+\.txt)`")

MATCHES = filter(None, map(ROW.fullmatch, DESIGN.read_text().splitlines()))
ROWS = [(match[1], match[2]) for match in MATCHES]


def test_every_hole_has_one_row() -> None:
    """None is forgotten, and none is told twice."""
    found = [hole for holes, _ in ROWS for hole in holes.split(", ")]
    expected = [f"{kind}{number}" for kind in HOLES for number in range(1, HOLES[kind] + 1)]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("holes", [holes for holes, _ in ROWS])
def test_a_row_names_what_turns_red(holes: str) -> None:
    """A claim that a hole is closed comes with a test or a scenario that shows it."""
    assert EVIDENCE.search(dict(ROWS)[holes]), holes


def test_what_a_row_names_exists() -> None:
    """A test that was renamed or removed is no evidence."""
    tests = {
        node.name
        for path in (ROOT / "tests").glob("**/test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    known = tests | {path.name for path in SCENARIOS.glob("*.txt")}
    named = {name for _, text in ROWS for name in EVIDENCE.findall(text)}
    assert named <= known, named - known


def test_every_scenario_is_named() -> None:
    """A file that no row points to would explain nothing to anybody."""
    text = DESIGN.read_text()
    assert [path.name for path in SCENARIOS.glob("*.txt") if f"`{path.name}`" not in text] == []
