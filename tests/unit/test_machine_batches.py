"""The state machine on entries and batches: order, repetition, keys, faults and the hash."""

from __future__ import annotations

from typing import Any

import pytest

from consensus import features
from consensus.state import machine as machine_module
from consensus.state.commands import (
    Entry,
    Heartbeat,
    JobDone,
    PauseJob,
    Refused,
    RequestKey,
    RunDone,
    TriggerJob,
    encode_batch,
    pack_entry,
)
from consensus.state.context import Context, Effects
from consensus.state.machine import Machine
from storage import keys, models
from storage.invariant import InvariantViolated
from storage.limits import ANSWER_KEPT_MS
from storage.memory_store import MemoryStore
from tests.support.builders import NOW_MS, SESSION, Lab, batch


@pytest.fixture
def lab() -> Lab:
    return Lab()


# --- Batches --------------------------------------------------------------------------------


def test_a_batch_that_comes_twice_is_applied_once(lab: Lab) -> None:
    """The second time it is answered as the first time, and changes no byte."""
    command = lab.put()
    first = lab.enter(batch(1, command))
    before = lab.everything()
    assert lab.enter(batch(1, command)) == first
    assert lab.enter(batch(1, command), batch(1, command)) == [*first, *first]
    assert lab.everything() == before
    assert lab.effects == Effects()


def test_batches_of_other_sessions_are_others(lab: Lab) -> None:
    """A sequence number belongs to one life of one proposer."""
    lab.enter(batch(1, lab.put("one")))
    (results,) = lab.enter(batch(1, lab.put("two"), session=b"other" * 3))
    assert isinstance(results[0], JobDone)


def test_the_commands_of_a_batch_see_what_those_before_them_did(lab: Lab) -> None:
    """They are applied in order, each with a result of its own."""
    create = lab.put()
    (results,) = lab.enter(batch(1, create, lab.put(), PauseJob(create.job, paused=True)))
    assert isinstance(results[0], JobDone)
    assert isinstance(results[1], Refused)
    assert isinstance(results[2], JobDone)


def test_a_batch_that_was_given_up_is_refused(lab: Lab) -> None:
    """Its proposer has said that it will not repeat it, so it may not remember it either."""
    lab.enter(batch(5, lab.put("one"), floor=3))
    (results,) = lab.enter(batch(2, lab.put("two"), lab.put("three")))
    assert [result.code for result in results if isinstance(result, Refused)] == ["expired"] * 2
    assert isinstance(lab.enter(batch(3, lab.put("three")))[0][0], JobDone)


def test_results_are_forgotten_up_to_the_floor(lab: Lab) -> None:
    """The floor never falls."""
    for sequence in range(1, 9):
        lab.enter(batch(sequence, lab.heartbeat(), floor=sequence - 2))
    lab.enter(batch(9, lab.heartbeat(), floor=1))
    kept = [int.from_bytes(key[-8:], "big") for key in lab.rows(keys.RESULT)]
    assert kept == [6, 7, 8, 9]
    raw = lab.store.get(keys.SESSION + SESSION)
    assert raw is not None
    assert models.decode_session(raw).floor == 6


def test_a_batch_behind_its_deadline_is_refused_for_good(lab: Lab) -> None:
    """In the cluster's time; who asks again gets the same answer."""
    late = batch(1, lab.put(), deadline_ms=NOW_MS - 1)
    (results,) = lab.enter(late)
    assert isinstance(results[0], Refused)
    assert results[0].code == "expired"
    assert lab.enter(late)[0] == results
    assert lab.rows(keys.JOB) == {}
    assert isinstance(lab.enter(batch(2, lab.put(), deadline_ms=NOW_MS))[0][0], JobDone)


def test_the_clusters_clock_does_not_go_back(lab: Lab) -> None:
    """It is the highest stamp there was."""
    lab.join()
    lab.pass_ms(-5_000)
    lab.join()
    assert lab.machine.clock_ms == NOW_MS


# --- Idempotency keys -----------------------------------------------------------------------


