"""Making the state of one cluster the beginning of another.

A backup is a state in which members of the old cluster hold leases and runs, and in which
its proposers may still ask for their results. None of them will ever be heard of again:
the new cluster has an identity of its own, and whoever belongs to the old one is a
stranger to it. So everything that waits for them is closed here, once, and what follows is
an ordinary state:

* A run that a member held goes back to the queue or ends as `unknown`, by the delivery
  policy of its job, with the restoration as the reason. Nothing is lost without a word.
* Members, incarnations, sessions and the results that were kept for them are gone, and so
  is who was to belong to the old cluster: the new one begins with its own file.
* The answers to idempotency keys stay: their clients may ask again.
* The log begins far above the backup. Fences are indexes, and whatever the old cluster
  granted after the backup was made must stay below what the new one grants.
* The cluster's clock goes on from where it stood.

What the old cluster did after the backup is not known here. Such occurrences are decided
again, by the catch-up policy of their jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from consensus import features
from consensus.state import apply_runs
from consensus.state.context import Context, Effects
from consensus.state.machine import HASH_BYTES
from storage import keys, models
from storage.invariant import InvariantViolated
from storage.models import Meta
from storage.store import Store

# More entries than a cluster can write while it is still in use after a backup of it: at a
# thousand a second, four months. A power of ten, so that the old index stays legible.
INDEX_GAP = 10_000_000_000
STEP_ROWS = 256
# Every table is one of these: what users have and were told, what belongs to members and
# proposers of the old cluster, and what says where it stands.
KEPT = (
    *(keys.JOB, keys.JOB_STATE, keys.NAME, keys.DUE, keys.OUTCOME, keys.TIMELINE),
    *(keys.OUTPUT, keys.OUTPUT_AGE, keys.ANSWER, keys.ANSWER_AGE, keys.LEVEL),
)
CLOSED = (
    *(keys.LIVE, keys.MEMBER, keys.INCARNATION, keys.SESSION, keys.RESULT),
    *(keys.CONFIGURATION, keys.SEAT, keys.TOKEN),
)
WRITTEN_ANEW = (keys.META,)
_COUNTED = "restorations"
_ENDED = "runs."


@dataclass(frozen=True, slots=True)
class Closed:
    """What became of the runs that were held, and where the state stands now."""

    queued: int
    ended: dict[str, int]
    meta: Meta


def begin_anew(store: Store, cluster: str, flush: Callable[[], None]) -> Closed:
    """Close what belongs to the old cluster, and let the state stand at a new index.

    The same state and the same new name give the same bytes. `flush` is called whenever
    what was written so far may leave memory; a state that was left half way is of no use.

    Raises:
        LevelUnsupported: the state needs another release.
    """
    features.check_supported(store)
    raw = store.get(keys.META)
    if raw is None:
        raise InvariantViolated("A state that is restored says where it stands.")
    before = models.decode_meta(raw)
    context = Context(store, before.applied_index + INDEX_GAP, before.clock_ms, Effects())
    _return_held(context, flush)
    for table in CLOSED:
        _drop(store, table, flush)
    counters = Counter(before.counters)
    counters.update({**context.counted, _COUNTED: 1})
    meta = Meta(
        context.index,
        before.applied_term,
        before.clock_ms,
        _hash(before, cluster, context.index),
        dict(sorted(counters.items())),
    )
    store.put(keys.META, models.encode(meta))
    store.savepoint()
    flush()
    ended = {
        name.removeprefix(_ENDED): count
        for name, count in sorted(context.counted.items())
        if name.startswith(_ENDED)
    }
    return Closed(context.counted.get("retries", 0), ended, meta)


def _return_held(context: Context, flush: Callable[[], None]) -> None:
    """Return every run that a member of the old cluster held."""
    prefix_bytes = len(keys.LIVE) + keys.INCARNATION_BYTES
    for step in _steps(context.store, keys.LIVE, flush):
        for key in step:
            run = key[prefix_bytes:]
            member = context.run(run).member
            reason = f"The cluster was restored from a backup in which member {member} held it."
            apply_runs.lost(context, run, reason)
        # Nobody listens yet; whoever starts on this state looks at all of it.
        context.effects = Effects()


def _drop(store: Store, table: bytes, flush: Callable[[], None]) -> None:
    for step in _steps(store, table, flush):
        for key in step:
            store.delete(key)


def _steps(store: Store, table: bytes, flush: Callable[[], None]) -> Iterator[list[bytes]]:
    """Yield the keys of a table, some at a time; what became of them may then be flushed."""
    start = table
    while rows := store.scan(start, keys.after(table), STEP_ROWS):
        yield [key for key, _ in rows]
        start = rows[-1][0] + b"\x00"
        store.savepoint()
        flush()


def _hash(before: Meta, cluster: str, index: int) -> bytes:
    """Return the hash with which the new cluster's members begin."""
    digest = blake2b(before.state_hash, digest_size=HASH_BYTES)
    digest.update(b"restored" + index.to_bytes(8, "big") + cluster.encode())
    return digest.digest()
