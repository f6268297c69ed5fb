"""A member's time of day: carried forward, compared, and doubted."""

from __future__ import annotations

from consensus.timekeeper import Timekeeper
from tests.support.clocks import ManualEnvironment


def keeper() -> tuple[ManualEnvironment, Timekeeper]:
    environment = ManualEnvironment()
    return environment, Timekeeper(environment, 500)


def test_a_slow_adjustment_is_followed() -> None:
    """What a time daemon slews is taken over at the next check."""
    environment, time = keeper()
    environment.advance(1)
    environment.jump(-100)
    time.check()
    assert time.now_ms() == environment.wall_ms()
    assert not time.suspect


def test_a_jump_is_not_believed_while_the_others_disagree() -> None:
    """A clock that is set forward launches nothing early: the member claims nothing."""
    environment, time = keeper()
    before_ms = time.now_ms()
    for member in ("n2", "n3"):
        time.heard(member, before_ms)
    environment.jump(3_600_000)
    time.check()
    assert time.suspect
    assert time.now_ms() == before_ms


def test_a_jump_back_to_the_others_ends_the_doubt() -> None:
    """A clock that is repaired agrees with the other members, and is followed."""
    environment, time = keeper()
    there_ms = time.now_ms() + 60_000
    for member in ("n2", "n3"):
        time.heard(member, there_ms)
    assert time.suspect
    environment.jump(60_000)
    time.check()
    assert time.now_ms() == there_ms
    assert not time.suspect


def test_alone_a_jump_is_believed_after_a_while() -> None:
    """Where nobody can be asked, the clock is right if it stays where it is."""
    environment, time = keeper()
    environment.jump(60_000)
    time.check()
    assert time.suspect
    environment.advance(6)
    time.check()
    assert not time.suspect
    assert time.now_ms() == environment.wall_ms()


def test_one_wrong_member_does_not_make_the_others_doubt() -> None:
    """The median decides: two of three agree."""
    _, time = keeper()
    time.heard("n2", time.now_ms() + 5)
    time.heard("n3", time.now_ms() + 3_600_000)
    assert not time.suspect


def test_a_machine_that_comes_up_is_trusted_when_a_majority_agrees_with_it() -> None:
    """Its clock may have been set to anything while it was away; alone it launches nothing."""
    environment = ManualEnvironment()
    time = Timekeeper(environment, 500, others_min=lambda: 1)
    assert (time.confirmed, time.suspect) == (False, True)
    time.heard("n2", time.now_ms() + 20)
    assert (time.confirmed, time.suspect) == (True, False)
    environment.advance(11)
    assert (time.confirmed, time.suspect) == (False, True)


def test_an_answer_that_took_too_long_says_nothing() -> None:
    """A process that was stopped finds old answers waiting, and must not believe them."""
    environment = ManualEnvironment()
    time = Timekeeper(environment, 500, others_min=lambda: 1)
    asked_ms, their_ms = int(environment.monotonic_s() * 1000), time.now_ms()
    environment.advance(5)
    time.answered("n2", asked_ms, their_ms)
    assert not time.confirmed
    time.answered("n2", asked_ms + 10_000, their_ms)
    assert not time.confirmed
    time.answered("n2", int(environment.monotonic_s() * 1000), time.now_ms())
    assert time.confirmed


def test_the_time_of_the_cluster_is_what_the_median_says() -> None:
    """A member whose clock is off knows by how much, and stamps nothing with it."""
    time = Timekeeper(ManualEnvironment(), 500, others_min=lambda: 1)
    right_ms = time.now_ms() - 3_600_000
    time.heard("n2", right_ms)
    time.heard("n3", right_ms + 10)
    assert time.suspect
    assert abs(time.cluster_ms() - right_ms) <= 10


def test_small_differences_are_no_reason_to_change_the_time() -> None:
    """Within the permitted skew every member keeps its own time, which does not hop."""
    time = Timekeeper(ManualEnvironment(), 500, others_min=lambda: 1)
    time.heard("n2", time.now_ms() + 100)
    time.heard("n3", time.now_ms() + 200)
    assert time.cluster_ms() == time.now_ms()


def test_between_two_members_the_log_decides() -> None:
    """Who is behind the last entry, and what has gone by since, cannot be right."""
    environment = ManualEnvironment()
    time = Timekeeper(environment, 500, others_min=lambda: 1)
    time.log_said(time.now_ms() - 10)
    time.heard("n2", time.now_ms() - 3_600_000)
    assert (time.suspect, time.cluster_ms()) == (False, time.now_ms())
    environment.jump(-60_000)
    behind = Timekeeper(environment, 500, others_min=lambda: 1)
    behind.log_said(time.now_ms() - 10)
    behind.heard("n1", time.now_ms())
    assert (behind.suspect, behind.cluster_ms()) == (True, time.now_ms())


def test_between_two_members_that_the_log_does_not_know_the_earlier_is_followed() -> None:
    """Late is better than early."""
    time = Timekeeper(ManualEnvironment(), 500, others_min=lambda: 1)
    time.log_said(time.now_ms() - 7_200_000)
    time.heard("n2", time.now_ms() - 3_600_000)
    assert time.suspect


def test_the_clock_of_the_log_moves_on_slowly_while_nobody_knows_the_time() -> None:
    """Leases end, but nothing can run ahead of the true time."""
    environment = ManualEnvironment()
    time = Timekeeper(environment, 500, others_min=lambda: 1)
    time.log_said(time.now_ms() - 20_000)
    before_ms = time.stamp_ms()
    assert before_ms == time.now_ms() - 20_000
    environment.advance(4)
    assert time.stamp_ms() == before_ms + 2_000
    time.heard("n2", time.now_ms())
    assert time.stamp_ms() == time.now_ms()


def test_in_a_new_cluster_there_is_no_time_but_the_members_own() -> None:
    """Its first entry has to have some."""
    time = Timekeeper(ManualEnvironment(), 500, others_min=lambda: 1)
    assert time.stamp_ms() == time.now_ms()
