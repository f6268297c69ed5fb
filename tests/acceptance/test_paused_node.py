"""A node that hangs beyond its lease loses its commands before others start them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tests.support.cluster import three_nodes, until


def marks(file: Path) -> list[int]:
    """Return the fences of all marks, in the order in which they were written."""
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


async def test_a_command_of_a_paused_node_is_dead_before_it_is_launched_again(
    tmp_path: Path,
) -> None:
    """G7: the marks of two attempts never mix; the node that was paused comes back."""
    async with three_nodes(tmp_path) as cluster:
        file, release = tmp_path / "marks", tmp_path / "release"
        # An append is one write, so the order in the file is the order of the marks.
        mark = f'echo $CRONCLAVE_FENCE >> "{file}"'
        script = f'until [ -e "{release}" ]; do {mark}; sleep 0.05; done; {mark}'
        document = {
            "name": "marker",
            "schedule": {"manual": True},
            "action": {"type": "command", "argv": ["/bin/sh", "-c", script]},
            "overlap": "skip",
        }
        job = (await cluster.write("/v1/jobs", document, cluster.nodes[0])).body["id"]
        started = await cluster.write(f"/v1/jobs/{job}/run", {}, cluster.nodes[0])
        identifier = started.body["id"]

        async def running() -> Any:
            shown = await cluster.nodes[0].run(identifier)
            return shown if shown["state"] == "running" and marks(file) else None

        owner = cluster.named((await until(running, "the command runs"))["member"])
        first = max(marks(file))
        owner.process.send(signal.SIGSTOP)
        try:

            async def launched_again() -> bool:
                return max(marks(file)) > first

            await until(launched_again, "the command is launched elsewhere")
        finally:
            owner.process.send(signal.SIGCONT)
        await cluster.ready(owner)
        release.touch()
        run = await owner.ended(identifier)
        assert run["outcome"] == "succeeded"
        fences = marks(file)
        assert fences == sorted(fences)
        lost = [attempt for attempt in run["attempts"] if attempt["outcome"] == "lost"]
        assert (owner.name, first) in {(one["member"], one["fence"]) for one in lost}
        assert owner.process.alive
        await cluster.agree_on_state()
