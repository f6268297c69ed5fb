"""The small parts of a member: ranks, leases, the due index, backoff, and the spool."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.state.commands import Ended
from node.backoff import retry_delay_ms
from node.boot import TooManySlots, check_slots, locked
from node.due_index import DueIndex
from node.lease import Lease
from node.ownership import Ownership
from node.spool import Spool
from storage.keys import PARTITIONS, band_of
from storage.models import Member, Retry
from tests.support.clocks import ManualEnvironment


def member(name: str, **facts: object) -> Member:
    settings = {
        "incarnation": name.encode().ljust(16),
        "lease_until_ms": 0,
        "slots": 1,
        "http_address": "",
        "version": "",
        "joined_ms": 0,
    }
    return Member(name=name, **{**settings, **facts})  # type: ignore[arg-type]


def test_every_partition_has_each_rank_once() -> None:
    """Members that see the same list give each partition one owner and one order."""
    names = ["n1", "n2", "n3"]
    views = [Ownership(name) for name in names]
    for view in views:
        view.update(member(name) for name in names)
    for partition in range(PARTITIONS):
        assert sorted(view.rank(partition) or 0 for view in views) == [0, 1, 2]


def test_when_a_member_goes_only_its_partitions_move() -> None:
    """Rendezvous hashing leaves what the others own where it is."""
    view = Ownership("n1")
    view.update(member(name) for name in ("n1", "n2", "n3"))
    owned = {partition for partition in range(PARTITIONS) if view.rank(partition) == 0}
    assert view.update((member("n1"), member("n2"), member("n3", expired=True)))
    assert owned <= {partition for partition in range(PARTITIONS) if view.rank(partition) == 0}


def test_a_selector_ranks_only_those_who_satisfy_it() -> None:
    """A job for one label is first for the one member that carries it."""
    view = Ownership("n1")
    view.update((member("n1", labels={"zone": "a"}), member("n2"), member("n3")))
    assert {view.rank_among(partition, {"zone": "a"}) for partition in range(50)} == {0}
    assert {view.rank_among(partition, {"zone": "b"}) for partition in range(50)} == {None}


def test_the_holder_trusts_its_lease_less_than_the_cluster() -> None:
    """A lease counts from the moment its heartbeat was sent, less a margin."""
    environment = ManualEnvironment()
    lease = Lease(environment, 5_000)
    assert not lease.held
    sent_s = environment.monotonic_s()
    environment.advance(2)
    lease.renewed(sent_s)
    assert lease.held
    environment.advance(2.51)
    assert not lease.held


def test_an_older_heartbeat_does_not_shorten_the_lease() -> None:
    """Answers may arrive out of order."""
    environment = ManualEnvironment()
    lease = Lease(environment, 5_000)
    lease.renewed(environment.monotonic_s())
    until_s = lease.until_s
    lease.renewed(environment.monotonic_s() - 3)
    assert lease.until_s == until_s


def index() -> DueIndex:
    return DueIndex(lambda partition, band, start_ms: start_ms - 1_000, 1_000, 10_000)


def test_nothing_is_looked_at_before_its_time() -> None:
    """A place is handed out when its earliest entry comes within the horizon, and once."""
    due = index()
    due.note(7, 5, 5_000)
    due.note(7, 5, 9_000)
    assert due.next_wake_ms == 4_000
    assert due.pop(3_999) is None
    assert due.pop(4_000) == (7, 5)
    assert due.pop(99_000) is None


def test_what_is_ready_comes_by_priority_and_the_rest_by_time() -> None:
    """High priority goes first among what is due; what is due goes before what will be."""
    due = index()
    low, high = band_of(10, selective=False), band_of(90, selective=False)
    due.note(1, low, 5_000)
    due.note(2, high, 5_000)
    due.note(3, high, 5_900)
    assert [due.pop(5_100), due.pop(5_100), due.pop(5_100)] == [(2, high), (1, low), (3, high)]


def test_waiting_raises_priority_without_bound() -> None:
    """Nothing waits for ever: the lowest priority overtakes the highest in the end."""
    due = index()
    low, high = band_of(0, selective=False), band_of(100, selective=False)
    due.note(1, low, 0)
    due.note(2, high, 1_100_000)
    assert due.pop(1_100_000) == (1, low)


@given(number=st.integers(1, 10_000), backoff=st.integers(1, 10**7), bound=st.integers(1, 10**8))
def test_backoff_is_bounded_and_reproducible(number: int, backoff: int, bound: int) -> None:
    """The delay doubles up to its bound; with jitter it keeps at least half of it."""
    plain = Retry(attempts_max=9, backoff_ms=backoff, backoff_ms_max=bound, jitter=False)
    jittered = Retry(attempts_max=9, backoff_ms=backoff, backoff_ms_max=bound)
    full_ms = retry_delay_ms(plain, b"run", number)
    assert full_ms == min(backoff * 2 ** min(number - 1, 60), bound)
    delay_ms = retry_delay_ms(jittered, b"run", number)
    assert full_ms // 2 <= delay_ms <= full_ms
    assert delay_ms == retry_delay_ms(jittered, b"run", number)


def end(fence: int) -> Ended:
    return Ended(b"run", 1, fence, "succeeded", 1, 2, output=(b"x" * 100,))


def test_the_spool_outlives_its_process(tmp_path: Path) -> None:
    """What was kept and not settled is there when the file is opened again."""
    spool = Spool(tmp_path / "spool")
    spool.keep(end(1))
    spool.keep(end(2))
    spool.settle(end(1))
    spool.close()
    again = Spool(tmp_path / "spool")
    assert again.recover() == [end(1), end(2)]
    again.settle(end(1))
    again.settle(end(2))
    assert (tmp_path / "spool").stat().st_size == 0
    again.close()


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_torn_record_costs_only_itself(tmp_path: Path, cut: int) -> None:
    """A process that dies while it writes leaves the records before readable."""
    spool = Spool(tmp_path / "spool")
    spool.keep(end(1))
    spool.keep(end(2))
    spool.close()
    path = tmp_path / "spool"
    path.write_bytes(path.read_bytes()[:-cut])
    again = Spool(path)
    assert again.recover() == [end(1)]
    again.keep(end(3))
    again.close()
    third = Spool(path)
    assert third.recover() == [end(1), end(3)]
    third.close()


def test_a_record_of_garbage_is_dropped(tmp_path: Path) -> None:
    """Whatever a disk makes of the file's end, the member starts."""
    path = tmp_path / "spool"
    spool = Spool(path)
    spool.keep(end(1))
    spool.keep(Ended(b"run", 1, 2, "failed", 1, 2, None, "detail"))
    spool.close()
    path.write_bytes(path.read_bytes().replace(b"detail", b"d\xaetail"))
    again = Spool(path)
    assert again.recover() == [end(1)]
    again.close()


