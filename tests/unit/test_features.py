"""Feature levels: raised in the log, when all support it, and never for a release below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from consensus import features, frames
from consensus.configuration import first_configuration
from consensus.errors import NoQuorum
from consensus.features import LevelUnsupported
from consensus.frames import Envelope, FrameError, Hello, Message, Refusal, Vote
from consensus.raft.log import RaftLog
from consensus.raft.transport import Events, Transport
from consensus.raft.types import Listener, RaftSettings
from consensus.state import commands
from consensus.state.commands import Command, Heartbeat, Raised, RaiseLevel, Refused, Result
from consensus.state.machine import Machine
from node.services.levels import LevelService
from storage import keys, models
from storage.invariant import InvariantViolated
from storage.memory_journal import MemoryDisk, MemoryJournal
from storage.models import ClusterLevel
from tests.support.builders import Lab, batch

NEWER = features.CURRENT + 1
VOTERS = frozenset({"a", "b", "c"})


@pytest.fixture
def lab() -> Lab:
    return Lab()


def upgrade(patch: pytest.MonkeyPatch, *, minimum: int = features.MINIMUM) -> None:
    """Make of this release the next one."""
    patch.setattr(features, "CURRENT", NEWER)
    patch.setattr(features, "MINIMUM", minimum)
    patch.setattr(frames, "WIRE_VERSION", NEWER)
    patch.setattr(frames, "WIRE_MINIMUM", minimum)


def announce(lab: Lab, **levels: int) -> None:
    for number, (member, level) in enumerate(levels.items(), 1):
        lab.join(number, member, level=level)


# --- In the log -----------------------------------------------------------------------------


def test_a_cluster_begins_at_the_oldest_level_of_its_first_member(lab: Lab) -> None:
    """Nobody who may still join could be left behind by it."""
    assert features.in_force(lab.store) == features.FIRST
    assert keys.LEVEL not in lab.everything()
    lab.join(level=9, level_min=3)
    lab.join(2, "b", level=9, level_min=4)
    assert features.in_force(lab.store) == 3


def test_the_level_is_raised_when_every_member_supports_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead member counts as well: it will come back."""
    upgrade(monkeypatch)
    announce(lab, a=NEWER, b=NEWER, c=features.CURRENT - 1)
    lab.lose(lab.member("c").incarnation)
    wanted = RaiseLevel(NEWER, ("a", "b"))
    assert lab.refused(wanted) == "level_unsupported"
    assert "c" in lab.expect(Refused, wanted).detail
    lab.join(9, "c", level=NEWER)
    assert lab.expect(Raised, wanted).level == NEWER
    assert features.in_force(lab.store) == NEWER


def test_a_seat_that_was_never_heard_of_counts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its release is not known, so it may be an old one."""
    upgrade(monkeypatch)
    announce(lab, a=NEWER, b=NEWER)
    assert lab.refused(RaiseLevel(NEWER, ("a", "b", "c"))) == "level_unsupported"


def test_the_level_never_goes_down(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower one, proposed late, leaves everything as it is; so does the same again."""
    upgrade(monkeypatch)
    announce(lab, a=NEWER)
    lab.expect(Raised, RaiseLevel(NEWER, ("a",)))
    before = lab.everything()
    for level in (NEWER, NEWER - 1, 0):
        assert lab.expect(Raised, RaiseLevel(level, ("a",))).level == NEWER
    assert lab.everything() == before


def test_a_member_that_went_back_stops_where_the_level_is_raised(lab: Lab) -> None:
    """What it announced before is what the others have relied on; it must not skip the entry."""
    announce(lab, a=NEWER)
    for _ in range(2):
        with pytest.raises(InvariantViolated, match="beyond this release"):
            lab.apply(RaiseLevel(NEWER, ("a",)))
    assert lab.machine.applied_index == 1


def test_heartbeats_and_members_without_a_level_are_of_the_first_release() -> None:
    """Records that were written before there were levels say 1, and nothing more is stored."""
    beat = msgspec.structs.replace(Lab().heartbeat(), level=7)
    array = msgspec.msgpack.decode(msgspec.msgpack.encode(beat))
    older = msgspec.msgpack.decode(msgspec.msgpack.encode(array[:-2]), type=Heartbeat)
    assert (older.level, older.level_min) == (1, 1)
    lab = Lab()
    lab.join(level=1)
    assert b"level" not in lab.rows(keys.MEMBER)[b"a"]