def test_a_repeated_request_gets_the_same_answer_and_takes_effect_once(lab: Lab) -> None:
    """Also through another member, in another batch, and after more has happened."""
    request = RequestKey(b"k" * 16, b"request")
    job = lab.create(overlap="allow")
    first = lab.expect(RunDone, TriggerJob(job, NOW_MS, 1, request))
    lab.pause(job)
    assert lab.expect(RunDone, TriggerJob(job, NOW_MS + 5, 2, request)) == first
    assert lab.machine.counters["runs"] == 1


def test_the_same_key_for_another_request_is_refused(lab: Lab) -> None:
    """It would be answered with what it did not ask for."""
    job = lab.create()
    lab.apply(TriggerJob(job, NOW_MS, 1, RequestKey(b"k" * 16, b"one")))
    other = TriggerJob(job, NOW_MS, 2, RequestKey(b"k" * 16, b"two"))
    assert lab.refused(other) == "idempotency_key_reused"


def test_a_key_is_forgotten_after_its_time(lab: Lab) -> None:
    """Then the request is a new one."""
    job = lab.create(overlap="allow")
    request = RequestKey(b"k" * 16, b"request")
    first = lab.expect(RunDone, TriggerJob(job, NOW_MS, 1, request))
    lab.pass_ms(ANSWER_KEPT_MS)
    assert lab.expect(RunDone, TriggerJob(job, NOW_MS, 2, request)) == first
    lab.pass_ms(1)
    assert lab.expect(RunDone, TriggerJob(job, NOW_MS, 2, request)) != first


def test_a_refused_request_may_be_sent_again_under_its_key(lab: Lab) -> None:
    """It had no effect, so there is nothing that could happen twice."""
    job = lab.create()
    request = RequestKey(b"k" * 16, b"request")
    first = lab.trigger(job)
    assert lab.refused(TriggerJob(job, NOW_MS, 1, request)) == "already_running"
    lab.claim_and_run(lab.join(), first)
    lab.end(first)
    lab.expect(RunDone, TriggerJob(job, NOW_MS, 1, request))


# --- Faults ---------------------------------------------------------------------------------


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """Make the heartbeats of one member fail in the middle, and return the exception."""

    def fail(context: Context, command: Heartbeat) -> Any:
        context.store.put(b"half", b"done")
        context.store.delete(keys.JOB + b"j" + (1).to_bytes(15, "big"))
        context.effects.members_changed = True
        context.effects.due.append((1, 1, 1))
        context.count("jobs", 7)
        raise ZeroDivisionError(command.member)

    appliers: dict[Any, Any] = {**machine_module._APPLIERS, Heartbeat: fail}
    monkeypatch.setattr(machine_module, "_APPLIERS", appliers)
    return ZeroDivisionError


@pytest.mark.usefixtures("poisoned")
def test_a_command_that_meets_a_fault_leaves_no_trace_and_stops_nobody(lab: Lab) -> None:
    """It would stop every member at the same entry, and again after every restart."""
    one, two = lab.put("one"), lab.put("two")
    (results,) = lab.enter(batch(1, one, lab.heartbeat(), two))
    kinds = [type(result).__name__ for result in results]
    assert kinds == ["JobDone", "Refused", "JobDone"]
    assert isinstance(results[1], Refused)
    assert results[1].code == "internal"
    assert lab.machine.counters == {"jobs": 2}
    assert lab.store.get(b"half") is None
    assert not lab.effects.members_changed
    assert len(lab.effects.due) == 2
    assert lab.effects.faults == [(1, "Heartbeat: ZeroDivisionError: a")]
    healthy = Lab()
    healthy.enter(batch(1, one, two))
    assert healthy.everything() == lab.everything()


