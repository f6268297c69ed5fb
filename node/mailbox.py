"""What members tell each other past the log: lost without harm, and told again.

The first byte of a message names its kind. A kind that this release does not know comes
from a newer one, and is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Take = Callable[[str, bytes], None]


class Sender(Protocol):
    """What the Raft layer offers for it."""

    def send(self, member: str, payload: bytes) -> bool: ...


class Mailbox:
    """Hands on what comes in by its kind, and sends to all `others`."""

    def __init__(self, others: Callable[[], frozenset[str]]) -> None:
        self._others = others
        self._sender: Sender | None = None
        self._takes: dict[bytes, Take] = {}

    def attach(self, sender: Sender) -> None:
        """Connect the Raft layer; nothing is sent before."""
        self._sender = sender

    def on(self, kind: bytes, take: Take) -> None:
        """Let `take` have what comes of a kind, with the sender's name first."""
        self._takes[kind] = take

    def receive(self, member: str, payload: bytes) -> None:
        """Hand on a message of another member."""
        take = self._takes.get(payload[:1])
        if take is not None:
            take(member, payload[1:])

    def tell(self, member: str, kind: bytes, payload: bytes) -> None:
        """Send a message to one other member, if it is connected."""
        if self._sender is not None:
            self._sender.send(member, kind + payload)

    def tell_all(self, kind: bytes, payload: bytes) -> None:
        """Send a message to every other member that is connected."""
        for member in sorted(self._others()):
            self.tell(member, kind, payload)
