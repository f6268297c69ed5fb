"""The rules of this code base that no linter knows, checked on its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("node", "consensus", "storage", "api")
FILES = [path for name in PACKAGES for path in sorted((ROOT / name).glob("**/*.py"))]

LINES_PER_FILE_MAX = 400
LINES_PER_FUNCTION_MAX = 70
# Of what a test waits for; named ones say more.
DEADLINE_S_MIN = 30

# A package imports itself and the packages named here, and nothing else of ours.
MAY_IMPORT = {
    "storage": set[str](),
    "consensus": {"storage"},
    "api": {"consensus", "storage"},
    "node": {"api", "consensus", "storage"},
}
# Each outside library is known to few modules, so that it can be replaced there.
ONLY_IN = {
    "lmdb": {"storage/journal.py", "storage/lmdb_store.py", "storage/snapshot_store.py"},
    "pysyncobj": {"consensus/raft/engine.py"},
    "croniter": {"api/schedule/cron.py"},
    "sortedcontainers": {"storage/layer.py"},
}
# One module reads clocks and draws numbers; the runner is a program of its own, and a
# client command needs neither the server nor its clock.
CLOCK_READERS = {"storage/clock.py"}
OWN_PROGRAMS = ("node/runner/", "node/cli/")
# The core decides; it never waits, reads a clock, draws a number or opens anything.
PURE = (
    *("storage/models.py", "storage/keys.py"),
    *("consensus/state/", "consensus/features.py", "consensus/configuration.py"),
    *("api/schedule/", "api/jobs/planning.py"),
)
IMPURE = {"asyncio", "aiohttp", "lmdb", "os", "pysyncobj", "random", "socket", "threading", "time"}
# Inside a layer: what a folder may know of the rest of its layer.
WORDS = ("consensus.errors", "consensus.features", "consensus.frames", "consensus.configuration")
MAY_KNOW = {
    "consensus/state/": ("consensus.state", *WORDS),
    "consensus/raft/": ("consensus.raft", *WORDS),
    "consensus/snapshots/": ("consensus.snapshots", "consensus.raft", *WORDS),
    "consensus/network/": ("consensus.network", "consensus.raft.types", *WORDS),
    "api/schedule/": ("api.schedule", "api.durations", "api.faults"),
}
# Names that would run code found in data, or take bytes for objects.
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill"}
FORBIDDEN_CALLS = {"eval", "exec"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            # `from package import module` names a module of ours in its second half.
            yield from (
                {module}
                if "." in module or module not in PACKAGES
                else {f"{module}.{alias.name}" for alias in node.names}
            )


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_module_keeps_to_its_layer(path: Path) -> None:
    """Imports go storage <- consensus <- api <- node, and libraries stay where they belong."""
    package = name(path).split("/", maxsplit=1)[0]
    for module in imports(path):
        top = module.split(".")[0]
        if top in PACKAGES:
            assert top in MAY_IMPORT[package] | {package}, module
        assert name(path) in ONLY_IN.get(top, {name(path)}), module
        assert not (name(path).startswith(PURE) and top in IMPURE), module
        assert top not in FORBIDDEN_MODULES, module


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_folder_knows_no_more_of_its_layer_than_it_needs(path: Path) -> None:
    """The parts of a layer are built on each other too."""
    package = name(path).split("/", maxsplit=1)[0]
    for folder, known in MAY_KNOW.items():
        if name(path).startswith(folder):
            for module in imports(path):
                if module.split(".")[0] == package:
                    assert any(f"{module}.".startswith(f"{one}.") for one in known), module


@pytest.mark.parametrize("path", FILES, ids=name)
def test_time_and_chance_come_from_one_module(path: Path) -> None:
    """Whatever depends on a clock or on chance can be replayed with another environment."""
    if name(path) in CLOCK_READERS or name(path).startswith(OWN_PROGRAMS):
        return
    assert not {"time", "random", "uuid", "secrets"} & set(imports(path))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_runs_code_from_data(path: Path) -> None:
    """There is no eval and no exec."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_and_its_functions_fit_on_the_screen(path: Path) -> None:
    """What does not fit is split before it grows."""
    source = path.read_text()
    assert source.count("\n") <= LINES_PER_FILE_MAX
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LINES_PER_FUNCTION_MAX, node.name


def deadlines(call: ast.Call) -> Iterator[float]:
    """Yield the seconds after which a call fails, where they stand in it as a number."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if called == "wait":
        return  # It fails nothing.
    given = {"timeout": call.args[:1], "wait_for": call.args[1:2]}.get(called, [])
    given = given + [one.value for one in call.keywords if one.arg == "timeout"]
    for node in given:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node.value


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=name)
def test_a_deadline_of_a_test_is_reached_only_when_something_is_broken(path: Path) -> None:
    """A machine may stand still for seconds, and that is no fault of what is tested."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert all(seconds >= DEADLINE_S_MIN for seconds in deadlines(node)), node.lineno


def test_every_package_explains_itself() -> None:
    """Each of the four folders has a DESIGN.md that says what it is."""
    for package in PACKAGES:
        assert (ROOT / package / "DESIGN.md").read_text().startswith("# "), package