def test_a_spool_that_never_empties_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a steady load something is always open; what was decided leaves the file."""
    monkeypatch.setattr("node.spool.REWRITTEN_BYTES_MIN", 2_000)
    path = tmp_path / "spool"
    spool = Spool(path)
    kept = end(0)
    spool.keep(kept)
    for number in range(1, 1_000):
        spool.keep(end(number))
        spool.keep(end(number))  # said twice, and open once
        if number > 3:
            spool.settle(end(number - 3))
        assert path.stat().st_size < 3_000
    spool.close()
    again = Spool(path)
    left = again.recover()
    # What was decided lately may be told once more; the fence says that it was.
    assert {0, 997, 998, 999} <= {one.fence for one in left} <= {0, *range(980, 1_000)}
    for one in left:
        again.settle(one)
    assert path.stat().st_size == 0
    again.close()


def test_slots_that_commands_could_not_fill_are_refused() -> None:
    """At the start, with what to do, and not when the first command fails."""
    check_slots(400, 400)
    with pytest.raises(TooManySlots, match="room for 400 commands"):
        check_slots(401, 400)


def test_a_data_directory_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    """Also one that was made by hand, before anything is written into it."""
    tmp_path.chmod(0o755)
    with locked(tmp_path):
        assert tmp_path.stat().st_mode & 0o777 == 0o700
