"""The configurations that a log holds, and which of them is in force.

The newest one in the log counts, whether its entry is committed or not. Below the log's
first entry, or before any was written, the base configuration counts: it came with the
first start, with a trim, with a snapshot, or with the answer to a newcomer, and it is
always a committed one. A newcomer's base may be newer than everything in its log so far.
"""

from __future__ import annotations

from collections.abc import Iterable

from consensus.configuration import (
    MEMBERSHIP_PREFIX,
    Configuration,
    ConfigurationError,
    decode_configuration,
    encode_configuration,
)
from storage.invariant import InvariantViolated
from storage.journal_format import LogRecord

Placed = tuple[int, Configuration]


class Configurations:
    """Follows the log as it grows, is cut and is trimmed."""

    def __init__(self, base: Placed, records: Iterable[LogRecord]) -> None:
        self._base = base
        self._inside: list[Placed] = []
        for payload, index, _ in records:
            self.append(payload, index)

    @property
    def base(self) -> Placed:
        """Return index and content of the configuration below the log."""
        return self._base

    @property
    def current(self) -> Placed:
        """Return the configuration that is in force."""
        return self._inside[-1] if self._inside else self._base

    def at(self, index: int) -> Placed:
        """Return the configuration that was in force at an index, the base at the least.

        With the commit index it is the newest one that is known to be committed.
        """
        for placed in reversed(self._inside):
            if placed[0] <= index:
                return placed
        return self._base

    def append(self, payload: bytes, index: int) -> None:
        """Take note of a new record of the log."""
        if payload.startswith(MEMBERSHIP_PREFIX) and index > self._base[0]:
            try:
                self._inside.append((index, decode_configuration(payload[1:])))
            except ConfigurationError as error:
                raise InvariantViolated(f"Entry {index} is not understood: {error}") from error

    def truncate_from(self, index: int) -> None:
        """Forget what the log no longer holds."""
        while self._inside and self._inside[-1][0] >= index:
            self._inside.pop()

    def trim_below(self, index: int) -> tuple[int, bytes] | None:
        """Make the newest one below an index the base; return it if it is another."""
        before = self._base
        while self._inside and self._inside[0][0] < index:
            self._base = self._inside.pop(0)
        return None if self._base is before else packed(self._base)


def packed(placed: Placed) -> tuple[int, bytes]:
    """Return a configuration as the journal keeps it."""
    index, configuration = placed
    return index, encode_configuration(configuration)