# --- Entries --------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [[], [["session", 1, 0, 1 << 60, [["unheard_of", 1]]]]])
def test_an_entry_of_a_later_level_stops_the_member_each_time(lab: Lab, content: object) -> None:
    """Readable or not: it is named with its level, and nothing moves past it."""
    lab.join()
    before = lab.everything()
    entry = msgspec.msgpack.encode([NEWER, 5, content])
    machine = lab.machine
    for _ in range(2):
        with pytest.raises(InvariantViolated, match=f"newer version.*level={NEWER}"):
            machine.apply(2, 1, entry, lab.effects)
        machine = Machine(lab.store)
        assert machine.applied_index == 1
    assert lab.everything() == before


def test_an_entry_carries_the_level_it_was_packed_at() -> None:
    """Whoever applies it can tell before anything else is understood."""
    assert commands.level_of(commands.pack_entry(5, [batch(1, Lab().put())], 3)) == 3
    assert commands.level_of(commands.pack_entry(5, [])) == features.FIRST
    assert commands.level_of(b"\xc1") is None


# --- Starting -------------------------------------------------------------------------------


def at_level(lab: Lab, level: int) -> None:
    lab.store.put(keys.LEVEL, models.encode(ClusterLevel(level=level, since_ms=1)))


def test_a_release_below_the_clusters_level_does_not_start(lab: Lab) -> None:
    """It would not understand what it finds; the text names both levels."""
    at_level(lab, NEWER)
    with pytest.raises(LevelUnsupported, match=rf"level {NEWER}.*up to {features.CURRENT}"):
        Machine(lab.store)


def test_a_release_that_has_left_the_clusters_level_behind_does_not_start(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releases may be skipped only as far as their levels overlap."""
    lab.join()
    upgrade(monkeypatch, minimum=NEWER)
    with pytest.raises(LevelUnsupported, match=f"none below {NEWER}"):
        Machine(lab.store)


def test_members_without_a_level_are_those_of_the_first_release(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state from before there were levels is at level 1; an empty one is at none."""
    upgrade(monkeypatch, minimum=NEWER)
    assert Machine(lab.store).applied_index == 0
    lab.join()
    lab.store.delete(keys.LEVEL)
    with pytest.raises(LevelUnsupported, match="level 1"):
        Machine(lab.store)


# --- Between two members --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minimum", "highest", "spoken"),
    [(1, 1, None), (1, 2, 2), (2, 3, 3), (3, 5, 3), (4, 5, None), (2, 2, 2), (1, 9, 3)],
)
def test_two_members_speak_the_highest_common_level(
    monkeypatch: pytest.MonkeyPatch, minimum: int, highest: int, spoken: int | None
) -> None:
    """This one supports 2 to 3."""
    monkeypatch.setattr(features, "MINIMUM", 2)
    monkeypatch.setattr(features, "CURRENT", 3)
    assert features.spoken(minimum, highest) == spoken


# --- The duty -------------------------------------------------------------------------------


class Door:
    """The log of a lab, or none."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.proposed: list[Command] = []
        self.closed = False

    async def propose(self, wanted: Sequence[Command], *, timeout_s: float) -> tuple[Result, ...]:
        assert timeout_s > 0
        if self.closed:
            raise NoQuorum
        self.proposed += wanted
        return tuple(self.lab.apply(command) for command in wanted)


async def test_the_leader_raises_the_level_as_soon_as_it_can(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before every voter was heard of, not without a quorum, and not twice."""
    upgrade(monkeypatch)
    door = Door(lab)
    service = LevelService(door, lab.store, lambda: VOTERS, lambda: True)
    announce(lab, a=NEWER, b=NEWER)
    await service.run_once()
    announce(lab, a=NEWER, b=NEWER, c=NEWER - 1)
    await service.run_once()
    assert door.proposed == []
    lab.join(3, "c", level=NEWER)
    door.closed = True
    await service.run_once()
    assert features.in_force(lab.store) == NEWER - 1
    door.closed = False
    for _ in range(2):
        await service.run_once()
    assert door.proposed == [RaiseLevel(NEWER, ("a", "b", "c"))]
    assert features.in_force(lab.store) == NEWER


