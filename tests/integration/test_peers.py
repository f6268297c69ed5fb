"""Members connect over real sockets: proven names, whole frames, bounded queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import uvloop

from consensus import frames
from consensus.configuration import first_configuration
from consensus.driver import Raft
from consensus.network import certificates
from consensus.network.certificates import (
    CertificateError,
    contexts,
    create_authority,
    issue_member,
)
from consensus.network.links import HEADER
from consensus.network.peers import STRANGERS_MAX, PeerNetwork
from consensus.raft.types import Introduction, NotLeader, RaftSettings, Rejection
from storage.clock import SystemEnvironment
from storage.journal import LmdbJournal
from tests.support.cluster import free_port

# Far more than anything takes; reached only when something is broken.
PATIENCE_S = 120.0


class Ear:
    """Remembers what a network says."""

    def __init__(self) -> None:
        self.up: set[str] = set()
        self.frames: list[tuple[str, bytes]] = []
        self.connections = 0
        self.rejections: dict[str, Rejection] = {}
        self.farewells: list[tuple[str, str]] = []

    def introduction(self) -> Introduction:
        return Introduction(b"seat", 7, "here:1")

    def judge(self, member: str, introduction: Introduction) -> Rejection | None:
        assert introduction.seat_id in (b"", b"seat")
        return self.rejections.get(member)

    def removed(self, member: str, reason: str) -> None:
        self.farewells.append((member, reason))

    def connected(self, member: str) -> None:
        self.up.add(member)
        self.connections += 1

    def disconnected(self, member: str) -> None:
        self.up.discard(member)

    def received(self, member: str, frame: bytes) -> None:
        self.frames.append((member, frame))


def free_ports(count: int) -> list[int]:
    """Return ports that no outgoing connection is given while nobody listens there.

    Who dials such a port again and again would else meet himself one day.
    """
    first = free_port()
    return list(range(first, first + count))


async def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - sockets have no event to wait for
            await asyncio.sleep(0.005)


def issued(directory: Path, cluster: str, *members: str) -> dict[str, Path]:
    """Make a cluster's authority, and a directory with a certificate for each member."""
    environment = SystemEnvironment()
    authority = directory / f"ca-{cluster}"
    authority.mkdir()
    create_authority(authority, cluster=cluster, environment=environment)
    made = {member: directory / cluster / member for member in members}
    for member, place in made.items():
        place.mkdir(parents=True)
        issue_member(
            authority, place, cluster=cluster, member=member, hosts=["127.0.0.1"],
            environment=environment,
        )  # fmt: skip
    return made


def network(
    member: str, ports: dict[str, int], files: Path | None, settings: RaftSettings | None = None
) -> PeerNetwork:
    made = PeerNetwork(
        member=member,
        cluster="test",
        listen=("127.0.0.1", ports[member]),
        tls=None if files is None else contexts(files),
        environment=SystemEnvironment(),
        settings=settings or RaftSettings(),
    )
    made.set_peers({name: f"127.0.0.1:{port}" for name, port in ports.items()})
    return made


@asynccontextmanager
async def running(*networks: PeerNetwork) -> AsyncIterator[list[Ear]]:
    ears = [Ear() for _ in networks]
    for each, ear in zip(networks, ears, strict=True):
        await each.start(ear)
    try:
        yield ears
    finally:
        for each in networks:
            await each.stop()


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
async def test_frames_arrive_whole_and_in_order(tmp_path: Path, secured: bool) -> None:
    """What one member sends, the other receives, in both directions."""
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    files = issued(tmp_path, "test", "n1", "n2") if secured else {}
    one, two = (network(name, ports, files.get(name)) for name in ports)
    async with running(one, two) as (ear_one, ear_two):
        await until(lambda: "n2" in ear_one.up and "n1" in ear_two.up)
        frames = [bytes([number % 251]) * (number * 37 % 70_000) for number in range(100)]
        for frame in frames:
            assert one.send("n2", frame)
            await asyncio.sleep(0)
        assert two.send("n1", b"answer")
        await until(lambda: len(ear_two.frames) == len(frames) and bool(ear_one.frames))
        assert [frame for _, frame in ear_two.frames] == frames
        assert ear_one.frames == [("n2", b"answer")]


