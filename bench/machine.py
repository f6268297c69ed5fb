"""How long the state machine takes for a launch and for a create, without agreement or disk.

    python -m bench.machine [--profile] [--rounds 50]

Every member applies every command in its event loop, so this is what no number of members
makes faster. Entries are packed before the clock starts; a launch is its claim and its end.
Times are processor time, so that what else runs on the machine counts less.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable

from consensus.state.commands import (
    Batch,
    Claim,
    ClaimOccurrence,
    Command,
    Cursor,
    Ended,
    Heartbeat,
    PutJob,
    Report,
    encode_batch,
    pack_entry,
)
from consensus.state.context import Effects
from consensus.state.machine import Machine
from storage import keys, models
from storage.memory_store import MemoryStore
from storage.models import JobPolicy

ITEMS = 100
CREATES = 1_000
NOW_MS = 1_764_000_000_000
EVERY_MS = 1_000
INCARNATION = b"incarnation" + bytes(5)
DEFINITION_1KB = bytes(1_024)


class Load:
    """A machine, and the time it has spent in `apply`."""

    def __init__(self, profile: cProfile.Profile | None) -> None:
        self.store = MemoryStore()
        self.machine = Machine(self.store)
        self._profile = profile
        self._sequence = 0

    def pack(self, *wanted: Command) -> bytes:
        self._sequence += 1
        floor = max(0, self._sequence - 2)
        batch = Batch(b"benchmark-------", self._sequence, floor, NOW_MS * 2, wanted)
        return pack_entry(NOW_MS, [encode_batch(batch)])

    def apply(self, entry: bytes) -> float:
        """Apply an entry; return the seconds of processor time it took."""
        if self._profile is not None:
            self._profile.enable()
        began_s = time.process_time()
        self.machine.apply(self.machine.applied_index + 1, 1, entry, Effects())
        self.machine.finish()
        took_s = time.process_time() - began_s
        if self._profile is not None:
            self._profile.disable()
        return took_s


def put(place: int, definition: bytes, due_ms: int) -> PutJob:
    """Return the creation of one job that is due every second."""
    job = place.to_bytes(16, "big")
    policy = JobPolicy(50, "skip", "at_least_once", 1)
    cursor = Cursor(due_ms, due_ms)
    return PutJob(job, "bench", f"job-{place}", definition, policy, cursor, 0)


def creates(load: Load, rounds: int) -> list[float]:
    """Return the microseconds of a create, one number an entry of a thousand."""
    found = []
    for turn in range(rounds):
        places = range(turn * CREATES, (turn + 1) * CREATES)
        entry = load.pack(*(put(place, DEFINITION_1KB, NOW_MS + place) for place in places))
        found.append(load.apply(entry) / CREATES * 1e6)
    return found


def launches(load: Load, rounds: int) -> list[float]:
    """Return the microseconds of a claim and an end together, one number an entry each."""
    jobs = [place.to_bytes(16, "big") for place in range(ITEMS)]
    load.apply(load.pack(*(put(place, b"", NOW_MS) for place in range(ITEMS))))
    beat = Heartbeat(
        "a", INCARNATION, 1 << 40, 100, "", "", "", {}, accepting=True, running=0
    )  # fmt: skip
    load.apply(load.pack(beat))
    found = []
    for turn in range(rounds):
        due_ms = NOW_MS + turn * 10
        following = Cursor(due_ms + 10, due_ms + 10)
        items = tuple(
            ClaimOccurrence(job, 1, due_ms, Cursor(due_ms, due_ms), (), following) for job in jobs
        )
        took_s = load.apply(load.pack(Claim(INCARNATION, items)))
        ends = tuple(end_of(load, keys.run_key(job, due_ms)) for job in jobs)
        took_s += load.apply(load.pack(Report(ends)))
        found.append(took_s / ITEMS * 1e6)
    return found


def end_of(load: Load, run: bytes) -> Ended:
    raw = load.store.get(keys.OUTCOME + run)
    assert raw is not None
    record = models.decode_outcome(raw)
    assert isinstance(record, models.Run)
    return Ended(run, 1, record.fence, "succeeded", NOW_MS, NOW_MS + 1)


def main() -> None:
    """Measure both, and print medians and spreads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    measured: dict[str, Callable[[Load, int], list[float]]] = {
        "claim and end": launches,
        "create of 1 KB": creates,
    }
    for name, measure in measured.items():
        profile = cProfile.Profile() if arguments.profile else None
        found = measure(Load(profile), arguments.rounds)
        low, *_, high = statistics.quantiles(found, n=20)
        middle = statistics.median(found)
        print(f"{name}: {middle:.1f} us (5 to 95 %: {low:.1f} to {high:.1f}), {1e6 / middle:.0f}/s")
        if profile is not None:
            pstats.Stats(profile).sort_stats("tottime").print_stats(22)


if __name__ == "__main__":
    main()
