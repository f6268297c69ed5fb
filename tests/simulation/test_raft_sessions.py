"""What one member takes from a connection, and what it says over it, session by session."""

from __future__ import annotations

from consensus import frames
from consensus.configuration import Seat
from consensus.raft.log import RaftLog
from consensus.raft.transport import Events, Transport
from storage.memory_journal import MemoryDisk, MemoryJournal
from tests.simulation.raft_hand import voters
from tests.simulation.raft_life import SETTINGS

DISK = b"disk of n2".ljust(16, b".")


class Wire:
    """A network that remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[frames.Message] = []

    async def start(self, listener: object) -> None:
        """Nothing comes by itself."""

    async def stop(self) -> None:
        """There is nothing to stop."""

    def set_peers(self, addresses: object) -> None:
        """Whoever is asked for is there."""

    def send(self, member: str, frame: bytes) -> bool:
        self.sent.append(frames.decode(frame).message)
        return True

    def queued_bytes(self, member: str) -> int:
        return 0

    def close(self, member: str, reason: str) -> None:
        """The test says when a connection is over."""


class End:
    """`n1`'s end of its sessions with `n2`, over a disk that answers when it is told to."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.heard: list[frames.Message] = []
        self.journal = MemoryJournal(MemoryDisk(b"disk of n1".ljust(16, b".")))
        configuration = voters("n1", "n2")
        self.log = RaftLog(self.journal, SETTINGS, 0, configuration)
        self.log.append(b"\x01", 1, 0)
        seats = {seat.name: seat for seat in configuration.seats}
        self.transport = Transport(
            seat=seats["n1"],
            cluster="c",
            journal=self.journal,
            log=self.log,
            network=self.wire,
            events=Events(
                lambda member: None,
                lambda member: None,
                lambda member, term, message: self.heard.append(message),
                lambda member, payload: None,
            ),
        )
        self.transport.set_peers({"n2": Seat("n2", "n2:7901", "voter")})
        self.sync()

    def sync(self) -> None:
        """Let the disk answer."""
        self.journal.write(self.log.take())
        self.log.confirm()
        self.transport.release()

    def receive(self, epoch: int, message: frames.Message) -> None:
        envelope = frames.Envelope(frames.WIRE_MINIMUM, "c", "n2", epoch, 0, message)
        self.transport.received("n2", frames.encode(envelope))

    def connect(self, epoch: int) -> None:
        """Let both directions be up, and the other end say who it is."""
        self.transport.connected_to("n2")
        self.receive(epoch, frames.Hello(DISK, 1))


def test_nobody_is_heard_before_this_disk_knows_the_other_one() -> None:
    """E7: forgotten by a kill, a disk could be emptied and come back as if it were the first."""
    end = End()
    end.connect(1)
    end.receive(1, frames.Vote())
    assert (end.heard, end.transport.connected) == ([], frozenset())
    end.sync()
    assert end.journal.known_disks == {"n2": DISK}
    end.receive(1, frames.Vote())
    assert end.heard == [frames.Vote()]


def test_what_waits_for_the_disk_is_not_said_over_another_connection() -> None:
    """T6: it belongs to a session that is over, and would only keep its place."""
    end = End()
    end.connect(1)
    end.sync()
    end.log.set_hard_state(5, "n2")
    end.transport.post("n2", frames.Vote(), 5, end.log.sequence)
    end.transport.disconnected_from("n2")
    end.connect(2)
    end.sync()
    assert end.transport.connected == {"n2"}
    assert frames.Vote() not in end.wire.sent
    end.transport.post("n2", frames.Vote(), 5, end.log.sequence)
    assert frames.Vote() in end.wire.sent