async def test_a_certificate_of_another_cluster_or_member_opens_nothing(tmp_path: Path) -> None:
    """Names are proven, not claimed."""
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    ours = issued(tmp_path, "test", "n1", "n2", "n3")
    theirs = issued(tmp_path, "other", "n1")
    for files in (ours["n3"], theirs["n1"]):
        two = network("n2", ports, ours["n2"])
        impostor = network("n1", ports, files)
        async with running(two, impostor) as (ear, _):
            refused = asyncio.get_running_loop().time() + 0.5
            while asyncio.get_running_loop().time() < refused:
                assert not ear.up
                await asyncio.sleep(0.02)


async def test_a_stranger_is_closed_before_a_frame_is_read(tmp_path: Path) -> None:
    """Junk, a greeting that is too long, and a wrong cluster end the connection."""
    del tmp_path
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    two = network("n2", ports, None)
    async with running(two) as (ear,):
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\x00\x00\x00\x03abc"):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports["n2"])
            writer.write(junk)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while await reader.read(4096):
                        pass
            except ConnectionResetError:
                pass
            writer.close()
        assert ear.connections == 0


async def test_a_peer_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    """A full queue closes the connection instead of growing, and it is made anew."""
    del tmp_path
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    settings = RaftSettings(
        entry_bytes_max=50_000, batch_bytes_max=50_000, frame_bytes_max=200_000,
        snapshot_chunk_bytes=50_000,
        window_bytes_max=200_000, send_queue_bytes_max=400_000,
    )  # fmt: skip
    one, two = network("n1", ports, None, settings), network("n2", ports, None)
    async with running(one, two) as (ear, _):
        await until(lambda: "n2" in ear.up)
        # Nothing is read while the loop does not turn, so the socket fills up.
        assert any(not one.send("n2", bytes(50_000)) for _ in range(1_000))
        await until(lambda: ear.connections > 1 and "n2" in ear.up)


async def test_a_member_that_returns_is_reached_again(tmp_path: Path) -> None:
    """The dialling side tries until the other is there."""
    del tmp_path
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    one = network("n1", ports, None)
    async with running(one) as (ear,):
        for _ in range(2):
            two = network("n2", ports, None)
            await two.start(Ear())
            await until(lambda: "n2" in ear.up)
            await two.stop()
            await until(lambda: "n2" not in ear.up)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """Nobody knows who has such a key."""
    place = issued(tmp_path, "test", "n1")["n1"]
    key = place / certificates.MEMBER_KEY
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    with pytest.raises(CertificateError):
        contexts(place)


def test_a_second_authority_is_refused(tmp_path: Path) -> None:
    """An authority is made once; another would split the cluster."""
    environment = SystemEnvironment()
    create_authority(tmp_path, cluster="test", environment=environment)
    with pytest.raises(CertificateError):
        create_authority(tmp_path, cluster="test", environment=environment)


async def test_a_member_is_found_at_its_new_address(tmp_path: Path) -> None:
    """Addresses are replaced while everything runs."""
    del tmp_path
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    elsewhere = free_ports(3)[-1]
    one = network("n1", ports, None)
    two = network("n2", {**ports, "n2": elsewhere}, None)
    async with running(one, two) as (ear, _):
        one.set_peers({"n2": f"127.0.0.1:{elsewhere}"})
        await until(lambda: "n2" in ear.up)


@pytest.mark.parametrize("address", ["two..dots:7901", "a" * 64 + ".example:7901"])
async def test_an_address_that_is_none_is_tried_until_there_is_another(
    caplog: pytest.LogCaptureFixture, address: str
) -> None:
    """What an operator has mistyped and put right must not need a restart of all members."""
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    one, two = network("n1", ports, None), network("n2", ports, None)
    one.set_peers({"n2": address})
    async with running(one, two) as (ear, _):
        await until(lambda: "Member n2 cannot be reached" in caplog.text)
        one.set_peers({"n2": f"127.0.0.1:{ports['n2']}"})
        await until(lambda: "n2" in ear.up)


