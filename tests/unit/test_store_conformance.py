"""One suite over every store: what the state machine may rely on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.layer import Layer
from storage.lmdb_store import LmdbStore
from storage.memory_store import FlushedMemoryStore, MemoryStateDisk, MemoryStore
from storage.store import FlushedStore, Store

MAP_BYTES = 1 << 26
KEYS = st.binary(min_size=1, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=4)),
        st.tuples(st.just("delete"), KEYS, st.just(b"")),
        st.tuples(
            st.sampled_from(["savepoint", "rollback", "flush", "begin_flush", "end_flush"]),
            KEYS,
            st.just(b""),
        ),
    ),
    max_size=40,
)


@pytest.fixture(params=["memory", "flushed memory", "lmdb"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Return a maker of empty stores of one kind."""
    opened: list[LmdbStore] = []

    def make() -> Store:
        if request.param == "memory":
            return MemoryStore()
        if request.param == "flushed memory":
            return FlushedMemoryStore(MemoryStateDisk())
        store = LmdbStore(tmp_path / str(len(opened)), map_bytes=MAP_BYTES)
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


def flush(store: Store, kind: str) -> None:
    """Take a step towards the disk, if a store has one."""
    if not isinstance(store, LmdbStore | FlushedMemoryStore):
        return
    if kind == "begin_flush":
        store.begin_flush()
    elif store.flushing:
        store.commit()
        store.end_flush()
    if kind == "flush":
        store.flush()


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, low=KEYS, high=KEYS, limit=st.integers(1, 5))
def test_a_store_behaves_like_a_sorted_dictionary(
    make_store: Callable[[], Store],
    steps: list[tuple[str, bytes, bytes]],
    low: bytes,
    high: bytes,
    limit: int,
) -> None:
    """Whatever was put, deleted, rolled back or flushed: reads show what is left."""
    store = make_store()
    model: dict[bytes, bytes] = {}
    saved: dict[bytes, bytes] = {}
    for kind, key, value in steps:
        if kind == "put":
            store.put(key, value)
            model[key] = value
        elif kind == "delete":
            store.delete(key)
            model.pop(key, None)
        elif kind == "rollback":
            store.rollback()
            model = dict(saved)
        else:
            store.savepoint()
            saved = dict(model)
            flush(store, kind)
        assert store.get(key) == model.get(key)
        assert_reads(store, model, low, high, limit)


def assert_reads(
    store: Store, model: dict[bytes, bytes], low: bytes, high: bytes, limit: int
) -> None:
    rows = sorted((k, v) for k, v in model.items() if low <= k < high)
    assert store.scan(low, high, limit) == rows[:limit]
    assert store.scan(low, high, limit, reverse=True) == rows[::-1][:limit]


def test_what_was_written_is_told_in_order(
    make_store: Callable[[], Store],
) -> None:
    """The rolling hash covers every write since the savepoint, deletes as well."""
    store = make_store()
    store.put(b"a", b"1")
    store.savepoint()
    store.put(b"b", b"2")
    store.delete(b"a")
    store.put(b"b", b"3")
    assert list(store.written()) == [(b"b", b"2"), (b"a", None), (b"b", b"3")]


@pytest.mark.parametrize("key", [b"", b"x" * 512, b"x" * 5000])
def test_a_key_that_no_disk_takes_is_refused_where_it_is_put(
    make_store: Callable[[], Store], key: bytes
) -> None:
    """It is a fault of one command then, and not a commit that fails on every member."""
    store = make_store()
    store.put(b"x" * 511, b"v")
    with pytest.raises(ValueError, match="bytes"):
        store.put(key, b"v")
    flush(store, "flush")
    assert store.scan(b"\0", b"\xff", 10) == [(b"x" * 511, b"v")]
    assert store.get(b"x" * 512) is None


def test_a_rollback_leaves_nothing_to_tell(
    make_store: Callable[[], Store],
) -> None:
    """What was undone was never written."""
    store = make_store()
    store.put(b"a", b"1")
    store.savepoint()
    store.put(b"a", b"2")
    store.delete(b"a")
    store.delete(b"unknown")
    store.put(b"b", b"3")
    store.rollback()
    assert list(store.written()) == []
    assert store.scan(b"", b"z", 9) == [(b"a", b"1")]
    store.rollback()
    assert store.get(b"a") == b"1"