def test_a_member_without_memory_stops_instead_of_refusing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have applied the command; to refuse it here would be to differ from them."""

    def fail(context: Context, command: Heartbeat) -> Any:
        raise MemoryError

    appliers: dict[Any, Any] = {**machine_module._APPLIERS, Heartbeat: fail}
    monkeypatch.setattr(machine_module, "_APPLIERS", appliers)
    with pytest.raises(InvariantViolated, match="Entry 1 cannot be applied"):
        lab.join()


@pytest.mark.parametrize("damaged", [b"\xc1", b"\x93\x01\x02", b"\x93\x01\x02\x91\x01", b"x"])
def test_an_entry_that_is_not_understood_stops_the_member(lab: Lab, damaged: bytes) -> None:
    """A newer version has written it; to go on without it would be to differ."""
    with pytest.raises(InvariantViolated, match="Entry 1 is not understood"):
        lab.machine.apply(1, 1, damaged, Effects())


def test_an_entry_of_a_newer_version_stops_the_member(lab: Lab) -> None:
    """Also where it happens to be readable."""
    entry = encode_batch(Entry(features.CURRENT + 1, NOW_MS, ()))
    with pytest.raises(InvariantViolated, match="newer version"):
        lab.machine.apply(1, 1, entry, Effects())


@pytest.mark.parametrize("index", [0, 1, 3])
def test_entries_are_applied_in_order(lab: Lab, index: int) -> None:
    """Each once, and none left out."""
    lab.machine.apply(1, 1, b"", Effects())
    with pytest.raises(InvariantViolated, match="applied in order"):
        lab.machine.apply(index, 1, b"", Effects())


def test_the_entry_that_begins_a_term_changes_nothing_but_the_index(lab: Lab) -> None:
    """A leader begins with an entry that is empty."""
    before = lab.machine.state_hash
    assert lab.machine.apply(1, 3, b"", Effects()) == []
    lab.machine.finish()
    assert (lab.machine.applied_index, lab.machine.applied_term) == (1, 3)
    assert lab.machine.state_hash == before
    assert lab.everything() == {}


# --- Going on after a restart ---------------------------------------------------------------


def test_a_machine_goes_on_where_its_store_says_it_was(lab: Lab) -> None:
    """Index, term, clock, hash and counters are part of the state."""
    lab.launch(lab.join(), lab.create())
    again = Machine(lab.store)
    for name in ("applied_index", "applied_term", "clock_ms", "state_hash", "counters"):
        assert getattr(again, name) == getattr(lab.machine, name)


# --- The rolling hash -----------------------------------------------------------------------


def test_the_same_entries_give_the_same_hash_however_they_are_grouped() -> None:
    """`finish` makes units for the store, and is no part of what members agree on."""
    entries = [pack_entry(NOW_MS + place, [batch(place, Lab().put())]) for place in range(1, 6)]
    one, two = Machine(MemoryStore()), Machine(MemoryStore())
    for index, entry in enumerate(entries, 1):
        one.apply(index, 1, entry, Effects())
        one.finish()
        two.apply(index, 1, entry, Effects())
    two.finish()
    assert one.state_hash == two.state_hash


def hash_after(*batches: bytes) -> bytes:
    lab = Lab()
    lab.enter(*batches)
    return lab.machine.state_hash


def test_any_other_byte_gives_another_hash() -> None:
    """A name, a value, an order, a result: members that differ in anything can tell."""
    put = Lab().put()
    name = Lab().put("jo")
    other = Lab().put(definition=b"definitioN")
    hashes = [
        hash_after(batch(1, put)),
        hash_after(batch(1, name)),
        hash_after(batch(1, other)),
        hash_after(batch(2, put)),
        hash_after(batch(1, put, put)),
        hash_after(batch(1, put, session=b"another")),
        hash_after(batch(1, put), batch(2)),
        hash_after(batch(2), batch(1, put)),
    ]
    assert len(set(hashes)) == len(hashes)


def test_the_same_at_another_index_gives_another_hash(lab: Lab) -> None:
    """Members that have applied different entries can tell, whatever these say."""
    lab.machine.apply(1, 1, b"", Effects())
    lab.enter(batch(1, put := Lab().put()))
    assert lab.machine.state_hash != hash_after(batch(1, put))


def test_what_is_written_is_told_apart_however_it_is_split() -> None:
    """The lengths of keys and values are part of the hash."""
    sequences: list[list[tuple[bytes, bytes | None]]] = [
        [(b"a", b"bc")],
        [(b"ab", b"c")],
        [(b"a", b"b"), (b"c", b"")],
        [(b"a", None)],
    ]
    hashes = set()
    for changes in sequences:
        machine = Machine(store := MemoryStore())
        for key, value in changes:
            if value is None:
                store.delete(key)
            else:
                store.put(key, value)
        machine._absorb()
        machine._extend_hash(1)
        hashes.add(machine.state_hash)
    assert len(hashes) == 4
