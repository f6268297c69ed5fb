"""Getting commands into the log: batched, from any member, each applied once.

Commands are batched twice. What is waiting on a member becomes one batch while earlier
ones are on their way; what has arrived at the leader becomes one log entry while earlier
ones are in flight. The cost of a command falls as the load rises, and nobody waits for a
timer.

    propose -> [waiting] -> batch -> leader's [inbox] -> entry -> applied everywhere

A batch is known by its session (one life of this process) and a sequence number. There is
no reply: the member that proposed applies the entry as all others do, and finds the
results there; so when it answers, its own state shows the change. If the leader changes
or is silent, the batch is sent again with the same number, and the state machine applies
it once. What was never sent is certainly not applied; what was sent and is not decided by
its deadline is unknown, and said to be.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from consensus import features
from consensus.errors import CommandTooLarge, NoQuorum, OutcomeUnknown, Overloaded
from consensus.raft.types import NotLeader
from consensus.state import commands
from consensus.state.commands import Batch, Command, Result
from storage.clock import Environment
from storage.limits import (
    BATCH_BYTES_MAX,
    BATCH_COMMANDS_MAX,
    COMMANDS_WAITING_MAX,
    ENTRIES_IN_FLIGHT_MAX,
    ENTRY_BYTES_MAX,
)
from storage.models import NOT_DECODED

# Two batches of one member keep the disk busy; with more, each would only be smaller.
BATCHES_IN_FLIGHT_MAX = 2
RESEND_S = 1.0
CHECK_S = 0.1
# A log entry may come later than the proposer's own patience by a clock's difference.
DEADLINE_SLACK_MS = 2_000
# Without a leader for this long, an election is not what one is waiting for.
LEADERLESS_S_MAX = 3.0
# What has come to the leader and is in no entry yet: half a minute of a quick disk's work.
INBOX_BATCHES_MAX = 4_096
INBOX_BYTES_MAX = 64 * 1_048_576
# What an entry adds around its batches; a batch that comes alone has to fit as well.
ENTRY_OVERHEAD_BYTES = 4_096
SESSION_BYTES = 16
SEQUENCE_MAX = 2**63 - 1


class Log(Protocol):
    """What the proposer needs of the Raft layer."""

    @property
    def is_leader(self) -> bool: ...
    @property
    def leader(self) -> str | None: ...
    @property
    def term(self) -> int: ...
    @property
    def in_flight_entries(self) -> int: ...

    def propose(self, command: bytes) -> int: ...

    def send(self, member: str, payload: bytes) -> bool: ...


class _Wish:
    """One call of `propose`, waiting for its results."""

    __slots__ = ("commands", "future", "size")

    def __init__(
        self, wanted: tuple[Command, ...], size: int, future: asyncio.Future[tuple[Result, ...]]
    ) -> None:
        self.commands = wanted
        self.size = size
        self.future = future


class _Flight:
    """A batch on its way: sent to whom, in which term, and when."""

    __slots__ = ("due_s", "payload", "sent_s", "sent_to", "wishes")

    def __init__(self, payload: bytes, wishes: list[_Wish], due_s: float) -> None:
        self.payload = payload
        self.wishes = wishes
        self.due_s = due_s
        self.sent_to: tuple[str, int] | None = None
        self.sent_s = 0.0


class Proposer:
    """The one door to the log, on every member."""

    def __init__(
        self,
        *,
        session: bytes,
        environment: Environment,
        clock_ms: Callable[[], int],
        message_kind: bytes,
        level: Callable[[], int] = lambda: features.FIRST,
    ) -> None:
        self._session = session
        self._environment = environment
        self._clock_ms = clock_ms
        self._kind = message_kind
        self._level = level
        self._log: Log | None = None
        self._sequence = 0
        self._waiting: deque[_Wish] = deque()
        self._waiting_commands = 0
        self._flights: dict[int, _Flight] = {}
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._pump_scheduled = False
        self._check_timer: asyncio.TimerHandle | None = None
        self._leaderless_since_s: float | None = environment.monotonic_s()
        self._closed: BaseException | None = None

    def attach(self, log: Log) -> None:
        """Connect the Raft layer; before that, everything waits."""
        self._log = log

    @property
    def waiting_commands(self) -> int:
        return self._waiting_commands

    async def propose(self, wanted: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        """Have commands applied, in order; see `api.cluster.Cluster.propose`."""
        if self._closed is not None:
            raise NoQuorum("This member is stopping.")
        if self._waiting_commands + len(wanted) > COMMANDS_WAITING_MAX:
            raise Overloaded(f"{self._waiting_commands} commands wait already.")
        self._refuse_leaderless()
        size = sum(len(commands.encode_batch(command)) for command in wanted)
        if size > BATCH_BYTES_MAX:
            raise CommandTooLarge(f"{size} bytes; at most {BATCH_BYTES_MAX} fit into a log entry.")
        loop = asyncio.get_running_loop()
        wish = _Wish(tuple(wanted), size, loop.create_future())
        self._waiting.append(wish)
        self._waiting_commands += len(wanted)
        self._schedule()
        timer = loop.call_later(timeout_s, self._give_up, wish)
        try:
            return await wish.future
        finally:
            timer.cancel()
            if wish.future.cancelled():
                self._withdraw(wish)

    def _refuse_leaderless(self) -> None:
        since_s = self._leaderless_since_s
        if since_s is not None and self._environment.monotonic_s() - since_s > LEADERLESS_S_MAX:
            raise NoQuorum("No leader is known: a majority of the members cannot be reached.")

    def _give_up(self, wish: _Wish) -> None:
        if wish.future.done():
            return
        if self._withdraw(wish):
            wish.future.set_exception(NoQuorum("No leader took the command in time."))
        else:
            wish.future.set_exception(
                OutcomeUnknown("The command was sent, but not decided in time.")
            )

    def _withdraw(self, wish: _Wish) -> bool:
        """Forget a wish that nobody waits for; False if it may have left this member already."""
        self._unpack_unsent(wish)
        if wish not in self._waiting:
            return False
        self._waiting.remove(wish)
        self._waiting_commands -= len(wish.commands)
        return True

    def _unpack_unsent(self, wish: _Wish) -> None:
        """Let a wish wait again whose batch has never left this member.

        Left where it is, the batch would be sent to the next leader, after its proposer was
        told that nothing was done.
        """
        for sequence, flight in self._flights.items():
            if flight.sent_to is None and wish in flight.wishes:
                del self._flights[sequence]
                self._waiting.extendleft(reversed(flight.wishes))
                self._waiting_commands += sum(len(one.commands) for one in flight.wishes)
                self._schedule()
                return

    # --- Called by the member ------------------------------------------------------------

    def receive(self, payload: bytes) -> None:
        """Take a batch that another member has sent because this one leads."""
        log = self._log
        if log is None or not log.is_leader:
            return  # Its proposer asks again, and finds the right leader then.
        if not _is_batch(payload):
            return  # It must not get into the log, where it would stop every member.
        if self._put_into_inbox(payload):
            self._schedule()

    def _put_into_inbox(self, payload: bytes) -> bool:
        """Keep a batch for the next entry; False if there is no room, and it has to come again."""
        if len(self._inbox) >= INBOX_BATCHES_MAX or self._inbox_bytes > INBOX_BYTES_MAX:
            return False
        self._inbox.append(payload)
        self._inbox_bytes += len(payload)
        return True

    def _clear_inbox(self) -> None:
        self._inbox.clear()
        self._inbox_bytes = 0

    def applied(self, session: bytes, sequence: int, results: tuple[Result, ...]) -> None:
        """Hand the results of an applied batch to those who wait for them."""
        if session != self._session:
            return
        flight = self._flights.pop(sequence, None)
        if flight is None:
            return
        position = 0
        for wish in flight.wishes:
            end = position + len(wish.commands)
            if not wish.future.done():
                wish.future.set_result(results[position:end])
            position = end

    def progress(self) -> None:
        """Look again: entries were applied, or the leader is another."""
        log = self._log
        if log is None:
            return
        if log.leader is None:
            if self._leaderless_since_s is None:
                self._leaderless_since_s = self._environment.monotonic_s()
        else:
            self._leaderless_since_s = None
        if not log.is_leader:
            self._clear_inbox()
        if self._waiting or self._inbox or self._flights:
            self._schedule()

    def close(self, error: BaseException) -> None:
        """Refuse everything from now on and release those who wait."""
        self._closed = error
        if self._check_timer is not None:
            self._check_timer.cancel()
        for wish in self._waiting:
            if not wish.future.done():
                wish.future.set_exception(NoQuorum("This member is stopping."))
        for flight in self._flights.values():
            for wish in flight.wishes:
                if not wish.future.done():
                    wish.future.set_exception(OutcomeUnknown("This member is stopping."))
        self._waiting.clear()
        self._flights.clear()
        self._clear_inbox()

    # --- Packing and sending -------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._pump_scheduled and self._closed is None:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        if self._log is None or self._closed is not None:
            return
        self._send_again()
        while self._waiting and len(self._flights) < BATCHES_IN_FLIGHT_MAX:
            flight = self._pack()
            if not self._send(flight):
                self._take_back(flight)
                break
        self._pack_entries()
        if self._check_timer is None and (self._flights or self._waiting or self._inbox):
            loop = asyncio.get_running_loop()
            self._check_timer = loop.call_later(CHECK_S, self._check)

    def _check(self) -> None:
        self._check_timer = None
        self.progress()

    def _pack(self) -> _Flight:
        wishes: list[_Wish] = []
        size = count = 0
        while self._waiting and count < BATCH_COMMANDS_MAX:
            wish = self._waiting[0]
            if wishes and size + wish.size > BATCH_BYTES_MAX:
                break
            wishes.append(self._waiting.popleft())
            size, count = size + wish.size, count + len(wish.commands)
        self._waiting_commands -= count
        self._sequence += 1
        floor = min(self._flights, default=self._sequence)
        deadline_ms = self._clock_ms() + commands.BATCH_PATIENCE_MS + DEADLINE_SLACK_MS
        packed = tuple(command for wish in wishes for command in wish.commands)
        batch = Batch(self._session, self._sequence, floor, deadline_ms, packed)
        due_s = self._environment.monotonic_s() + commands.BATCH_PATIENCE_MS / 1000
        flight = _Flight(commands.encode_batch(batch), wishes, due_s)
        self._flights[self._sequence] = flight
        return flight

    def _send(self, flight: _Flight) -> bool:
        """Hand a batch to the leader; False if it has certainly not got there."""
        log = self._log
        assert log is not None
        leader = log.leader
        if leader is None:
            return False
        if log.is_leader:
            if not self._put_into_inbox(flight.payload):
                return False
        elif not log.send(leader, self._kind + flight.payload):
            return False
        flight.sent_to = (leader, log.term)
        flight.sent_s = self._environment.monotonic_s()
        return True

    def _take_back(self, flight: _Flight) -> None:
        """Let the commands of a batch that was never sent wait again, in their order.

        They must not linger in a batch: whoever gives up on one is told that it was
        certainly not applied, so it must not be sent later.
        """
        del self._flights[self._sequence]
        self._sequence -= 1
        self._waiting.extendleft(reversed(flight.wishes))
        self._waiting_commands += sum(len(wish.commands) for wish in flight.wishes)

    def _send_again(self) -> None:
        log = self._log
        assert log is not None
        now_s = self._environment.monotonic_s()
        for sequence, flight in list(self._flights.items()):
            if now_s > flight.due_s:
                self._drop(sequence, flight)
                continue
            silent = now_s - flight.sent_s > RESEND_S
            if silent or (log.leader is not None and flight.sent_to != (log.leader, log.term)):
                self._send(flight)

    def _drop(self, sequence: int, flight: _Flight) -> None:
        """Forget a batch that the cluster would refuse by now."""
        del self._flights[sequence]
        for wish in flight.wishes:
            if not wish.future.done():
                wish.future.set_exception(OutcomeUnknown("The command was not decided in time."))

    def _pack_entries(self) -> None:
        """As the leader, make log entries of what is in the inbox."""
        log = self._log
        assert log is not None
        while self._inbox and log.is_leader and log.in_flight_entries < ENTRIES_IN_FLIGHT_MAX:
            batches: list[bytes] = []
            size = 0
            while self._inbox and (
                not batches or size + len(self._inbox[0]) < ENTRY_BYTES_MAX - ENTRY_OVERHEAD_BYTES
            ):
                batches.append(self._inbox.popleft())
                size += len(batches[-1])
            self._inbox_bytes -= size
            try:
                log.propose(commands.pack_entry(self._clock_ms(), batches, self._level()))
            except (NotLeader, Overloaded):
                return  # The proposers ask again.


def _is_batch(payload: bytes) -> bool:
    """Return whether bytes from another member are a batch, before they enter the log.

    Its session and its number become keys of the state, where one of another form would be
    an error of the store, on every member and after every start.
    """
    if len(payload) > ENTRY_BYTES_MAX - ENTRY_OVERHEAD_BYTES:
        return False
    try:
        batch = commands.decode_batch(payload)
    except NOT_DECODED:
        return False
    numbered = 0 <= batch.floor <= batch.sequence <= SEQUENCE_MAX
    return numbered and len(batch.session) == SESSION_BYTES
