"""A backup over HTTP: whole or recognizably not, one at a time, and without a quorum."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import aiohttp
import pytest
import pytest_asyncio

from consensus.errors import NoQuorum, OutcomeUnknown, Overloaded
from consensus.snapshots.types import SnapshotSource, SnapshotStream
from node.backups import Backups
from storage.backup_file import Backup, BackupCheck
from storage.lmdb_store import LmdbStore
from storage.models import ScheduleSpec
from storage.snapshot_format import split_chunks
from storage.snapshot_store import LmdbSource
from tests.support.api_client import ApiClient, api_client
from tests.support.builders import definition
from tests.support.lone_member import LoneMember, lone_member
from tests.support.single import SingleCluster

PATH = "/v1/cluster/backup"


def read(content: bytes) -> Backup:
    check = BackupCheck()
    for chunk in split_chunks(io.BytesIO(content)):
        check.take(chunk)
    return check.finish()


# --- The route ------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def client() -> AsyncIterator[ApiClient]:
    async with api_client() as served:
        yield served


async def test_a_backup_is_a_whole_snapshot_of_what_is_applied(client: ApiClient) -> None:
    """It begins and ends as a file of it does, and the headers are those of every answer."""
    await client.create()
    answer = await client.get(PATH)
    assert answer.status == 200
    backup = read(answer.body)
    assert backup.header.index == client.cluster.applied_index
    assert backup.meta.counters == dict(client.cluster.machine.counters)
    headers = answer.headers
    assert headers["Content-Type"] == "application/vnd.cronclave.snapshot"
    assert headers["X-Cronclave-Index"] == str(backup.header.index)
    assert headers["X-Request-Id"]
    assert "X-Cronclave-Stale" not in headers
    assert client.cluster.barriers == 1
    assert client.cluster.backups[0].closed


async def test_a_node_without_a_quorum_gives_what_it_has_and_says_so(client: ApiClient) -> None:
    """G12: it may be old, and it is better than nothing."""
    await client.create()
    client.cluster.has_quorum = False
    answer = await client.get(PATH)
    assert answer.headers["X-Cronclave-Stale"] == "true"
    assert read(answer.body).header.index == client.cluster.applied_index


async def test_a_backup_of_a_node_that_loses_its_quorum_meanwhile_is_marked(
    client: ApiClient,
) -> None:
    """Whoever asks must not take it for the latest."""
    await client.create()

    def cut_off(_: SingleCluster) -> None:
        raise OutcomeUnknown

    client.cluster.at_barrier.append(cut_off)
    answer = await client.get(PATH)
    assert (answer.status, answer.headers["X-Cronclave-Stale"]) == (200, "true")


async def test_a_backup_beside_others_is_refused(client: ApiClient) -> None:
    """429, with a problem document like every refusal."""
    client.cluster.backups_refused = True
    (await client.get(PATH)).problem(429, "overloaded")


async def test_a_backup_that_fails_half_way_does_not_look_whole(
    client: ApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection breaks; a client that ignores it has no footer."""
    await client.create()
    client.cluster.backup_failure = OSError("the disk does not answer")
    with pytest.raises(aiohttp.ClientError):
        await client.get(PATH)
    assert "A backup was broken off" in caplog.text
    assert client.cluster.backups[0].closed


# --- The member -----------------------------------------------------------------------------


class SlowStream:
    """A stream whose reading waits until a test lets it go on."""

    def __init__(self, stream: SnapshotStream, gate: threading.Event) -> None:
        self.header = stream.header
        self.gate = gate
        self.reading = threading.Event()
        self.closed = 0
        self._stream = stream

    def next_chunk(self) -> bytes | None:
        self.reading.set()
        assert self.gate.wait(10)
        assert not self.closed
        return self._stream.next_chunk()

    def close(self) -> None:
        self.closed += 1
        self._stream.close()


class SlowSource:
    """A member's own source, slowed down."""

    def __init__(self, member: LoneMember) -> None:
        store = cast(LmdbStore, member.node.replica.store)
        environment = member.node.environment
        self._source = LmdbSource(store, cluster="test", environment=environment)
        self.gate = threading.Event()
        self.streams: list[SlowStream] = []

    def open(self, configuration: object, chunk_bytes: int = 0) -> SlowStream | None:
        del configuration, chunk_bytes
        stream = self._source.open(lambda _: b"", 500)
        if stream is None:
            return None
        self.streams.append(SlowStream(stream, self.gate))
        return self.streams[-1]


async def test_a_backup_has_all_that_was_applied_before_it_was_asked_for(tmp_path: Path) -> None:
    """Also what the disk has not taken yet at that moment; and what comes later is not in it."""
    async with lone_member(tmp_path) as member:
        source = SlowSource(member)
        source.gate.set()
        backups = Backups(cast(SnapshotSource, source), member.node.replica)
        await member.put("before", definition(ScheduleSpec(kind="manual")))
        index = member.node.applied_index
        backup = await backups.open()
        await member.put("after", definition(ScheduleSpec(kind="manual")))
        chunks = []
        while (chunk := await backup.next_chunk()) is not None:
            chunks.append(chunk)
        backup.close()
        await backups.stop()
        content = b"".join(chunks)
        assert read(content).header.index >= index
        assert b"before" in content
        assert b"after" not in content


async def test_one_backup_at_a_time_and_the_member_goes_on_meanwhile(tmp_path: Path) -> None:
    """A slow reader holds up nobody but the next one who wants a backup."""
    async with lone_member(tmp_path) as member:
        source = SlowSource(member)
        backups = Backups(cast(SnapshotSource, source), member.node.replica)
        await member.put("job", definition(ScheduleSpec(kind="manual")))
        backup = await backups.open()
        with pytest.raises(Overloaded):
            await backups.open()
        reading = asyncio.ensure_future(backup.next_chunk())
        await member.put("meanwhile", definition(ScheduleSpec(kind="manual")))
        assert not reading.done()
        source.gate.set()
        assert await reading
        backup.close()
        backup.close()
        again = await backups.open()
        again.close()
        await backups.stop()
        assert [stream.closed for stream in source.streams] == [1, 1]


async def test_a_backup_that_is_given_up_is_closed_when_its_reading_has_ended(
    tmp_path: Path,
) -> None:
    """LMDB would take a transaction that ends in the middle of a read very ill."""
    async with lone_member(tmp_path) as member:
        source = SlowSource(member)
        backups = Backups(cast(SnapshotSource, source), member.node.replica)
        await member.put("job", definition(ScheduleSpec(kind="manual")))
        backup = await backups.open()
        reading = asyncio.ensure_future(backup.next_chunk())
        (stream,) = source.streams
        await asyncio.to_thread(stream.reading.wait, 60)
        reading.cancel()
        backup.close()
        assert stream.closed == 0
        stopping = asyncio.ensure_future(backups.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        source.gate.set()
        await stopping
        assert stream.closed == 1


async def test_a_member_without_a_state_says_so(tmp_path: Path) -> None:
    """There is nothing to back up before the first entry."""

    class Empty:
        def open(self, configuration: object, chunk_bytes: int = 0) -> None:
            del configuration, chunk_bytes

    async with lone_member(tmp_path) as member:
        backups = Backups(cast(SnapshotSource, Empty()), member.node.replica)
        with pytest.raises(NoQuorum, match="no state"):
            await backups.open()
        await backups.stop()
