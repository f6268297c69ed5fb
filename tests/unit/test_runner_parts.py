"""The parts of the runner that decide: stop plans, refusals, marks, the cgroup tree."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.runner.__main__ import parse
from node.runner.cgroup import mounted_at, own_cgroup
from node.runner.limits import (
    ARGUMENT_BYTES_MAX,
    DURATION_MS_MAX,
    KILL_MARGIN_S,
    LEASE_GRACE_S_MAX,
    OUTPUT_BYTES_MAX,
    STDIN_BYTES_MAX,
)
from node.runner.processes import mark_in
from node.runner.protocol import Launch
from node.runner.spawn import environment_for, refusal_of
from node.runner.stopping import Step, StopPlan

LEASE_S = 100.0


def plan(*, timeout_s: float | None = None, grace_s: float = 10.0, bound: bool = True) -> StopPlan:
    """Return the plan of an attempt that starts at instant 0."""
    return StopPlan(now_s=0.0, timeout_s=timeout_s, grace_s=grace_s, must_stop_with_lease=bound)


# --- stopping -------------------------------------------------------------------------


def test_nothing_is_due_while_the_lease_is_good() -> None:
    """An attempt without a timeout is left alone."""
    attempt = plan()
    assert attempt.advance(0.0, LEASE_S) is None
    assert attempt.next_due_s(LEASE_S) == LEASE_S - KILL_MARGIN_S - LEASE_GRACE_S_MAX


def test_a_lease_that_runs_out_terms_and_then_kills_before_its_end() -> None:
    """SIGTERM comes its grace before SIGKILL, SIGKILL its margin before the lease's end."""
    attempt = plan(grace_s=0.3)
    kill_s = LEASE_S - KILL_MARGIN_S
    assert attempt.advance(kill_s - 0.31, LEASE_S) is None
    assert attempt.advance(kill_s - 0.3, LEASE_S) is Step.TERM
    assert attempt.next_due_s(LEASE_S) == kill_s
    assert attempt.advance(kill_s - 0.01, LEASE_S) is None
    assert attempt.advance(kill_s, LEASE_S) is Step.KILL
    assert attempt.cause == "lease"
    assert attempt.next_due_s(LEASE_S) == math.inf


def test_a_grace_that_no_longer_fits_is_not_given() -> None:
    """Noticed too late, the lease's end means SIGKILL at once."""
    assert plan().advance(LEASE_S - KILL_MARGIN_S, LEASE_S) is Step.KILL


def test_a_renewal_moves_the_end() -> None:
    """What was due under the old lease is not under the new one."""
    attempt = plan()
    assert attempt.advance(LEASE_S - KILL_MARGIN_S, LEASE_S + 60) is None


def test_a_renewal_after_the_sigterm_saves_nobody() -> None:
    """An attempt that was told to end is ended, whether or not the lease comes back."""
    attempt = plan(grace_s=0.5)
    assert attempt.advance(LEASE_S - KILL_MARGIN_S - 0.5, LEASE_S) is Step.TERM
    assert attempt.advance(LEASE_S - KILL_MARGIN_S, LEASE_S + 60) is Step.KILL


def test_an_attempt_that_may_outlive_the_lease_does() -> None:
    """It is not stopped, but past the lease it is not started either."""
    attempt = plan(bound=False)
    assert attempt.advance(LEASE_S + 1000, LEASE_S) is None
    assert attempt.refuses_to_start(LEASE_S, LEASE_S)
    assert not attempt.refuses_to_start(LEASE_S - KILL_MARGIN_S - 0.01, LEASE_S)


def test_nothing_starts_that_would_be_stopped_at_once() -> None:
    """Before any lease, and within the last grace of one, a start is refused."""
    assert plan().refuses_to_start(0.0, -math.inf)
    assert plan(grace_s=0.2).refuses_to_start(LEASE_S - KILL_MARGIN_S - 0.2, LEASE_S)


def test_a_timeout_terms_waits_the_grace_and_kills() -> None:
    """The grace after a timeout is the job's own."""
    attempt = plan(timeout_s=5, grace_s=10)
    assert attempt.advance(4.9, LEASE_S) is None
    assert attempt.advance(5.0, LEASE_S) is Step.TERM
    assert attempt.advance(14.9, LEASE_S) is None
    assert attempt.advance(15.0, LEASE_S) is Step.KILL
    assert attempt.cause == "timeout"


def test_without_a_grace_there_is_only_the_kill() -> None:
    """A grace of zero sends no SIGTERM."""
    attempt = plan(grace_s=0)
    attempt.stop(1.0, "cancelled", "Asked for.", None)
    assert attempt.advance(1.0, LEASE_S) is Step.KILL


def test_the_first_reason_counts_and_the_shortest_grace() -> None:
    """A second kill can hurry the end and never delays it."""
    attempt = plan()
    attempt.stop(1.0, "cancelled", "First.", 10.0)
    assert attempt.advance(1.0, LEASE_S) is Step.TERM
    attempt.stop(2.0, "killed", "Second.", 1.0)
    attempt.stop(2.0, "killed", "Third.", 60.0)
    assert (attempt.cause, attempt.detail) == ("cancelled", "First.")
    assert attempt.next_due_s(LEASE_S) == 3.0
    assert attempt.advance(3.0, LEASE_S) is Step.KILL


def test_a_long_grace_ends_with_the_lease() -> None:
    """Stopped for another reason, an attempt is still dead before the lease's end."""
    attempt = plan()
    attempt.stop(LEASE_S - 10, "cancelled", "Asked for.", 3600.0)
    assert attempt.advance(LEASE_S - 10, LEASE_S) is Step.TERM
    assert attempt.next_due_s(LEASE_S) == LEASE_S - KILL_MARGIN_S
    assert attempt.advance(LEASE_S - KILL_MARGIN_S, LEASE_S) is Step.KILL


