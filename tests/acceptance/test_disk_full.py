"""A disk that fills up: its node steps back, then stops with a message, and nobody else does."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from node.boot import EXIT_NO_ROOM
from tests.support.cluster import Answer, Cluster, Node, three_nodes, until

MIB = 1_048_576
SMALL_MIB = 48
# Large enough that 5 % and 1.25 % of it, 8 and 2 MiB, are far apart in commits.
ROOMY_MIB = 160
FILLER_BYTES = MIB
WRITES_AFTER = 10
COMMAND = {"type": "command", "argv": ["/bin/echo", "hello"]}


@contextmanager
def small_disk(directory: Path, mib: int = SMALL_MIB) -> Iterator[None]:
    """Move a directory to a small disk of its own."""
    aside = directory.with_name(f"{directory.name}.aside")
    directory.rename(aside)
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "tmpfs", str(directory)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"A small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        # The state files are mostly holes, which a plain copy would fill.
        copy = ["cp", "--archive", "--sparse=always", f"{aside}/.", str(directory)]
        subprocess.run(copy, check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        shutil.rmtree(aside)


def fill_up_to(directory: Path, left_bytes: int) -> None:
    """Leave so many bytes free on the disk of a directory."""
    found = os.statvfs(directory)
    with (directory / "filler").open("ab") as filler:
        filler.write(bytes(max(0, found.f_bavail * found.f_frsize - left_bytes)))


def fill(directory: Path) -> None:
    """Leave no byte free on the disk of a directory."""
    descriptor = os.open(directory / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
    size = FILLER_BYTES
    try:
        while size > 0:
            try:
                os.write(descriptor, bytes(size))
            except OSError:
                size //= 2
    finally:
        os.close(descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root may mount a small disk.")
async def test_a_full_disk_stops_its_node_and_the_others_go_on(tmp_path: Path) -> None:
    """G12: the node says that its disk is full and ends; with room again it comes back."""
    async with three_nodes(tmp_path) as cluster:
        leader = await cluster.leader()
        node, other = cluster.others(leader)
        await node.kill()
        with small_disk(node.data_dir):
            await cluster.restart(node)
            await cluster.ready(node)
            fill(node.data_dir)
            numbers = iter(range(10_000))

            async def it_has_ended() -> bool:
                await cluster.write("/v1/jobs", job(next(numbers)), other)
                return not node.process.alive

            try:
                await until(it_has_ended, "the node with the full disk has ended")
            finally:
                await node.kill()
            words = cluster.log(node.name).read_text(errors="replace")
            assert re.search(r"must stop.*(full|no space)", words, re.IGNORECASE), words[-2_000:]
            for _ in range(WRITES_AFTER):
                await cluster.write("/v1/jobs", job(next(numbers)), leader)

            (node.data_dir / "filler").unlink()
            await cluster.restart(node)
            try:
                await cluster.ready(node)
                await cluster.agree_on_state()
                assert len(await node.job_names()) == next(numbers)
            finally:
                await node.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root may mount a small disk.")
async def test_a_disk_that_fills_up_takes_its_node_out_of_service_in_order(tmp_path: Path) -> None:
    """G12: first it takes no writes, then it stops by itself, before a commit has to fail."""
    async with three_nodes(tmp_path) as cluster:
        leader = await cluster.leader()
        node, other = cluster.others(leader)
        await node.kill()
        with small_disk(node.data_dir, ROOMY_MIB):
            await cluster.restart(node)
            await cluster.ready(node)
            filler = node.data_dir / "filler"
            try:
                fill_up_to(node.data_dir, 6 * MIB)
                await it_takes_no_writes(cluster, node)
                filler.unlink()
                await cluster.ready(node)
                await cluster.write("/v1/jobs", job(2), node, alone=True)

                fill_up_to(node.data_dir, MIB)
                await node.process.dead()
                assert cluster.status_of(node) == EXIT_NO_ROOM
                words = cluster.log(node.name).read_text(errors="replace")
                assert "must stop: The disk of" in words
                assert f"Member {node.name} has stopped." in words
                await cluster.write("/v1/jobs", job(3), other)

                await cluster.restart(node)
                await node.process.dead()
                assert cluster.status_of(node) == EXIT_NO_ROOM
                filler.unlink()
                await cluster.restart(node)
                await cluster.ready(node)
                await cluster.agree_on_state()
            finally:
                await node.kill()


async def it_takes_no_writes(cluster: Cluster, node: Node) -> None:
    """It says why, and whoever is refused finds another node."""

    async def not_ready() -> bool:
        answer = await node.request("GET", "/readyz")
        return answer.status == 503 and "MiB are free" in answer.body["detail"]

    await until(not_ready, "the node says that its disk is low")

    async def refused() -> Answer | None:
        answer = (await node.request("POST", "/v1/jobs", job(0))).expect(503)
        return answer if answer.body["code"] == "disk_low" else None

    answer = await until(refused, "the node refuses a write because of its disk")
    assert answer.headers["Retry-After"]
    created = await cluster.write("/v1/jobs", job(1), node)
    assert await node.job_names(created.index) == {"job-1"}
    metrics = (await node.request("GET", "/metrics")).expect(200).body.decode()
    assert "cronclave_disk_low 1.0" in metrics


async def test_nobody_else_may_look_into_a_data_directory(tmp_path: Path) -> None:
    """G15: what a running node keeps is for its own user alone, down to the last file."""
    async with three_nodes(tmp_path) as cluster:
        document = {**job(0), "schedule": {"manual": True}, "action": COMMAND}
        created = (await cluster.write("/v1/jobs", document, cluster.nodes[0])).body["id"]
        run = (await cluster.write(f"/v1/jobs/{created}/run", {}, cluster.nodes[0])).body["id"]
        await cluster.nodes[0].ended(run)
        seen = set()
        for node in cluster.nodes:
            for path in (node.data_dir, *node.data_dir.rglob("*")):
                with suppress(FileNotFoundError):  # the node is at work, and puts files away
                    found = path.lstat().st_mode
                    seen.add(path.name)
                    expected = 0o700 if stat.S_ISDIR(found) else 0o600
                    assert stat.S_IMODE(found) == expected, (path, oct(found))
        assert {"journal", "state", "data.mdb", "lock.mdb", "spool", "node.lock"} <= seen


def job(number: int) -> dict[str, object]:
    return {
        "name": f"job-{number}",
        "description": "x" * 2_000,
        "schedule": {"manual": True},
        "action": {"type": "noop"},
    }
