"""Asking the other members for their time, and answering when they ask.

A question carries the asker's monotonic clock and comes back with the answer, so that the
asker can tell an answer that was long on its way, or waited while its process was stopped.
"""

from __future__ import annotations

from consensus.timekeeper import Timekeeper
from node.mailbox import Mailbox
from storage.clock import Environment

ASKED_KIND, ANSWERED_KIND = b"a", b"t"
TIME_BYTES = 8


class TimeExchange:
    """One member's questions and answers; what comes of them is the timekeeper's."""

    def __init__(self, timekeeper: Timekeeper, environment: Environment, mailbox: Mailbox) -> None:
        self._timekeeper = timekeeper
        self._environment = environment
        self._mailbox = mailbox
        mailbox.on(ASKED_KIND, self._asked)
        mailbox.on(ANSWERED_KIND, self._answered)

    def ask(self) -> None:
        """Ask every other member for its time; to be called with each heartbeat."""
        asked_ms = int(self._environment.monotonic_s() * 1000)
        self._mailbox.tell_all(ASKED_KIND, asked_ms.to_bytes(TIME_BYTES, "big"))

    def _asked(self, member: str, question: bytes) -> None:
        now = self._timekeeper.now_ms().to_bytes(TIME_BYTES, "big")
        self._mailbox.tell(member, ANSWERED_KIND, question + now)

    def _answered(self, member: str, content: bytes) -> None:
        asked_ms = int.from_bytes(content[:TIME_BYTES], "big")
        now_ms = int.from_bytes(content[TIME_BYTES:], "big")
        self._timekeeper.answered(member, asked_ms, now_ms)
