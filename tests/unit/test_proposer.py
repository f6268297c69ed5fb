"""Getting commands into the log: batching, forwarding, repetition, and giving up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from consensus.errors import CommandTooLarge, NoQuorum, OutcomeUnknown, Overloaded
from consensus.proposer import INBOX_BYTES_MAX, LEADERLESS_S_MAX, RESEND_S, Proposer
from consensus.state.commands import (
    Batch,
    CancelRun,
    Clean,
    Ended,
    Remaining,
    Report,
    decode_batch,
    decode_entry,
    encode_batch,
)
from storage.limits import (
    BATCH_BYTES_MAX,
    COMMANDS_WAITING_MAX,
    ENTRIES_IN_FLIGHT_MAX,
    ENTRY_BYTES_MAX,
)
from tests.support.clocks import ManualEnvironment

SESSION = b"session".ljust(16)


class Wire:
    """A Raft layer that only remembers what it was given."""

    def __init__(self, leader: str | None, member: str = "n1") -> None:
        self.leader = leader
        self.member = member
        self.term = 1
        self.entries: list[bytes] = []
        self.sent: list[tuple[str, bytes]] = []
        self.in_flight_entries = 0
        self.reachable = True

    @property
    def is_leader(self) -> bool:
        return self.leader == self.member

    def propose(self, command: bytes) -> int:
        self.entries.append(command)
        self.in_flight_entries += 1
        return len(self.entries)

    def send(self, member: str, payload: bytes) -> bool:
        if self.reachable:
            self.sent.append((member, payload))
        return self.reachable


def proposer(wire: Wire) -> tuple[Proposer, ManualEnvironment]:
    environment = ManualEnvironment()
    made = Proposer(
        session=SESSION,
        environment=environment,
        clock_ms=environment.wall_ms,
        message_kind=b"b",
    )
    made.attach(wire)
    made.progress()
    return made, environment


async def settled(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - each pass is one turn of the loop
            await asyncio.sleep(0)


def batches(wire: Wire) -> list[Batch]:
    return [batch for entry in wire.entries for batch in decode_entry(entry).batches]


async def test_what_waits_together_travels_together() -> None:
    """Commands of one turn of the loop become one batch, and one entry."""
    wire = Wire("n1")
    door, _ = proposer(wire)
    tasks = [asyncio.create_task(door.propose((Clean(i, i),), timeout_s=5)) for i in range(10)]
    await settled(lambda: bool(wire.entries))
    (batch,) = batches(wire)
    assert len(batch.commands) == 10
    results = tuple(Remaining(i, more=False) for i in range(10))
    door.applied(SESSION, batch.sequence, results)
    assert [(await task)[0] for task in tasks] == list(results)


async def test_a_follower_sends_its_batch_to_the_leader_and_to_the_next_one() -> None:
    """When the leader changes, the same batch goes to the new one, under its number."""
    wire = Wire("n2")
    door, _ = proposer(wire)
    task = asyncio.create_task(door.propose((Clean(1, 1),), timeout_s=5))
    await settled(lambda: len(wire.sent) == 1)
    wire.leader, wire.term = "n3", 2
    door.progress()
    await settled(lambda: len(wire.sent) == 2)
    (first, payload), (second, repeated) = wire.sent
    assert (first, second) == ("n2", "n3")
    assert payload == repeated
    door.applied(SESSION, decode_batch(payload[1:]).sequence, (Remaining(0, more=False),))
    assert await task == (Remaining(0, more=False),)


async def test_a_silent_leader_is_asked_again() -> None:
    """Without a result the batch is repeated; the state machine applies it once."""
    wire = Wire("n2")
    door, environment = proposer(wire)
    task = asyncio.create_task(door.propose((Clean(1, 1),), timeout_s=5))
    await settled(lambda: len(wire.sent) == 1)
    environment.advance(RESEND_S + 0.01)
    door.progress()
    await settled(lambda: len(wire.sent) == 2)
    task.cancel()


async def test_without_a_leader_nothing_was_applied() -> None:
    """A command that nobody took is answered as such, and is not sent later."""
    wire = Wire(None)
    door, environment = proposer(wire)
    with pytest.raises(NoQuorum):
        await door.propose((Clean(1, 1),), timeout_s=0.01)
    environment.advance(LEADERLESS_S_MAX + 0.1)
    with pytest.raises(NoQuorum):
        await door.propose((Clean(1, 1),), timeout_s=60)


async def test_what_was_given_up_unsent_is_not_sent_later() -> None:
    """A leader that cannot be reached gets nothing of it when it can be reached again."""
    wire = Wire("n2")
    wire.reachable = False
    door, _ = proposer(wire)
    with pytest.raises(NoQuorum):
        await door.propose((Clean(1, 1),), timeout_s=0.01)
    wire.reachable = True
    task = asyncio.create_task(door.propose((Clean(2, 2),), timeout_s=5))
    await settled(lambda: bool(wire.sent))
    (_, payload), *_ = wire.sent
    assert decode_batch(payload[1:]).commands == (Clean(2, 2),)
    task.cancel()


async def test_what_was_sent_and_not_decided_is_unknown() -> None:
    """A command that is on its way may be applied yet: the answer says so."""
    door, _ = proposer(Wire("n2"))
    with pytest.raises(OutcomeUnknown):
        await door.propose((Clean(1, 1),), timeout_s=0.01)


async def test_the_leader_packs_what_others_send_and_refuses_junk() -> None:
    """Bytes that are no batch never reach the log, where they would stop every member."""
    wire = Wire("n1")
    door, _ = proposer(wire)
    door.receive(b"\xc1junk")
    report = Report((Ended(b"run", 1, 1, "failed", None, 2, None, "detail"),))
    readable = encode_batch(Batch(b"other".ljust(16), 1, 1, 1, (report,)))
    door.receive(readable.replace(b"detail", b"d\xaetail"))
    other = Batch(b"other".ljust(16), 1, 1, 1, (Clean(1, 1),))
    door.receive(encode_batch(other))
    await settled(lambda: bool(wire.entries))
    assert batches(wire) == [other]


@pytest.mark.parametrize(
    "malformed",
    [
        Batch(b"x" * 600, 1, 1, 1, (Clean(1, 1),)),
        Batch(SESSION, -1, -1, 1, (Clean(1, 1),)),
        Batch(SESSION, 2**64 - 1, 1, 1, (Clean(1, 1),)),
        Batch(SESSION, 1, 2, 1, (Clean(1, 1),)),
        Batch(SESSION, 1, 1, 1, (CancelRun(b"run", "x" * ENTRY_BYTES_MAX),)),
    ],
    ids=["session", "negative", "beyond", "floor", "size"],
)
async def test_a_batch_that_no_store_could_keep_reaches_no_log(malformed: Batch) -> None:
    """Applied, it would be an error of the disk on every member, and again at each start."""
    wire = Wire("n1")
    door, _ = proposer(wire)
    door.receive(encode_batch(malformed))
    good = Batch(b"other".ljust(16), 1, 1, 1, (Clean(1, 1),))
    door.receive(encode_batch(good))
    await settled(lambda: bool(wire.entries))
    assert batches(wire) == [good]


async def test_what_a_leader_keeps_for_its_next_entry_is_bounded_in_bytes() -> None:
    """While the log takes nothing, batches come again and again, from every member."""
    wire = Wire("n1")
    wire.in_flight_entries = ENTRIES_IN_FLIGHT_MAX
    door, _ = proposer(wire)
    large = CancelRun(b"run", "x" * (BATCH_BYTES_MAX - 1000))
    for sequence in range(1, 100):
        door.receive(encode_batch(Batch(b"other".ljust(16), sequence, 1, 1, (large,))))
    await settled(lambda: door._check_timer is not None)
    assert sum(map(len, door._inbox)) > INBOX_BYTES_MAX - BATCH_BYTES_MAX
    assert sum(map(len, door._inbox)) <= INBOX_BYTES_MAX + BATCH_BYTES_MAX
    wire.in_flight_entries = 0
    door.progress()
    await settled(lambda: len(wire.entries) == ENTRIES_IN_FLIGHT_MAX)
    assert door._inbox_bytes == sum(map(len, door._inbox))
    door.close(NoQuorum("stop"))
    assert door._inbox_bytes == 0


async def test_what_nobody_waits_for_any_more_is_not_sent_later() -> None:
    """A6: whoever was cancelled before anything was sent gets nothing done behind its back."""
    wire = Wire(None)
    door, _ = proposer(wire)
    task = asyncio.create_task(door.propose((Clean(1, 1),), timeout_s=60))
    await settled(lambda: door.waiting_commands == 1)
    task.cancel()
    await asyncio.wait([task])
    assert door.waiting_commands == 0
    wire.leader = "n1"
    other = asyncio.create_task(door.propose((Clean(2, 2),), timeout_s=60))
    await settled(lambda: bool(wire.entries))
    assert [batch.commands for batch in batches(wire)] == [(Clean(2, 2),)]
    other.cancel()
    await asyncio.wait([other])


async def test_bounds_are_answered_at_once() -> None:
    """A command that is too large, and one too many, change nothing."""
    wire = Wire(None)
    door, _ = proposer(wire)
    with pytest.raises(Overloaded):
        await door.propose([Clean(1, 1)] * (COMMANDS_WAITING_MAX + 1), timeout_s=1)
    with pytest.raises(CommandTooLarge):
        await door.propose((CancelRun(b"run", "x" * BATCH_BYTES_MAX),), timeout_s=1)


async def test_closing_releases_everybody() -> None:
    """Whoever waits when a member stops is told, and nobody is let in any more."""
    wire = Wire("n2")
    door, _ = proposer(wire)
    task = asyncio.create_task(door.propose((Clean(1, 1),), timeout_s=60))
    await settled(lambda: bool(wire.sent))
    door.close(NoQuorum("stop"))
    with pytest.raises(OutcomeUnknown):
        await task
    with pytest.raises(NoQuorum):
        await door.propose((Clean(1, 1),), timeout_s=1)
