"""A member whose disk fills up: what it takes on, who leads instead, and when it stops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from consensus.raft.types import PeerProgress
from node.config.schema import section_settings
from node.disk import MIB, DiskAlmostFull, Marks, Room, check_room, space
from node.services.disk_watch import HAND_OVER_S, MAP_RATIO_ALARM, DiskWatch
from storage import journal, lmdb_store
from storage.lmdb_store import LmdbStore
from tests.support.clocks import ManualEnvironment

GIB = 1024 * MIB
MARKS = Marks(low_bytes=512 * MIB, critical_bytes=128 * MIB)


def room(free_mib: float, total_mib: float = 100_000, **more: float) -> Room:
    return Room(free_bytes=int(free_mib * MIB), total_bytes=int(total_mib * MIB), **more)  # type: ignore[arg-type]


class FakeDisk:
    place = "/data"

    def __init__(self) -> None:
        self.room = room(50_000)

    def measure(self) -> Room:
        return self.room


class FakeRaft:
    def __init__(self) -> None:
        self.is_leader = True
        self.connected = frozenset({"n2", "n3", "guest"})
        self.match = {"n2": 7, "n3": 9, "n4": 99, "guest": 99}
        self.transfers: list[str | None] = []

    @property
    def progress(self) -> Mapping[str, PeerProgress]:
        return {
            name: PeerProgress(match_index=index, last_contact_s=None)
            for name, index in self.match.items()
        }

    def transfer_leadership(self, member: str | None = None) -> None:
        self.transfers.append(member)


class Bench:
    """A watch with everything around it under the test's control."""

    def __init__(self) -> None:
        self.disk, self.raft, self.environment = FakeDisk(), FakeRaft(), ManualEnvironment()
        self.told: list[bytes] = []
        self.critical: list[DiskAlmostFull] = []
        self.watch = DiskWatch(
            self.disk,
            MARKS,
            self.environment,
            self.raft,
            voters=lambda: frozenset({"n1", "n2", "n3", "n4"}),
            tell=self.told.append,
            on_critical=self.critical.append,
        )

    def see(self, seen: Room) -> None:
        self.disk.room = seen
        self.watch.run_once()


@pytest.mark.parametrize(
    ("free_mib", "total_mib", "low", "critical"),
    [
        (513, 100_000, False, False),
        (511, 100_000, True, False),
        (129, 100_000, True, False),
        (127, 100_000, True, True),
        (0, 100_000, True, True),
        # A small disk: five and one and a quarter hundredths of it.
        (51, 1_000, False, False),
        (49, 1_000, True, False),
        (12, 1_000, True, True),
    ],
)
def test_the_marks_are_bytes_and_never_more_than_a_part_of_the_disk(
    free_mib: float, total_mib: float, low: bool, critical: bool
) -> None:
    seen = room(free_mib, total_mib)
    assert MARKS.is_low(seen, was_low=False) == low
    assert MARKS.is_critical(seen) == critical


def test_a_mark_of_zero_is_never_reached() -> None:
    """Whoever watches the disk by other means can switch this off."""
    marks = Marks(low_bytes=0, critical_bytes=0)
    assert not marks.is_low(room(0), was_low=False)
    assert not marks.is_critical(room(0))


def test_a_member_that_is_low_says_so_until_there_is_clearly_more_room() -> None:
    """It neither takes writes nor is ready, and does not come and go with a small file."""
    bench = Bench()
    bench.see(room(600))
    assert bench.watch.refusal() is None
    assert bench.watch.gauges()["disk_low"] == 0
    for free_mib in (500, 520, 560):
        bench.see(room(free_mib))
        assert f"{free_mib} MiB" in (bench.watch.refusal() or "")
        assert list(bench.watch.missing()) == [bench.watch.refusal()]
        assert bench.watch.gauges()["disk_low"] == 1
    bench.see(room(570))
    assert bench.watch.refusal() is None
    assert not list(bench.watch.missing())
    assert bench.told == [b"\x00", b"\x01", b"\x01", b"\x01", b"\x00"]
    assert bench.watch.gauges()["disk_free_bytes"] == 570 * MIB


