"""What lies in the store goes into the hash, a window at each mark."""

from __future__ import annotations

from pathlib import Path

from consensus.state import scrub
from consensus.state.context import Effects
from consensus.state.machine import Machine
from storage import keys
from storage.lmdb_store import LmdbStore
from storage.memory_store import MemoryStore
from storage.store import Store

ROWS = 3 * scrub.WINDOW_ROWS_MAX // 2


def fill(store: Store, rows: int = ROWS, size: int = 10) -> None:
    for number in range(rows):
        store.put(keys.JOB + number.to_bytes(16, "big"), bytes(size))
    store.savepoint()


def advance(machine: Machine, entries: int) -> None:
    """Apply entries that change nothing, as the first of each leader."""
    for _ in range(entries):
        machine.apply(machine.applied_index + 1, 1, b"", Effects())
    machine.finish()


def hashes(store: Store, marks: int, steps: int = 1) -> list[bytes]:
    """Return the hashes at the next marks of a machine over this store."""
    machine = Machine(store)
    for _ in range(steps):
        advance(machine, marks * scrub.MARK_EVERY // steps)
    return [digest for _, digest in machine.marks]


def test_windows_cover_the_store_one_after_the_other_and_begin_again() -> None:
    """Each row is read once in a pass, whatever table it is in."""
    store = MemoryStore()
    fill(store)
    store.put(b"\xf0last", b"x")
    first, second = scrub.window(store, scrub.FIRST)
    assert second == keys.JOB + (scrub.WINDOW_ROWS_MAX - 1).to_bytes(16, "big") + b"\x00"
    rest, third = scrub.window(store, second)
    assert third == scrub.FIRST
    assert first != rest
    store.put(b"\xf0last", b"y")
    assert scrub.window(store, second)[0] != rest
    assert scrub.window(store, scrub.FIRST)[0] == first


def test_a_window_of_large_rows_is_bounded_by_their_bytes() -> None:
    """Captured output must not make a window that holds up the loop."""
    store = MemoryStore()
    fill(store, size=65_536)
    _, following = scrub.window(store, scrub.FIRST)
    rows = int.from_bytes(following[1:17], "big") + 1
    assert rows == scrub.WINDOW_BYTES_MAX // 65_536


def test_a_byte_changed_in_the_store_changes_the_hash_from_the_next_visit_on() -> None:
    """A value that nobody writes any more is found by the window that comes to it."""
    good, bad = MemoryStore(), MemoryStore()
    fill(good)
    fill(bad)
    bad.put(keys.JOB + (ROWS - 1).to_bytes(16, "big"), b"\x00" * 9 + b"\x01")
    bad.savepoint()
    ours, theirs = hashes(good, 4), hashes(bad, 4)
    assert ours[0] == theirs[0]
    assert not set(ours[1:]) & set(theirs[1:])


def test_a_row_that_is_missing_changes_the_hash() -> None:
    good, bad = MemoryStore(), MemoryStore()
    fill(good, 20)
    fill(bad, 20)
    bad.delete(keys.JOB + (7).to_bytes(16, "big"))
    bad.savepoint()
    assert hashes(good, 1) != hashes(bad, 1)


def test_batches_restarts_and_kinds_of_store_make_no_difference(tmp_path: Path) -> None:
    """Where the reading stands is part of the state, so every member reads the same."""
    memory, disk, restarted = MemoryStore(), LmdbStore(tmp_path / "a"), LmdbStore(tmp_path / "b")
    for store in (memory, disk, restarted):
        fill(store)
    disk.flush()
    expected = hashes(memory, 3)
    assert hashes(disk, 3, steps=8) == expected
    found = []
    for _ in range(3):
        found += hashes(restarted, 1)
        restarted.flush()
        restarted.close()
        restarted = LmdbStore(tmp_path / "b")
    assert found == expected
    disk.close()
    restarted.close()
