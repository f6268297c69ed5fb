"""The replicated state machine: apply(entry) -> results, and nothing else.

It reads no clock, draws no number and knows no time zone. The same entries give the same
bytes on every member, and the rolling hash over everything that was written is the proof:
members compare it, and one that differs stops itself.

A command that is refused, and even one that meets a fault of ours, has a result and
changes nothing: otherwise one bad command would stop every member at the same entry, and
again after every restart. An entry that cannot be decoded, on the other hand, was written
by a newer version, and going on without it would be to differ from the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

from consensus import apply_jobs, apply_members, commands
from consensus.commands import Batch, Entry, Refused, RequestKey, Result
from consensus.context import Context, Effects
from storage import keys, models
from storage.invariant import InvariantViolated, invariant
from storage.limits import ANSWER_KEPT_MS
from storage.models import Answer, Meta, Session
from storage.store import Store

HASH_BYTES = 16

_APPLIERS: dict[type[Any], Callable[[Context, Any], Result]] = {
    commands.PutJob: apply_jobs.put_job,
    commands.DeleteJob: apply_jobs.delete_job,
    commands.PauseJob: apply_jobs.pause_job,
    commands.TriggerJob: apply_jobs.trigger_job,
    commands.CancelRun: apply_jobs.cancel_run,
    commands.Claim: apply_members.claim,
    commands.Report: apply_members.report,
    commands.Heartbeat: apply_members.heartbeat,
    commands.Expire: apply_members.expire,
    commands.Clean: apply_members.clean,
}

BatchResults = tuple[bytes, int, tuple[Result, ...]]


class Machine:
    """Applies committed entries to a store, in order, each exactly once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        raw = store.get(keys.META)
        meta = Meta(0, 0, 0, bytes(HASH_BYTES), {}) if raw is None else models.decode_meta(raw)
        self.applied_index = meta.applied_index
        self.applied_term = meta.applied_term
        self.clock_ms = meta.clock_ms
        self.state_hash = meta.state_hash
        self.counters: Counter[str] = Counter(meta.counters)

    def apply(self, index: int, term: int, command: bytes, effects: Effects) -> list[BatchResults]:
        """Apply one entry; return (session, sequence, results) of its batches.

        `index` follows on the last one, `command` is a packed entry or, for the entry
        with which a leader begins its term, empty. What is to be done about it is added
        to `effects`. `finish` makes a number of entries one unit in the store.

        Raises:
            InvariantViolated: the index is out of order, or the entry is not understood.
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
            results = [self._apply_batch(index, batch, effects) for batch in entry.batches]
        self.applied_index, self.applied_term = index, term
        return results

    def finish(self) -> None:
        """Write what the machine knows of itself beside what it has applied."""
        meta = Meta(
            self.applied_index,
            self.applied_term,
            self.clock_ms,
            self.state_hash,
            dict(self.counters),
        )
        self._store.savepoint()
        self._store.put(keys.META, models.encode(meta))
        self._store.savepoint()

    def _apply_batch(self, index: int, batch: Batch, effects: Effects) -> BatchResults:
        store = self._store
        kept = store.get(keys.result_key(batch.session, batch.sequence))
        if kept is not None:
            # The proposer asked again because it had lost its leader; this is the answer
            # that it would have had.
            return batch.session, batch.sequence, commands.decode_results(kept)
        refusal = self._refusal(batch)
        results = tuple(
            self._apply_command(index, command, effects) if refusal is None else refusal
            for command in batch.commands
        )
        store.savepoint()
        self._remember(batch, results)
        self._absorb(index)
        return batch.session, batch.sequence, results

    def _refusal(self, batch: Batch) -> Refused | None:
        raw = self._store.get(keys.SESSION + batch.session)
        if raw is not None and batch.sequence < models.decode_session(raw).floor:
            return Refused("expired", "The proposer has given this batch up.")
        if batch.deadline_ms < self.clock_ms:
            return Refused("expired", "The deadline passed before the cluster could agree.")
        return None

    def _remember(self, batch: Batch, results: tuple[Result, ...]) -> None:
        store = self._store
        session_key = keys.SESSION + batch.session
        raw = store.get(session_key)
        floor = 0 if raw is None else models.decode_session(raw).floor
        if batch.floor > floor:
            stop = keys.result_key(batch.session, batch.floor)
            # What one batch leaves, a later one takes along.
            for key, _ in store.scan(keys.RESULT + batch.session, stop, 64):
                store.delete(key)
        session = Session(max(floor, batch.floor), self.clock_ms)
        store.put(session_key, models.encode(session))
        result_key = keys.result_key(batch.session, batch.sequence)
        store.put(result_key, commands.encode_result(results))

    def _apply_command(self, index: int, command: Any, effects: Effects) -> Result:
        request: RequestKey | None = getattr(command, "request", None)
        if request is not None:
            answer = self._answer(request)
            if answer is not None:
                return answer
        context = Context(self._store, index, self.clock_ms, effects)
        mark = effects.mark()
        self._store.savepoint()
        try:
            result = _APPLIERS[type(command)](context, command)
            if request is not None and not isinstance(result, Refused):
                self._keep_answer(request, result)
        except Exception as error:
            self._store.rollback()
            effects.reset(mark)
            return Refused("internal", f"{type(command).__name__}: {type(error).__name__}")
        for name, change in context.counted.items():
            self.counters[name] += change
        self._absorb(index)
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

    def _absorb(self, index: int) -> None:
        """Take what was written since the last savepoint into the rolling hash."""
        digest = blake2b(self.state_hash, digest_size=HASH_BYTES)
        digest.update(index.to_bytes(8, "big"))
        for key, value in self._store.written():
            digest.update(len(key).to_bytes(2, "big"))
            digest.update(key)
            if value is not None:
                digest.update(b"=")
                digest.update(value)
        self.state_hash = digest.digest()


def _decode(index: int, command: bytes) -> Entry:
    try:
        entry = commands.decode_entry(command)
    except msgspec.MsgspecError as error:
        raise InvariantViolated(
            f"Entry {index} is not understood by this version ({error}); it was written by a"
            " newer one, or the log is damaged. Upgrade this member."
        ) from error
    invariant(
        entry.version <= commands.ENTRY_VERSION,
        "An entry is of a newer version; upgrade this member.",
        index=index,
        version=entry.version,
        known=commands.ENTRY_VERSION,
    )
    return entry
