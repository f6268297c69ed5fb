"""Linearizable reads without the log: up to which index a reader has to wait.

    reader -> [waiting] -> question to the leader -> its round -> index -> wait until applied

Any member may be asked. It asks the leader (itself, or another by a message), which
answers with its commit index as soon as `consensus.read_rounds` has proven that it leads;
what was acknowledged to anybody before the question lies at or below that index. Readers
that come while a question is under way share the next one.

A question that gets lost, or meets a member that does not lead any more, is asked again
under a new number. An answer counts for those who came before the question it belongs
to was sent, in this life of the process; whatever comes late can therefore do no harm.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol, TypeAlias

import msgspec

from consensus.errors import NoQuorum, Overloaded
from consensus.read_rounds import Answer
from storage.clock import Environment
from storage.models import NOT_DECODED

# Without an answer for this long the question is asked again; a round takes a few
# milliseconds, and the next leader, if there is one, is known within a second.
ASK_AGAIN_S = 0.5
CHECK_S = 0.1
# Without a leader for this long, an election is not what one is waiting for.
LEADERLESS_S_MAX = 3.0
READERS_MAX = 20_000


class Question(msgspec.Struct, frozen=True, array_like=True, tag="question"):
    """`number` grows with every question of a session, which is one life of a process."""

    session: bytes
    number: int


class Answered(msgspec.Struct, frozen=True, array_like=True, tag="answered"):
    """`index` is None where the member that was asked does not lead."""

    session: bytes
    number: int
    index: int | None


_Message: TypeAlias = Question | Answered
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[_Message] = msgspec.msgpack.Decoder(_Message)


class Log(Protocol):
    """What reading needs of the Raft layer."""

    @property
    def is_leader(self) -> bool: ...
    @property
    def leader(self) -> str | None: ...

    def confirm_read(self, answer: Answer) -> None: ...

    def send(self, member: str, payload: bytes) -> bool: ...


class ReadIndex:
    """The readers of one member, and the questions of the others to it."""

    def __init__(self, *, session: bytes, environment: Environment, message_kind: bytes) -> None:
        self._session = session
        self._environment = environment
        self._kind = message_kind
        self._log: Log | None = None
        # Who waits, and the number of the first question that was sent after they came.
        self._readers: dict[asyncio.Future[int], int] = {}
        self._number = 0
        self._answered = 0
        # When the last question was sent, and to whom; None if that member refused.
        self._asked_s = float("-inf")
        self._asked: str | None = None
        self._leader_seen_s = environment.monotonic_s()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def attach(self, log: Log) -> None:
        """Connect the Raft layer."""
        self._log = log

    async def read_index(self, *, timeout_s: float) -> int:
        """Return the index at which a read shows all that was acknowledged before the call.

        Raises:
            NoQuorum: no leader has proven within `timeout_s` that it leads.
            Overloaded: too many readers wait already.
        """
        if self._closed:
            raise NoQuorum("This member is stopping.")
        if len(self._readers) >= READERS_MAX:
            raise Overloaded(f"{READERS_MAX} reads wait already.")
        if not self._readers:
            # Nobody has looked for a leader meanwhile.
            self._leader_seen_s = self._environment.monotonic_s()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._readers[future] = self._number + 1
        if self._answered == self._number:
            self._ask()
        self._watch()
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise NoQuorum("No leader could prove in time that it leads.") from None
        finally:
            self._readers.pop(future, None)

    def receive(self, member: str, payload: bytes) -> None:
        """Take a question of another member, or its answer to one of this member's."""
        try:
            message = _decoder.decode(payload)
        except NOT_DECODED:
            return  # another version; its reader asks again, and in the end gives up
        if isinstance(message, Answered):
            if message.session == self._session:
                self._take(message.number, message.index)
        elif self._log is not None:
            self._serve(self._log, member, message)

    def close(self) -> None:
        """Release those who wait, and take nothing more."""
        self._closed = True
        self._fail(NoQuorum("This member is stopping."))
        if self._timer is not None:
            self._timer.cancel()

    # --- Asking -------------------------------------------------------------------------

    def _ask(self) -> None:
        """Ask whoever leads, under a new number, on behalf of all who wait."""
        log = self._log
        assert log is not None
        self._number += 1
        self._asked_s = self._environment.monotonic_s()
        number, leader = self._number, log.leader
        self._asked = leader
        if log.is_leader:
            with suppress(Overloaded):  # it is asked again
                log.confirm_read(lambda index: self._take(number, index))
        elif leader is not None:
            log.send(leader, self._kind + _encode(Question(self._session, number)))

    def _take(self, number: int, index: int | None) -> None:
        """Take the answer to a question, and ask the next if there are readers for it."""
        if not self._answered < number <= self._number:
            return
        if index is None:
            self._asked = None
            return
        self._answered = number
        for future in [future for future, asked in self._readers.items() if asked <= number]:
            del self._readers[future]
            if not future.done():
                future.set_result(index)
        if self._readers and self._answered == self._number:
            self._ask()

    def _serve(self, log: Log, member: str, question: Question) -> None:
        """Answer another member, when this one has proven that it leads."""

        def answer(index: int | None) -> None:
            answered = Answered(question.session, question.number, index)
            log.send(member, self._kind + _encode(answered))

        if not log.is_leader:
            answer(None)
            return
        with suppress(Overloaded):  # it asks again
            log.confirm_read(answer)

    # --- Patience -----------------------------------------------------------------------

    def _watch(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(CHECK_S, self._check)

    def _check(self) -> None:
        self._timer = None
        if not self._readers:
            return
        log = self._log
        assert log is not None
        now_s = self._environment.monotonic_s()
        if log.leader is not None:
            self._leader_seen_s = now_s
        elif now_s - self._leader_seen_s > LEADERLESS_S_MAX:
            self._fail(NoQuorum("No leader is known: a majority cannot be reached."))
            return
        other = log.leader is not None and log.leader != self._asked
        if other or now_s - self._asked_s > ASK_AGAIN_S:
            self._ask()
        self._watch()

    def _fail(self, error: NoQuorum) -> None:
        for future in self._readers:
            if not future.done():
                future.set_exception(error)
        self._readers.clear()
