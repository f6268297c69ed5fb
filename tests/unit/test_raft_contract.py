"""The overrides fit the library they were written for, word for word."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from pysyncobj import syncobj as library

from consensus.raft import behind as raft_behind
from consensus.raft import engine as raft
from consensus.raft import members as raft_members
from consensus.raft import rules as raft_rules
from consensus.raft import seams as raft_seams
from consensus.raft.types import RaftSettings
from storage.journal_format import EMPTY_PAYLOAD, REGULAR_KIND
from tests.simulation.raft_hand import Hand

TREE = ast.parse(inspect.getsource(library.SyncObj))
BASE = TREE.body[0]
PREFIX = "_SyncObj__"


def methods() -> dict[str, ast.FunctionDef]:
    """The library's methods, private ones under their mangled names."""
    assert isinstance(BASE, ast.ClassDef)
    found = [node for node in BASE.body if isinstance(node, ast.FunctionDef)]
    return {mangled(node.name): node for node in found}


def mangled(name: str) -> str:
    private = name.startswith("__") and not name.endswith("__")
    return f"_SyncObj{name}" if private else name


def own_attributes(node: ast.AST) -> set[str]:
    """Every name in the code that is looked up on `self`."""
    return {
        mangled(part.attr)
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.value, ast.Name)
        and part.value.id == "self"
    }


OVERRIDES = sorted(name for name in vars(raft.RaftCore) if name.startswith(PREFIX))
BY_PROPERTY = {name for name in OVERRIDES if isinstance(vars(raft.RaftCore)[name], property)}


def test_there_are_overrides_to_check() -> None:
    """An empty list would make every other test here pass."""
    assert len(OVERRIDES) >= 9
    assert sorted(BY_PROPERTY) == ["_SyncObj__raftCommitIndex", "_SyncObj__raftLog"]


@pytest.mark.parametrize("name", [n for n in OVERRIDES if n not in BY_PROPERTY])
def test_an_overridden_method_exists_and_is_called_by_the_library(name: str) -> None:
    """A renamed method would leave the hole open without a word."""
    assert name in methods()
    callers = [caller for caller, node in methods().items() if name in own_attributes(node)]
    assert callers, f"the library does not call {name}"


@pytest.mark.parametrize("name", [n for n in OVERRIDES if n not in BY_PROPERTY])
def test_an_override_takes_what_the_library_passes(name: str) -> None:
    """The parameters have the library's names, order and defaults."""
    theirs = inspect.signature(getattr(library.SyncObj, name))
    ours = inspect.signature(vars(raft.RaftCore)[name])
    assert [(p.name, p.default) for p in ours.parameters.values()] == [
        (p.name, p.default) for p in theirs.parameters.values()
    ]


@pytest.mark.parametrize("name", sorted(BY_PROPERTY))
def test_an_attribute_behind_a_property_is_assigned_by_the_library(name: str) -> None:
    """The library keeps these where the property stands, and nowhere else."""
    constructor = methods()["__init__"]
    assert name in own_attributes(constructor)


@pytest.mark.parametrize("module", [raft, raft_behind, raft_rules, raft_members])
def test_every_private_name_in_use_exists_in_the_library(module: object) -> None:
    """Our code reads and sets nothing that the library does not have."""
    assert isinstance(BASE, ast.ClassDef)
    known = own_attributes(BASE) | set(methods())
    source = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    used = {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and node.attr.startswith(PREFIX)
    }
    assert used
    assert used <= known


def reachable(start: set[str]) -> set[str]:
    """The library's methods that run when these do, with our overrides in place."""
    found: set[str] = set()
    queue = list(start)
    while queue:
        name = queue.pop()
        if name in found or name in OVERRIDES or name not in methods():
            continue
        found.add(name)
        queue += own_attributes(methods()[name])
    return found


def test_no_code_of_the_library_that_we_can_reach_unpickles() -> None:
    """Bytes from the wire or the disk are never taken for objects.

    What runs is what our code calls, and the callbacks of the transport, of which ours
    never calls the ones for utility messages and read-only nodes.
    """
    entry_points = {
        "_onTick", "_applyCommand", "_checkCommandsToApply", "transferLeadership",
        "_SyncObj__onMessageReceived", "_SyncObj__onNodeConnected",
        "_SyncObj__onNodeDisconnected", "_SyncObj__setState", "_SyncObj__setCurrentTerm",
    }  # fmt: skip
    unpicklers = {name for name, node in methods().items() if "pickle.load" in ast.unparse(node)}
    # The one that remains is behind a field of messages that our codec does not have.
    assert reachable(entry_points) & unpicklers == {"_SyncObj__onMessageReceived"}
    source = inspect.getsource(raft_rules.Rules)
    assert "transmission" not in source
    assert "serialized" not in source


def test_another_text_of_the_library_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that nobody has compared with the overrides does not start."""
    raft.check_library()
    changed = tmp_path / "syncobj.py"
    changed.write_bytes(Path(library.__file__).read_bytes() + b"\n")
    monkeypatch.setattr(library, "__file__", str(changed))
    with pytest.raises(ImportError, match=r"pysyncobj 0\.3\.17"):
        raft.check_library()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"election_min_s": 0.0}, "election_min_s must be above zero"),
        ({"election_min_s": 1.0, "election_max_s": 1.0}, "above election_min_s"),
        ({"heartbeat_s": 0.2}, "below a third"),
        ({"entry_bytes_max": 4 * 1024 * 1024}, "must fit into a frame"),
        ({"batch_bytes_max": 4 * 1024 * 1024}, "must fit into a frame"),
        ({"snapshot_chunk_bytes": 4 * 1024 * 1024}, "must fit into a frame"),
        ({"snapshot_chunk_bytes": 2 * 1024 * 1024}, "must not exceed snapshot_window_bytes"),
        ({"window_bytes_max": 1024 * 1024}, "at least one frame"),
        ({"send_queue_bytes_max": 8 * 1024 * 1024}, "full window"),
        ({"in_flight_entries_max": 10_000}, "hot_entries_max"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, float], expected: str
) -> None:
    """The message names the settings and the relation between them."""
    with pytest.raises(ValueError, match=expected):
        RaftSettings(**changes)  # type: ignore[arg-type]


def test_the_kinds_of_entries_are_those_of_the_library() -> None:
    """Other modules tell commands from the rest by the first byte, without the library."""
    kinds = library._COMMAND_TYPE
    assert (REGULAR_KIND, raft_seams.MEMBERSHIP) == (kinds.REGULAR, kinds.MEMBERSHIP)
    assert bytes([library._COMMAND_TYPE.NO_OP]) == EMPTY_PAYLOAD


def test_the_library_has_no_thread_pipe_or_lock_of_its_own() -> None:
    """A10, T9, T10: what it would do by itself is not there to go wrong."""
    hand = Hand()
    try:
        assert hand.core._SyncObj__thread is None
        assert not hasattr(hand.core, "_SyncObj__pipeNotifier")
    finally:
        hand.close()
    code = "import consensus.driver, sys; print('pysyncobj.batteries' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "False"
