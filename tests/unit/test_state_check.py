"""Who is wrong when members disagree, and when nobody may be stopped for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from consensus.state_check import HEARD_S_MAX, MARKS_TOLD, StateCheck, StateDiverged
from node.quarantine import (
    MARKER,
    Quarantined,
    Removed,
    check_directory,
    close_directory,
    leave_directory,
)
from node.state_guard import StateGuard
from tests.support.clocks import ManualEnvironment

A, B, C = (letter.encode() * 16 for letter in "abc")
Marks = Mapping[int, bytes]


def check_of(
    own: Marks, voters: int = 3, member: str = "n1"
) -> tuple[StateCheck, ManualEnvironment]:
    environment = ManualEnvironment()
    names = frozenset(f"n{number}" for number in range(1, voters + 1))
    return StateCheck(member, environment, lambda: names, lambda: list(own.items())), environment


@pytest.mark.parametrize(
    ("voters", "own", "others", "outvoted_at", "undecided"),
    [
        pytest.param(3, {64: A}, {}, None, set(), id="nobody was heard"),
        pytest.param(3, {64: A}, {"n2": {64: A}, "n3": {64: A}}, None, set(), id="all agree"),
        pytest.param(3, {64: A}, {"n2": {64: B}, "n3": {64: B}}, 64, set(), id="two to one"),
        pytest.param(3, {64: A}, {"n2": {64: A}, "n3": {64: B}}, None, set(), id="the other one"),
        pytest.param(3, {64: A}, {"n2": {64: B}}, None, {"n2"}, id="one to one of three"),
        pytest.param(
            3, {64: A}, {"n2": {64: B}, "n3": {64: C}}, None, {"n2", "n3"}, id="all differ"
        ),
        pytest.param(2, {64: A}, {"n2": {64: B}}, None, {"n2"}, id="two voters"),
        pytest.param(1, {64: A}, {}, None, set(), id="one voter"),
        pytest.param(1, {64: A}, {"x": {64: B}}, None, set(), id="a guest against one voter"),
        pytest.param(
            5, {64: A}, {"n2": {64: B}, "n3": {64: B}}, None, {"n2", "n3"}, id="two of five"
        ),
        pytest.param(
            5, {64: A}, {f"n{n}": {64: B} for n in (2, 3, 4)}, 64, set(), id="three of five"
        ),
        pytest.param(3, {64: A}, {"n2": {128: B}, "n3": {128: B}}, None, set(), id="not there yet"),
        pytest.param(
            3,
            {64: A, 128: A},
            {"n2": {64: B}, "n3": {64: B, 128: C}},
            64,
            {"n3"},
            id="outvoted at the older index only",
        ),
        pytest.param(
            3, {64: A}, {"x": {64: B}, "y": {64: B}}, None, {"x", "y"}, id="guests have no vote"
        ),
    ],
)
def test_only_who_differs_from_a_majority_of_the_voters_is_wrong(
    voters: int,
    own: Marks,
    others: Mapping[str, Marks],
    outvoted_at: int | None,
    undecided: set[str],
) -> None:
    """A member stops for a majority of the voters at one index; anything less is an alarm."""
    check, _ = check_of(own, voters)
    for member, marks in others.items():
        check.heard(member, marks.items())
    verdict = check.outvoted()
    assert (None if verdict is None else verdict.index) == outvoted_at
    assert set(check.undecided()) == undecided


def test_a_member_without_a_vote_can_be_wrong_as_well() -> None:
    """A guest is judged by the voters, and its own hash decides nothing."""
    check, _ = check_of({64: A}, member="guest")
    check.heard("n1", [(64, B)])
    assert check.outvoted() is None
    check.heard("n2", [(64, B)])
    verdict = check.outvoted()
    assert verdict is not None
    assert verdict.outvoted_by == {"n1", "n2"}


def test_who_was_not_heard_lately_is_no_evidence() -> None:
    """A member stops only for a majority that is up and can go on without it."""
    check, environment = check_of({64: A})
    check.heard("n2", [(64, B)])
    environment.advance(HEARD_S_MAX + 1)
    check.heard("n3", [(64, B)])
    assert check.outvoted() is None
    assert set(check.undecided()) == {"n3"}
    check.heard("n2", [])
    assert check.outvoted() is not None


def test_what_was_told_waits_for_a_member_that_is_behind() -> None:
    """Marks of indexes not reached here are compared when they are."""
    own: dict[int, bytes] = {64: A}
    check, _ = check_of(own)
    for member in ("n2", "n3"):
        check.heard(member, [(64 * place, B) for place in range(2, 2 + MARKS_TOLD)])
        check.heard(member, [(64 * 40, B)])
    assert check.outvoted() is None
    own[128] = A
    verdict = check.outvoted()
    assert verdict is not None
    assert (verdict.index, verdict.own, verdict.right) == (128, A, B)


def test_a_member_that_was_replaced_ends_the_alarm() -> None:
    """What counts is the newest index that two members share."""
    own = {64: A}
    check, _ = check_of(own)
    check.heard("n2", [(64, B)])
    assert check.differing() == {"n2": 64}
    own[128] = A
    check.heard("n2", [(128, A)])
    assert not check.differing()


class Guards:
    """Guards of several members that hear each other at once."""

    def __init__(self, states: Mapping[str, Marks]) -> None:
        self.fatal: dict[str, BaseException] = {}
        self.guards = {name: self._guard(name, marks) for name, marks in states.items()}

    def _guard(self, name: str, marks: Marks) -> StateGuard:
        environment = ManualEnvironment()
        voters = frozenset({"n1", "n2", "n3"})
        check = StateCheck(name, environment, lambda: voters, lambda: list(marks.items()))
        return StateGuard(
            check,
            lambda payload: self._deliver(name, payload),
            lambda error: self.fatal.update({name: error}),
        )

    def _deliver(self, sender: str, payload: bytes) -> None:
        for name, guard in self.guards.items():
            if name != sender:
                guard.receive(sender, payload)

    def beat(self) -> None:
        for guard in self.guards.values():
            guard.beat()


def test_the_one_that_is_wrong_ends_and_the_others_stay_ready() -> None:
    """G13: the message of the end names the index, both hashes and those who outvote it."""
    cluster = Guards({"n1": {64: A}, "n2": {64: B}, "n3": {64: A}})
    cluster.beat()
    cluster.beat()
    assert set(cluster.fatal) == {"n2"}
    error = cluster.fatal["n2"]
    assert isinstance(error, StateDiverged)
    for part in ("index 64", A.hex(), B.hex(), "n1, n3"):
        assert part in str(error)
    assert not list(cluster.guards["n1"].missing())
    assert cluster.guards["n1"].differing_count == 1


def test_two_that_contradict_each_other_raise_the_alarm_and_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither is ready, both say why, once in the log, and nobody stops."""
    cluster = Guards({"n1": {64: A}, "n2": {64: B}})
    for _ in range(3):
        cluster.beat()
    assert not cluster.fatal
    for guard in cluster.guards.values():
        (sentence,) = guard.missing()
        assert "no majority" in sentence
    assert caplog.text.count("differs from this member's at log index 64") == 2


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([[64, b"short"]]),
        msgspec.msgpack.encode([[-1, A]]),
        msgspec.msgpack.encode([[64, A]] * (MARKS_TOLD + 1)),
    ],
)
def test_marks_that_cannot_be_read_change_nothing(payload: bytes) -> None:
    """A member of another version, or a broken one, costs a line in the log."""
    cluster = Guards({"n1": {64: A}, "n2": {64: A}})
    cluster.guards["n1"].receive("n2", payload)
    assert cluster.guards["n1"].report()["marks_of_others"] == {}


def test_a_closed_directory_stays_closed_until_the_report_is_taken_away(tmp_path: Path) -> None:
    """The first report stays, and the refusal says why and what to do."""
    check_directory(tmp_path)
    marker = close_directory(tmp_path, "It differs.", {"own_marks": {64: "aa"}})
    close_directory(tmp_path, "Another reason.", {})
    assert marker.stat().st_mode & 0o777 == 0o600
    assert json.loads(marker.read_text())["own_marks"] == {"64": "aa"}
    with pytest.raises(Quarantined, match=rf"It differs\..*{MARKER}.*remove the file"):
        check_directory(tmp_path)
    marker.write_text("{")
    with pytest.raises(Quarantined, match="cannot be read"):
        check_directory(tmp_path)
    marker.unlink()
    check_directory(tmp_path)


def test_the_directory_of_a_removed_member_is_of_no_more_use(tmp_path: Path) -> None:
    """It is not started from again, and says what happened to its member."""
    leave_directory(tmp_path, "n3 was removed.")
    with pytest.raises(Removed, match=r"n3 was removed\..*of no more use"):
        check_directory(tmp_path)