class Chatterbox(asyncio.Protocol):
    """Welcomes whoever dials, and says so twice, which ends the connection at once."""

    def __init__(self, connections: list[Chatterbox]) -> None:
        connections.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        content = frames.encode_hand(frames.Welcome("test", "n2", ""))
        self._transport.write(2 * (HEADER.pack(len(content)) + content))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_is_lost_right_behind_the_welcome_is_dialed_again(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Whoever waited for the welcome finds the connection closed, and nothing to set on it."""

    async def dial() -> None:
        connections: list[Chatterbox] = []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Chatterbox(connections), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        (own,) = free_ports(1)
        try:
            async with running(network("n1", {"n1": own, "n2": port}, None)) as (ear,):
                await until(lambda: len(connections) > 2)
                assert ear.connections == 0
        finally:
            server.close()
            await server.wait_closed()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(dial())


async def test_one_lost_direction_ends_the_session_on_both_sides(tmp_path: Path) -> None:
    """Half a connection is none, and both directions come back together."""
    del tmp_path
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    one, two = network("n1", ports, None), network("n2", ports, None)
    async with running(one, two) as (ear_one, ear_two):
        await until(lambda: "n2" in ear_one.up and "n1" in ear_two.up)
        one._dialed["n2"].abort()
        await until(lambda: min(ear_one.connections, ear_two.connections) > 1)
        await until(lambda: one.send("n2", b"again") and ("n1", b"again") in ear_two.frames)


async def test_a_frame_above_the_bound_ends_the_connection(tmp_path: Path) -> None:
    """Its length alone is enough; nothing of it is kept."""
    del tmp_path
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    small = RaftSettings(
        entry_bytes_max=1000, batch_bytes_max=1000, frame_bytes_max=100_000,
        snapshot_chunk_bytes=1000,
        window_bytes_max=100_000,
    )  # fmt: skip
    one, two = network("n1", ports, None), network("n2", ports, None, small)
    async with running(one, two) as (ear_one, ear_two):
        await until(lambda: "n2" in ear_one.up and "n1" in ear_two.up)
        one.send("n2", bytes(100_001))
        await until(lambda: ear_one.connections > 1 and "n2" in ear_one.up)
        assert ear_two.frames == []


async def test_only_so_many_connections_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one above the bound is closed at once, and members come in afterwards."""
    # None of them may be given up for its silence before the last one has come.
    monkeypatch.setattr("consensus.network.links.HANDSHAKE_S_MAX", PATIENCE_S)
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    two = network("n2", ports, None)
    async with running(two):
        opened = [
            await asyncio.open_connection("127.0.0.1", ports["n2"]) for _ in range(STRANGERS_MAX)
        ]
        reader, writer = await asyncio.open_connection("127.0.0.1", ports["n2"])
        async with asyncio.timeout(PATIENCE_S):
            assert b"Too many connections" in await reader.read()
        for _, each in [*opened, (reader, writer)]:
            each.close()
        one = network("n1", ports, None)
        async with running(one) as (ear,):
            await until(lambda: "n2" in ear.up)


LATER = frames.WIRE_VERSION + 1


async def test_another_wire_version_or_receiver_is_refused_with_a_reason(tmp_path: Path) -> None:
    """An operator reads in the log of either side what does not fit."""
    del tmp_path
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    two = network("n2", ports, None)
    async with running(two) as (ear,):
        ear.rejections["n9"] = Rejection("'n9' is not known", removed=False)
        for greeting, expected in (
            (frames.Greeting(LATER + 1, "test", "n1", "n2", LATER), "Wire version"),
            (frames.Greeting(frames.WIRE_VERSION, "other", "n1", "n2"), "of cluster 'test'"),
            (frames.Greeting(frames.WIRE_VERSION, "test", "n1", "n3"), "This is member 'n2'"),
            (frames.Greeting(frames.WIRE_VERSION, "test", "n9", "n2"), "'n9' is not known"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports["n2"])
            content = frames.encode_hand(greeting)
            writer.write(HEADER.pack(len(content)) + content)
            async with asyncio.timeout(PATIENCE_S):
                answer = await reader.read()
            welcome = frames.decode_hand(answer[HEADER.size :], frames.Welcome)
            assert expected in welcome.refusal
            writer.close()
        assert ear.connections == 0


async def test_members_come_and_go(tmp_path: Path) -> None:
    """Who is no peer any more is not spoken to; who is one again is, at its address."""
    del tmp_path
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    one, two = network("n1", ports, None), network("n2", ports, None)
    everybody = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    async with running(one, two) as (ear_one, ear_two):
        await until(lambda: "n2" in ear_one.up and "n1" in ear_two.up)
        one.set_peers({"n1": everybody["n1"]})
        await until(lambda: "n2" not in ear_one.up and "n1" not in ear_two.up)
        assert not one.send("n2", b"gone")
        one.set_peers(everybody)
        await until(lambda: "n2" in ear_one.up and "n1" in ear_two.up)
        assert one.send("n2", b"back")
        await until(lambda: ("n1", b"back") in ear_two.frames)


async def test_a_removed_member_hears_that_it_is(tmp_path: Path) -> None:
    """It is told at the door, by whoever it dials, and only when the removal is final."""
    del tmp_path
    ports = dict(zip(("n1", "n2"), free_ports(2), strict=True))
    one, two = network("n1", ports, None), network("n2", ports, None)
    async with running(two) as (ear_two,):
        ear_two.rejections["n1"] = Rejection("not yet", removed=False)
        async with running(one) as (ear_one,):
            await until(lambda: bool(two._dialed))
            ear_two.rejections["n1"] = Rejection("n1 was removed", removed=True)
            await until(lambda: ("n2", "n1 was removed") in ear_one.farewells)
            assert not ear_one.up


async def test_members_agree_over_mutual_tls_and_their_own_disks(tmp_path: Path) -> None:
    """The whole layer as a member runs it: leader, commands, hand-over, restart."""
    ports = dict(zip(("n1", "n2", "n3"), free_ports(3), strict=True))
    files = issued(tmp_path, "test", *ports)
    applied: dict[str, list[bytes]] = {name: [] for name in ports}
    everybody = first_configuration({n: f"127.0.0.1:{port}" for n, port in ports.items()})
    fatal: list[BaseException] = []

    def start(name: str) -> tuple[Raft, LmdbJournal]:
        journal = LmdbJournal(
            tmp_path / f"{name}-journal", cluster="test", member=name,
            environment=SystemEnvironment(), map_bytes=1 << 26,
        )  # fmt: skip
        applied[name].clear()
        raft = Raft(
            member=name, bootstrap=everybody, cluster="test", journal=journal,
            network=network(name, ports, files[name]), environment=SystemEnvironment(),
            settings=RaftSettings(), applied_index=0,
            apply=lambda entries: applied[name].extend(e.command for e in entries if e.command),
            receive=lambda member, payload: None, on_leadership=lambda leads: None,
            on_fatal=fatal.append,
        )  # fmt: skip
        return raft, journal

    members = {name: start(name) for name in ports}
    for raft, _ in members.values():
        await raft.start()
    sent: list[bytes] = []

    def leader() -> str | None:
        return next(
            (n for n, (r, _) in members.items() if r.is_leader and len(r.connected) == 2), None
        )

    def missing() -> list[bytes]:
        return [one for one in sent if any(one not in known for known in applied.values())]

    def agreed() -> bool:
        return not missing() and len({tuple(known) for known in applied.values()}) == 1

    def over(leading: str) -> bool:
        return not missing() or leader() != leading

    async def all_agree() -> None:
        """Tell whoever leads what not all have: a leader that falls may take it along."""
        while missing():
            await until(lambda: leader() is not None)
            leading = str(leader())
            with suppress(NotLeader):
                for command in missing():
                    members[leading][0].propose(command)
            await until(partial(over, leading))
        await until(agreed)

    async def change_leader() -> None:
        sent.extend(b"command %d" % (len(sent) + place) for place in range(20))
        await all_agree()
        await until(lambda: leader() is not None)
        name = str(leader())
        await members[name][0].stop()
        members[name][1].close()
        await until(lambda: any(r.is_leader for n, (r, _) in members.items() if n != name))
        members[name] = start(name)
        await members[name][0].start()
        await until(agreed)

    await change_leader()
    await change_leader()
    for raft, journal in members.values():
        await raft.stop()
        journal.close()
    assert fatal == []
