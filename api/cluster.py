"""What the HTTP API needs of the node that it runs in.

The node satisfies this protocol; so does a single-member stand-in of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from api.faults import Fault
from consensus.state.commands import Command, Result
from storage.clock import Environment
from storage.store import View


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How this member sees the cluster at this moment."""

    cluster: str
    member: str
    role: str  # "leader", "follower" or "candidate"
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    has_quorum: bool
    caught_up: bool
    clock_ms: int
    clock_offset_ms: int | None
    state_hash: str
    voters: tuple[str, ...]
    counters: Mapping[str, int]
    slots: int
    slots_used: int
    feature_level: int
    feature_level_supported: int  # the highest that this member supports


class BackupStream(Protocol):
    """A backup on its way out; the state is that of log index `index`."""

    index: int

    async def next_chunk(self) -> bytes | None:
        """Return the next chunk in the form of `storage.snapshot_format`, None at the end."""
        ...

    def close(self) -> None:
        """End it, whole or not. May be repeated."""
        ...


class Cluster(Protocol):
    """The way from a request to the replicated state and back."""

    @property
    def environment(self) -> Environment: ...

    def now_ms(self) -> int:
        """Return the time of day as the cluster has it; one member's clock may be off."""
        ...

    @property
    def time_confirmed(self) -> bool:
        """Whether a majority, with this member, has lately said what time of day it is."""
        ...

    @property
    def view(self) -> View:
        """This member's copy of the state."""
        ...

    @property
    def applied_index(self) -> int:
        """The log index up to which `view` shows the cluster's state."""
        ...

    @property
    def has_quorum(self) -> bool: ...

    async def propose(self, commands: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        """Have commands applied, in order, and return their results, one each.

        When it returns, `view` shows their effect. Several commands are not one unit:
        each is applied or refused by itself.

        Raises:
            NoQuorum, Overloaded, CommandTooLarge: certainly nothing was applied.
            OutcomeUnknown: there was no answer within `timeout_s`.
        """
        ...

    async def barrier(self, *, timeout_s: float) -> None:
        """Wait until `view` shows everything that was acknowledged before this call.

        Raises:
            NoQuorum, OutcomeUnknown: it cannot be said whether it does.
        """
        ...

    async def wait_applied(self, index: int, *, timeout_s: float) -> bool:
        """Wait until log index `index` is applied here; return whether it is."""
        ...

    async def open_backup(self) -> BackupStream:
        """Begin a backup of what this member has applied; whoever asks has to close it.

        Raises:
            Overloaded: there are as many as may be.
            NoQuorum: there is nothing to back up yet.
        """
        ...

    def status(self) -> ClusterStatus: ...

    def write_refusal(self) -> str | None:
        """Return why clients must not write through this member now, as a sentence, or None."""
        ...

    def leave(self) -> None:
        """Let this member drain and then end; returns at once, may be called again."""
        ...

    def readiness(self) -> list[str]:
        """Return what is missing for this member to be ready, as sentences."""
        ...

    def validate_action(self, action: Mapping[str, Any], pointer: str) -> list[Fault]:
        """Return the faults of a job's action, as its executor sees them."""
        ...

    def metrics_text(self) -> bytes:
        """Return the member's metrics in the Prometheus text format."""
        ...