@given(
    st.floats(0, 60),
    st.floats(0, 60) | st.none(),
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 10), st.booleans()), max_size=40),
)
def test_no_bound_attempt_is_spared_past_its_lease(
    grace_s: float, timeout_s: float | None, rounds: list[tuple[float, float, bool]]
) -> None:
    """Whenever the plan was asked at its due instants, SIGKILL is never later than the margin.

    The wake-up that a plan asks for is never later than the next step, steps come in order
    and at most once.
    """
    attempt = plan(grace_s=grace_s, timeout_s=timeout_s)
    now_s, lease_s = 0.0, 20.0
    steps: list[Step] = []
    for wait_s, extension_s, is_cancelled in rounds:
        until_s = now_s + wait_s
        while (due_s := attempt.next_due_s(lease_s)) <= until_s:
            now_s = max(now_s, due_s)
            step = attempt.advance(now_s, lease_s)
            if step is None:
                break
            steps.append(step)
            if step is Step.KILL:
                assert now_s <= max(lease_s - KILL_MARGIN_S, 0.0)
        assert attempt.is_killed or until_s <= lease_s - KILL_MARGIN_S
        now_s = until_s
        if is_cancelled:
            attempt.stop(now_s, "cancelled", "", None)
        if not attempt.is_killed:
            lease_s = max(lease_s, now_s + extension_s + KILL_MARGIN_S)
    assert steps in ([], [Step.TERM], [Step.KILL], [Step.TERM, Step.KILL])


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launch", "complaint"),
    [
        (Launch(attempt_id="a", argv=[]), "names no program"),
        (Launch(attempt_id="a", argv=[""]), "names no program"),
        (Launch(attempt_id="a", argv=["a\0b"]), "zero byte"),
        (Launch(attempt_id="a", argv=["a"], cwd="/\0"), "zero byte"),
        (Launch(attempt_id="a", argv=["a"], env={"A": "\0"}), "zero byte"),
        (Launch(attempt_id="a", argv=["a"], env={"A=B": ""}), "variable is not allowed"),
        (Launch(attempt_id="a", argv=["a"], env={"": ""}), "variable is not allowed"),
        (Launch(attempt_id="a", argv=["a", "x" * (ARGUMENT_BYTES_MAX + 1)]), "exceeds"),
        (Launch(attempt_id="a", argv=["x" * 100_000] * 20), "argv and env exceed"),
        (Launch(attempt_id="a", argv=["a"], stdin=b"x" * (STDIN_BYTES_MAX + 1)), "stdin"),
        (Launch(attempt_id="a", argv=["a"], output_bytes_max=OUTPUT_BYTES_MAX + 1), "output_"),
        (Launch(attempt_id="a", argv=["a"], output_bytes_max=-1), "output_"),
        (Launch(attempt_id="a", argv=["a"], timeout_ms=-1), "timeout_ms must be"),
        (Launch(attempt_id="a", argv=["a"], grace_ms=DURATION_MS_MAX + 1), "grace_ms must be"),
    ],
)
def test_a_launch_that_cannot_work_is_refused_with_a_sentence(
    launch: Launch, complaint: str
) -> None:
    """What a user may have written wrongly is an answer, not a crash."""
    refusal = refusal_of(launch, environment_for(launch, {}))
    assert refusal is not None
    assert complaint in refusal


def test_an_ordinary_launch_is_not_refused() -> None:
    """Non-ASCII text and an empty variable are ordinary."""
    launch = Launch(attempt_id="a", argv=["echo", "grüß"], env={"EMPTY": "", "Ä": "ö"})
    assert refusal_of(launch, environment_for(launch, {})) is None


def test_only_harmless_variables_are_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launch overrides what is inherited, the mark overrides the launch."""
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("HOME", "/home/one")
    monkeypatch.setenv("TZ", "UTC")
    launch = Launch(attempt_id="a", argv=["a"], env={"TZ": "Europe/Berlin", "MARK": "forged"})
    given_ = environment_for(launch, {"MARK": "real"})
    assert "SECRET" not in given_
    assert (given_["HOME"], given_["TZ"], given_["MARK"]) == ("/home/one", "Europe/Berlin", "real")


# --- marks, cgroups, command line -----------------------------------------------------


def test_a_mark_is_found_only_as_a_variable_of_its_own() -> None:
    """Its text inside another value is not a mark."""
    assert mark_in(b"A=1\0CRONCLAVE_ATTEMPT_TOKEN=h.r.1\0B=2\0") == "h.r.1"
    assert mark_in(b"A=CRONCLAVE_ATTEMPT_TOKEN=h.r.1\0") is None
    assert mark_in(b"") is None


def test_the_cgroup_of_version_two_is_found_among_the_others() -> None:
    """Hybrid systems list the old hierarchies as well."""
    assert own_cgroup("4:memory:/a\n0::/system.slice/x.service\n") == "/system.slice/x.service"
    assert own_cgroup("4:memory:/a\n") is None
    mounts = (
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - tmpfs tmpfs rw\n"
        "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw\n"
    )
    assert mounted_at(mounts) == ("/", "/sys/fs/cgroup/unified")
    assert mounted_at("") is None


@pytest.mark.parametrize(
    "arguments", [[], ["3"], ["x", "/l", "auto"], ["3", "/l", "maybe"], ["3", "/l", "auto", "x"]]
)
def test_a_wrong_command_line_is_none(arguments: list[str]) -> None:
    """The runner takes exactly what a node gives it."""
    assert parse(arguments) is None
