"""The replicated state machine: apply(entry) -> results, and nothing else.

It reads no clock, draws no number and knows no time zone. The same entries give the same
bytes on every member, and the rolling hash is the proof: it covers everything that was
written and, a window at each mark, what lies in the store (see `consensus.state.scrub`). Members
compare it at the marks, and one that differs stops itself (see `consensus.state_check`).

A command that is refused, and even one that meets a fault of ours, has a result and
changes nothing: otherwise one bad command would stop every member at the same entry, and
again after every restart. An entry that cannot be decoded, on the other hand, was written
by a newer version, and going on without it would be to differ from the others. The same
holds for what only this member has met: no memory, no disk.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NoReturn

from consensus import features
from consensus.configuration import Configuration
from consensus.state import (
    apply_claims,
    apply_jobs,
    apply_levels,
    apply_members,
    apply_seats,
    commands,
    scrub,
)
from consensus.state.commands import Batch, Entry, Refused, RequestKey, Result
from consensus.state.context import Context, Effects
from storage import keys, models
from storage.invariant import InvariantViolated, invariant
from storage.limits import ANSWER_KEPT_MS
from storage.models import NOT_DECODED, Answer, Meta, Session
from storage.store import Store

HASH_BYTES = 16
# Answers of batches that a proposer has given up are dropped with its later batches, so
# many at a time: more than one batch can leave behind.
RESULTS_DROPPED_MAX = 64
# Marks that are remembered, to be compared with members that are as far behind.
MARKS_KEPT = 64

_APPLIERS: dict[type[Any], Callable[[Context, Any], Result]] = {
    commands.PutJob: apply_jobs.put_job,
    commands.DeleteJob: apply_jobs.delete_job,
    commands.PauseJob: apply_jobs.pause_job,
    commands.TriggerJob: apply_jobs.trigger_job,
    commands.CancelRun: apply_jobs.cancel_run,
    commands.Claim: apply_claims.claim,
    commands.Report: apply_members.report,
    commands.Heartbeat: apply_members.heartbeat,
    commands.Expire: apply_members.expire,
    commands.Clean: apply_members.clean,
    commands.RaiseLevel: apply_levels.raise_level,
    commands.IssueToken: apply_seats.issue_token,
    commands.JoinMember: apply_seats.join_member,
    commands.ChangeMember: apply_seats.change_member,
    commands.RemoveMember: apply_seats.remove_member,
}
# Faults of this member, not of the command: the others have applied it.
_OWN_FAULTS = (MemoryError, RecursionError, OSError)
# Lengths of a key and of its value, so that no two sequences of writes look the same.
_CHANGE = struct.Struct(">HI")
_DELETED = 0xFFFFFFFF

BatchResults = tuple[bytes, int, tuple[Result, ...]]


class Machine:
    """Applies committed entries to a store, in order, each exactly once.

    Raises:
        LevelUnsupported: the store is one of a cluster that needs another release.
    """

    def __init__(self, store: Store) -> None:
        features.check_supported(store)
        self._store = store
        raw = store.get(keys.META)
        meta = Meta(0, 0, 0, bytes(HASH_BYTES), {}) if raw is None else models.decode_meta(raw)
        self.applied_index = meta.applied_index
        self.applied_term = meta.applied_term
        self.clock_ms = meta.clock_ms
        self.state_hash = meta.state_hash
        self.counters: Counter[str] = Counter(meta.counters)
        # Where the next window of the store begins that goes into the hash.
        self._scrub_from = meta.scrub_from or scrub.FIRST
        # The hashes at the last marks, as (index, hash), oldest first.
        self.marks: deque[tuple[int, bytes]] = deque(maxlen=MARKS_KEPT)
        # What the present entry has written so far, for the hash.
        self._trace: list[bytes] = []

    def apply(
        self,
        index: int,
        term: int,
        command: bytes,
        effects: Effects,
        configuration: Configuration | None = None,
    ) -> list[BatchResults]:
        """Apply one entry; return (session, sequence, results) of its batches.

        `index` follows on the last one, `command` is a packed entry or, for the entry
        with which a leader begins its term and for one that brings a `configuration`, empty.
        What is to be done about it is added to `effects`. `finish` makes a number of
        entries one unit in the store.

        Raises:
            InvariantViolated: the index is out of order, the entry is not understood, or
                this member cannot apply it. What was applied since the last `finish` must
                not reach the disk then.
        """
        invariant(
            index == self.applied_index + 1,
            "Entries are applied in order.",
            index=index,
            applied_index=self.applied_index,
        )
        results: list[BatchResults] = []
        if command:
            entry = _decode(index, command)
            self.clock_ms = max(self.clock_ms, entry.stamp_ms)
            context = Context(self._store, index, self.clock_ms, effects)
            results = [self._apply_batch(context, batch) for batch in entry.batches]
            self._extend_hash(index)
        elif configuration is not None:
            context = Context(self._store, index, self.clock_ms, effects)
            self._store.savepoint()
            apply_seats.configured(context, configuration)
            self._absorb()
            self._extend_hash(index)
        if index % scrub.MARK_EVERY == 0:
            self._mark(index)
        self.applied_index, self.applied_term = index, term
        return results

    def finish(self) -> None:
        """Write what the machine knows of itself beside what it has applied."""
        meta = Meta(
            self.applied_index,
            self.applied_term,
            self.clock_ms,
            self.state_hash,
            dict(sorted(self.counters.items())),
            self._scrub_from,
        )
        self._store.savepoint()
        self._store.put(keys.META, models.encode(meta))
        self._store.savepoint()

    # --- Batches -----------------------------------------------------------------------

    def _apply_batch(self, context: Context, batch: Batch) -> BatchResults:
        store = self._store
        result_key = keys.result_key(batch.session, batch.sequence)
        kept = store.get(result_key)
        if kept is not None:
            # The proposer asked again because it had lost its leader; this is the answer
            # that it would have had.
            return batch.session, batch.sequence, commands.decode_results(kept)
        raw = store.get(keys.SESSION + batch.session)
        floor = 0 if raw is None else models.decode_session(raw).floor
        refusal = self._refusal(batch, floor)
        if refusal is None:
            results = tuple(self._apply_command(context, wanted) for wanted in batch.commands)
        else:
            results = (refusal,) * len(batch.commands)
        store.savepoint()
        self._remember(batch, floor)
        store.put(result_key, commands.encode_result(results))
        self._absorb()
        return batch.session, batch.sequence, results

    def _refusal(self, batch: Batch, floor: int) -> Refused | None:
        if batch.sequence < floor:
            return Refused("expired", "The proposer has given this batch up.")
        if batch.deadline_ms < self.clock_ms:
            return Refused("expired", "The deadline passed before the cluster could agree.")
        return None

    def _remember(self, batch: Batch, floor: int) -> None:
        """Note that a session lives, and forget what it will not ask about again."""
        store = self._store
        if batch.floor > floor:
            floor = batch.floor
            stop = keys.result_key(batch.session, floor)
            # What one batch leaves, a later one takes along.
            for key, _ in store.scan(keys.RESULT + batch.session, stop, RESULTS_DROPPED_MAX):
                store.delete(key)
        session = Session(floor, self.clock_ms)
        store.put(keys.SESSION + batch.session, models.encode(session))

    # --- Commands ----------------------------------------------------------------------

    def _apply_command(self, context: Context, command: Any) -> Result:
        request: RequestKey | None = getattr(command, "request", None)
        if request is not None:
            answer = self._answer(request)
            if answer is not None:
                return answer
        mark = context.effects.mark()
        self._store.savepoint()
        try:
            result = _APPLIERS[type(command)](context, command)
            if request is not None and not isinstance(result, Refused):
                self._keep_answer(request, result)
        except Exception as error:
            if isinstance(error, _OWN_FAULTS):
                _stop(context.index, error)
            context.effects.faults.append((context.index, _shown(command, error)))
            result = Refused("internal", f"{type(command).__name__} met a fault in this program.")
        if isinstance(result, Refused):
            self._store.rollback()
            context.effects.reset(mark)
        else:
            for name, change in context.counted.items():
                self.counters[name] += change
            self._absorb()
        context.counted.clear()
        return result

    def _answer(self, request: RequestKey) -> Result | None:
        raw = self._store.get(keys.ANSWER + request.key_hash)
        if raw is None:
            return None
        answer = models.decode_answer(raw)
        if answer.expires_ms < self.clock_ms:
            return None
        if answer.request_hash != request.request_hash:
            return Refused(
                "idempotency_key_reused", "The key was used before, for another request."
            )
        return commands.decode_result(answer.result)

    def _keep_answer(self, request: RequestKey, result: Result) -> None:
        expires_ms = self.clock_ms + ANSWER_KEPT_MS
        answer = Answer(request.request_hash, commands.encode_result(result), expires_ms)
        self._store.put(keys.ANSWER + request.key_hash, models.encode(answer))
        self._store.put(keys.answer_age_key(expires_ms, request.key_hash), b"")

    # --- The rolling hash --------------------------------------------------------------

    def _absorb(self) -> None:
        """Take what was written since the last savepoint into the hash of this entry."""
        trace, pack = self._trace, _CHANGE.pack
        for key, value in self._store.written():
            if value is None:
                trace += (pack(len(key), _DELETED), key)
            else:
                trace += (pack(len(key), len(value)), key, value)

    def _extend_hash(self, index: int) -> None:
        digest = blake2b(self.state_hash, digest_size=HASH_BYTES)
        digest.update(index.to_bytes(8, "big"))
        digest.update(b"".join(self._trace))
        self._trace.clear()
        self.state_hash = digest.digest()

    def _mark(self, index: int) -> None:
        """Take the next window of what lies in the store into the hash, and remember it."""
        seen, self._scrub_from = scrub.window(self._store, self._scrub_from)
        self.state_hash = blake2b(self.state_hash + seen, digest_size=HASH_BYTES).digest()
        self.marks.append((index, self.state_hash))


def _stop(index: int, error: Exception) -> NoReturn:
    raise InvariantViolated(
        f"Entry {index} cannot be applied on this member ({type(error).__name__}: {error})."
    ) from error


def _shown(command: object, error: Exception) -> str:
    return f"{type(command).__name__}: {type(error).__name__}: {error}"


def _decode(index: int, command: bytes) -> Entry:
    try:
        entry = commands.decode_entry(command)
    except NOT_DECODED as error:
        _check_level(index, commands.level_of(command))
        raise InvariantViolated(
            f"Entry {index} is not understood by this version ({error}); it was written by a"
            " newer one, or the log is damaged. Upgrade this member."
        ) from error
    _check_level(index, entry.level)
    return entry


def _check_level(index: int, level: int | None) -> None:
    """Stop at an entry of a newer release: all that follows may depend on what it says."""
    invariant(
        level is None or level <= features.CURRENT,
        "An entry is of a newer version; upgrade this member.",
        index=index,
        level=level,
        supported=features.CURRENT,
    )