def test_a_leader_that_is_low_hands_over_to_the_furthest_voter_with_room() -> None:
    """Neither to a guest, nor to one that is not connected, nor to one that is low as well."""
    bench = Bench()
    bench.see(room(600))
    assert bench.raft.transfers == []
    bench.see(room(500))
    assert bench.raft.transfers == ["n3"]
    bench.see(room(500))
    assert bench.raft.transfers == ["n3"]
    bench.environment.advance(HAND_OVER_S)
    bench.watch.heard("n3", b"\x01")
    bench.see(room(500))
    assert bench.raft.transfers == ["n3", "n2"]
    bench.watch.heard("n2", b"\x01")
    bench.environment.advance(HAND_OVER_S)
    bench.see(room(500))
    assert bench.raft.transfers == ["n3", "n2"]
    bench.watch.heard("n3", b"\x00")
    bench.see(room(500))
    assert bench.raft.transfers == ["n3", "n2", "n3"]


def test_a_follower_that_is_low_hands_nothing_over() -> None:
    bench = Bench()
    bench.raft.is_leader = False
    bench.see(room(500))
    assert bench.raft.transfers == []


def test_below_the_lower_mark_the_member_is_to_stop_once() -> None:
    """The reason has the numbers and what to do."""
    bench = Bench()
    for free_mib in (200, 100, 90, 80):
        bench.see(room(free_mib))
    (reason,) = bench.critical
    for part in ("/data", "almost full", "100 of 100000 MiB", "Make room"):
        assert part in str(reason)


def test_a_start_without_room_is_refused(tmp_path: Path) -> None:
    """Marks that no disk can meet stand for a disk that is full."""
    free_bytes, total_bytes = space(tmp_path)
    assert 0 < free_bytes <= total_bytes
    check_room(tmp_path, Marks(low_bytes=0, critical_bytes=0))
    assert MARKS.is_critical(Room(free_bytes=0, total_bytes=total_bytes))


def test_a_reader_that_holds_old_pages_grows_old() -> None:
    """The store's own one is renewed with each commit, and one behind for a moment."""
    bench = Bench()
    for lag, expected_s in ((0, 0.0), (2, 0.0), (9, 5.0), (30, 10.0), (1, 0.0), (3, 0.0)):
        bench.environment.advance(5)
        bench.see(room(600, reader_lag=lag))
        assert bench.watch.gauges()["state_reader_age_seconds"] == expected_s


def test_a_map_that_fills_up_is_an_alarm_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    for ratio in (0.5, MAP_RATIO_ALARM + 0.01, 0.8):
        bench.see(room(600, journal_ratio=0.1, state_ratio=ratio))
    assert caplog.text.count("address space") == 1
    assert bench.watch.gauges()["state_map_used_ratio"] == 0.8
    assert bench.watch.gauges()["journal_map_used_ratio"] == 0.1


def test_the_maps_hold_what_a_member_can_come_to_hold() -> None:
    """120 GB of state and the longest tail that can be configured, both below the alarm."""
    assert 120 * GIB < lmdb_store.MAP_BYTES * MAP_RATIO_ALARM
    tail_bytes_max = section_settings("raft")["journal_tail_bytes"].meta.le
    assert tail_bytes_max is not None
    assert tail_bytes_max * 2 < journal.MAP_BYTES * MAP_RATIO_ALARM


def test_the_store_knows_how_far_its_oldest_reader_is_behind(tmp_path: Path) -> None:
    """Its own base is renewed with each commit; another reader pins what it sees."""
    store = LmdbStore(tmp_path / "state")
    try:
        for _ in range(3):
            store.put(b"\x01k", b"v")
            store.flush()
        assert store.reader_lag() == 0
        with store._environment.begin():
            for number in range(3):
                store.put(b"\x01k", b"%d" % number)
                store.flush()
            assert store.reader_lag() == 3
        assert store.reader_lag() == 0
        assert store.used_bytes() < store.map_bytes == lmdb_store.MAP_BYTES
    finally:
        store.close()
