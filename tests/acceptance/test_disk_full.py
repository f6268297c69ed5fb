"""A full disk stops its node with a message, and nobody else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cluster import three_nodes, until

DISK_SIZE = "48m"
FILLER_BYTES = 1_048_576
WRITES_AFTER = 10


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Move a directory to a small disk of its own."""
    aside = directory.with_name(f"{directory.name}.aside")
    directory.rename(aside)
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE},mode=700", "tmpfs", str(directory)]
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
                await until(it_has_ended, "the node with the full disk has ended", timeout_s=30)
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


def job(number: int) -> dict[str, object]:
    return {
        "name": f"job-{number}",
        "description": "x" * 2_000,
        "schedule": {"manual": True},
        "action": {"type": "noop"},
    }