def test_a_scan_looks_behind_what_was_deleted(
    make_store: Callable[[], Store],
) -> None:
    """The limit counts rows that there are, in both directions."""
    store = make_store()
    for number in range(100):
        store.put(bytes([number]), b"x")
    store.savepoint()
    flush(store, "flush")
    for number in range(5, 95):
        store.delete(bytes([number]))
    store.savepoint()
    for kind in ("none", "begin_flush", "end_flush"):
        flush(store, kind)
        assert [key[0] for key, _ in store.scan(b"\x00", b"\xff", 7)] == [0, 1, 2, 3, 4, 95, 96]
        found = store.scan(b"\x02", b"\x61", 4, reverse=True)
        assert [key[0] for key, _ in found] == [96, 95, 4, 3]
    assert store.scan(b"\x05", b"\x5f", 9) == store.scan(b"\x09", b"\x01", 9) == []


def test_what_waits_for_the_disk_is_measured_without_what_was_undone() -> None:
    """Else commands that were refused would hold up the log."""
    layer = Layer()
    layer.change(b"abc", b"12345")
    layer.savepoint()
    layer.change(b"abc", None)
    layer.change(b"def", b"1")
    layer.rollback()
    assert layer.bytes_total == 8


@pytest.fixture(params=["flushed memory", "lmdb"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], FlushedStore]:
    """Return what opens a store over the same disk, again and again."""
    disk = MemoryStateDisk()

    def open_again() -> FlushedStore:
        if request.param == "lmdb":
            return LmdbStore(tmp_path, map_bytes=MAP_BYTES)
        return FlushedMemoryStore(disk)

    return open_again


def test_what_was_flushed_is_there_after_opening_again(
    open_store: Callable[[], FlushedStore],
) -> None:
    """A flush is one transaction: it survives, and what came after it does not."""
    store = open_store()
    store.put(b"a", b"1")
    store.savepoint()
    store.flush()
    store.put(b"b", b"2")
    store.savepoint()
    assert store.begin_flush()
    store.close()
    again = open_store()
    assert (again.get(b"a"), again.get(b"b")) == (b"1", None)
    again.close()


def test_reads_are_the_same_before_during_and_after_a_flush(
    open_store: Callable[[], FlushedStore],
) -> None:
    """Between the layers nothing is lost from sight and nothing comes back."""
    store = open_store()
    store.put(b"a", b"1")
    store.put(b"b", b"1")
    store.savepoint()
    store.flush()
    store.put(b"a", b"2")
    store.delete(b"b")
    store.put(b"c", b"2")
    store.savepoint()
    expected = [(b"a", b"2"), (b"c", b"2")]
    assert store.scan(b"a", b"z", 9) == expected
    assert store.pending_bytes
    assert store.begin_flush()
    assert (store.flushing, store.pending_bytes) == (True, 0)
    assert store.scan(b"a", b"z", 9) == expected
    store.put(b"d", b"3")
    store.savepoint()
    store.commit()
    assert store.scan(b"a", b"d", 9) == expected
    store.end_flush()
    assert store.scan(b"a", b"z", 9) == [*expected, (b"d", b"3")]
    store.close()
    again = open_store()
    assert again.scan(b"a", b"z", 9) == expected
    assert not again.begin_flush()
    again.close()


def test_a_power_cut_may_take_the_last_transaction_and_no_other() -> None:
    """The memory's disk can do what LMDB's may."""
    disk = MemoryStateDisk()
    store = FlushedMemoryStore(disk)
    for value in (b"1", b"2", b"3"):
        store.put(b"a", value)
        store.put(b"b" + value, value)
        store.savepoint()
        store.flush()
    disk.lose_last()
    disk.lose_last()
    assert FlushedMemoryStore(disk).scan(b"a", b"z", 9) == [
        (b"a", b"2"),
        (b"b1", b"1"),
        (b"b2", b"2"),
    ]


def test_files_belong_to_their_owner_alone(tmp_path: Path) -> None:
    """Definitions may carry secrets; nobody else may read them."""
    store = LmdbStore(tmp_path / "state", map_bytes=MAP_BYTES)
    store.put(b"a", b"1")
    store.savepoint()
    store.flush()
    store.close()
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "data.mdb").stat().st_mode & 0o077 == 0