async def test_a_mixed_cluster_takes_the_steps_that_all_can_take(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members of two later releases raise it to the lower of both."""
    upgrade(monkeypatch)
    monkeypatch.setattr(features, "CURRENT", NEWER + 1)
    announce(lab, a=NEWER + 1, b=NEWER, c=NEWER + 1)
    await LevelService(Door(lab), lab.store, lambda: VOTERS, lambda: True).run_once()
    assert features.in_force(lab.store) == NEWER


# --- A session ------------------------------------------------------------------------------


class Wire:
    """A network that keeps what is sent, and what is closed."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []
        self.closed: list[str] = []

    def send(self, member: str, frame: bytes) -> bool:
        self.sent.append(msgspec.msgpack.decode(frame, type=Envelope))
        return True

    def close(self, member: str, reason: str) -> None:
        self.closed.append(reason)

    def queued_bytes(self, member: str) -> int:
        return 0

    def set_peers(self, addresses: Mapping[str, str]) -> None: ...
    async def start(self, listener: Listener) -> None: ...
    async def stop(self) -> None: ...


class Talk:
    """Member `a` in a session with `b`, whose frames a test writes."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.journal = MemoryJournal(MemoryDisk(b"a" * 16))
        members = first_configuration({"a": "", "b": ""})
        self.log = RaftLog(self.journal, RaftSettings(), 0, members)
        self.heard: list[Message] = []
        self.opened: list[str] = []
        self.transport = Transport(
            seat=members.seats[0],
            cluster="c",
            journal=self.journal,
            log=self.log,
            network=self.wire,
            events=Events(
                self.opened.append,
                lambda _: None,
                lambda *heard: self.heard.append(heard[2]),
                lambda *_: None,
            ),
        )
        self.transport.set_peers({"b": members.seats[1]})
        self.transport.connected_to("b")

    def hear(self, version: int, message: Message) -> None:
        envelope = Envelope(version, "c", "b", 1, 0, message)
        self.transport.received("b", msgspec.msgpack.encode(envelope))

    def greeted(self, minimum: int, highest: int) -> None:
        """Hear b's greeting, and remember its disk at once."""
        self.hear(minimum, Hello(b"b" * 16, 0, highest))
        if not self.wire.closed:
            self.journal.write(self.log.take())
            self.log.confirm()
            self.transport.release()


@pytest.mark.parametrize(
    ("highest", "spoken"), [(NEWER - 1, NEWER - 1), (NEWER, NEWER), (9, NEWER)]
)
def test_a_session_speaks_what_both_sides_understand(
    monkeypatch: pytest.MonkeyPatch, highest: int, spoken: int
) -> None:
    """The greeting itself is written so that the oldest release reads it."""
    upgrade(monkeypatch)
    talk = Talk()
    talk.greeted(features.MINIMUM, highest)
    assert talk.opened == ["b"]
    talk.transport.post("b", Vote(), 1, 0)
    hello, vote = talk.wire.sent
    assert (hello.version, hello.message) == (features.MINIMUM, Hello(b"a" * 16, 0, NEWER))
    assert (vote.version, vote.message) == (spoken, Vote())
    talk.hear(spoken, Vote())
    assert talk.heard == [Vote()]


def test_two_releases_without_a_common_level_part_and_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is closed with a reason; neither tells the other to stop."""
    upgrade(monkeypatch, minimum=NEWER)
    talk = Talk()
    talk.greeted(NEWER - 1, NEWER - 1)
    assert talk.opened == []
    assert [type(envelope.message) for envelope in talk.wire.sent] == [Hello]
    (reason,) = talk.wire.closed
    assert reason == f"it speaks wire versions 1 to 1, this member {NEWER} to {NEWER}"


def test_a_frame_outside_of_what_a_release_speaks_is_refused() -> None:
    """Only a greeting and a refusal are read whatever their version is."""
    for message in (Hello(bytes(16), 1, NEWER), Refusal("no")):
        envelope = Envelope(NEWER, "c", "m", 1, 0, message)
        assert frames.decode(frames.encode(envelope)) == envelope
    with pytest.raises(FrameError, match=f"wire version {NEWER}"):
        frames.decode(frames.encode(Envelope(NEWER, "c", "m", 1, 0, Vote())))
