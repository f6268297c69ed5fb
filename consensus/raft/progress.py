"""What a leader keeps in view: each follower, and its own commands on their way.

The library resends from wherever the last answer pointed and fills a socket without
looking. Here a follower has a window of entries and bytes under way, a mark that makes
answers to superseded messages harmless, and the times that decide when it hears from its
leader again and whether it still counts as reachable.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from consensus.errors import Overloaded
from consensus.raft.types import RaftSettings


@dataclass(slots=True)
class Progress:
    """One follower in the eyes of one leader, for one term."""

    # Messages sent and not answered: last index, count and size of each, oldest first.
    under_way: deque[tuple[int, int, int]] = field(default_factory=deque)
    entries_under_way: int = 0
    bytes_under_way: int = 0
    # Refusals of messages before this one are known already.
    sequence_floor: int = 0
    # The commit index it was last told, and when it has to hear from us again.
    told_commit: int = -1
    heartbeat_due_s: float = float("-inf")
    # When it last answered a message of this term.
    answered_s: float | None = None
    # The highest number of a message of this term that it has answered.
    answered_sequence: int = 0

    def has_room(self, settings: RaftSettings) -> bool:
        """Tell whether another message with entries may be sent."""
        return (
            self.entries_under_way < settings.window_entries_max
            and self.bytes_under_way < settings.window_bytes_max
        )

    def sent(self, last_index: int, entries: int, size: int) -> None:
        """Note a message with entries up to `last_index`."""
        self.under_way.append((last_index, entries, size))
        self.entries_under_way += entries
        self.bytes_under_way += size

    def matched(self, index: int) -> None:
        """Note that the follower has everything up to `index`."""
        while self.under_way and self.under_way[0][0] <= index:
            _, entries, size = self.under_way.popleft()
            self.entries_under_way -= entries
            self.bytes_under_way -= size

    def start_over(self, sequence: int) -> None:
        """Forget what is under way: it was refused or lost. Messages from `sequence` on count."""
        self.under_way.clear()
        self.entries_under_way = self.bytes_under_way = 0
        self.sequence_floor = sequence
        self.heartbeat_due_s = float("-inf")


class InFlight:
    """A leader's own commands that are appended and not yet applied, within bounds."""

    def __init__(self, settings: RaftSettings) -> None:
        self._settings = settings
        self._commands: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def admit(self, size: int, entries: int) -> None:
        """Check that a command fits while `entries` entries are not applied.

        Raises:
            Overloaded: it has to wait until others are applied.
        """
        if (
            entries >= self._settings.in_flight_entries_max
            or self._bytes + size > self._settings.in_flight_bytes_max
        ):
            raise Overloaded(
                f"{entries} entries are in flight, {self._bytes} bytes of them this leader's; "
                f"at most {self._settings.in_flight_entries_max} entries and "
                f"{self._settings.in_flight_bytes_max} bytes may be."
            )

    def add(self, index: int, size: int) -> None:
        """Note a command that was appended."""
        self._commands.append((index, size))
        self._bytes += size

    def landed(self, index: int) -> None:
        """Note that everything up to `index` is applied."""
        while self._commands and self._commands[0][0] <= index:
            self._bytes -= self._commands.popleft()[1]

    def clear(self) -> None:
        """Forget everything: this member leads no more."""
        self._commands.clear()
        self._bytes = 0
